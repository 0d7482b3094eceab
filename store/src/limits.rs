//! Every bound of this crate, each with its reason.

use std::time::Duration;

use bao_tree::BlockSize;

/// The unit of verification, 16 KiB: what iroh-blobs uses on the wire.
pub const CHUNK_GROUP: BlockSize = BlockSize::from_chunk_log(4);

/// [`CHUNK_GROUP`] in bytes.
pub const CHUNK_GROUP_BYTES: u64 = 16 * 1024;

/// Largest outboard kept in the index; larger ones would bloat it and lie in files.
pub const MAX_INLINE_OUTBOARD: u64 = 64 * 1024;

/// Largest download held in memory until Nix imports it.
///
/// The same bound up to which a whole NAR is checked before its first byte is served.
pub const MAX_INLINE_BLOB: u64 = 4 * 1024 * 1024;

/// Outboard bytes of a running pass held in memory (a NAR of 1 GiB); beyond, they go to the file.
pub(crate) const MAX_OUTBOARD_IN_MEMORY: u64 = 4 * 1024 * 1024;

/// Bytes read at once while hashing: large enough that a system call and a wake-up cost nothing,
/// small enough that a few of them stay in the last level cache.
pub(crate) const HASH_BUFFER: usize = 512 * 1024;

/// Buffers between the reading and the SHA-256 thread.
pub(crate) const HASH_BUFFERS: usize = 4;

/// NARs up to this size are hashed on one thread: a second one costs more than it saves.
pub(crate) const MAX_SINGLE_THREADED_PASS: u64 = 512 * 1024;

/// Bytes of one piece of a verified read.
pub(crate) const READ_PIECE: usize = 256 * 1024;

/// Pieces a verified read may be ahead of its reader.
pub(crate) const READ_AHEAD_PIECES: usize = 2;

/// Bytes of an outboard file read at once: 64 hash pairs, which verify 1 MiB.
pub(crate) const OUTBOARD_WINDOW: usize = 4096;

/// Bytes of one download that are kept in memory for those who follow it: what four ranges of
/// 8 MiB that arrive at once hold up, and some more.
pub(crate) const RECENT_EACH: usize = 40 * 1024 * 1024;

/// Bytes of all downloads that are kept so.
pub(crate) const RECENT_ALL: usize = 64 * 1024 * 1024;

/// Bytes of a download that are hashed at once behind the watermark.
pub(crate) const DOWNLOAD_HASH_STEP: u64 = 1024 * 1024;

/// Bytes the index may hold in memory; redb's own default is 1 GiB.
pub(crate) const INDEX_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Changes of the index that one commit takes.
pub(crate) const MAX_INDEX_BATCH: usize = 1024;

/// How long a change of the index that can be recomputed may wait for its sync to disk.
pub(crate) const INDEX_SYNC_DELAY: Duration = Duration::from_secs(1);

/// Commands that may wait for their task to be started.
pub(crate) const API_QUEUE: usize = 64;

/// Items of a running import written at once: 1 MiB of leaves.
pub(crate) const API_IMPORT_BATCH: usize = 64;

/// Hash pairs that may come before the first leaf: twice the depth of the deepest tree.
pub(crate) const API_MAX_PARENTS_AHEAD: usize = 128;

/// Bytes of imports in memory that were cut off and may be continued.
pub(crate) const API_KEPT_BYTES: u64 = 4 * MAX_INLINE_BLOB;

/// Largest blob that is imported without being announced by its hash: it is held in memory.
pub(crate) const API_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How often Nix's database is asked whether it changed.
pub(crate) const DATABASE_POLL: Duration = Duration::from_secs(1);

/// How long a query waits for a writer that holds Nix's database exclusively.
pub(crate) const DATABASE_BUSY: Duration = Duration::from_secs(2);

/// Idle connections kept to Nix's database.
pub(crate) const MAX_IDLE_CONNECTIONS: usize = 4;

/// Attempts of an immutable read while the file changes under it.
pub(crate) const MAX_IMMUTABLE_ATTEMPTS: usize = 3;

/// NARs hashed at once on behalf of callers that wait.
pub(crate) const MAX_HASHING: usize = 4;

/// NARs hashed at once in the background.
pub(crate) const MAX_BACKGROUND_HASHING: usize = 2;

/// NARs waiting to be hashed in the background; more requests are dropped, and come again.
pub(crate) const MAX_BACKGROUND_QUEUE: usize = 4096;

