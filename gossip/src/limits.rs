//! Every bound on what a swarm may cost, each with its reason.

use std::time::Duration;

/// Bytes of one announcement: iroh-gossip carries 4096 with its header, and a larger message does
/// not fail but kills the connections to all neighbours.
pub const MAX_ANNOUNCEMENT: usize = 3072;

/// How often gossip delivers the bytes of a message to a peer on average, in a swarm that died by a
/// tenth meanwhile (`tests/simulation.rs` measures it).
pub const MESSAGE_COPIES: f64 = 1.8;

/// What a message costs beside its bytes: frames, message ids, and the notices of other neighbours
/// that they have it too.
pub const MESSAGE_OVERHEAD: usize = 200;

/// Bytes of announcements a second that a peer receives on average, all authors together. A quarter
/// below the bound of 2 KiB/s, for duplicates and for authors that don't know each other yet.
pub const ANNOUNCEMENT_RATE: f64 = 1536.0;

/// An author says again what it has this often at the most, however few there are.
pub const LEAST_INTERVAL: Duration = Duration::from_secs(60);

/// An author tells of changes this often at the most.
pub const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long changes are gathered before they are told: Nix adds the paths of a closure in a burst.
pub const SETTLE: Duration = Duration::from_millis(200);

/// Changes are told as far as they don't put off the next announcement longer than this.
pub const CHANGES_WITHIN: Duration = Duration::from_secs(900);

/// Paths that no announcement has room for wait this long for an inventory that holds them.
pub const UNTOLD_MOST: Duration = Duration::from_secs(1800);

/// The first announcement comes within this time after the first neighbour, at random.
pub const FIRST_WITHIN: Duration = Duration::from_secs(2);

/// An announcement lives this many intervals: two may be lost.
pub const LIFETIME_INTERVALS: u32 = 3;

/// An announcement lives at least this long: partitions of a minute must forget nobody.
pub const LEAST_LIFETIME: Duration = Duration::from_secs(600);

/// An announcement lives at most this long, whatever its author says.
pub const MOST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Changes in one announcement, 4 bytes each.
pub const MAX_CHANGES: usize = 512;

/// Earlier changes that are told again beside new ones, so that a lost message costs no fetch.
pub const CHANGES_AGAIN: usize = 64;

/// Changes kept of one author until its inventory is fetched again: 8 KiB.
pub const CHANGES_KEPT: usize = 2048;

/// Bytes of changes kept of all authors: 256 changes each of as many as are remembered.
pub const CHANGES_MEMORY: usize = 16 * 1024 * 1024;

/// How many times the authors heard of a swarm is taken to have at most, whatever they say.
pub const HINT_MULTIPLE: usize = 2;

/// Addresses in one announcement.
pub const MAX_ADDRESSES: usize = 8;

/// Bytes of a relay's URL.
pub const MAX_RELAY_URL: usize = 256;

/// Systems in one announcement, and bytes of one's name.
pub const MAX_SYSTEMS: usize = 8;

/// Bytes of the name of a system.
pub const MAX_SYSTEM_NAME: usize = 32;

/// Announcements that one author has in reserve: after a silence it may tell of several changes.
pub const AUTHOR_BURST: f64 = 10.0;

/// Announcements a second of one author that are looked at; it keeps [`CHANGE_INTERVAL`] itself.
pub const AUTHOR_RATE: f64 = 1.0;

/// Authors that are remembered; beyond, the least useful ones go. About 10 MiB.
pub const MAX_AUTHORS: usize = 16 * 1024;

/// Bytes of announcements kept as they came, for newcomers.
pub const CATALOGUE_MEMORY: usize = 8 * 1024 * 1024;

/// Authors that left or expired, whose last number is remembered against replays.
pub const GONE_REMEMBERED: usize = 16 * 1024;

/// Bytes that what is known of a swarm takes, filters included, where nothing else is said.
pub const INDEX_MEMORY: usize = 64 * 1024 * 1024;

/// The share of that which the filter of one author may take at most that never had what it was
/// asked for, one in so many; and what it may take in any case.
pub const STRANGERS: usize = 24;

/// A filter of 100,000 paths.
pub const STRANGERS_FILTER: usize = 256 * 1024;

/// What a fetch is charged at least, for each peer that is tried.
pub const FETCH_LEAST: u32 = 16 * 1024;

/// Bytes of filters and of catalogues fetched a second, on average.
pub const FETCH_RATE: f64 = 64.0 * 1024.0;

