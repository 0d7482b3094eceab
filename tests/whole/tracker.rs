//! The tracker's signed API, its faults, and what it tells of itself.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use iroh::SecretKey;
use peerix::tracker::api;
use serde_json::{Value, json};

use super::support::{
    http, run,
    tracker::{Tracker, json_of},
    wait_for,
};

const A: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3";
const B: &str = "27bh691vzkqk8hv1i7xiaqff85b85br3";
const C: &str = "37bh691vzkqk8hv1i7xiaqff85b85br3";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970").as_millis() as u64
}

/// Who has a path, by endpoint.
fn holders(tracker: &Tracker, swarm: &str, hash: &str) -> BTreeSet<String> {
    let question = json!({ "swarm": swarm, "hashes": [hash] });
    let answer = json_of(&tracker.post("/v1/lookup", &question), 200);
    let indices = answer["found"][hash].as_array().cloned();
    let indices = indices.unwrap_or_default();
    indices
        .iter()
        .map(|index| {
            let peer = &answer["peers"][index.as_u64().expect("an index") as usize];
            peer["endpoint"].as_str().expect("an id").to_owned()
        })
        .collect()
}

#[test]
fn endpoints_announce_change_and_withdraw_what_they_have() {
    let mut tracker = Tracker::start(&[]);
    let (key, other) = (SecretKey::generate(), SecretKey::generate());
    let id = key.public().to_string();
    let start = now();
    let answer = tracker.announce(&key, &tracker.full(&key, start, &[A, B, B]));
    let accepted = json_of(&answer, 200);
    assert_eq!(accepted["paths"], 2);
    assert_eq!(accepted["base"], start);
    json_of(
        &tracker.announce(&other, &tracker.full(&other, start, &[B])),
        200,
    );
    assert_eq!(holders(&tracker, "public", A), BTreeSet::from([id.clone()]));
    assert_eq!(holders(&tracker, "public", B).len(), 2);
    assert!(holders(&tracker, "private", A).is_empty());

    let mut delta = tracker.full(&key, start + 1, &[C]);
    delta["kind"] = json!("delta");
    delta["base"] = json!(start);
    delta["removed"] = json!([A]);
    json_of(&tracker.announce(&key, &delta), 200);
    assert!(holders(&tracker, "public", A).is_empty());
    assert_eq!(holders(&tracker, "public", C), BTreeSet::from([id.clone()]));

    // All of it is still there after a restart, and only the next number is taken.
    tracker.restart();
    assert_eq!(holders(&tracker, "public", C), BTreeSet::from([id.clone()]));
    let stale = json_of(&tracker.announce(&key, &delta), 409);
    assert_eq!(stale["sequence"], start + 1);

    let mut withdrawal = tracker.full(&key, start + 2, &[]);
    withdrawal["kind"] = json!("withdraw");
    json_of(&tracker.announce(&key, &withdrawal), 200);
    assert!(holders(&tracker, "public", C).is_empty());
    delta["sequence"] = json!(start + 3);
    delta["base"] = json!(start + 1);
    let stale = json_of(&tracker.announce(&key, &delta), 409);
    assert_eq!(stale["base"], Value::Null, "a full announcement is due");
    assert!(tracker.stop().success());
}

