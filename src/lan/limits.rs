//! Every bound on what the local network may cost, each with its reason.

use std::time::Duration;

/// Peers learnt from the local network that are kept at once: a large office, and what a forger of
/// announcements can fill.
pub const PEERS: usize = 256;

/// Peers that one address may announce: several daemons of one machine, not a forger's thousands.
pub const PEERS_PER_ADDRESS: usize = 8;

/// New peers that are taken up in a second: each costs an attempt to connect.
pub const NEW_PEERS_PER_SECOND: u32 = 32;

/// Addresses of one peer that are tried: a machine has a few on one network.
pub const ADDRESSES_PER_PEER: usize = 8;

/// How long a peer is kept that neither announces itself nor is connected: three of its intervals.
pub const PEER_AGE: Duration = Duration::from_secs(60);

/// Least time between two changes of one peer's addresses: a connection is made in less.
pub const ADDRESS_CHANGE_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of one mDNS message that is read: what fits an Ethernet frame.
pub const MDNS_MESSAGE: usize = 1500;

/// The first questions on a network come close together: other daemons start at the same time.
pub const MDNS_FIRST_QUERIES: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(2500),
];

/// On a new network, or under a new address, a host says so again then: a message may be
/// lost, and news that come fast after others are not believed.
pub const MDNS_FIRST_ANNOUNCEMENTS: [Duration; 2] =
    [Duration::from_millis(1100), Duration::from_millis(3000)];

/// How often a network is asked after that; a question of another counts as one's own.
pub const MDNS_INTERVAL: Duration = Duration::from_secs(20);

/// Least time between two answers on one network, whoever asks.
pub const MDNS_ANSWER_PAUSE: Duration = Duration::from_millis(400);

/// The longest random delay of an answer, so that many hosts do not answer at once.
pub const MDNS_ANSWER_DELAY: Duration = Duration::from_millis(100);

/// How often the machine's interfaces are looked at where the system told of no change.
pub const INTERFACES_INTERVAL: Duration = Duration::from_secs(4);

/// How soon and how often they are looked at again after a change: another may follow.
pub const INTERFACES_SOON: Duration = Duration::from_millis(500);

/// See [`INTERFACES_SOON`].
pub const INTERFACES_LOOKS: u32 = 4;

/// Interfaces that are taken part on at once; a host of containers may have hundreds.
pub const INTERFACES: usize = 32;

/// Bytes of one datagram of the older protocol that are read: one more than the longest valid one.
pub const DATAGRAM: usize = 64;

/// Requests of one address that are answered in a second.
pub const ANSWERS_PER_ADDRESS: u32 = 20;

/// Requests of all addresses that are looked at in a second: senders can be forged, and each is
/// remembered for a moment.
pub const REQUESTS_PER_SECOND: u32 = 1000;

/// Requests whose path is looked up at once; further ones are dropped, as datagrams may be.
pub const ANSWERS_AT_ONCE: usize = 32;

/// Questions of our own that wait for answers at once; Nix asks 25 at a time.
pub const QUESTIONS: usize = 256;

/// What a wait for an answer is at the least, however fast they were: hosts are busy now and then.
pub const ANSWER_WAIT_LEAST: Duration = Duration::from_millis(10);

/// How long a question waits for its first answer while it is not known how long those take: with the rest of a lookup it stays under the
/// 50 ms that the older program waits.
pub const ANSWER_WAIT: Duration = Duration::from_millis(40);

/// Answers to one question that are heard: the first may be a lie.
pub const ANSWERS_HEARD: usize = 4;

/// Questions in a row that nobody answered before they are no longer waited for.
pub const SILENT_QUESTIONS: u32 = 6;

/// How often the network is asked while nobody ever answers: without waiting, to notice whoever
/// came.
pub const SILENT_INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer shows that there are older peers.
pub const HEARD_AGE: Duration = Duration::from_secs(600);

/// Time for a host on the local network to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for an older peer to tell of a path: it may verify it with its upstream first.
pub const NARINFO_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of an older peer's narinfo: as large as any narinfo may be.
pub const NARINFO: usize = 1024 * 1024;

/// An older peer that sends nothing for this long is given up; it dumps the whole NAR into memory
/// before the first byte.
pub const STALL: Duration = Duration::from_secs(10);

/// How long a host is left alone that failed.
pub const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// How long a host is left alone that sent a wrong NAR.
pub const LIED_PAUSE: Duration = Duration::from_secs(20 * 60);

/// Hosts whose faults are remembered.
pub const FAULTS_REMEMBERED: usize = 256;

/// Paths whose older holders are remembered.
pub const HOLDERS_REMEMBERED: usize = 4096;

/// HTTP connections of other hosts at once, so that this machine's Nix always has room.
pub const HTTP_CONNECTIONS: usize = 64;
