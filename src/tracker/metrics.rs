//! What a tracker counts, for Prometheus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;

use super::api::AnnounceKind;
use super::directory::Fill;
use crate::metrics::{Metrics, registered, text};

/// All counters of a tracker.
#[derive(Debug)]
pub struct TrackerMetrics {
    /// Counts connections, as for the daemon's HTTP face.
    pub(super) connections: Arc<Metrics>,
    answers: Family<AnswerLabels, Counter>,
    announcements: Family<KindLabels, Counter>,
    hashes_asked: Counter,
    hashes_found: Counter,
    peers: Family<PeerLabels, Gauge>,
    paths: Gauge,
    records: Gauge,
    swarms: Gauge,
    database_bytes: Gauge,
    open_connections: Gauge,
    uptime_seconds: Gauge,
    started: Instant,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    method: String,
    route: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    api: &'static str,
}

impl TrackerMetrics {
    /// Starts counting.
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("peerix_tracker");
        let r = &mut registry;
        let up: Gauge = registered(r, "up", "1 while the tracker runs");
        up.set(1);
        Self {
            connections: Arc::default(),
            answers: registered(r, "http_responses", "Answers by method, route and status"),
            announcements: registered(r, "announcements", "Signed announcements taken, by kind"),
            hashes_asked: registered(r, "lookup_hashes", "Path hashes that were looked up"),
            hashes_found: registered(r, "lookup_hits", "Path hashes looked up that somebody has"),
            peers: registered(r, "peers", "Peers that are there, by the API they use"),
            paths: registered(r, "paths", "Distinct store paths that somebody has"),
            records: registered(r, "records", "Pairs of peer and store path"),
            swarms: registered(r, "swarms", "Swarms with somebody in them"),
            database_bytes: registered(r, "database_bytes", "Size of the database"),
            open_connections: registered(r, "http_connections", "Open connections"),
            uptime_seconds: registered(r, "uptime_seconds", "Seconds since the tracker started"),
            started: Instant::now(),
            registry,
        }
    }

    pub(super) fn count_answer(&self, method: &str, route: &str, code: u16) {
        // Methods are the client's to invent.
        let method = ["GET", "POST", "DELETE", "HEAD"]
            .into_iter()
            .find(|known| *known == method)
            .unwrap_or("other");
        let labels = AnswerLabels {
            method: method.to_owned(),
            route: route.to_owned(),
            code,
        };
        self.answers.get_or_create(&labels).inc();
    }

    pub(super) fn count_announcement(&self, kind: AnnounceKind) {
        let kind = match kind {
            AnnounceKind::Full => "full",
            AnnounceKind::Delta => "delta",
            AnnounceKind::Refresh => "refresh",
            AnnounceKind::Withdraw => "withdraw",
        };
        self.announcements.get_or_create(&KindLabels { kind }).inc();
    }

    pub(super) fn count_lookup(&self, asked: usize, found: usize) {
        self.hashes_asked.inc_by(asked as u64);
        self.hashes_found.inc_by(found as u64);
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// All of them in Prometheus' text format.
    pub(super) fn encode(&self, fill: Fill, database_bytes: Option<u64>) -> String {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(
            &self.peers.get_or_create(&PeerLabels { api: "signed" }),
            fill.signed,
        );
        set(
            &self.peers.get_or_create(&PeerLabels { api: "older" }),
            fill.older,
        );
        set(&self.paths, fill.paths);
        set(&self.records, fill.records);
        set(&self.swarms, fill.swarms);
        if let Some(bytes) = database_bytes {
            set(&self.database_bytes, bytes);
        }
        self.open_connections
            .set(self.connections.http_connections.get());
        set(&self.uptime_seconds, self.uptime().as_secs());
        let mut open_metrics = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut open_metrics, &self.registry);
        text::from_open_metrics(&open_metrics)
    }
}
