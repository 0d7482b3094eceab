//! The older tracker's API: recorded requests, and the answers that its clients expect.

use serde_json::{Value, json};

use super::support::tracker::{Tracker, json_of};

const A: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3";
const B: &str = "27bh691vzkqk8hv1i7xiaqff85b85br3";
const NODE: &str = "ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6";

/// Compares JSON, where `"FLOAT"` stands for any time of now.
fn assert_like(found: &Value, expected: &Value, what: &str) {
    match (found, expected) {
        (Value::Number(number), Value::String(text)) if text == "FLOAT" => {
            assert!(number.is_f64(), "{what}: {found} is no float");
            assert!(number.as_f64() > Some(1.7e9), "{what}: {found}");
        }
        (Value::Object(found), Value::Object(expected)) => {
            let names: Vec<_> = found.keys().collect();
            let wanted: Vec<_> = expected.keys().collect();
            assert_eq!(names, wanted, "{what}");
            for (name, value) in expected {
                assert_like(&found[name], value, &format!("{what}.{name}"));
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert_like(found, expected, what);
            }
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

/// Sends recorded requests in order and compares what comes back.
fn replay(tracker: &Tracker, steps: &[(&str, &str, Value, u16, Value)]) {
    for (method, target, body, status, expected) in steps {
        let text = match body {
            Value::Null => String::new(),
            Value::String(raw) => raw.clone(),
            body => body.to_string(),
        };
        // As the older client's library sends it.
        let headers = [
            ("Accept", "*/*"),
            ("Accept-Encoding", "gzip, deflate"),
            ("User-Agent", "python-httpx/0.27.0"),
            ("Content-Type", "application/json"),
        ];
        let answer = tracker.send(method, target, &headers, text.as_bytes());
        let found = json_of(&answer, *status);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_like(&found, expected, &format!("{method} {target} {text}"));
    }
}

#[test]
fn nodes_announce_themselves_and_are_listed() {
    let tracker = Tracker::start(&[]);
    let node = json!({
        "node_id": NODE, "peer_id": "laptop", "relay_url": "https://relay.example./",
        "direct_addrs": ["192.168.1.2:4433", "[2001:db8::1]:4433"],
    });
    let listed = json!({
        "node_id": NODE, "peer_id": "laptop", "relay_url": "https://relay.example./",
        "direct_addrs": ["192.168.1.2:4433", "[2001:db8::1]:4433"], "last_seen": "FLOAT",
    });
    let mut with_addr = listed.clone();
    with_addr["addr"] = json!("127.0.0.1");
    let path = format!("/iroh/peer/{NODE}");
    let required = json!({ "error": "node_id and peer_id required" });
    replay(
        &tracker,
        &[
            (
                "GET",
                "/iroh/peers",
                Value::Null,
                200,
                json!({ "peers": [], "count": 0 }),
            ),
            ("POST", "/iroh/announce", json!({}), 400, required.clone()),
            (
                "POST",
                "/iroh/announce",
                json!({ "node_id": "x", "peer_id": "" }),
                400,
                required,
            ),
            (
                "POST",
                "/iroh/announce",
                node.clone(),
                200,
                json!({ "status": "ok" }),
            ),
            (
                "POST",
                "/iroh/announce",
                node,
                200,
                json!({ "status": "ok" }),
            ),
            (
                "GET",
                "/iroh/peers",
                Value::Null,
                200,
                json!({ "peers": [with_addr], "count": 1 }),
            ),
            ("GET", &path, Value::Null, 200, listed),
            (
                "DELETE",
                &path,
                Value::Null,
                200,
                json!({ "status": "deregistered" }),
            ),
            (
                "DELETE",
                &path,
                Value::Null,
                404,
                json!({ "status": "not found" }),
            ),
            (
                "GET",
                &path,
                Value::Null,
                404,
                json!({ "error": "peer not found" }),
            ),
        ],
    );
}

#[test]
fn packages_are_taken_up_and_found() {
    let tracker = Tracker::start(&[]);
    let lists = json!({ "error": "added and removed must be lists" });
    let peer = json!({ "error": "peer_id required" });
    let provider = json!({
        "peer_id": "laptop", "addr": "127.0.0.1", "port": 12304, "libp2p_peer_id": null,
        "last_seen": "FLOAT", "score": 0.0,
    });
    let announce = json!({ "peer_id": "laptop", "port": 12304 });
    let reputation = json!({
        "total_shared": 0, "total_received": 0, "successful_transfers": 0,
        "failed_transfers": 0, "score": 0.0,
    });
    replay(
        &tracker,
        &[
            (
                "POST",
                "/packages/batch",
                json!({ "hashes": [A] }),
                400,
                peer.clone(),
            ),
            (
                "POST",
                "/packages/batch",
                json!({ "peer_id": "laptop", "hashes": "x" }),
                400,
                json!({ "error": "hashes must be a list" }),
            ),
            (
                "POST",
                "/packages/batch",
                json!({ "peer_id": "laptop", "hashes": [A, A, B] }),
                200,
                json!({ "status": "ok", "count": 2 }),
            ),
            ("POST", "/packages/delta", json!({ "added": [] }), 400, peer),
            (
                "POST",
                "/packages/delta",
                json!({ "peer_id": "laptop", "added": 1, "removed": [] }),
                400,
                lists,
            ),
            (
                "POST",
                "/packages/delta",
                json!({ "peer_id": "laptop", "added": [], "removed": [B] }),
                200,
                json!({ "status": "ok", "added": 0, "removed": 1 }),
            ),
            // Nobody is there under that name yet.
            (
                "GET",
                &format!("/find/{A}"),
                Value::Null,
                200,
                json!({ "hash": A, "providers": [] }),
            ),
            (
                "POST",
                "/announce",
                json!({ "peer_id": "laptop" }),
                400,
                json!({ "error": "peer_id and port required" }),
            ),
            (
                "POST",
                "/announce",
                announce,
                200,
                json!({ "status": "ok" }),
            ),
            (
                "GET",
                &format!("/find/{A}"),
                Value::Null,
                200,
                json!({ "hash": A, "providers": [provider] }),
            ),
            (
                "GET",
                &format!("/find/{B}"),
                Value::Null,
                200,
                json!({ "hash": B, "providers": [] }),
            ),
            (
                "GET",
                "/status",
                Value::Null,
                200,
                json!({
                    "status": "ok", "mode": "ipfs", "peers": 1, "cid_mappings": 0, "packages": 1,
                }),
            ),
            (
                "GET",
                "/peers",
                Value::Null,
                200,
                json!({ "peers": [{
                    "peer_id": "laptop", "addr": "127.0.0.1", "port": 12304,
                    "last_seen": "FLOAT", "reputation": reputation,
                }] }),
            ),
            (
                "POST",
                "/announce",
                json!({ "peer_id": "laptop", "port": 12304, "packages": [B] }),
                200,
                json!({ "status": "ok" }),
            ),
            (
                "GET",
                &format!("/find/{A}"),
                Value::Null,
                200,
                json!({ "hash": A, "providers": [] }),
            ),
        ],
    );
}

#[test]
fn what_older_nodes_have_is_found_by_newer_ones() {
    let tracker = Tracker::start(&[]);
    let node = json!({ "node_id": NODE, "peer_id": "laptop", "direct_addrs": ["192.0.2.1:1"] });
    json_of(&tracker.post("/iroh/announce", &node), 200);
    let packages = json!({ "peer_id": "laptop", "hashes": [A] });
    json_of(&tracker.post("/packages/batch", &packages), 200);
    let found = json_of(
        &tracker.post("/v1/lookup", &json!({ "hashes": [A, B] })),
        200,
    );
    assert_eq!(found["found"], json!({ A: [0] }));
    assert_eq!(found["peers"][0]["endpoint"], NODE);
    assert_eq!(found["peers"][0]["direct_addrs"], json!(["192.0.2.1:1"]));
}

#[test]
fn transfers_reputations_and_cids() {
    let tracker = Tracker::start(&[]);
    let report = |peer: &str, role: &str, bytes: i64| json!({ "transfer_id": 1, "peer_id": peer, "role": role, "bytes": bytes });
    let error = |text: &str| json!({ "error": text });
    let mapping = json!({ "nar_hash": "sha256:a", "cid": "Qm", "peer_id": "s" });
    replay(
        &tracker,
        &[
            (
                "POST",
                "/transfer/init",
                json!({ "sender_id": "s" }),
                400,
                error("sender_id and receiver_id required"),
            ),
            (
                "POST",
                "/transfer/init",
                json!({ "sender_id": "s", "receiver_id": "r" }),
                200,
                json!({ "transfer_id": 1 }),
            ),
            (
                "POST",
                "/report",
                json!({ "transfer_id": 1 }),
                400,
                error("transfer_id, peer_id, role, and bytes required"),
            ),
            (
                "POST",
                "/report",
                report("s", "both", 1),
                400,
                error("role must be 'sender' or 'receiver'"),
            ),
            (
                "POST",
                "/report",
                json!({ "transfer_id": 9, "peer_id": "s", "role": "sender", "bytes": 1 }),
                404,
                error("transfer not found"),
            ),
            (
                "POST",
                "/report",
                report("x", "receiver", 1),
                403,
                error("peer_id does not match receiver"),
            ),
            (
                "POST",
                "/report",
                report("s", "sender", 1000),
                200,
                json!({ "status": "pending" }),
            ),
            (
                "POST",
                "/report",
                report("s", "sender", 1000),
                409,
                error("sender already reported"),
            ),
            (
                "POST",
                "/report",
                report("r", "receiver", 1000),
                200,
                json!({ "status": "resolved", "consistent": true }),
            ),
            (
                "POST",
                "/report",
                report("r", "receiver", 1000),
                409,
                error("transfer already resolved"),
            ),
            (
                "GET",
                "/reputation/s",
                Value::Null,
                200,
                json!({
                    "peer_id": "s", "total_shared": 1000, "total_received": 0,
                    "successful_transfers": 1, "failed_transfers": 0, "score": 3.4544,
                }),
            ),
            (
                "GET",
                "/reputation/nobody",
                Value::Null,
                200,
                json!({
                    "peer_id": "nobody", "total_shared": 0, "total_received": 0,
                    "successful_transfers": 0, "failed_transfers": 0, "score": 0.0,
                }),
            ),
            (
                "POST",
                "/cid",
                json!({}),
                400,
                error("nar_hash, cid, and peer_id required"),
            ),
            (
                "POST",
                "/cid",
                mapping,
                200,
                json!({ "status": "ok", "nar_hash": "sha256:a", "cid": "Qm" }),
            ),
            (
                "GET",
                "/cid/sha256:a",
                Value::Null,
                200,
                json!({
                    "nar_hash": "sha256:a", "cid": "Qm", "peer_id": "s", "created_at": "FLOAT",
                }),
            ),
            (
                "GET",
                "/cid/sha256:b",
                Value::Null,
                404,
                error("CID not found"),
            ),
            (
                "GET",
                "/cids",
                Value::Null,
                200,
                json!({ "cids": { "sha256:a": "Qm" }, "count": 1 }),
            ),
            (
                "POST",
                "/cids/batch",
                json!({ "nar_hashes": [] }),
                200,
                json!({ "cids": {} }),
            ),
            (
                "POST",
                "/cids/batch",
                json!({ "nar_hashes": ["sha256:a", "sha256:b"] }),
                200,
                json!({ "cids": { "sha256:a": "Qm" }, "count": 1 }),
            ),
            (
                "POST",
                "/cids/batch",
                json!({ "nar_hashes": "x" }),
                400,
                error("nar_hashes must be a list"),
            ),
        ],
    );
}

#[test]
fn bad_json_is_refused_and_unknown_paths_are_texts() {
    let tracker = Tracker::start(&[]);
    let targets = [
        "/iroh/announce",
        "/packages/batch",
        "/packages/delta",
        "/announce",
        "/transfer/init",
        "/report",
        "/cid",
        "/cids/batch",
    ];
    for target in targets {
        for body in ["", "{", "[1]", "7", "\u{ff}"] {
            let answer = tracker.send("POST", target, &[], body.as_bytes());
            assert!(
                json_of(&answer, 400)["error"].is_string(),
                "{target} {body}"
            );
        }
    }
    let nothing = tracker.get("/no/such/path");
    assert_eq!(
        (nothing.status, nothing.text().as_str()),
        (404, "Not Found")
    );
    assert_eq!(tracker.get("/iroh/announce").status, 405);
    for body in [
        json!({ "node_id": 7, "peer_id": "x" }),
        json!({ "node_id": "x".repeat(1000), "peer_id": "x" }),
        json!({ "node_id": "x", "peer_id": "x", "direct_addrs": "10.0.0.1:1" }),
        json!({ "node_id": "x", "peer_id": "x", "direct_addrs": vec!["a"; 99] }),
    ] {
        json_of(&tracker.post("/iroh/announce", &body), 400);
    }
}

#[test]
fn unsigned_writes_can_be_refused_altogether() {
    let tracker = Tracker::start(&["--require-signed"]);
    let posts = [
        ("/iroh/announce", json!({ "node_id": "x", "peer_id": "x" })),
        ("/packages/batch", json!({ "peer_id": "x", "hashes": [A] })),
        (
            "/packages/delta",
            json!({ "peer_id": "x", "added": [A], "removed": [] }),
        ),
        ("/announce", json!({ "peer_id": "x", "port": 1 })),
        (
            "/transfer/init",
            json!({ "sender_id": "x", "receiver_id": "x" }),
        ),
        (
            "/cid",
            json!({ "nar_hash": "x", "cid": "x", "peer_id": "x" }),
        ),
    ];
    for (target, body) in posts {
        json_of(&tracker.post(target, &body), 401);
    }
    json_of(&tracker.send("DELETE", "/iroh/peer/x", &[], b""), 401);
    assert_eq!(tracker.get_json("/iroh/peers")["count"], 0);
    assert_eq!(tracker.get_json("/v1/info")["require_signed"], true);
}
