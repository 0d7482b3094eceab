//! What a running daemon tells of itself, as plain data: one source for the HTTP face, the control
//! socket, the command line and the dashboard.
//!
//! Field names that the older program's users know stay as they were (`node_id` for the endpoint
//! id). Times are in seconds since 1970, sizes in bytes, rates in bytes a second, unless a name says
//! otherwise. Whoever reads a report takes a missing field for its default, so that a newer command
//! line understands an older daemon.

mod source;

pub use source::{BySource, Source};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All that one look at the daemon needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The daemon itself.
    pub node: NodeReport,
    /// What it holds and offers.
    pub store: StoreReport,
    /// What went where.
    pub traffic: TrafficReport,
    /// NARs that are arriving now.
    pub transfers: Vec<TransferReport>,
}

/// The daemon: the object of `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// `iroh` or `lan`.
    pub mode: String,
    /// The daemon's version.
    pub version: String,
    /// The endpoint id in hexadecimal.
    pub node_id: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Peers that are known.
    pub known_peers: usize,
    /// Peers with an open connection.
    pub connected_peers: usize,
    /// The swarm and what is heard in it; null without one.
    pub swarm: Value,
    /// The first tracker's address.
    pub tracker_url: Option<String>,
    /// How it goes with each tracker.
    pub trackers: Vec<TrackerReport>,
    /// Whether peers on the local network are looked for.
    pub lan_discovery: bool,
    /// The relay that this endpoint can be reached through.
    pub relay_url: Option<String>,
    /// Addresses under which this endpoint may be reached directly.
    pub direct_addrs: Vec<String>,
    /// Whether signatures of what peers send are not checked.
    pub no_verify: bool,
    /// Whether anything is uploaded, and what was.
    pub uploads: Value,
    /// Paths that the upstream was asked for before they are offered.
    pub asked_upstream: u64,
    /// Nix's database: its path, and why it can't be read where that is so.
    pub nix_database: Value,
    /// Store paths that are offered to peers.
    pub available_hashes: u64,
}

/// One tracker that this machine speaks with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrackerReport {
    /// Its URL.
    pub url: String,
    /// Whether it has the signed API, or is one of the older program's; null until it answered.
    pub signed: Option<bool>,
    /// Seconds since it last took an announcement; null where it never did.
    pub seconds_since_contact: Option<u64>,
    /// Store paths that it knows of this machine.
    pub announced_paths: usize,
    /// Peers that it named the last time: some of them, where there are many.
    pub named_peers: usize,
    /// Its relay, where that is used.
    pub relay_url: Option<String>,
    /// Why the last attempt failed; null while it works.
    pub error: Option<String>,
}

/// How packets to a peer travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerPath {
    /// Within the local network.
    Lan,
    /// Over the internet, without anybody in between.
    Direct,
    /// Through a relay.
    Relayed,
}

/// One peer: a row of `GET /peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    /// The endpoint id in hexadecimal.
    pub node_id: String,
    /// The first 16 characters of it, and `...`.
    pub node_id_short: String,
    /// What the peer is called, where anybody said so.
    pub name: Option<String>,
    /// The peer's address on the internet, where packets to it go there.
    pub public_ip: Option<String>,
    /// The address and port that packets to it go to, unless a relay is in between.
    pub direct_ip: Option<String>,
    /// The country of [`PeerReport::public_ip`] as two letters, or `LAN`; null where unknown.
    pub country: Option<String>,
    /// Whether a connection to it is open.
    pub connected: bool,
    /// Whether it let the last lookup's deadline pass.
    pub silent: bool,
    /// Whether it speaks the older program's protocols alone.
    pub older: bool,
    /// Whether it is of another swarm, or without this one's secret.
    pub other_swarm: bool,
    /// How packets to it travel; null while there is no connection.
    pub path: Option<PeerPath>,
    /// The address or the relay that packets to it go to.
    pub address: Option<String>,
    /// The connection's round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// NAR bytes sent to it.
    pub bytes_sent: u64,
    /// NAR bytes received from it.
    pub bytes_received: u64,
    /// Bytes a second that it gave in the last transfer.
    pub rate: Option<f64>,
    /// Lies that it told.
    pub lies: u32,
    /// When it last answered.
    pub last_seen: Option<f64>,
    /// What orders candidates.
    pub reputation: ReputationReport,
}

/// What is known of a peer's reliability.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReputationReport {
    /// 0 to 1, two digits: higher is asked first.
    pub score: f64,
    /// Requests that gave what was asked for, in percent, one digit.
    pub success_rate: f64,
    /// Requests that ended either way.
    pub total_requests: u64,
    /// Those that went well.
    pub successful: u64,
    /// Those that did not.
    pub failed: u64,
    /// Mean time to an answer in milliseconds, one digit.
    pub avg_latency_ms: f64,
    /// NAR bytes received from it.
    pub bytes_transferred: u64,
    /// Whether it is left alone for now.
    pub backed_off: bool,
}

/// The object of `GET /peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeersReport {
    /// All of them, or the part that was asked for.
    pub peers: Vec<PeerReport>,
    /// How many there are.
    pub count: usize,
}

