//! Every bound on what peers, clients and transfers may cost, each with its reason.

use std::time::Duration;

/// Path hashes in one lookup request: a request then fits 8 KiB and an answer a few of its frames.
pub const LOOKUP_MAX_PATHS: usize = 256;

/// Bytes of one lookup request: 256 path hashes of 20 bytes, with room for the header.
pub const LOOKUP_MAX_REQUEST: usize = 16 * 1024;

/// Bytes of one answer: as large as a narinfo may be.
pub const LOOKUP_MAX_ANSWER: usize = 1024 * 1024;

/// Bytes of all answers to one request; what does not fit is answered `Absent`.
pub const LOOKUP_MAX_ANSWERS: usize = 4 * 1024 * 1024;

/// Lookup requests of one connection that are answered at once; further ones wait in QUIC.
pub const LOOKUP_STREAMS: usize = 8;

/// Lookup requests a requester has under way with one peer; further hashes wait for the next batch.
pub const LOOKUP_IN_FLIGHT: usize = 4;

/// Hashes that wait for one peer; a peer whose queue is full is passed over.
pub const LOOKUP_QUEUE: usize = 4096;

/// How long a provider may take to send or take one lookup message, so that none is held open.
pub const LOOKUP_IO_TIMEOUT: Duration = Duration::from_secs(10);

/// What a lookup may take before anything is known of the peers' round trips.
pub const LOOKUP_DEADLINE_FIRST: Duration = Duration::from_millis(500);

/// What a lookup may take at the least: below this a busy machine would miss what it could have.
pub const LOOKUP_DEADLINE_LEAST: Duration = Duration::from_millis(200);

/// What an HTTP cache may take for a narinfo that no peer has: a connection and one round trip over
/// the internet. With what the peers took before it, a miss stays under a second.
pub const LOOKUP_ELSEWHERE: Duration = Duration::from_millis(500);

/// How long the other side of a new connection in a private swarm has to prove the swarm's secret:
/// a round trip, and time for a lost packet or two.
pub const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a peer that missed a deadline is left alone before it is probed, doubling each time until
/// it answers a lookup.
pub const PROBE_LEAST: Duration = Duration::from_secs(1);

/// The longest such pause.
pub const PROBE_MOST: Duration = Duration::from_secs(600);

/// How long a connection for blobs is kept that nobody uses.
pub const BLOB_CONNECTION_IDLE: Duration = Duration::from_secs(60);

/// Deadlines missed in a row after which the swarm gives a peer's place to another.
pub const MISSES_OF_THE_LOST: u32 = 3;

/// Peers looked at for one lookup that may have the path: of more claimants, those that can be asked
/// are among the first.
pub const CLAIMANTS: usize = 256;

/// Inventories that are sent to peers at once: 8 MiB of memory each at most.
pub const INVENTORIES_SENT: usize = 4;

/// Inventories that one peer is sent at once: whatever it does with them, others find a place.
pub const INVENTORIES_PER_PEER: usize = 1;

/// How long one may take.
pub const INVENTORY_TIMEOUT: Duration = Duration::from_secs(30);

/// Peers that only the swarm found which are kept connected without having been asked for anything.
pub const SWARM_PEERS_KEPT: usize = 32;

/// Peers that only the swarm found which are kept connected in all: a task and a connection each.
pub const SWARM_PEERS: usize = 256;

/// Peers of the swarm that are remembered for the next start.
pub const SWARM_PEERS_REMEMBERED: usize = 32;

/// How often it is looked at whether they, or the numbers of announcements that may be used, are to
/// be written down.
pub const SWARM_REMEMBER_LOOK: Duration = Duration::from_secs(5);

/// How often they are written down, beside soon after the first came and at the end.
pub const SWARM_REMEMBER_EVERY: Duration = Duration::from_secs(600);

/// How far ahead numbers of announcements are reserved, in milliseconds: after a crash none is used
/// again, whatever the clock said before it.
pub const SWARM_SEQUENCES_RESERVED: u64 = 3600 * 1000;

/// Bytes of the file in which they are: a few hundred each.
pub const SWARM_MEMORY_SIZE: u64 = 64 * 1024;

