//! What the node tells of itself: to the HTTP face, the dashboard and the control socket.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh_metrics::Registry;
use peerix_store::{BackgroundHashing, DatabaseStatus, PauseReason, StoreStats};
use serde_json::{Value, json};

use super::node::Node;
use crate::{
    announcing::Trackers,
    clock::{unix_millis, unix_seconds},
    config::Mode,
    dashboard::{PeersQuery, View, pages},
    http::StatusSource,
    metrics::Miss,
    offer::Filter,
    report::{
        BySource, HashingReport, NodeReport, PeerReport, PeersReport, Report, ScanReport,
        StoreReport, TrafficReport,
    },
    stats::{self, Stats},
    swarm::Swarm,
    transfer::provided::Rate,
};

/// How old the count of what the store holds may be: it takes a look at each blob.
const HELD_AGE: Duration = Duration::from_secs(10);

/// How far a look at all paths is.
#[derive(Debug, Default)]
pub(super) struct Look {
    active: AtomicBool,
    seen: AtomicU64,
    /// When the last one ended, in milliseconds since 1970; 0 for never.
    ended_at: AtomicU64,
}

impl Look {
    /// Says that one is under way until what is returned is dropped.
    pub(super) fn begin(self: Arc<Self>) -> Looking {
        self.seen.store(0, Ordering::Relaxed);
        self.active.store(true, Ordering::Relaxed);
        Looking(self)
    }

    pub(super) fn is_at(&self, paths: u64) {
        self.seen.store(paths, Ordering::Relaxed);
    }

    fn report(&self, known: u64, waiting: u64) -> ScanReport {
        let active = self.active.load(Ordering::Relaxed);
        let scanned = match active {
            true => self.seen.load(Ordering::Relaxed),
            false => known,
        };
        let ended_at = self.ended_at.load(Ordering::Relaxed);
        ScanReport {
            active,
            scanned,
            total: known.max(scanned),
            last_scan: (ended_at > 0).then_some(ended_at as f64 / 1000.0),
            waiting_for_upstream: waiting,
        }
    }
}

/// A look that is under way.
pub(super) struct Looking(Arc<Look>);

impl Looking {
    pub(super) fn ended(self, paths: u64) {
        self.0.is_at(paths);
        let now = unix_millis();
        self.0.ended_at.store(now, Ordering::Relaxed);
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.active.store(false, Ordering::Relaxed);
    }
}

/// What the store held a moment ago, and the rates of what passes.
#[derive(Debug, Default)]
pub(super) struct Held {
    stats: tokio::sync::Mutex<Option<(Instant, StoreStats)>>,
    rates: Mutex<Option<(BySource<Rate>, Rate)>>,
}

impl Default for Rate {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Node {
    /// The daemon itself.
    pub(super) fn node_report(&self) -> NodeReport {
        let parts = &self.parts;
        let (known, connected) = parts.peers.count();
        let (relay_url, direct_addrs) = self.addresses();
        let trackers = parts.trackers.as_ref().map(Trackers::describe);
        let trackers = trackers.unwrap_or_default();
        let database = match parts.store.database_status() {
            DatabaseStatus::Present { path } => json!({ "path": path }),
            DatabaseStatus::Absent { path, reason } => json!({ "path": path, "absent": reason }),
            _ => Value::Null,
        };
        NodeReport {
            mode: match parts.mode {
                Mode::Lan => "lan".to_owned(),
                Mode::Auto | Mode::Iroh => "iroh".to_owned(),
            },
            version: crate::VERSION.to_owned(),
            node_id: self.endpoint_id().to_string(),
            uptime_seconds: parts.metrics.uptime_seconds(),
            known_peers: known,
            connected_peers: connected,
            swarm: parts
                .swarm
                .as_ref()
                .map(Swarm::describe)
                .unwrap_or_default(),
            tracker_url: trackers.first().map(|tracker| tracker.url.clone()),
            trackers,
            lan_discovery: parts.lan_discovery,
            relay_url,
            direct_addrs,
            no_verify: parts.no_verify,
            uploads: parts.gate.describe(),
            asked_upstream: self.waiting.asked(),
            nix_database: database,
            available_hashes: self.offered.load(Ordering::Relaxed),
        }
    }

    /// All peers, with their countries.
    pub(super) fn peers_report(&self) -> PeersReport {
        let mut report = self.parts.peers.describe();
        for peer in &mut report.peers {
            self.locate(peer);
        }
        report
    }

    fn locate(&self, peer: &mut PeerReport) {
        let socket = peer.direct_ip.as_deref().and_then(|text| text.parse().ok());
        let socket: Option<std::net::SocketAddr> = socket;
        peer.country = socket.and_then(|socket| self.parts.countries.of(socket.ip()));
    }