/// One NAR on its way here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferReport {
    /// The store path hash.
    pub hash: String,
    /// The store path's name, without its hash.
    pub name: String,
    /// The NAR's size.
    pub size: u64,
    /// Bytes of it that have arrived.
    pub done: u64,
    /// Bytes a second, all providers together.
    pub rate: f64,
    /// HTTP clients that read it.
    pub readers: usize,
    /// Seconds since it began.
    pub seconds: f64,
    /// Who gives it; those that gave most first, and no more than are of use to a person.
    pub providers: Vec<ProviderReport>,
    /// How many give it, or did.
    pub provider_count: usize,
    /// Bytes that all of them gave.
    pub given: u64,
}

/// What one provider gives to one transfer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderReport {
    /// A peer's endpoint id, or how an upstream is named.
    pub name: String,
    /// How its bytes come, once any did.
    pub source: Option<Source>,
    /// Bytes that it gave.
    pub bytes: u64,
    /// Bytes a second.
    pub rate: f64,
}

/// What this machine holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// Store paths that are offered to peers.
    pub offered: u64,
    /// Valid paths in Nix's store, as the last look at it found.
    pub paths: u64,
    /// Paths whose blob hash is known.
    pub hashed: u64,
    /// Blobs that are read from Nix's store, without a copy.
    pub by_reference: u64,
    /// Blobs in data files and in the index: downloaded ones.
    pub downloaded: u64,
    /// Downloads that are not whole and that nobody works on.
    pub partial: u64,
    /// Blobs in memory.
    pub in_memory: u64,
    /// Paths that a person shared, closures not counted.
    pub shared: u64,
    /// Bytes of downloaded blobs on disk.
    pub download_bytes: u64,
    /// Bytes that they may take.
    pub quota_bytes: u64,
    /// Bytes of outboards and of the index on disk.
    pub outboard_bytes: u64,
    /// The look through the store.
    pub scan: ScanReport,
    /// Hashing in the background.
    pub hashing: HashingReport,
}

/// How far a look through the store is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScanReport {
    /// Whether one is under way.
    pub active: bool,
    /// Paths seen by it, or by the last one.
    pub scanned: u64,
    /// Paths that it will see, as far as is known.
    pub total: u64,
    /// When the last one ended.
    pub last_scan: Option<f64>,
    /// Paths that wait for the upstream's word.
    pub waiting_for_upstream: u64,
}

/// How far hashing is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashingReport {
    /// Why nothing is hashed now, where that is so.
    pub paused: Option<String>,
    /// Whether a person paused it.
    pub is_paused_by_hand: bool,
    /// Paths that wait.
    pub paths_left: u64,
    /// Bytes of their NARs.
    pub bytes_left: u64,
    /// Paths hashed since the start.
    pub paths_done: u64,
    /// Bytes hashed since the start.
    pub bytes_done: u64,
    /// Seconds until it is done, at the rate so far.
    pub seconds_left: Option<u64>,
}

/// What was asked for, and what went where. Totals are over all restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficReport {
    /// When the totals began.
    pub since: f64,
    /// NAR bytes, by where they came from.
    pub received: BySource<u64>,
    /// NAR bytes sent to peers.
    pub sent: u64,
    /// The same a second, over the last seconds.
    pub receiving: BySource<f64>,
    /// NAR bytes a second to peers.
    pub sending: f64,
    /// Narinfo requests of Nix.
    pub requests: u64,
    /// Those that the own store answered.
    pub hits_local: u64,
    /// Those that a peer answered.
    pub hits_peers: u64,
    /// Those that the upstream answered.
    pub hits_upstream: u64,
    /// Those that nobody answered, by reason.
    pub misses: Vec<(String, u64)>,
    /// NARs that arrived whole, of peers and of upstream caches.
    pub nars_received: u64,
    /// NARs that were sent whole, to Nix and to peers.
    pub nars_sent: u64,
}

impl TrafficReport {
    /// NAR bytes that came from peers, and so not from an upstream.
    #[must_use]
    pub fn saved(&self) -> u64 {
        self.received.lan + self.received.direct + self.received.relayed
    }

    /// What came after `earlier`, a report of the same daemon: totals alone, rates are of now.
    #[must_use]
    pub fn after(self, earlier: &TrafficReport) -> Self {
        let received = BySource::from_fn(|source| {
            self.received[source].saturating_sub(earlier.received[source])
        });
        let before = |reason: &str| {
            let known = earlier.misses.iter().find(|(other, _)| other == reason);
            known.map_or(0, |(_, count)| *count)
        };
        let misses = self.misses.iter().map(|(reason, count)| {
            let count = count.saturating_sub(before(reason));
            (reason.clone(), count)
        });
        Self {
            received,
            sent: self.sent.saturating_sub(earlier.sent),
            requests: self.requests.saturating_sub(earlier.requests),
            hits_local: self.hits_local.saturating_sub(earlier.hits_local),
            hits_peers: self.hits_peers.saturating_sub(earlier.hits_peers),
            hits_upstream: self.hits_upstream.saturating_sub(earlier.hits_upstream),
            misses: misses.filter(|(_, count)| *count > 0).collect(),
            nars_received: self.nars_received.saturating_sub(earlier.nars_received),
            nars_sent: self.nars_sent.saturating_sub(earlier.nars_sent),
            ..self
        }
    }
}