/// Peers asked for one path at once: all on a small network, where each is a millisecond away.
pub const LOOKUP_PEERS: usize = 16;

/// Path hashes whose claims (who has it, under which blob hash) are remembered.
pub const CLAIMS_REMEMBERED: usize = 16 * 1024;

/// How long a claim saves a second lookup.
pub const CLAIM_AGE: Duration = Duration::from_secs(300);

/// NARs that a lookup alone may start hashing, in bytes; larger ones wait for a NAR request.
pub const HASH_ON_LOOKUP: u64 = 64 * 1024 * 1024;

/// NARs up to this size are hashed while the lookup waits: about a millisecond each.
pub const HASH_AT_ONCE: u64 = 1024 * 1024;

/// How long a lookup's answer waits for such NARs.
pub const HASH_AT_ONCE_WAIT: Duration = Duration::from_millis(50);

/// Claims of one NAR that are tried, one after the other, before the request is a miss.
pub const CLAIMS_TRIED: usize = 8;

/// How often a requester asks again while a provider is hashing.
pub const HASHING_POLL: Duration = Duration::from_millis(100);

/// Bytes a second that a provider hashes at least, once [`HASHING_STALL`] has passed.
pub const HASHING_RATE: u64 = 5_000_000;

/// How long a provider may report the same hashing progress before it counts as silent.
pub const HASHING_STALL: Duration = Duration::from_secs(30);

/// NARs up to this size are checked whole before their first byte is handed to Nix.
pub const CHECKED_FIRST: u64 = 4 * 1024 * 1024;

/// The unit of verification: what is withheld at the end until SHA-256 agrees.
pub const CHUNK_GROUP: u64 = 16 * 1024;

/// Bytes asked of a provider in one request; smaller ones cost wake-ups on a fast path.
pub const SEGMENT: u64 = 8 * 1024 * 1024;

/// The shortest range that is asked for: its proofs are a hundredth of it, and at the least
/// useful rate it takes two seconds.
pub const SHORTEST_RANGE: u64 = 128 * 1024;

/// How much is asked of a provider at once, as time at its measured rate: long enough that it
/// never waits for us, short enough that the reader never waits long for one range.
pub const RANGE_TIME: Duration = Duration::from_secs(1);

/// Bytes asked of a provider at once before anything is known of its rate.
pub const UNKNOWN_BYTES: u64 = 2 * 1024 * 1024;

/// Bytes a second that a provider is expected to give before that is measured.
pub const UNKNOWN_RATE: f64 = 10e6;

/// Requests of one transfer to one provider at once: four carry a fast path better than one.
pub const STREAMS: usize = 4;

/// Bytes of one transfer that are under way at once, so that the reader finds what has come in
/// memory.
pub const UNDER_WAY: u64 = 32 * 1024 * 1024;

/// A round trip from which on a path needs more streams to be filled: one stream carries at most
/// its window, 1.25 MB, a round trip.
pub const LONG_PATH: Duration = Duration::from_millis(10);

/// Requests of one transfer to one provider at once over a long path.
pub const STREAMS_LONG_PATH: usize = 8;

/// Requests of all transfers to one provider at once: fewer than it serves to one at once, so
/// that none waits unseen.
pub const STREAMS_PER_PEER: usize = 24;

/// How often a transfer looks at its requests.
pub const SCHEDULE_TICK: Duration = Duration::from_millis(50);

/// A provider that sends nothing for this long is left where another has the bytes.
pub const STALL_ELSEWHERE: Duration = Duration::from_millis(1200);

/// Bytes a second below which a provider is of no use while a faster one is there.
pub const SLOW_RATE: f64 = 64.0 * 1024.0;

/// How long a provider is tried before it counts as slow.
pub const SLOW_TIME: Duration = Duration::from_secs(5);

/// What a range's taking over by another provider must save at least: it costs what is under way.
pub const TAKEOVER_GAIN: Duration = Duration::from_millis(200);

/// A second provider is not asked for a small NAR before this.
pub const HEDGE_LEAST: Duration = Duration::from_millis(50);