#[test]
fn g7_forged_and_replayed_announcements_change_nothing() {
    let tracker = Tracker::start(&[]);
    let elsewhere = Tracker::start(&[]);
    let (key, thief) = (SecretKey::generate(), SecretKey::generate());
    let start = now();
    let announcement = tracker.full(&key, start, &[A]);
    let body = announcement.to_string();
    let signature = api::sign(&key, body.as_bytes());
    json_of(&tracker.announce_as(&signature, body.as_bytes()), 200);

    // Another's key, another body, no signature, noise.
    let mut withdrawal = tracker.full(&key, start + 1, &[]);
    withdrawal["kind"] = json!("withdraw");
    json_of(&tracker.announce(&thief, &withdrawal), 401);
    let forged = withdrawal.to_string();
    json_of(&tracker.announce_as(&signature, forged.as_bytes()), 401);
    json_of(&tracker.announce_as("", forged.as_bytes()), 401);
    json_of(
        &tracker.announce_as(&"0".repeat(128), forged.as_bytes()),
        401,
    );
    json_of(&tracker.post("/v1/announce", &withdrawal), 401);

    // The same again, and elsewhere.
    let again = json_of(&tracker.announce_as(&signature, body.as_bytes()), 409);
    assert_eq!(again["sequence"], start);
    json_of(&elsewhere.announce_as(&signature, body.as_bytes()), 401);
    // As of long ago, by somebody who was forgotten.
    let old = tracker.full(&thief, 1, &[A]);
    json_of(&tracker.announce(&thief, &old), 409);

    // Unsigned writes in the name of one who signs, however it is written.
    let id = key.public().to_string();
    for name in [&id, &id.to_uppercase(), &key.public().to_z32()] {
        let Ok(_) = name.parse::<iroh::EndpointId>() else {
            continue;
        };
        let node = json!({ "node_id": name, "peer_id": "x" });
        json_of(&tracker.post("/iroh/announce", &node), 401);
        let target = format!("/iroh/peer/{name}");
        json_of(&tracker.send("DELETE", &target, &[], b""), 401);
        let packages = json!({ "peer_id": name, "hashes": [B] });
        json_of(&tracker.post("/packages/batch", &packages), 401);
    }
    assert_eq!(holders(&tracker, "public", A), BTreeSet::from([id]));
    assert!(holders(&tracker, "public", B).is_empty());
}

#[test]
fn g7_what_makes_no_sense_is_refused_with_json() {
    let tracker = Tracker::start(&[]);
    let key = SecretKey::generate();
    let start = now();
    let with = |field: &str, value: Value| {
        let mut body = tracker.full(&key, start, &[A]);
        body[field] = value;
        body
    };
    for (field, value) in [
        ("sequence", json!("7")),
        ("sequence", json!(-1)),
        ("sequence", json!(u64::MAX)),
        ("endpoint", json!("00")),
        ("tracker", json!("00")),
        ("kind", json!("more")),
        ("added", json!(["short"])),
        ("added", json!([7])),
        ("added", json!({})),
        ("removed", json!([A])),
        ("direct_addrs", json!(["nowhere"])),
        ("direct_addrs", json!(vec!["192.0.2.1:1"; 33])),
        ("relay_url", json!("no url")),
        ("systems", json!(vec!["x"; 17])),
        ("swarm", json!("")),
        ("swarm", json!("x".repeat(129))),
        ("kind", json!("delta")),
        ("kind", json!("withdraw")),
    ] {
        let answer = tracker.announce(&key, &with(field, value.clone()));
        let error = json_of(&answer, 400);
        assert!(error["error"].is_string(), "{field} = {value}: {error}");
    }
    for body in ["", "{", "[]", "null", "\"x\"", "{\"hashes\": [1]}", "\u{0}"] {
        for target in ["/v1/announce", "/v1/lookup"] {
            let headers = [("Peerix-Signature", "00")];
            let answer = tracker.send("POST", target, &headers, body.as_bytes());
            assert!(json_of(&answer, 400)["error"].is_string());
        }
    }
    let many: Vec<&str> = vec![A; 1001];
    json_of(&tracker.post("/v1/lookup", &json!({ "hashes": many })), 413);
    let large = vec![b' '; api::MAX_ANNOUNCE_BODY + 1];
    json_of(&tracker.announce_as("00", &large), 413);
    let many: Vec<&str> = vec![A; api::MAX_ANNOUNCE + 1];
    json_of(
        &tracker.announce(&key, &tracker.full(&key, start, &many)),
        413,
    );
    for target in ["/v1/peers?wait=x", "/v1/peers?swarm="] {
        json_of(&tracker.get(target), 400);
    }
    assert_eq!(tracker.get("/v1/nothing").status, 404);
    assert_eq!(tracker.get("/v1/announce").status, 405);
    assert!(holders(&tracker, "public", A).is_empty());
    assert_eq!(
        tracker.log_text().lines().count(),
        1,
        "{}",
        tracker.log_text()
    );
}

