//! What this process counts, for Prometheus.

mod latency;
pub mod peers;
mod substitution;
pub(crate) mod text;

pub use latency::Latency;
pub use substitution::{Ending, Miss, Stage, Substitution};

use std::fmt;
use std::time::Instant;

use peerix_store::PathInfo;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::report::Source;
use crate::stats::{
    self, Stats, Totals,
    activity::{Action, Event},
};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Returns the content type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All counters of the process. Names and meanings of the first block are those of older peerix.
#[derive(Debug)]
pub struct Metrics {
    /// NARs sent in full: to Nix over HTTP, and to peers.
    pub nars_served: Counter,
    /// Narinfos sent: to Nix over HTTP, and to peers.
    pub narinfos_served: Counter,
    /// NAR bytes sent to peers, before wire compression, counted as they pass.
    pub bytes_sent: Counter,
    /// NAR bytes received from peers, after decompression, counted as they pass.
    pub bytes_received: Counter,
    /// Bytes of blobs sent to peers as they were on the wire.
    pub wire_bytes_sent: Counter,
    /// Bytes of blobs received from peers as they were on the wire.
    pub wire_bytes_received: Counter,
    /// Narinfo requests that this machine's own store answered.
    pub cache_hits: Counter,
    /// Narinfo requests that this machine's own store could not answer.
    pub cache_misses: Counter,
    /// Requests sent to peers.
    pub peer_requests: Counter,
    /// What went wrong and may need the operator; a miss is no error.
    pub errors: Counter,
    /// Narinfo requests of Nix.
    pub requests: Counter,
    /// Narinfos and NARs served, so a path that was asked for and fetched counts 2.
    pub served: Counter,
    /// Peers with an open connection.
    pub peers_connected: Gauge,
    /// Store paths offered to peers.
    pub available_hashes: Gauge,
    /// How long narinfo requests took.
    pub narinfo_latency: Latency,

    /// Answers over HTTP, by route and status.
    pub http_responses: Family<HttpLabels, Counter>,
    /// NAR bytes sent over HTTP.
    pub http_bytes_sent: Counter,
    /// NAR bodies over HTTP that ended before their last byte.
    pub http_bodies_cut: Counter,
    /// Open HTTP connections.
    pub http_connections: Gauge,
    /// HTTP connections closed to make room for others.
    pub http_connections_evicted: Counter,
    /// NAR bytes received from the upstream, after decompression, counted as they pass.
    pub upstream_bytes_received: Counter,
    faults: Family<FaultLabels, Counter>,
    upstream_faults: Family<FaultLabels, Counter>,
    /// What became of Nix's requests.
    pub substitution: Substitution,
    /// What people see of the past.
    pub stats: Stats,

    /// Peers that announced themselves on the local network.
    pub lan_peers: Gauge,
    /// Announcements of peers that there was no room for.
    pub lan_peers_refused: Counter,
    /// Requests by UDP from older peers that were answered.
    pub lan_answers: Counter,
    /// Requests by UDP to older peers.
    pub lan_questions: Counter,
    /// Datagrams on the older protocol's port that were dropped, by reason.
    pub lan_dropped: Family<DroppedLabels, Counter>,

    started: Instant,
    uptime_seconds: Gauge,
    registry: Registry,
}

/// What a peer did wrong, or what went wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Bytes that are not the blob's.
    BadData,
    /// It said that it has a path, and had not.
    Absent,
    /// It did not answer in time.
    Silent,
    /// It refused to serve.
    Refused,
    /// The connection ended in the middle.
    Disconnected,
    /// A right blob that is not the NAR it was said to be.
    WrongNar,
    /// What it said of a path carries no trusted signature.
    Trust,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::BadData,
        Self::Absent,
        Self::Silent,
        Self::Refused,
        Self::Disconnected,
        Self::WrongNar,
        Self::Trust,
    ];

    /// Returns the name that stands in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Absent => "absent",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
            Self::WrongNar => "wrong_nar",
            Self::Trust => "trust",
        }
    }
}

impl EncodeLabelValue for Fault {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    kind: Fault,
}

/// The labels of [`Metrics::http_responses`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    /// The name of the route, `other` for none.
    pub route: &'static str,
    /// The status code.
    pub code: u16,
}