/// Of what all transfers fetched, one part in so many may be asked for twice to save time.
pub const HEDGE_SHARE: u64 = 50;

/// Bytes that may be asked for twice beyond [`HEDGE_SHARE`], so that the first transfers can.
pub const HEDGE_FREE: u64 = 8 * 1024 * 1024;

/// How long a reader waits for a part that another fetcher of the same NAR is to get first.
pub const FELLOW_PATIENCE: Duration = Duration::from_secs(1);

/// A fetcher of the same NAR that brings less than this part of what its source brings is not
/// waited for.
pub const FELLOW_SHARE: f64 = 8.0;

/// When a transfer first looks who else has the blob; later looks come at growing distances.
pub const LOOK_FIRST: Duration = Duration::from_millis(150);

/// The longest time between two such looks.
pub const LOOK_LATER: Duration = Duration::from_secs(5);

/// When a transfer that nobody serves looks again.
pub const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long a transfer that gave its reader some bytes looks for somebody to go on with, before
/// the upstream takes over or the reader is cut.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// A gap between two ticks from which on the machine, or this process, was asleep.
pub const ASLEEP: Duration = Duration::from_secs(1);

/// Requests that a provider may turn away in a row before it is left.
pub const REFUSALS: u32 = 8;

/// Parts in a row that a provider may say it holds, and not give.
pub const ABSENCES: u32 = 3;

/// Pieces (twice their number) of what a provider holds that are kept in mind: parts grow from few
/// places at once.
pub const PIECES_HELD: usize = 4096;

/// How long a provider is left alone after it turned a request away, doubled each time.
pub const REFUSED_REST: Duration = Duration::from_millis(100);

/// How far a transfer may run ahead of its fastest reader, in bytes.
pub const READ_AHEAD: u64 = 1024 * 1024 * 1024;

/// A provider that sends nothing for this long is left for another.
pub const STALL: Duration = Duration::from_secs(5);

/// Bytes handed to an HTTP client in one piece.
pub const BODY_PIECE: u64 = 512 * 1024;

/// Transfers under way at once, so that descriptors and memory stay bounded.
pub const TRANSFERS: usize = 64;

/// Paths remembered whose last transfer ended in a wrong NAR (their Range requests are refused).
pub const WRONG_NARS_REMEMBERED: usize = 4096;

/// Blob requests of one connection that are served at once.
pub const BLOB_STREAMS: usize = 16;

/// Blobs that one connection may observe at once: as many as one requester fetches at a time.
pub const BLOB_OBSERVERS: usize = 64;

/// Blob requests of all peers that are served at once: each holds a thread and about 512 KiB.
pub const BLOB_REQUESTS: usize = 128;

/// Bytes of one blob request: a hash and the ranges of one blob.
pub const BLOB_MAX_REQUEST: usize = 64 * 1024;

/// Bytes written to a requester in one piece.
pub const BLOB_PIECE: usize = 128 * 1024;

/// A requester that takes nothing for this long is dropped.
pub const BLOB_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of strangers on one protocol at once.
pub const CONNECTIONS: usize = 512;

/// Upload rate to public addresses, in bytes a second, where nothing else is said.
pub const PUBLIC_UPLOAD: u64 = 10_000_000;

/// The longest burst that a rate limit lets through.
pub const BURST: Duration = Duration::from_millis(100);

/// How long a connected peer may take for a sign of life after somebody moved.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection to a peer may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Providers of one transfer that are told of one by one: the page that shows them asks each second.
pub const PROVIDERS_REPORTED: usize = 12;

/// How long a fetcher of the same blob may take to tell what it holds of it.
pub const OBSERVE_FIRST: Duration = Duration::from_secs(5);

/// Bytes of one message that tells what is held: a thousand gaps fit.
pub const OBSERVE_MAX_ITEM: usize = 8 * 1024;

/// How often an observer is told what came since: four chunk groups at the least useful rate.
pub const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// How long a blob request may wait for its turn before it is turned away: the requester then
/// asks for less, or another provider.
pub const BLOB_TURN: Duration = Duration::from_millis(500);

