//! What the daemon tells over HTTP, what it remembers, and who may change anything.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
};

use serde_json::{Value, json};

use crate::support::{
    http,
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions},
    tree::Node,
    wait_for,
};

/// A daemon that may fetch one path from another one, slowly.
struct Lab {
    ours: Peer,
    path: String,
    _theirs: Peer,
    _stores: (NixStore, NixStore),
}

/// What the older program had counted.
const BEFORE: &str = "firefox-128.0";

impl Lab {
    /// `size` is that of the path, which comes at 5 MB a second.
    fn new(size: u64) -> Lab {
        let (key, a, b) = (Key::generate("trusted-1"), NixStore::new(), NixStore::new());
        let path = a.add(PathSpec::new("wanted-1.0", Node::random(size, "wanted")));
        a.sign(&key, &[&path]);
        let theirs = PeerOptions::new(&a)
            .trust(&key.public)
            .flag("upload-limit", "5MB")
            .start();
        theirs.share(&path);
        let directory = tempfile::tempdir().expect("a directory");
        let state_dir = directory.path().join("state");
        fs::create_dir(&state_dir).expect("a state directory");
        let hash = "0".repeat(32);
        let older = json!({
            "request_counts": { hash.clone(): { "count": 3, "name": BEFORE } },
            "served_counts": {},
            "activity_log": [{
                "time": 1_700_000_000.0, "action": "check", "hash": hash, "name": BEFORE,
                "source": "local", "success": true, "size": 1,
            }],
            "peer_bandwidth": {},
            "metrics": { "bytes_sent_total": 5_000 },
        });
        fs::write(state_dir.join("stats.json"), older.to_string()).expect("older statistics");
        let ours = PeerOptions::new(&b)
            .trust(&key.public)
            .peer(&theirs)
            .start_in(directory, state_dir);
        ours.meet(&theirs);
        Lab {
            ours,
            path,
            _theirs: theirs,
            _stores: (a, b),
        }
    }

    fn object(&self, target: &str) -> Value {
        object(&self.ours, target)
    }
}

