//! What clients of the HTTP face may take of this machine.

use std::time::Duration;

/// The limits of one server, with defaults that several Nix processes fit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpLimits {
    /// Connections at once. Nix opens up to 25; one too many closes the one that waited longest.
    pub connections: usize,
    /// NAR bodies at once: each holds a few pieces of its NAR in memory.
    pub nar_bodies: usize,
    /// Longest request head in bytes. Nix's are under 300.
    pub head_size: usize,
    /// Time for a request's head to arrive, and for an idle connection to be used again.
    pub head_timeout: Duration,
    /// Time in which a client must take something of what is sent to it.
    pub stall_timeout: Duration,
    /// A body that did not move for this long may be cut when there is no room for others.
    pub evictable_after: Duration,
    /// Time for a lookup before it counts as a miss. It is a last resort: lookups have their own,
    /// far shorter deadline.
    pub narinfo_deadline: Duration,
    /// Time until a NAR is open before it counts as missing. Nix gives up after 300 s.
    pub nar_deadline: Duration,
    /// Time for open requests to end once the server is told to stop.
    pub grace: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            nar_bodies: 64,
            head_size: 16 * 1024,
            head_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            evictable_after: Duration::from_secs(1),
            narinfo_deadline: Duration::from_secs(5),
            nar_deadline: Duration::from_secs(240),
            grace: Duration::from_secs(5),
        }
    }
}