/// NARs remembered as not being what Nix's database says.
pub(crate) const MAX_REMEMBERED_MISMATCHES: usize = 4096;

/// Entries that one directory tree may have: 10 million, far beyond any real store path.
pub(crate) const MAX_ENTRIES: usize = 10_000_000;

/// Directory levels of one store path: what a path of 4,096 bytes can name.
pub(crate) const MAX_DEPTH: usize = 2048;

/// How long the index waits for reads to end before it is opened again after an error.
pub(crate) const INDEX_REOPEN: Duration = Duration::from_secs(5);

/// Largest downloaded blob kept in the index where it must be durable: a file of its own would
/// cost a sync of its own.
pub(crate) const MAX_INDEX_BLOB: u64 = 64 * 1024;

/// Bytes of a download that may be written before they are synced and committed.
pub(crate) const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;

/// How long written bytes of a download may wait for that.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Space for downloaded blobs unless the configuration says otherwise: enough for the parts of
/// what one system update brings, little beside a store.
pub const BLOB_QUOTA: u64 = 10 * 1024 * 1024 * 1024;

/// Part of the disk that downloads never take: the last twentieth, but no more than this.
pub(crate) const MAX_DISK_RESERVE: u64 = 1024 * 1024 * 1024;

/// How long the use of a downloaded blob may go unrecorded.
pub(crate) const USED_GRANULARITY: Duration = Duration::from_secs(600);

/// NARs that may wait to be hashed when the machine is idle: more than any store has paths.
pub(crate) const MAX_BACKLOG: usize = 1_000_000;

/// How often hashing in the background looks whether what pauses it has passed.
pub(crate) const BACKGROUND_LOOK: Duration = Duration::from_secs(5);

/// New paths told one by one; more of them are a matter of looking at all.
pub(crate) const MAX_ADDED_AT_ONCE: usize = 10_000;

/// Paths that are looked up in the index at once.
pub(crate) const INDEX_LOOKUP: usize = 1024;

/// The part of the quota that is freed beyond what is needed at once: a hundredth.
pub(crate) const ROOM_AHEAD: u64 = 100;

/// How long Nix's daemon may take for a connection and its handshake: it forks a process, and
/// systemd may have to start it first.
pub(crate) const DAEMON_CONNECT: Duration = Duration::from_secs(5);

/// How long Nix's daemon may take to answer: it may wait for a lock of Nix's database.
pub(crate) const DAEMON_ANSWER: Duration = Duration::from_secs(10);

/// How long Nix's daemon may take to list all valid paths: a million of them are 80 MB.
pub(crate) const DAEMON_LIST: Duration = Duration::from_secs(60);

/// Idle connections kept to Nix's daemon; each is a process on its side.
pub(crate) const MAX_IDLE_DAEMON_CONNECTIONS: usize = 2;

/// How long a connection to Nix's daemon may be idle: its process holds a lock for which the first
/// run of a newer Nix may wait.
pub(crate) const MAX_DAEMON_IDLE: Duration = Duration::from_secs(3);

/// How old the last change must be before times of files tell of the next: they come from a clock
/// that ticks every 1 to 10 ms.
pub(crate) const FILE_TIME_GRANULARITY: Duration = Duration::from_millis(50);

/// Bytes of one text in an answer of Nix's daemon: content addresses and signatures have hundreds,
/// and an error's message some thousands.
pub(crate) const MAX_DAEMON_TEXT: usize = 64 * 1024;

/// Bytes of a line that Nix's daemon logs, which is skipped: a build's output comes in such lines.
pub(crate) const MAX_DAEMON_LOG: u64 = 1024 * 1024;

/// Bytes of a store path from Nix's daemon: names have up to 211.
pub(crate) const MAX_DAEMON_PATH: usize = 1024;

/// References of one path: more than any system's own path has.
pub(crate) const MAX_REFERENCES: u64 = 65_536;

/// Signatures of one path.
pub(crate) const MAX_SIGNATURES: u64 = 1024;

/// Traces of an error, and fields of a log entry, from Nix's daemon.
pub(crate) const MAX_DAEMON_PARTS: u64 = 4096;

/// Valid paths that Nix's daemon may list: several times the largest stores known.
pub(crate) const MAX_VALID_PATHS: u64 = 4_000_000;

/// NARs above this size are kept from Nix's garbage collector while they are read: a smaller one is
/// read before Nix's daemon has answered.
pub(crate) const KEPT_WHILE_READ: u64 = 16 * 1024 * 1024;
