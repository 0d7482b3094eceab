use std::collections::HashSet;
use std::time::Duration;

use super::*;

/// The rules of `promtool check metrics` that this text could break.
fn lint(text: &str) {
    let mut helped = HashSet::new();
    let mut typed = HashSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                helped.contains(name) && typed.insert(name.to_owned()),
                "{line}"
            );
            assert!(
                ["counter", "gauge", "summary", "histogram"].contains(&kind),
                "{line}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            let _: f64 = value.parse().unwrap();
            let name = series.split('{').next().unwrap();
            let family = ["_sum", "_count", "_bucket"]
                .iter()
                .find_map(|suffix| {
                    name.strip_suffix(suffix)
                        .filter(|name| typed.contains(*name))
                })
                .unwrap_or(name);
            assert!(typed.contains(family), "{line}");
        }
    }
}

#[test]
fn the_older_names_are_there_from_the_start() {
    let text = Metrics::new().encode(Format::Text, |_| {});
    lint(&text);
    for name in [
        "up",
        "uptime_seconds",
        "peers_connected",
        "available_hashes",
    ] {
        assert!(
            text.contains(&format!("# TYPE peerix_{name} gauge\n")),
            "{name}\n{text}"
        );
    }
    for name in [
        "nars_served",
        "narinfos_served",
        "bytes_sent",
        "bytes_received",
        "cache_hits",
        "cache_misses",
        "peer_requests",
        "errors",
        "requests",
        "served",
    ] {
        assert!(
            text.contains(&format!("\n# TYPE peerix_{name}_total counter\n")),
            "{name}"
        );
        assert!(
            text.contains(&format!("\npeerix_{name}_total 0\n")),
            "{name}"
        );
    }
    assert!(text.contains("peerix_up 1\n"));
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    assert!(!text.contains("peerix_request_duration_seconds"));
}

#[test]
fn counters_labels_and_the_summary_are_written() {
    let metrics = Metrics::new();
    metrics.bytes_sent.inc_by(1 << 40);
    metrics.count_fault(Fault::WrongNar);
    metrics
        .http_responses
        .get_or_create(&HttpLabels {
            route: "nar",
            code: 206,
        })
        .inc();
    for millis in 1..=2000 {
        metrics
            .narinfo_latency
            .observe(Duration::from_millis(millis));
    }
    assert_eq!(metrics.faults(Fault::WrongNar), 1);
    assert_eq!(
        metrics.narinfo_latency.quantile(0.5),
        Some(Duration::from_millis(1500))
    );
    let text = metrics.encode(Format::Text, |_| {});
    lint(&text);
    for line in [
        "peerix_bytes_sent_total 1099511627776",
        "peerix_peer_faults_total{kind=\"wrong_nar\"} 1",
        "peerix_peer_faults_total{kind=\"bad_data\"} 0",
        "peerix_http_responses_total{route=\"nar\",code=\"206\"} 1",
        "peerix_request_duration_seconds{quantile=\"0.99\"} 1.99",
        "peerix_request_duration_seconds_count 2000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn one_request_is_all_quantiles() {
    let latency = Latency::default();
    assert_eq!(latency.quantile(0.5), None);
    latency.observe(Duration::from_millis(5));
    for quantile in [0.0, 0.5, 0.99, 1.0] {
        assert_eq!(latency.quantile(quantile), Some(Duration::from_millis(5)));
    }
}