    async fn held_stats(&self) -> StoreStats {
        let mut held = self.held.stats.lock().await;
        if let Some((at, stats)) = held.as_ref()
            && at.elapsed() < HELD_AGE
        {
            return *stats;
        }
        let Ok(stats) = self.parts.store.stats().await else {
            return held.as_ref().map(|(_, stats)| *stats).unwrap_or_default();
        };
        *held = Some((Instant::now(), stats));
        stats
    }

    /// What this machine holds.
    pub(super) async fn store_report(&self) -> StoreReport {
        let stats = self.held_stats().await;
        let paths = self.scanned.load(Ordering::Relaxed);
        StoreReport {
            offered: self.offered.load(Ordering::Relaxed),
            paths,
            hashed: stats.hashed,
            by_reference: stats.by_reference,
            downloaded: stats.files + stats.in_index,
            partial: stats.partial,
            in_memory: stats.inline,
            shared: stats.shares,
            download_bytes: stats.blob_bytes,
            quota_bytes: stats.quota_bytes,
            outboard_bytes: stats.outboard_bytes + stats.index_bytes,
            scan: self.look.report(paths, self.waiting.left()),
            hashing: hashing(&self.parts.store.background()),
        }
    }

    /// What was asked for, and what went where.
    pub(super) fn traffic_report(&self) -> TrafficReport {
        let metrics = &self.parts.metrics;
        let totals = metrics.sample(unix_seconds());
        let now = Instant::now();
        let rates = self.held.rates.lock();
        let mut rates = rates.unwrap_or_else(PoisonError::into_inner);
        let (receiving, sending) = rates.get_or_insert_with(|| {
            let receiving = BySource::from_fn(|source| Rate::after(totals.received[source], now));
            (receiving, Rate::after(totals.sent, now))
        });
        TrafficReport {
            since: metrics.stats.since(),
            received: totals.received,
            sent: totals.sent,
            receiving: BySource::from_fn(|source| {
                receiving[source].at(totals.received[source], now)
            }),
            sending: sending.at(totals.sent, now),
            requests: totals.requests,
            hits_local: totals.hits_local,
            hits_peers: totals.hits_peers,
            hits_upstream: totals.hits_upstream,
            misses: Miss::ALL
                .into_iter()
                .zip(totals.missed)
                .map(|(miss, count)| (miss.describe().to_owned(), count))
                .filter(|(_, count)| *count > 0)
                .collect(),
            nars_received: totals.nars_received,
            nars_sent: totals.nars_sent,
        }
    }
}

fn hashing(background: &BackgroundHashing) -> HashingReport {
    let paused = background.paused.map(|reason| match reason {
        PauseReason::Asked => "on request",
        PauseReason::Battery => "on battery",
        PauseReason::Busy => "while others wait for hashes",
        _ => "for now",
    });
    HashingReport {
        paused: paused.map(str::to_owned),
        is_paused_by_hand: background.asked_to_pause,
        paths_left: background.paths_left,
        bytes_left: background.bytes_left,
        paths_done: background.paths_done,
        bytes_done: background.bytes_done,
        seconds_left: background.time_left.map(|left| left.as_secs()),
    }
}

impl StatusSource for Node {
    fn status(&self) -> Value {
        serde_json::to_value(self.node_report()).unwrap_or_default()
    }

    fn health(&self) -> (bool, Value) {
        let store = matches!(
            self.parts.store.database_status(),
            DatabaseStatus::Present { .. }
        );
        let node = !self.parts.endpoint.is_closed();
        let mut details = Vec::new();
        if !store {
            details.push("no Nix database: only what was fetched is served");
        }
        if !node {
            details.push("the iroh endpoint is closed: restart the daemon");
        }
        let metrics = &self.parts.metrics;
        let mut health = json!({
            "status": if node { "healthy" } else { "degraded" },
            "uptime_seconds": metrics.uptime_seconds(),
            "checks": { "local_store": store, "iroh_node": node, "store_manager": true },
            "peers": self.parts.peers.count().1,
            "available_hashes": self.offered.load(Ordering::Relaxed),
            "last_successful_operation": metrics.stats.last_success(),
            "errors_count": metrics.errors.get(),
        });
        if !details.is_empty() {
            health["details"] = json!(details);
        }
        (node, health)
    }

    fn peers(&self) -> Value {
        serde_json::to_value(self.peers_report()).unwrap_or_default()
    }