/// Connections of older peers at once. Each lasts for one question.
pub const OLDER_CONNECTIONS: usize = 512;

/// NARs that are sent to older peers at once: each holds a thread and some pieces.
pub const OLDER_NARS: usize = 16;

/// Bytes of an older peer's question for a narinfo, as its protocol has it.
pub const OLDER_MAX_HASH: usize = 64;

/// Bytes of an older peer's question for a NAR, as its protocol has it.
pub const OLDER_MAX_URL: usize = 1024;

/// Bytes of a narinfo to or from an older peer, as its protocol has it.
pub const OLDER_MAX_NARINFO: usize = 64 * 1024;

/// How long an older peer may take to ask, or to take or send one small message.
pub const OLDER_IO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept open for an older peer to read what it was sent.
pub const OLDER_LINGER: Duration = Duration::from_secs(10);

/// Bytes of an answer in one frame, before compression: the largest block that zstd makes.
pub const WIRE_FRAME: usize = 128 * 1024;

/// Bytes of the smallest frame but the last: below a chunk group nothing can be verified.
pub const WIRE_FRAME_LEAST: usize = 16 * 1024;

/// Bytes of a compressed frame: what zstd may make of a frame at worst, and its header.
pub const WIRE_FRAME_COMPRESSED: usize = WIRE_FRAME + 1024;

/// Logarithm of the largest zstd window: 2 MiB, that of level 3 over a file of any size. A
/// requester needs it and 1 MiB more for each answer, a provider that and its tables.
pub const WIRE_WINDOW_LOG: u32 = 21;

/// Logarithm of the smallest: one frame.
pub const WIRE_WINDOW_LOG_LEAST: u32 = 17;

/// Memory of all answers that are being decompressed, in bytes: 21 of the largest, 50 of 128 KiB.
/// Further ones are asked for raw.
pub const WIRE_DECODER_MEMORY: usize = 64 * 1024 * 1024;

/// Memory of all answers that are being compressed, in bytes: 20 large ones at level 3. Further
/// ones go raw.
pub const WIRE_ENCODER_MEMORY: usize = 96 * 1024 * 1024;

/// Large answers that a level set by hand compresses at once whatever they take: 112 MiB at 19.
pub const WIRE_ENCODERS_LEAST: usize = 4;

/// Threads that compress at once: half the processors, since the rest have the NARs to read,
/// verify and encrypt.
pub fn wire_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

/// How long a frame waits for its turn to be compressed before it goes raw.
pub const WIRE_TURN: Duration = Duration::from_millis(50);

/// Frames that go untried at most after some that did not compress: a ninth of them is tried.
pub const WIRE_FRAMES_SKIPPED: u32 = 8;

/// Bytes that a zstd stream keeps its level for at the least: a new one begins with no window.
pub const WIRE_LEVEL_HELD: usize = 4 * 1024 * 1024;

/// Bytes a second from which on a link is fast: half a gigabit. One thread at level 1 compresses
/// not much faster than that.
pub const WIRE_FAST: u64 = 64_000_000;

/// A round trip from which on a link is taken to be slow before it is measured: farther than a
/// local network.
pub const WIRE_FAR: Duration = Duration::from_millis(5);

/// How long a link is watched before the level or the wire changes.
pub const WIRE_INTERVAL: Duration = Duration::from_millis(200);

/// How long a link stays raw after compressing held it up, doubled each time.
pub const WIRE_RAW_FOR: Duration = Duration::from_secs(5);

/// The longest time that a link stays raw for that.
pub const WIRE_RAW_FOR_MOST: Duration = Duration::from_secs(300);

/// Bytes that come in frames before it is judged whether they made anything smaller.
pub const WIRE_JUDGED: u64 = 8 * 1024 * 1024;

/// How long frames are not asked for after they made nothing smaller, doubled each time: another
/// NAR may compress, and the provider may have had no processor to spare.
pub const WIRE_IDLE_FOR: Duration = Duration::from_secs(5);

/// The longest time that frames are not asked for.
pub const WIRE_IDLE_FOR_MOST: Duration = Duration::from_secs(60);

