//! `peerix status`, `peers` and `scan`.

use serde_json::Value;

use super::{DaemonChoice, Exit, Failure, output, progress::Steps};
use crate::report::{PeerPath, PeerReport, PeersReport};

pub(super) async fn status(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let client = choice.connect().await?;
    let (status, daemon) = (client.report("status").await?, client.daemon().await?);
    if choice.json {
        output::json(&status)?;
        return Ok(Exit::Done);
    }
    output::line(&format!(
        "peerix {} (pid {})",
        daemon.version, daemon.process_id
    ))?;
    output::line(&format!(
        "{:20} http://{}",
        "substituter", daemon.http_address
    ))?;
    for (name, value) in status.as_object().into_iter().flatten() {
        let value = plain(value);
        if !value.is_empty() {
            output::line(&format!("{:20} {value}", name.replace('_', " ")))?;
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn peers(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let report = choice.connect().await?.report("peers").await?;
    if choice.json {
        output::json(&report)?;
        return Ok(Exit::Done);
    }
    let report: PeersReport = serde_json::from_value(report)
        .map_err(|error| Failure::failed(format!("the daemon's answer can't be read: {error}")))?;
    if report.peers.is_empty() {
        output::hint(
            "No peer is known. `peerix get TICKET`, or --peer TICKET at the daemon, makes one known.",
        );
    }
    for peer in &report.peers {
        output::line(&peer_line(peer))?;
    }
    Ok(Exit::Done)
}

/// How packets to a peer travel, for people.
pub(super) fn way(peer: &PeerReport) -> &'static str {
    match (peer.connected, peer.path) {
        (false, _) => "not connected",
        (true, Some(PeerPath::Lan)) => "local network",
        (true, Some(PeerPath::Direct)) => "direct",
        (true, Some(PeerPath::Relayed)) => "relayed",
        (true, None) => "connected",
    }
}

fn peer_line(peer: &PeerReport) -> String {
    let reputation = &peer.reputation;
    let address = peer.address.as_ref().or(peer.direct_ip.as_ref());
    let words = [
        Some(output::plain(&peer.node_id)),
        Some(way(peer).to_owned()),
        address.map(|address| output::plain(address)),
        peer.rtt_ms.map(|rtt| format!("{rtt:.0} ms")),
        Some(format!("{} requests", reputation.total_requests)),
        (reputation.total_requests > 0).then(|| format!("{:.0} % good", reputation.success_rate)),
        Some(format!("{} received", output::size(peer.bytes_received))),
        Some(format!("{} sent", output::size(peer.bytes_sent))),
        reputation.backed_off.then(|| "backed off".to_owned()),
        peer.older.then(|| "older program".to_owned()),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

pub(super) async fn scan(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let client = choice.connect().await?;
    let mut steps = Steps::default();
    let summary = client.scan(|step| steps.show(&step)).await?;
    drop(steps);
    if choice.json {
        output::json(&summary)?;
    } else {
        output::line(&format!(
            "{} in the store, {} offered to peers",
            output::count(summary.paths, "path"),
            summary.offered
        ))?;
    }
    Ok(Exit::Done)
}

/// A JSON value for people; nothing for one that says nothing.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => output::plain(text),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}