/// Bytes of filters that may be fetched at once after a pause: some peers of usual size.
pub const FETCH_BURST: f64 = 256.0 * 1024.0;

/// Filters that are fetched at the same time.
pub const FETCHES: usize = 4;

/// How long one fetch may take.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Receivers of a new filter spread their fetches over this long for each author that they know.
pub const FETCH_SPREAD: Duration = Duration::from_millis(50);

/// The longest such spread.
pub const FETCH_SPREAD_MOST: Duration = Duration::from_secs(300);

/// How long an author's filter is left alone after it could not be fetched, doubling.
pub const FETCH_BACKOFF: Duration = Duration::from_secs(15);

/// The longest such pause.
pub const FETCH_BACKOFF_MOST: Duration = Duration::from_secs(3600);

/// An inventory is built anew this often at the most.
pub const BUILD_INTERVAL: Duration = Duration::from_secs(60);

/// Paths told one by one where there is no inventory yet: fewer need none.
pub const PATHS_WITHOUT_INVENTORY: usize = 256;

/// Times in a row that an author lacked what it claimed before it is not believed for a while.
pub const FALSE_CLAIMS: u32 = 3;

/// False claims in a row that are not held against an author while it announces a newer inventory
/// than the one that is held: paths may have gone since.
pub const EXCUSED_CLAIMS: u32 = 16;

/// How long a peer comes after all others that could not be connected to.
pub const UNREACHABLE: Duration = Duration::from_secs(600);

/// How long such claims are held against it, and how long it is not believed, doubling.
pub const DISBELIEF: Duration = Duration::from_secs(600);

/// The longest disbelief.
pub const DISBELIEF_MOST: Duration = Duration::from_secs(24 * 3600);

/// Questions in a row that an author whose inventory can't be had answered with no, before it is not
/// asked for a while: each costs every miss a round trip.
pub const FRUITLESS: u32 = 8;

/// How long it is not asked then, doubling.
pub const LEFT_ALONE: Duration = Duration::from_secs(60);

/// The longest such pause.
pub const LEFT_ALONE_MOST: Duration = Duration::from_secs(3600);

/// Paths that tell how much of what this machine has and asks for another has.
pub const INTERESTS: usize = 256;

/// Bytes of a catalogue's page.
pub const CATALOGUE_PAGE: usize = 128 * 1024;

/// How long one page of a catalogue may take.
pub const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole catalogue is asked for this often at the most.
pub const CATCH_UP_INTERVAL: Duration = Duration::from_secs(30);

/// The same where it has one page.
pub const CATCH_UP_SOON: Duration = Duration::from_secs(5);

/// How long catching up takes at most: [`CATALOGUE_MEMORY`] at [`FETCH_RATE`].
pub const CATCH_UP_MOST: Duration = Duration::from_secs(128);

/// Pages of one catching up: all authors that can be remembered, at their usual size.
pub const CATALOGUE_PAGES: usize = 64;

/// Neighbours remembered at once; iroh-gossip keeps five.
pub const NEIGHBOURS: usize = 64;

/// With fewer neighbours than these, where there are so many peers, others are joined. iroh-gossip keeps
/// five and looks for one in the place of who went; who joins puts another one out, which is not to join
/// in turn.
pub const FEW_NEIGHBOURS: usize = 3;

/// Alone, a peer joins again after this long, doubling.
pub const REJOIN_LEAST: Duration = Duration::from_secs(1);

/// The longest such pause: half a minute after a partition all must be together again.
pub const REJOIN_MOST: Duration = Duration::from_secs(8);

/// With too few neighbours, or after several were lost at once, one more is tried after this long.
pub const REJOIN_SOON: Duration = Duration::from_secs(10);

/// The same, at the longest, where it does not help.
pub const REJOIN_CALM: Duration = Duration::from_secs(60);

/// With enough neighbours a peer joins another one at random this often: halves of a swarm that
/// lost each other unnoticed find each other again.
pub const REJOIN_RARELY: Duration = Duration::from_secs(300);

/// Neighbours lost within this time of each other look like a partition.
pub const UNREST_WINDOW: Duration = Duration::from_secs(40);

/// How long a peer then looks for the others.
pub const UNREST: Duration = Duration::from_secs(300);

/// Peers that are connected to at once, to be made neighbours.
pub const DIALS: usize = 16;

/// How long one of them may take to connect.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Peers to join through that are remembered.
pub const SEEDS: usize = 256;