/// How long a peer without the framed wire is asked raw: until it may run another version.
pub const WIRE_REFUSED_FOR: Duration = Duration::from_secs(600);

/// Blob requests of one peer that are served at once: what a few transfers have under way. One
/// that never reads can't keep the others waiting for the threads of all.
pub const BLOB_REQUESTS_PER_PEER: usize = 32;

/// Connections of one peer: one of ours keeps a handful, and after a change of networks the old
/// ones linger for half a minute.
pub const CONNECTIONS_PER_PEER: usize = 16;

/// Tokens of private shares that one request shows.
pub const LOOKUP_MAX_TOKENS: usize = 8;

/// Paths a second that one peer may ask for: a Nix that asks for a whole system asks for a few
/// thousand, once, and twice that costs a tenth of a core.
pub const LOOKUPS_PER_SECOND: u32 = 4000;

/// What a request counts beside its paths: a stream of its own costs as much as so many of them.
pub const LOOKUP_REQUEST_COST: u32 = 32;

/// Paths that one peer may ask for at once, after a while of quiet.
pub const LOOKUP_BURST: u32 = 16_384;

/// Peers whose use of budgets is remembered before those are forgotten that used nothing lately.
pub const PEERS_ACCOUNTED: usize = 4096;

/// One peer may use this fraction of the hashing that all may ask for in a day.
pub const HASHING_SHARES: u64 = 4;

/// How long a connection to the upstream may take to be made: with what comes after it, a reader is
/// cut within ten seconds where nobody is left.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(3);

/// How long a narinfo of one cache is waited for before the cache counts as silent.
pub const UPSTREAM_NARINFO: Duration = Duration::from_millis(450);

/// How long a narinfo is waited for when nobody waits for the answer.
pub const UPSTREAM_ASKED: Duration = Duration::from_secs(10);

/// Redirects that one request follows: caches have one, to where their files lie.
pub const UPSTREAM_REDIRECTS: usize = 4;

/// NARs that come from the upstream at once: each may hold a decoder's memory.
pub const UPSTREAM_STREAMS: usize = 8;

/// Bytes that a decoder may want: what `xz -9` needs, with room for its own tables.
pub const UPSTREAM_DECODER_MEMORY: u64 = 68 * 1024 * 1024;

/// Zstandard's largest window, as a power of two: 64 MiB, more than its levels up to 20 use.
pub const UPSTREAM_WINDOW_LOG: u32 = 26;

/// Bytes of a compressed NAR beyond its size and an eighth: headers, and what does not compress.
pub const UPSTREAM_OVERHEAD: u64 = 1024 * 1024;

/// Bytes of a NAR that are decompressed at once.
pub const UPSTREAM_PIECE: usize = 64 * 1024;

/// Pieces of a NAR that wait to be written, so that the network and the disk work at once.
pub const WHOLE_UNWRITTEN: usize = 16;

/// Narinfos of each cache that are held in memory, for the NARs that are asked for next.
pub const UPSTREAM_RECORDS: usize = 2048;

/// Narinfos that are remembered on disk: those of some systems, about 1 KiB each.
pub const UPSTREAM_REMEMBERED: u64 = 32 * 1024;

/// Bytes of one narinfo that is remembered: more than 100 references.
pub const UPSTREAM_REMEMBERED_TEXT: usize = 16 * 1024;

/// How long narinfos wait to be written together.
pub const UPSTREAM_MEMORY_DELAY: Duration = Duration::from_secs(1);

/// Narinfos that wait to be written; more are not remembered.
pub const UPSTREAM_MEMORY_QUEUE: usize = 4096;

/// How long an older peer may take to connect and answer a question for a narinfo, in the
/// background of a lookup that has given up on it long before: a silent one is then left alone.
pub const OLDER_ANSWER: Duration = Duration::from_secs(3);

/// How long an older peer may take before the first byte of a NAR: it reads the whole into its
/// memory first.
pub const OLDER_FIRST_BYTE: Duration = Duration::from_secs(30);

/// How often a peer that refused the lookup protocol is asked whether it has learnt it.
pub const OLDER_RECHECK: Duration = Duration::from_secs(600);
