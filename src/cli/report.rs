//! `peerix status`, `peers` and `scan`.

use serde_json::Value;

use super::{DaemonChoice, Exit, Failure, output, progress::Steps};

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
    let peers = report["peers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if peers.is_empty() {
        output::hint(
            "No peer is known. `peerix get TICKET`, or --peer TICKET at the daemon, makes one known.",
        );
    }
    for peer in peers {
        output::line(&peer_line(peer))?;
    }
    Ok(Exit::Done)
}

fn peer_line(peer: &Value) -> String {
    let reputation = &peer["reputation"];
    let mut words = vec![plain(&peer["node_id"])];
    for (value, unit) in [
        (&peer["direct_ip"], ""),
        (&reputation["avg_latency_ms"], " ms"),
        (&reputation["total_requests"], " requests"),
        (&reputation["success_rate"], " % good"),
    ] {
        if !value.is_null() {
            words.push(format!("{}{unit}", plain(value)));
        }
    }
    if let Some(bytes) = reputation["bytes_transferred"].as_u64() {
        words.push(output::size(bytes));
    }
    if reputation["backed_off"] == true {
        words.push("backed off".to_owned());
    }
    words.join("  ")
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
        Value::String(text) => text.chars().filter(|letter| !letter.is_control()).collect(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}