/// Events that wait for the rules, and commands that wait for gossip; what is beyond is dropped.
pub const QUEUE: usize = 256;

/// How often it is looked at whether gossip moves, and at what its neighbours send.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The same for a second after they sent more than [`LOUD`] in that time.
pub const WATCH_INTERVAL_LOUD: Duration = Duration::from_millis(20);

/// Bytes from all of them between two looks after which the next ones come sooner.
pub const LOUD: u64 = 64 * 1024;

/// Gossip that did not move for this long is started again: a neighbour that does not read stops
/// all of it.
pub const STALL: Duration = Duration::from_secs(8);

/// How long it then waits before it starts, doubling.
pub const RESTART_LEAST: Duration = Duration::from_millis(500);

/// The longest such pause.
pub const RESTART_MOST: Duration = Duration::from_secs(60);

/// How long a peer is refused that flooded.
pub const BAN: Duration = Duration::from_secs(600);

/// How long a peer is refused that may have been the one that did not read, doubling each time. One
/// whose own gossip stands still for another's sake does not read either, and is started again soon.
pub const SUSPICION: Duration = Duration::from_secs(10);

/// Bytes sent to a peer that says nowhere that it read some of them: a reader does after a part of
/// QUIC's window of 1.25 MB.
pub const UNREAD: u64 = 768 * 1024;

/// Peers refused at once.
pub const BANS: usize = 1024;

/// Bytes a second that a neighbour may deliver of what is of no use: of authors that are not known,
/// that speak too often, or of nobody. Twice all that an honest swarm says.
pub const WASTE_RATE: f64 = 4.0 * 1024.0;

/// Bytes of that in reserve; less than all of each message counts, see `engine/accounts.rs`.
pub const WASTE_BURST: f64 = 2.0 * 1024.0 * 1024.0;

/// Bytes of that in reserve after a cut of who may only have handed them on.
pub const WASTE_BURST_AGAIN: f64 = WASTE_BURST / 8.0;

/// How long a peer is refused that may only have handed on what is of no use, for the first time; it
/// doubles with each until [`BAN`]. It has cut off the writer by then.
pub const CUT_LEAST: Duration = Duration::from_secs(5);

/// Endpoints whose waste is remembered, neighbours or not; the longest silent one goes.
pub const ACCOUNTS: usize = 1024;

/// Hops that a message may have come: a swarm of 10,000 has a dozen, and a tree that is not the best
/// adds seven. Who writes that it came further than it did is charged less, by as much.
pub const HOPS_MOST: u16 = 24;

/// Bytes that what was delivered explains of what a neighbour sends later: its notices of the same
/// messages.
pub const EXPLAINED_MOST: u64 = 64 * 1024;

/// Bytes that all may tell gossip beside what was delivered until it is started anew, which forgets
/// what it kept of it: eight times as much, and a hash table that is to double soon.
pub const CONTROL_MOST: f64 = 3584.0 * 1024.0;

/// Bytes a second of that which are no notices: a quiet swarm's lists of peers.
pub const CONTROL_RATE: f64 = 64.0;

/// Bytes a second that a neighbour may send beside what it delivers: notices, pings, addresses.
pub const UNEXPLAINED_RATE: f64 = 4.0 * 1024.0;

/// Bytes of that in reserve. iroh-gossip keeps eight times the bytes of false notices in memory.
pub const UNEXPLAINED_BURST: f64 = 2.0 * 1024.0 * 1024.0;

/// How long a connection is kept over which gossip says nothing, of a peer that is no neighbour: it
/// answers others over connections of their own and ends none.
pub const LINK_IDLE: Duration = Duration::from_secs(30);

/// Peers whose connections are counted, or were and left a debt.
pub const LINKS: usize = 4096;

/// Connections of one peer on the gossip protocol that are watched.
pub const LINKS_OF_A_PEER: usize = 8;

/// Pages of the catalogue that are served at once.
pub const PAGES_AT_ONCE: usize = 16;

/// Pages, and requests for them, of one endpoint at once: it asks for one after the other.
pub const PAGES_OF_A_READER: usize = 2;

/// Requests for them that are read at once.
pub const PAGE_REQUESTS_AT_ONCE: usize = 64;

/// Endpoints whose pages are counted, to give each [`CATALOGUE_PAGES`] in [`CATCH_UP_INTERVAL`].
pub const PAGE_READERS: usize = 1024;

/// How long a goodbye may take.
pub const SHUTDOWN: Duration = Duration::from_secs(2);