    fn more_metrics(&self, text: &mut String) {
        crate::metrics::peers::encode(text, self.parts.peers.totals());
        let mut registry = Registry::default();
        registry
            .sub_registry_with_prefix("iroh")
            .register_all(self.parts.endpoint.metrics());
        if let Some(gossip) = self
            .parts
            .swarm
            .as_ref()
            .and_then(|swarm| swarm.gossip().metrics())
        {
            registry.sub_registry_with_prefix("iroh").register(gossip);
        }
        // Writing to a String cannot fail.
        let _ = registry.encode_openmetrics_to_writer(text);
    }
}

impl View for Node {
    fn report(&self) -> BoxFuture<'_, Report> {
        async move {
            Report {
                node: self.node_report(),
                store: self.store_report().await,
                traffic: self.traffic_report(),
                transfers: self.parts.transfers.report().await,
            }
        }
        .boxed()
    }

    fn peers(&self, query: &PeersQuery) -> PeersReport {
        pages::page(self.parts.peers.all(), query, |peer| {
            let mut report = peer.report(Instant::now());
            self.locate(&mut report);
            report
        })
    }

    fn stats(&self) -> &Stats {
        &self.parts.metrics.stats
    }

    fn scan_status(&self) -> BoxFuture<'_, Value> {
        async move {
            let store = self.store_report().await;
            let mut scan = self.scan(&store);
            scan["available_hashes"] = json!(store.offered);
            scan
        }
        .boxed()
    }

    fn dashboard_stats(&self) -> BoxFuture<'_, Value> {
        self.older_stats().boxed()
    }

    fn pause(&self, pause: bool) {
        self.parts.store.pause_background(pause);
    }
}

impl Node {
    /// The older program's object of that name.
    fn scan(&self, store: &StoreReport) -> Value {
        let (found, skipped) = self.parts.offer.public_paths().counts();
        let (scan, hashing) = (&store.scan, &store.hashing);
        let asked = self.waiting.asked();
        json!({
            "active": scan.active || hashing.paths_left > 0,
            "total": scan.total,
            "scanned": scan.scanned,
            "filtered": store.paths.saturating_sub(store.offered),
            "filter_checked": asked,
            "filter_to_check": asked + scan.waiting_for_upstream,
            "filter_found": found,
            "filter_skipped": skipped,
            "filter_eta": hashing.seconds_left.filter(|_| hashing.paths_left > 0).map(|left| {
                humantime::format_duration(Duration::from_secs(left)).to_string()
            }),
            "last_scan": scan.last_scan,
            "paused": hashing.is_paused_by_hand,
            "announced_hashes": self.announced_count(),
            "filtering_enabled": self.parts.filter != Filter::Everything,
            "total_store_paths": store.paths,
            "cached_filtered": found,
            "cached_skipped": skipped,
        })
    }

    fn announced_count(&self) -> usize {
        self.parts.swarm.as_ref().map_or(0, Swarm::announced)
    }

    /// The object of `/dashboard-stats`, as the older program made it.
    async fn older_stats(&self) -> Value {
        let store = self.store_report().await;
        let node = self.node_report();
        let traffic = self.traffic_report();
        let stats = &self.parts.metrics.stats;
        let (most_requested, total_requests) = stats.most_requested(10);
        let (most_served, total_served) = stats.most_served(10);
        let largest = View::peers(self, &PeersQuery::largest(pages::MAX_ROWS)).peers;
        let bandwidth: Vec<Value> = largest
            .iter()
            .take(10)
            .map(|peer| {
                json!({
                    "peer_id": stats::short(&peer.node_id),
                    "bytes_sent": peer.bytes_sent,
                    "bytes_received": peer.bytes_received,
                    "requests": peer.reputation.total_requests,
                    "last_seen": peer.last_seen,
                })
            })
            .collect();
        let reputation: Vec<Value> = largest
            .iter()
            .map(|peer| {
                json!({
                    "node_id": peer.node_id,
                    "node_id_short": peer.node_id_short,
                    "score": peer.reputation.score,
                    "success_rate": peer.reputation.success_rate / 100.0,
                    "avg_latency_ms": peer.reputation.avg_latency_ms,
                    "total_requests": peer.reputation.total_requests,
                    "bytes_transferred": peer.reputation.bytes_transferred,
                    "backed_off": peer.reputation.backed_off,
                    "last_seen": peer.last_seen,
                })
            })
            .collect();
        json!({
            "mode": node.mode,
            "version": node.version,
            "node_id": node.node_id,
            "known_peers": node.known_peers,
            "tracker_url": node.tracker_url,
            "available_hashes": store.offered,
            "announced_hashes": self.announced_count(),
            "scan": self.scan(&store),
            "relay_url": node.relay_url,
            "direct_addrs": node.direct_addrs.len(),
            "most_requested": most_requested,
            "total_requests": total_requests,
            "most_served": most_served,
            "total_served": total_served,
            "activity": stats.activity(0, 20).0,
            "peer_bandwidth": bandwidth,
            "peer_reputation": reputation,
            "total_bytes_sent": traffic.sent,
            "total_bytes_received": traffic.saved(),
        })
    }
}
