//! Every bound on what trackers may cost, each with its reason.

use std::time::Duration;

/// Trackers that are spoken with; further ones would tell the same peers again.
pub const TRACKERS: usize = 8;

/// How long a connection to a tracker may take to come about.
pub const CONNECT: Duration = Duration::from_secs(10);

/// How long one request may take, beside what a long poll asks for.
pub const REQUEST: Duration = Duration::from_secs(30);

/// Bytes a second that are taken to leave at the least, for the time that a large request may take.
pub const UPLOAD_RATE: u64 = 16 * 1024;

/// After so many announcements in a row that a tracker did not go along with, it is left alone for
/// a while: it may lie, and each costs telling it all.
pub const CONFLICTS: u32 = 3;

/// Redirects that are followed, to the same scheme only.
pub const REDIRECTS: usize = 3;

/// Bytes of an answer that lists peers: a few hundred for each of those that are of use.
pub const PEERS_ANSWER: usize = 1 << 20;

/// Bytes of the answer to a lookup: a thousand hashes, each with some of those peers.
pub const LOOKUP_ANSWER: usize = 1 << 20;

/// Bytes of any other answer.
pub const SHORT_ANSWER: usize = 64 * 1024;

/// Peers that all trackers together may make known: each costs a task and attempts to connect, and
/// gossip finds the others through them.
pub const PEERS: usize = 64;

/// Peers kept besides because a tracker said that they have a path that was asked for.
pub const PEERS_HAVING: usize = 64;

/// Peers taken of one answer to a lookup, for each path.
pub const PEERS_FOR_A_PATH: usize = 8;

/// Addresses taken of one peer: its networks' and what the world sees.
pub const ADDRESSES: usize = 16;

/// How long a peer that a tracker named may keep its inventory unknown before lookups stop asking
/// the tracker on its account: who can't be reached within it is of no use.
pub const UNKNOWN_INVENTORY: Duration = Duration::from_secs(60);

/// Path hashes in one lookup.
pub const LOOKUP_PATHS: usize = 1000;

/// Lookups under way with one tracker; further paths wait for the next batch.
pub const LOOKUPS_UNDER_WAY: usize = 4;

/// After so many useless answers in a row a tracker is not asked for paths for a while.
pub const DOUBTED_AFTER: u32 = 3;

/// For how long at first; it doubles.
pub const DOUBTED_FOR: Duration = Duration::from_secs(600);

/// Useless answers within this count as one: many paths are asked for together.
pub const DOUBT_TOGETHER: Duration = Duration::from_secs(1);

/// Paths that wait for one tracker; what finds no room is not asked for.
pub const LOOKUP_QUEUE: usize = 4096;

/// The shortest pause after a failure; it doubles with each.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// The longest pause: a tracker that is back is noticed within it.
pub const BACKOFF_MOST: Duration = Duration::from_secs(60);

/// The longest pause that a tracker may ask for.
pub const RETRY_AFTER_MOST: Duration = Duration::from_secs(600);

/// How long changes are collected before a tracker is told.
pub const SETTLE: Duration = Duration::from_secs(1);

/// The shortest time between two announcements to one tracker.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_secs(2);

/// Between what a tracker may ask for as the time from one announcement to the next.
pub const ANNOUNCE_INTERVAL: (Duration, Duration) =
    (Duration::from_secs(5), Duration::from_secs(3600));

/// How often the older program's trackers are told that we are there: they forget after 120 s.
pub const OLDER_INTERVAL: Duration = Duration::from_secs(60);

/// What an older tracker knows of peers and paths it forgets after this.
pub const OLDER_TTL: Duration = Duration::from_secs(120);

/// How often a tracker is asked what it is: it may have become a newer one, or have another relay.
pub const RECHECK: Duration = Duration::from_secs(3600);

/// How long a tracker is asked to wait with its answer until peers come or go.
pub const LONG_POLL: Duration = Duration::from_secs(55);

/// The shortest time between two lists of peers from one tracker.
pub const LIST_PAUSE: Duration = Duration::from_secs(5);

/// How long saying goodbye may take at the end.
pub const GOODBYE: Duration = Duration::from_secs(2);

/// Path hashes in one request; a larger inventory is told in several.
pub const ANNOUNCED_AT_ONCE: usize = 100_000;

/// How often what trackers know is written down, beside at the end.
pub const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// Bytes of the file that remembers what trackers know: 20 for each path and tracker.
pub const MEMORY_SIZE: u64 = 64 << 20;

/// Bytes of the older program's file of what it announced: 35 for each path.
pub const OLDER_MEMORY_SIZE: u64 = 64 << 20;

/// Longest text of a tracker's that is shown or logged, in bytes.
pub const MESSAGE: usize = 200;
