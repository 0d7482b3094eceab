//! `/metrics`, and the Grafana dashboard that shows it.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    http,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    skip,
    tree::Node,
    wait_for,
};

/// A daemon that fetched a path from another one and missed one.
fn used() -> (Peer, Peer, NixStore, NixStore) {
    let (key, a, b) = (Key::generate("trusted-1"), NixStore::new(), NixStore::new());
    let path = a.add(PathSpec::new("path", Node::random(1_000_000, "path")));
    a.sign(&key, &[&path]);
    let theirs = PeerOptions::new(&a).trust(&key.public).start();
    theirs.share(&path);
    let ours = PeerOptions::new(&b)
        .trust(&key.public)
        .peer(&theirs)
        .start();
    ours.meet(&theirs);
    ours.wait_for_narinfo(&path);
    assert_eq!(ours.get(&ours.nar_target(&path)).status, 200);
    assert_eq!(
        ours.get(&format!("/{}.narinfo", "1".repeat(32))).status,
        404
    );
    (ours, theirs, a, b)
}

#[test]
fn bytes_count_by_source_and_requests_by_what_became_of_them() {
    let (ours, theirs, ..) = used();
    let metric = |name: &str| ours.metric(name).unwrap_or_default();
    assert!(metric("peerix_source_bytes_total{source=\"lan\"}") >= 1_000_000.0);
    assert_eq!(
        metric("peerix_source_bytes_total{source=\"upstream\"}"),
        0.0
    );
    assert!(metric("peerix_lookup_answers_total{source=\"lan\"}") >= 1.0);
    let missed: f64 = ours
        .get("/metrics")
        .text()
        .lines()
        .filter(|line| line.starts_with("peerix_lookup_misses_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(missed >= 1.0);
    // The last byte leaves a moment before the transfer is over.
    wait_for("the transfer's end", || {
        (metric("peerix_transfers_active") == 0.0).then_some(())
    });
    assert_eq!(metric("peerix_transfers_total{outcome=\"verified\"}"), 1.0);
    assert!(metric("peerix_stage_duration_seconds_count{stage=\"whole\"}") >= 1.0);
    assert!(metric("peerix_stage_duration_seconds_count{stage=\"first_byte\"}") >= 1.0);
    let text = theirs.get("/metrics").text();
    let sent = text
        .lines()
        .find(|line| line.starts_with("peerix_peer_bytes{") && line.contains("\"sent\""));
    assert!(sent.is_some_and(|line| !line.contains("other")), "{text}");
    assert!(text.contains("# TYPE iroh_"), "{text}");
}

#[test]
fn open_metrics_are_for_those_that_ask() {
    let store = NixStore::new();
    let peer = PeerOptions::new(&store).start();
    let plain = peer.get("/metrics");
    assert!(
        plain
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(!plain.text().contains("# EOF"));
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let open = http::request(peer.http(), "GET", "/metrics", &[("Accept", accept)]);
    assert!(
        open.header("content-type")
            .starts_with("application/openmetrics-text")
    );
    assert!(open.text().ends_with("# EOF\n"));
    assert_eq!(open.text().matches("# EOF").count(), 1);
}

#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        return skip("there is no promtool");
    };
    let (ours, ..) = used();
    let text = ours.get("/metrics").text();
    let mut input = promtool.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("written");
    drop(input);
    let output = promtool.wait_with_output().expect("its verdict");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{text}");
}

/// Every name that an expression could mean by a metric.
fn names(expression: &str) -> BTreeSet<String> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("peerix_") || word.starts_with("iroh_"))
        .map(str::to_owned)
        .collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_grafana_dashboard_asks_for_metrics_that_there_are() {
    let dashboard = std::fs::read_to_string("docs/grafana.json").expect("docs/grafana.json");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let wanted: BTreeSet<String> = found.iter().flat_map(|text| names(text)).collect();
    assert!(wanted.len() > 10, "{wanted:?}");
    let (ours, ..) = used();
    let text = ours.get("/metrics").text();
    let there: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for name in &wanted {
        assert!(there.contains(name.as_str()), "no metric {name}");
    }
    // And the labels that they are told apart by.
    for label in ["source", "reason", "outcome", "stage", "peer"] {
        assert!(text.contains(&format!("{label}=\"")), "no label {label}");
    }
}