/// The label of [`Metrics::lan_dropped`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DroppedLabels {
    /// Why.
    pub reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Starts counting at zero, and the uptime now.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("peerix");
        let up: Gauge = registered(&mut registry, "up", "1 while the daemon runs");
        up.set(1);
        let faults = registered::<Family<FaultLabels, Counter>>(
            &mut registry,
            "peer_faults",
            "Faults of peers, by kind",
        );
        let upstream_faults = registered::<Family<FaultLabels, Counter>>(
            &mut registry,
            "upstream_faults",
            "Faults of upstream caches, by kind",
        );
        for kind in Fault::ALL {
            // A series that is there from the start shows its first increase.
            drop(faults.get_or_create(&FaultLabels { kind }));
            drop(upstream_faults.get_or_create(&FaultLabels { kind }));
        }
        let r = &mut registry;
        Self {
            nars_served: registered(r, "nars_served", "NARs sent in full, to Nix and to peers"),
            narinfos_served: registered(r, "narinfos_served", "Narinfos sent, to Nix and to peers"),
            bytes_sent: registered(r, "bytes_sent", "NAR bytes sent to peers"),
            bytes_received: registered(r, "bytes_received", "NAR bytes received from peers"),
            wire_bytes_sent: registered(
                r,
                "wire_bytes_sent",
                "Bytes of NARs sent to peers, as they were on the wire",
            ),
            wire_bytes_received: registered(
                r,
                "wire_bytes_received",
                "Bytes of NARs received from peers, as they were on the wire",
            ),
            cache_hits: registered(
                r,
                "cache_hits",
                "Narinfo requests answered from this machine's own store",
            ),
            cache_misses: registered(
                r,
                "cache_misses",
                "Narinfo requests for what this machine's own store lacks",
            ),
            peer_requests: registered(r, "peer_requests", "Requests sent to peers"),
            errors: registered(r, "errors", "Errors that may need the operator"),
            requests: registered(r, "requests", "Narinfo requests of Nix"),
            served: registered(r, "served", "Narinfos and NARs served"),
            peers_connected: registered(r, "peers_connected", "Peers with an open connection"),
            available_hashes: registered(r, "available_hashes", "Store paths offered to peers"),
            narinfo_latency: Latency::default(),
            http_responses: registered(r, "http_responses", "HTTP answers, by route and status"),
            http_bytes_sent: registered(r, "http_bytes_sent", "NAR bytes sent over HTTP"),
            http_bodies_cut: registered(
                r,
                "http_bodies_cut",
                "NAR bodies over HTTP that ended before their last byte",
            ),
            http_connections: registered(r, "http_connections", "Open HTTP connections"),
            http_connections_evicted: registered(
                r,
                "http_connections_evicted",
                "HTTP connections closed to make room for others",
            ),
            upstream_bytes_received: registered(
                r,
                "upstream_bytes_received",
                "NAR bytes received from upstream caches",
            ),
            faults,
            lan_peers: registered(r, "lan_peers", "Peers found on the local network"),
            lan_peers_refused: registered(
                r,
                "lan_peers_refused",
                "Announcements on the local network that there was no room for",
            ),
            lan_answers: registered(r, "lan_answers", "Requests of older peers answered by UDP"),
            lan_questions: registered(r, "lan_questions", "Requests to older peers by UDP"),
            lan_dropped: registered(
                r,
                "lan_dropped",
                "Datagrams on the older protocol's port that were dropped, by reason",
            ),
            upstream_faults,
            substitution: Substitution::new(r),
            stats: Stats::default(),
            started: Instant::now(),
            uptime_seconds: registered(r, "uptime_seconds", "Seconds since the daemon started"),
            registry,
        }
    }

    /// Counts a fault of a peer.
    pub fn count_fault(&self, fault: Fault) {
        self.faults
            .get_or_create(&FaultLabels { kind: fault })
            .inc();
    }

    /// Counts a fault of an upstream cache.
    pub fn count_upstream_fault(&self, fault: Fault) {
        self.upstream_faults
            .get_or_create(&FaultLabels { kind: fault })
            .inc();
    }

    /// Returns how often peers were at fault in this way.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults
            .get_or_create(&FaultLabels { kind: fault })
            .get()
    }

    /// Returns whole seconds since the process began to count.
    #[must_use]
    pub fn uptime_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Notes that a peer, named by its endpoint id, got `bytes` of a NAR.
    pub fn note_served(&self, info: &PathInfo, peer: &str, bytes: u64) {
        let mut event = Event::new(
            Action::Served,
            info.path_hash().to_string(),
            info.store_path.name().to_owned(),
            "to-peer".to_owned(),
        );
        event.size = bytes;
        event.peer_id = Some(stats::short(peer).to_owned());
        self.stats.note(event);
    }

    /// Takes up in [`Metrics::stats`] what was counted since the last time; `now` in seconds since
    /// 1970. Returns the totals over all restarts.
    pub fn sample(&self, now: u64) -> Totals {
        let substitution = &self.substitution;
        let answers = &substitution.answers;
        let received = crate::report::BySource::from_fn(|source| substitution.bytes[source].get());
        let of_peers = Source::ALL.into_iter().filter(|source| source.is_peer());
        let totals = Totals {
            received,
            sent: self.bytes_sent.get(),
            requests: self.requests.get(),
            hits_local: answers.own_store.get(),
            hits_peers: of_peers.map(|source| answers[source].get()).sum(),
            hits_upstream: answers.upstream.get(),
            missed: Miss::ALL.map(|miss| substitution.misses(miss)),
            nars_received: substitution.endings(Ending::Verified),
            nars_sent: self.nars_served.get(),
        };
        self.stats.sample(totals, now)
    }

    /// Returns all metrics, and those that `more` writes in OpenMetrics, without its end.
    #[must_use]
    pub fn encode(&self, format: Format, more: impl FnOnce(&mut String)) -> String {
        self.uptime_seconds
            .set(i64::try_from(self.uptime_seconds()).unwrap_or(i64::MAX));
        let mut open_metrics = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut open_metrics, &self.registry);
        let end = open_metrics.trim_end_matches("# EOF\n").len();
        open_metrics.truncate(end);
        more(&mut open_metrics);
        let mut exposition = match format {
            Format::Text => text::from_open_metrics(&open_metrics),
            Format::OpenMetrics => open_metrics,
        };
        self.narinfo_latency.encode(
            &mut exposition,
            "peerix_request_duration_seconds",
            "Time to answer a narinfo request, quantiles over the last 1000",
        );
        if format == Format::OpenMetrics {
            exposition.push_str("# EOF\n");
        }
        exposition
    }
}

pub(crate) fn registered<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: Default + Clone + prometheus_client::registry::Metric,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests;
