//! Ending: each part in its turn, and each with a time by which the next one has its turn, whatever
//! this one waits for.

use std::time::{Duration, Instant};

/// A part of the daemon that ends by itself once it is asked to, in the order of ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Transfers, whose readers are cut.
    Transfers,
    /// The servers and whatever else runs beside them; trackers are told goodbye.
    Tasks,
    /// Peers and the swarm, which are told goodbye, and the memory of the upstream.
    Peers,
    /// The endpoint: its connections and those with relays are closed.
    Endpoint,
    /// The store: what it was told is written.
    Store,
}

impl Part {
    /// How long after the signal the part has ended, or is left as it is. The whole is below the
    /// ten seconds that the daemon has, and below the deadline of the command that runs it.
    const fn by(self) -> Duration {
        Duration::from_millis(match self {
            Self::Transfers => 1000,
            Self::Tasks => 4500,
            Self::Peers => 6500,
            Self::Endpoint => 8000,
            Self::Store => 9000,
        })
    }
}

/// The end of a daemon, which has begun.
#[derive(Debug)]
pub(super) struct Ending {
    began: Instant,
}

impl Ending {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// Waits for the end of a part, but not beyond its time.
    pub(super) async fn of(&self, part: Part, ended: impl Future<Output = ()>) {
        let deadline = self.began + part.by();
        let in_time = tokio::time::timeout_at(deadline.into(), ended).await;
        let after = self.began.elapsed();
        match in_time {
            Ok(()) => tracing::debug!(?part, ?after, "ended"),
            Err(_) => tracing::debug!(?part, ?after, "did not end in time"),
        }
    }
}