fn object(peer: &Peer, target: &str) -> Value {
    let answer = peer.get(target);
    assert_eq!(answer.status, 200, "{target}");
    assert_eq!(answer.header("content-type"), "application/json");
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// The token that the page's buttons show.
fn token(peer: &Peer) -> String {
    let page = peer.get("/dashboard").text();
    let (_, rest) = page
        .split_once("name=\"token\" content=\"")
        .expect("a token");
    rest.split('"').next().expect("its end").to_owned()
}

fn post(peer: &Peer, target: &str, headers: &[(&str, &str)]) -> u16 {
    http::request(peer.http(), "POST", target, headers).status
}

#[test]
fn the_older_names_and_fields_are_there() {
    let lab = Lab::new(100_000);
    let missing = format!("/{}.narinfo", "1".repeat(32));
    assert_eq!(lab.ours.get(&missing).status, 404);
    lab.ours.wait_for_narinfo(&lab.path);
    assert_eq!(lab.ours.get(&lab.ours.nar_target(&lab.path)).status, 200);
    let fields = |target: &str, names: &[&str]| {
        let value = lab.object(target);
        for name in names {
            assert!(value.get(name).is_some(), "{target} lacks {name}: {value}");
        }
        value
    };
    let status = fields(
        "/status",
        &[
            "mode",
            "node_id",
            "known_peers",
            "tracker_url",
            "lan_discovery",
            "relay_url",
            "direct_addrs",
        ],
    );
    assert_eq!(status["known_peers"], 1);
    const SCAN: &[&str] = &[
        "active",
        "total",
        "scanned",
        "filtered",
        "filter_checked",
        "filter_to_check",
        "filter_found",
        "filter_skipped",
        "filter_eta",
        "last_scan",
        "paused",
        "announced_hashes",
        "filtering_enabled",
        "total_store_paths",
        "cached_filtered",
        "cached_skipped",
    ];
    let scan = fields("/scan-status", SCAN);
    assert_eq!(scan["paused"], false);
    assert!(scan["available_hashes"].is_u64());
    let health = fields(
        "/health",
        &[
            "status",
            "uptime_seconds",
            "checks",
            "peers",
            "available_hashes",
            "last_successful_operation",
            "errors_count",
        ],
    );
    assert!(health["last_successful_operation"].as_f64() > Some(1.7e9));
    let peers = lab.object("/peers");
    let peer = &peers["peers"][0];
    for name in [
        "node_id",
        "node_id_short",
        "public_ip",
        "direct_ip",
        "country",
        "reputation",
    ] {
        assert!(peer.get(name).is_some(), "{name}: {peer}");
    }
    assert_eq!(
        (&peers["count"], &peer["country"]),
        (&json!(1), &json!("LAN"))
    );
    assert_eq!(peer["path"], "lan");
    for name in [
        "score",
        "success_rate",
        "total_requests",
        "successful",
        "failed",
        "avg_latency_ms",
        "bytes_transferred",
        "backed_off",
    ] {
        assert!(peer["reputation"].get(name).is_some(), "{name}: {peer}");
    }
    let stats = fields(
        "/dashboard-stats",
        &[
            "mode",
            "version",
            "node_id",
            "known_peers",
            "tracker_url",
            "available_hashes",
            "announced_hashes",
            "scan",
            "relay_url",
            "direct_addrs",
            "most_requested",
            "total_requests",
            "most_served",
            "total_served",
            "activity",
            "peer_bandwidth",
            "peer_reputation",
            "total_bytes_sent",
            "total_bytes_received",
        ],
    );
    assert!(stats["direct_addrs"].is_u64());
    assert_eq!(stats["most_requested"][0]["name"], BEFORE, "{stats}");
    assert!(
        stats["total_bytes_received"].as_u64() >= Some(100_000),
        "{stats}"
    );
    assert_eq!(stats["total_bytes_sent"], 5_000);
    let actions: Vec<&str> = stats["activity"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert!(
        actions.contains(&"download") && actions.contains(&"check"),
        "{actions:?}"
    );
    let bandwidth = &stats["peer_bandwidth"][0];
    assert_eq!(bandwidth["peer_id"].as_str().map(str::len), Some(16));
}

#[test]
fn only_the_page_may_pause() {
    let store = NixStore::new();
    let peer = PeerOptions::new(&store).start();
    let token = token(&peer);
    let right: (&str, &str) = ("X-Peerix-Token", &token);
    let paused = || object(&peer, "/scan-status")["paused"] == true;
    for (expected, headers) in [
        (403, vec![]),
        (
            403,
            vec![("X-Peerix-Token", "00000000000000000000000000000000")],
        ),
        (403, vec![("X-Peerix-Token", "")]),
        (403, vec![right, right]),
        (403, vec![right, ("Origin", "https://evil.example")]),
        (403, vec![right, ("Sec-Fetch-Site", "cross-site")]),
    ] {
        assert_eq!(
            post(&peer, "/scan/pause", &headers),
            expected,
            "{headers:?}"
        );
    }
    assert!(!paused());
    assert_eq!(peer.get("/scan/pause").status, 405);
    assert_eq!(post(&peer, "/dashboard", &[right]), 405);
    assert_eq!(post(&peer, "/scan/pause", &[right]), 200);
    assert!(paused());
    assert_eq!(post(&peer, "/scan/resume", &[right]), 200);
    assert!(!paused());
}

#[test]
fn the_page_is_small_strict_and_kept() {
    let store = NixStore::new();
    let peer = PeerOptions::new(&store).start();
    let page = peer.get("/dashboard");
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'"),
        "{policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'"));
    assert!(!page.text().contains("%TOKEN%"));
    for name in ["app.js", "app.css", "icon.svg"] {
        let target = format!("/dashboard/{name}");
        let plain = peer.get(&target);
        assert_eq!(plain.status, 200);
        let coded = http::request(
            peer.http(),
            "GET",
            &target,
            &[("Accept-Encoding", "gzip, br")],
        );
        assert_eq!(coded.header("content-encoding"), "br");
        assert!(coded.body.len() < plain.body.len());
        let etag = coded.header("etag").to_owned();
        assert_ne!(etag, plain.header("etag"));
        let headers: &[(&str, &str)] = &[("Accept-Encoding", "br"), ("If-None-Match", &etag)];
        let again = http::request(peer.http(), "GET", &target, headers);
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
    for target in [
        "/dashboard/app",
        "/dashboard/../status",
        "/dashboard/app.js/",
        "/dashboard/history?span=year",
    ] {
        assert_eq!(peer.get(target).status, 404, "{target}");
    }
}

/// Reads news until `wanted` finds what it looks for.
fn news(peer: &Peer, mut wanted: impl FnMut(&Value) -> bool) {
    let address = peer.http();
    let mut stream = http::connect(address).expect("a connection");
    write!(
        stream,
        "GET /dashboard/events HTTP/1.1\r\nHost: {address}\r\n\r\n"
    )
    .expect("a request");
    let mut reader = BufReader::new(stream);
    let (status, headers) = http::read_head(&mut reader).expect("an answer");
    assert_eq!(
        (status, &*headers["content-type"]),
        (200, "text/event-stream")
    );
    let mut line = String::new();
    while reader.read_line(&mut line).expect("a line") > 0 {
        if let Some(news) = line.strip_prefix("data: ") {
            let news = serde_json::from_str(news.trim()).expect("JSON");
            if wanted(&news) {
                return;
            }
        }
        line.clear();
    }
    panic!("the news ended");
}

#[test]
fn news_tell_of_a_transfer_while_it_runs() {
    let lab = Lab::new(20_000_000);
    lab.ours.wait_for_narinfo(&lab.path);
    let target = lab.ours.nar_target(&lab.path);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| lab.ours.get(&target).body.len());
        news(&lab.ours, |news| {
            let transfer = &news["report"]["transfers"][0];
            let provider = &transfer["providers"][0];
            transfer["name"] == "wanted-1.0"
                && transfer["done"].as_u64() > Some(0)
                && provider["source"] == "lan"
                && provider["rate"].as_f64() > Some(0.0)
        });
        assert!(reading.join().expect("a body") >= 20_000_000);
    });
    let state = lab.object("/dashboard/state");
    let traffic = &state["report"]["traffic"];
    assert!(
        traffic["received"]["lan"].as_u64() >= Some(20_000_000),
        "{traffic}"
    );
    let history = lab.object("/dashboard/history?span=hour");
    let column = history["received"]["lan"].as_array().expect("a column");
    let all: u64 = column.iter().filter_map(Value::as_u64).sum();
    assert!(all >= 20_000_000, "{history}");
}

