//! What a tracker allows, each with its reason.

use std::time::Duration;

use super::storage::Kept;

/// How long the older program's peers are listed after they were heard of; their clients announce
/// themselves each minute.
pub const OLDER_TTL: Duration = Duration::from_secs(120);

/// How long endpoints that sign are listed after they were heard of: two announcements may be lost.
pub const SIGNED_TTL: Duration = Duration::from_secs(300);

/// How often endpoints should announce themselves.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(120);

/// How long the number of an endpoint's last announcement is remembered after it left. Older
/// numbers of endpoints that are not remembered are refused, so that nothing can be replayed.
pub const REMEMBER: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long transfers of the older program are remembered: both sides report within minutes.
pub const TRANSFERS_TTL: Duration = Duration::from_secs(24 * 3600);

/// What is kept of what strangers can make at will, some hundred bytes each. Absent endpoints are
/// the largest part: what they announced can't be announced again by others.
pub const KEPT: Kept = Kept {
    absent: 1_000_000,
    transfers: 100_000,
    cids: 100_000,
    reputations: 100_000,
};

/// How often what is too old is forgotten.
pub const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Hashes that nobody has, beside as many as somebody has, before they are dropped without waiting
/// for [`COLLECT_EVERY`]: about 100 bytes each.
pub const UNUSED_HASHES: u64 = 1_000_000;

/// How long the database counts as troubled after it failed, unless something is written sooner.
pub const TROUBLE_LASTS: Duration = Duration::from_secs(60);

/// How often the silent are looked for.
pub const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// How often hashes that nobody has are dropped from the database.
pub const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// How often a tracker looks for what others wrote to a database that they share.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Holders at once: each takes about 500 bytes of memory beside its paths.
pub const MAX_HOLDERS: usize = 100_000;

/// Paths of one holder.
pub const MAX_PATHS_OF_ONE: usize = 1_000_000;

/// Distinct paths at once: each takes about 200 bytes of memory.
pub const MAX_PATHS: usize = 5_000_000;

/// Pairs of holder and path at once: each takes two to three bytes of memory.
pub const MAX_RECORDS: u64 = 200_000_000;

/// Pairs of NAR hash and CID that are listed, and that are asked for at once.
pub const MAX_CIDS: usize = 10_000;

/// Holders that a lookup names for one path.
pub const HOLDERS_OF_ONE: usize = 8;

/// Pairs of holder and path that a lookup looks at, some milliseconds' worth: of what a hundred thousand
/// have, it names some of those who announced it first.
pub const PAIRS_OF_A_LOOKUP: usize = 1_000_000;

/// Holders that a lookup names in all.
pub const HOLDERS_OF_ALL: usize = 256;

/// Peers in an answer about a swarm: gossip needs a handful that are there.
pub const SWARM_SAMPLE: usize = 64;

/// Shortest time until a request that waits for a swarm to change is answered, so that a crowd
/// that comes at once is told of once.
pub const WAIT_AT_LEAST: Duration = Duration::from_secs(1);

/// Requests that wait for a swarm to change; one too many is answered at once.
pub const WAITING: usize = 2048;

/// Longest body of a small request.
pub const SMALL_BODY: usize = 64 * 1024;

/// Time for a body to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of bodies in memory at once; more wait for their turn.
pub const BODIES: usize = 64 * 1024 * 1024;

/// Bytes of large answers on their way at once; more wait for their turn.
pub const ANSWERS: usize = 64 * 1024 * 1024;

/// Bytes of large answers on their way to one network at once, or one answer of any size: who reads
/// slowly must not keep the room from others. Many machines may stand behind one address.
pub const ANSWERS_OF_ONE: usize = 4 * 1024 * 1024;

/// How long an answer is on its way before it may be cut to make room for others where there is
/// none: as long as 4 MiB take over ten megabits a second, with some to spare.
pub const ANSWER_CUT_AFTER: Duration = Duration::from_secs(5);

/// Large answers that are made at once: each takes some times its size while it is.
pub const ANSWERS_MADE: usize = 4;

/// Peers and nodes of the older API, and endpoints that sign, in one list.
pub const LISTED: usize = 10_000;

/// Requests that wait for the database.
pub const QUEUE: usize = 1024;

/// How long SQLite waits for a lock that another program holds.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for one request to PostgreSQL, and for a connection to it.
pub const POSTGRES_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections to PostgreSQL.
pub const POSTGRES_CONNECTIONS: usize = 8;

/// Longest name of a peer, hash or address that the older API takes, in bytes.
pub const OLDER_TEXT: usize = 512;

/// Longest address of a node that the older API takes, in bytes.
pub const OLDER_ADDR: usize = 128;

/// Requests an address may make in a second, and at once; each 64 KiB of a body count as one more.
/// Many machines may stand behind one address.
pub const REQUESTS_PER_ADDRESS: (u32, u32) = (20, 400);

/// Announcements an endpoint may make in a second, and at once; each 64 KiB count as one more.
pub const REQUESTS_PER_ENDPOINT: (u32, u32) = (2, 200);

/// What of a body counts as one more request.
pub const BODY_UNIT: usize = 64 * 1024;