#[test]
fn who_is_in_a_swarm_is_told_once_and_then_when_it_changes() {
    let tracker = Tracker::start(&[]);
    let key = SecretKey::generate();
    json_of(
        &tracker.announce(&key, &tracker.full(&key, now(), &[])),
        200,
    );
    let first = tracker.get("/v1/peers");
    let peers = json_of(&first, 200);
    assert_eq!(peers["count"], 1);
    assert_eq!(peers["peers"][0]["endpoint"], key.public().to_string());
    assert_eq!(
        peers["peers"][0]["direct_addrs"],
        json!(["192.0.2.1:12306"])
    );
    let tag = first.header("etag").to_owned();
    let known = [("If-None-Match", tag.as_str())];
    let target = "/v1/peers?swarm=public";
    assert_eq!(tracker.send("GET", target, &known, b"").status, 304);
    // A refresh is no change.
    let mut refresh = tracker.full(&key, now() + 1000, &[]);
    refresh["kind"] = json!("refresh");
    json_of(&tracker.announce(&key, &refresh), 200);
    assert_eq!(tracker.send("GET", target, &known, b"").status, 304);

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let target = "/v1/peers?swarm=public&wait=60";
            json_of(&tracker.send("GET", target, &known, b""), 200)
        });
        let other = SecretKey::generate();
        let mut announced = tracker.full(&other, now(), &[]);
        announced["systems"] = json!(["aarch64-linux"]);
        json_of(&tracker.announce(&other, &announced), 200);
        let peers = waiting.join().expect("an answer");
        assert_eq!(peers["count"], 2);
        let peers = tracker.get_json("/v1/peers?system=aarch64-linux");
        assert_eq!(peers["peers"][0]["endpoint"], other.public().to_string());
    });
    assert_eq!(tracker.get_json("/v1/peers?swarm=other")["count"], 0);
}

#[test]
fn a_client_that_asks_too_much_is_told_to_wait_and_others_are_not() {
    let tracker = Tracker::start(&["--trusted-proxy", "192.0.2.0/24"]);
    let ask = |from: &str| {
        let headers = [("X-Forwarded-For", from)];
        tracker.send("GET", "/v1/info", &headers, b"")
    };
    let refused = wait_for("a refusal", || {
        let answer = ask("198.51.100.7");
        (answer.status != 200).then_some(answer)
    });
    json_of(&refused, 429);
    assert!(
        refused
            .header("retry-after")
            .parse::<u64>()
            .expect("seconds")
            >= 1
    );
    // What the client itself wrote in front of its address does not help.
    let headers = [("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 192.0.2.4")];
    assert_eq!(tracker.send("GET", "/v1/info", &headers, b"").status, 429);
    assert_eq!(ask("198.51.100.8").status, 200);
    assert_eq!(tracker.get("/v1/info").status, 200);
}

#[test]
fn it_says_what_it_is_and_how_full_and_not_who_has_what() {
    let tracker = Tracker::start(&[]);
    let key = SecretKey::generate();
    let id = key.public().to_string();
    json_of(
        &tracker.announce(&key, &tracker.full(&key, now(), &[A, B])),
        200,
    );
    let page = tracker.get("/");
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(
        text.contains("<th>Peers<td>1") && text.contains("<th>Announced<td>2"),
        "{text}"
    );
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );

    let health = tracker.get_json("/health");
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["peers"], 1);

    let metrics = tracker.get("/metrics").text();
    assert!(
        metrics.contains("\npeerix_tracker_records 2\n"),
        "{metrics}"
    );
    let targets = [
        "/",
        "/health",
        "/metrics",
        "/status",
        "/v1/peers",
        "/iroh/peers",
        "/cids",
    ];
    for target in targets {
        assert!(!tracker.get(target).text().contains(A), "{target}");
    }
    for target in ["/", "/health", "/metrics"] {
        assert!(!tracker.get(target).text().contains(&id), "{target}");
    }
    promtool(&metrics);
}

/// Has Prometheus' own linter read the metrics, where it is there.
fn promtool(metrics: &str) {
    let mut command = std::process::Command::new("promtool");
    command.args(["check", "metrics"]);
    command.stdin(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        super::support::skip("promtool is not installed");
        return;
    };
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, metrics.as_bytes()).expect("the metrics");
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    assert!(
        output.status.success(),
        "{}",
        super::support::text_of(&output)
    );
}