#[test]
fn statistics_survive_a_restart() {
    let mut lab = Lab::new(3_000_000);
    lab.ours.wait_for_narinfo(&lab.path);
    assert_eq!(lab.ours.get(&lab.ours.nar_target(&lab.path)).status, 200);
    lab.ours.stop();
    lab.ours = lab.ours.restart();
    let state = lab.object("/dashboard/state");
    let traffic = &state["report"]["traffic"];
    assert!(
        traffic["received"]["lan"].as_u64() >= Some(3_000_000),
        "{traffic}"
    );
    assert_eq!(
        traffic["sent"], 5_000,
        "what the older program counted counts once"
    );
    assert!(traffic["hits_peers"].as_u64() >= Some(1), "{traffic}");
    let requested = &state["tops"]["requested"];
    let hash = hash_part(&lab.path);
    let has = |list: &Value, key: &str, value: &str| {
        list.as_array()
            .is_some_and(|list| list.iter().any(|row| row[key] == value))
    };
    assert!(has(requested, "hash", hash), "{requested}");
    assert!(has(&state["activity"], "name", "wanted-1.0"));
    let history = lab.object("/dashboard/history?span=month");
    let column = history["received"]["lan"].as_array().expect("a column");
    assert!(column.iter().filter_map(Value::as_u64).sum::<u64>() >= 3_000_000);
}

#[test]
fn a_bad_geoip_database_is_one_warning() {
    let store = NixStore::new();
    let peer = PeerOptions::new(&store)
        .flag("geoip-database", "/dev/null")
        .start();
    assert_eq!(peer.get("/peers").status, 200);
    let log = wait_for("a warning", || {
        Some(peer.log_text()).filter(|log| log.contains("geoip_database"))
    });
    assert_eq!(log.matches("geoip_database").count(), 1, "{log}");
}
