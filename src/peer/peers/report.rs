//! What is told of one peer.

use std::time::Instant;

use super::{Link, Peer};
use crate::{
    clock::unix_now,
    peer::path,
    report::{PeerReport, ReputationReport},
    stats,
};

impl Peer {
    /// Tells of this peer; all but the country, which needs a database.
    pub fn report(&self, now: Instant) -> PeerReport {
        let path = self.path();
        let id = self.id.to_string();
        let direct = path.as_ref().and_then(|path| path.direct);
        let public = direct.filter(|socket| !path::is_private(socket.ip()));
        self.score(|score| PeerReport {
            node_id_short: format!("{}...", stats::short(&id)),
            node_id: id,
            name: None,
            public_ip: public.map(|socket| socket.ip().to_canonical().to_string()),
            direct_ip: direct.map(|socket| socket.to_string()),
            country: None,
            connected: self.is_up(),
            silent: self.is_silent(),
            older: self.is_older(),
            other_swarm: self.is_of_other_swarm(),
            path: path.as_ref().map(|path| path.kind),
            address: path.as_ref().map(|path| path.address.clone()),
            rtt_ms: path.as_ref().map(|path| path.rtt.as_secs_f64() * 1000.0),
            bytes_sent: score.bytes_sent,
            bytes_received: score.bytes_received,
            rate: score.rate,
            lies: score.lies,
            last_seen: score
                .last_seen()
                .map(|seen| unix_now() - now.saturating_duration_since(seen).as_secs_f64()),
            reputation: ReputationReport {
                score: (score.value(now) * 100.0).round() / 100.0,
                success_rate: (score.success_rate() * 1000.0).round() / 10.0,
                total_requests: score.total_requests,
                successful: score.successful_requests,
                failed: score.failed_requests(),
                avg_latency_ms: (score.average_latency_ms() * 10.0).round() / 10.0,
                bytes_transferred: score.bytes_received,
                backed_off: score.is_backed_off(now),
            },
        })
    }

    /// Which way packets to it take, while it is connected.
    pub fn path(&self) -> Option<path::Path> {
        let link = self.link.borrow().clone();
        match &link {
            Link::Up(connection) => path::of(connection),
            Link::First | Link::Down => None,
        }
    }
}