#[test]
fn a_locked_database_loses_nothing_and_is_said_in_one_line() {
    let tracker = Tracker::start(&[]);
    let key = SecretKey::generate();
    let start = now();
    json_of(
        &tracker.announce(&key, &tracker.full(&key, start, &[A])),
        200,
    );
    let database = tracker.directory().join("tracker.db");
    let other = rusqlite::Connection::open(&database).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut delta = tracker.full(&key, start + 1, &[B]);
    delta["kind"] = json!("delta");
    delta["base"] = json!(start);
    for _ in 0..3 {
        let error = json_of(&tracker.announce(&key, &delta), 503);
        assert!(error["error"].as_str().expect("a text").contains("locked"));
    }
    assert_eq!(holders(&tracker, "public", A).len(), 1, "reading goes on");
    other.execute_batch("ROLLBACK").expect("no lock");
    json_of(&tracker.announce(&key, &delta), 200);
    assert_eq!(holders(&tracker, "public", A).len(), 1);
    assert_eq!(holders(&tracker, "public", B).len(), 1);
    let log = tracker.log_text();
    assert_eq!(
        log.matches("locked").count(),
        2,
        "one line, and SQLite's own words in it: {log}"
    );
}

#[test]
fn a_full_database_loses_nothing_and_recovers() {
    let tracker = Tracker::start(&["--db-quota", "300kB"]);
    let start = now();
    let hashes = |from: u32| -> Vec<String> {
        let hash = |n| format!("{:032}", from * 100_000 + n);
        (0..2000).map(hash).collect()
    };
    let announce = |key: &SecretKey, sequence, from| {
        let hashes = hashes(from);
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        tracker.announce(key, &tracker.full(key, sequence, &hashes))
    };
    let keys: Vec<SecretKey> = (0..40).map(|_| SecretKey::generate()).collect();
    let mut taken = 0;
    let refused = keys.iter().zip(1..).find_map(|(key, from)| {
        let answer = announce(key, start, from);
        taken += u32::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    let error = json_of(&refused.expect("a full database"), 503);
    assert!(
        error["error"].as_str().expect("a text").contains("full"),
        "{error}"
    );
    assert!(taken > 0);
    assert_eq!(tracker.get_json("/v1/peers")["count"], taken);
    let first = format!("{:032}", 100_000);
    assert_eq!(
        holders(&tracker, "public", &first).len(),
        1,
        "reading goes on"
    );
    // Who changes less than there is room for is served; the log has one line.
    let mut refresh = tracker.full(&keys[0], start + 1, &[]);
    refresh["kind"] = json!("refresh");
    json_of(&tracker.announce(&keys[0], &refresh), 200);
    assert_eq!(tracker.log_text().matches("is full").count(), 1);
}

#[test]
fn a_database_of_a_newer_version_or_of_noise_is_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let newer = directory.path().join("newer.db");
    let connection = rusqlite::Connection::open(&newer).expect("a database");
    connection
        .pragma_update(None, "user_version", 99)
        .expect("a version");
    drop(connection);
    let noise = directory.path().join("noise.db");
    std::fs::write(&noise, [7; 8192]).expect("a file");
    for (path, word) in [(&newer, "newer peerix"), (&noise, "damaged")] {
        let before = std::fs::read(path).expect("the file");
        let path_text = path.display().to_string();
        let (status, said) = Tracker::fail(directory.path(), &["--db-path", &path_text]);
        assert_eq!(status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(word), "{said}");
        assert_eq!(std::fs::read(path).expect("the file"), before);
    }
}

#[test]
fn idle_and_slow_clients_keep_nobody_out() {
    let tracker = Tracker::start(&[]);
    // Heads and bodies that never end.
    let mut open = Vec::new();
    for text in [
        "GET / HT",
        "POST /v1/lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ] {
        for _ in 0..50 {
            let mut stream = http::connect(tracker.address()).expect("a connection");
            std::io::Write::write_all(&mut stream, text.as_bytes()).expect("a part");
            open.push(stream);
        }
    }
    assert_eq!(tracker.get("/v1/info").status, 200);
    let mut tracker = tracker;
    let begun = std::time::Instant::now();
    assert!(tracker.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn older_names_and_flags_start_it_and_unknown_ones_are_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let older = directory.path().join("peerix-tracker");
    std::os::unix::fs::symlink(super::support::peer::PEERIX, &older).expect("a link");
    let mut command = std::process::Command::new(&older);
    let output = run(command.args(["--no-such-flag"]));
    assert_eq!(output.status.code(), Some(2));
    let said = super::support::text_of(&output);
    assert!(said.contains("--no-such-flag"), "{said}");
    let help = run(std::process::Command::new(&older).arg("--help"));
    let help = super::support::text_of(&help);
    for flag in ["--verbose", "--port", "--host", "--db-path"] {
        assert!(help.contains(flag), "{help}");
    }
}
