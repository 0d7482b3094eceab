//! The tracker against its own description: which routes there are, what each answers, and how.

use std::{
    collections::BTreeSet,
    io::{BufReader, Write},
    time::SystemTime,
};

use iroh::SecretKey;
use peerix::tracker::api;
use serde_json::{Value, json};

use super::support::{
    http::{Answer, connect, read_answer},
    postgres::Postgres,
    skip,
    tracker::{Tracker, json_of},
    wait_for,
};

const A: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3";
const B: &str = "27bh691vzkqk8hv1i7xiaqff85b85br3";

/// The page for people and the metrics, which have descriptions of their own.
const DESCRIBED_ELSEWHERE: [&str; 2] = ["get /", "get /metrics"];

/// What takes half a minute in which nobody's answer can be cut to make room for others.
const NOT_PROVOKED: &str = "post /v1/lookup 503";

/// What is described: `method path status`.
fn described(document: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            for status in operation["responses"]
                .as_object()
                .expect("responses")
                .keys()
            {
                all.insert(format!("{method} {path} {status}"));
            }
        }
    }
    all
}

#[test]
fn each_route_is_described_and_each_description_has_a_route() {
    let router = include_str!("../../src/tracker/http/router.rs");
    let routes: BTreeSet<String> = router
        .split(".route(\"")
        .skip(1)
        .map(|route| {
            let (path, rest) = route.split_once("\", ").expect("a path and a method");
            let (method, _) = rest.split_once('(').expect("a handler");
            format!("{method} {path}")
        })
        .collect();
    let document = Tracker::start(&[]).get_json("/openapi.json");
    let described = described(&document);
    let described = described.iter().map(|all| {
        let (route, _status) = all.rsplit_once(' ').expect("a status");
        route.to_owned()
    });
    let mut known: BTreeSet<String> = described.collect();
    known.extend(DESCRIBED_ELSEWHERE.map(str::to_owned));
    assert_eq!(routes, known);
}

/// Checks a value against a schema of the document: types, fields that must be there, and none that
/// is not described.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a part of the document");
        let schema = document.pointer(pointer);
        let schema = schema.unwrap_or_else(|| panic!("{place}: there is no {reference}"));
        return check(document, schema, value, place);
    }
    if let Some(either) = schema["oneOf"].as_array() {
        let null = json!({ "type": "null" });
        assert!(either.contains(&null), "{place}: only what may be missing");
        match value {
            Value::Null => {}
            value => {
                let other = either.iter().find(|schema| **schema != null);
                check(document, other.expect("a schema"), value, place);
            }
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        // Anything.
        _ => return,
    };
    let is_of = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        name => panic!("{place}: type {name}"),
    };
    assert!(
        types.iter().any(|name| is_of(name)),
        "{place}: {value} is none of {types:?}"
    );
    if let Some(number) = value.as_f64() {
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        let fits =
            least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most);
        assert!(fits, "{place}: {value}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(
            document,
            &schema["items"],
            item,
            &format!("{place}[{index}]"),
        );
    }
    let Some(fields) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().expect("a name");
        assert!(fields.contains_key(name), "{place}: {name} is missing");
    }
    for (name, field) in fields {
        let of_field = match schema["properties"].get(name) {
            Some(schema) => schema,
            None => {
                let others = &schema["additionalProperties"];
                assert!(others.is_object(), "{place}: {name} is not described");
                others
            }
        };
        check(document, of_field, field, &format!("{place}.{name}"));
    }
}

/// A body as each of the older program's routes takes it.
fn example(path: &str) -> Value {
    match path {
        "/iroh/announce" => json!({
            "node_id": "node", "peer_id": "laptop", "relay_url": null,
            "direct_addrs": ["192.0.2.1:12306"],
        }),
        "/packages/batch" => json!({ "peer_id": "desk", "hashes": [A] }),
        "/packages/delta" => json!({ "peer_id": "desk", "added": [A], "removed": [B] }),
        "/announce" => json!({
            "peer_id": "desk", "port": 12304, "libp2p_peer_id": "Qm", "packages": [A],
        }),
        "/transfer/init" => json!({ "sender_id": "desk", "receiver_id": "laptop" }),
        "/report" => json!({ "transfer_id": 1, "peer_id": "desk", "role": "sender", "bytes": 7 }),
        "/cid" => json!({ "nar_hash": "sha256:x", "cid": "Qm", "peer_id": "desk" }),
        "/cids/batch" => json!({ "nar_hashes": ["sha256:x"] }),
        _ => Value::Null,
    }
}

/// What a route's path is asked with.
fn target(path: &str) -> String {
    path.replace("{hash}", A)
        .replace("{node_id}", "node")
        .replace("{peer_id}", "desk")
        .replace("{nar_hash}", "sha256:x")
}

/// The answers that were provoked, each checked.
struct Provoked {
    document: Value,
    seen: BTreeSet<String>,
}

impl Provoked {
    fn take(&mut self, method: &str, path: &str, status: u16, answer: &Answer) {
        let what = format!("{method} {path} {status}");
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let operation = &self.document["paths"][path][method];
        let response = &operation["responses"][status.to_string()];
        assert!(response.is_object(), "{what} is not described");
        match response["content"].get("application/json") {
            Some(content) => {
                assert_eq!(answer.header("content-type"), "application/json", "{what}");
                let body = json_of(answer, status);
                check(&self.document, &content["schema"], &body, &what);
            }
            None => assert!(answer.body.is_empty(), "{what}: {}", answer.text()),
        }
        self.seen.insert(what);
    }

    /// Asks one of the older program's routes, with a body as it is described where one is.
    fn ask(&mut self, tracker: &Tracker, method: &str, path: &str, body: &Value, status: u16) {
        let described = &self.document["paths"][path][method]["requestBody"];
        if described.is_object() {
            let schema = &described["content"]["application/json"]["schema"];
            check(&self.document, schema, body, &format!("{method} {path}"));
        }
        let body = body.to_string();
        let answer = tracker.send(&method.to_uppercase(), &target(path), &[], body.as_bytes());
        self.take(method, path, status, &answer);
    }

    /// The described operations, those alone that are described to answer `status`.
    fn that_answer(&self, status: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (path, methods) in self.document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                if operation["responses"].get(status).is_some() {
                    all.push((method.clone(), path.clone()));
                }
            }
        }
        all
    }
}

#[test]
fn each_answer_that_is_described_comes_and_is_as_described() {
    let relay = [
        "--relay=127.0.0.1:0",
        "--relay-url",
        "https://relay.example",
    ];
    let tracker = Tracker::start(&relay);
    let mut all = Provoked {
        document: tracker.get_json("/openapi.json"),
        seen: BTreeSet::new(),
    };
    // What takes longest begins first.
    let late: Vec<_> = all
        .that_answer("408")
        .into_iter()
        .map(|(method, path)| {
            let mut stream = connect(tracker.address()).expect("a connection");
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{");
            stream.write_all(head.as_bytes()).expect("a part");
            (method, path, stream)
        })
        .collect();
    provoke_signed(&mut all, &tracker);
    provoke_older(&mut all, &tracker);
    provoke_refusals(&mut all, &tracker);
    provoke_failures(&mut all);
    for (method, path, stream) in late {
        let answer = read_answer(&mut BufReader::new(stream), false).expect("an answer");
        all.take(&method, &path, 408, &answer);
    }
    let mut rest = described(&all.document);
    rest.retain(|what| !all.seen.contains(what));
    assert_eq!(rest, BTreeSet::from([NOT_PROVOKED.to_owned()]));
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970").as_millis() as u64
}

fn provoke_signed(all: &mut Provoked, tracker: &Tracker) {
    let key = SecretKey::generate();
    let start = now();
    all.take("get", "/openapi.json", 200, &tracker.get("/openapi.json"));
    all.take("get", "/health", 200, &tracker.get("/health"));
    all.take("get", "/v1/info", 200, &tracker.get("/v1/info"));

    let mut full = tracker.full(&key, start, &[A]);
    full["relay_url"] = json!("https://relay.example");
    all.take("post", "/v1/announce", 200, &tracker.announce(&key, &full));
    all.take("post", "/v1/announce", 409, &tracker.announce(&key, &full));
    let thief = SecretKey::generate();
    all.take(
        "post",
        "/v1/announce",
        401,
        &tracker.announce(&thief, &full),
    );
    let wrong = tracker.announce(&key, &tracker.full(&key, start, &["short"]));
    all.take("post", "/v1/announce", 400, &wrong);

    let lookup = |hashes: &[&str]| tracker.post("/v1/lookup", &json!({ "hashes": hashes }));
    all.take("post", "/v1/lookup", 200, &lookup(&[A]));
    all.take("post", "/v1/lookup", 400, &lookup(&["short"]));
    all.take("post", "/v1/lookup", 413, &lookup(&[A; 1001]));

    let peers = tracker.get("/v1/peers");
    all.take("get", "/v1/peers", 200, &peers);
    let known = [("If-None-Match", peers.header("etag"))];
    let again = tracker.send("GET", "/v1/peers", &known, b"");
    all.take("get", "/v1/peers", 304, &again);
    all.take("get", "/v1/peers", 400, &tracker.get("/v1/peers?wait=x"));
}

fn provoke_older(all: &mut Provoked, tracker: &Tracker) {
    for (method, path, status) in [
        ("get", "/iroh/peer/{node_id}", 404),
        ("delete", "/iroh/peer/{node_id}", 404),
        ("post", "/iroh/announce", 200),
        // One that announced itself, and the endpoint that signs.
        ("get", "/iroh/peers", 200),
        ("get", "/iroh/peer/{node_id}", 200),
        ("delete", "/iroh/peer/{node_id}", 200),
        ("post", "/packages/batch", 200),
        ("post", "/packages/delta", 200),
        ("post", "/announce", 200),
        ("get", "/status", 200),
        ("get", "/peers", 200),
        ("get", "/find/{hash}", 200),
        ("post", "/report", 404),
        ("post", "/transfer/init", 200),
        ("post", "/report", 200),
        ("post", "/report", 409),
        ("get", "/reputation/{peer_id}", 200),
        ("get", "/cid/{nar_hash}", 404),
        ("post", "/cid", 200),
        ("get", "/cid/{nar_hash}", 200),
        ("get", "/cids", 200),
        ("post", "/cids/batch", 200),
    ] {
        all.ask(tracker, method, path, &example(path), status);
    }
    // What the first round had no answer for.
    let mut report = example("/report");
    report["role"] = json!("receiver");
    all.ask(tracker, "post", "/report", &report, 403);
    report["peer_id"] = json!("laptop");
    all.ask(tracker, "post", "/report", &report, 200);
    let none = json!({ "nar_hashes": [] });
    all.ask(tracker, "post", "/cids/batch", &none, 200);
    let peers = tracker.get_json("/peers");
    assert_eq!(peers["peers"].as_array().map(Vec::len), Some(1), "{peers}");
    let found = tracker.get_json(&format!("/find/{A}"));
    assert_eq!(found["providers"].as_array().map(Vec::len), Some(1));

    // What has to be there has to be.
    for (method, path) in all.that_answer("400") {
        let described = &all.document["paths"][&path][&method]["requestBody"];
        let schema = &described["content"]["application/json"]["schema"]["$ref"];
        let Some(pointer) = schema.as_str().and_then(|schema| schema.strip_prefix('#')) else {
            continue;
        };
        let schema = all.document.pointer(pointer).expect("a schema");
        for name in schema["required"].as_array().into_iter().flatten() {
            let mut body = example(&path);
            if let Some(fields) = body.as_object_mut() {
                let name = name.as_str().expect("a name");
                assert!(fields.remove(name).is_some(), "{path}: {name}");
                let answer = tracker.post(&path, &body);
                assert_eq!(answer.status, 400, "{path} without {name}");
            }
        }
    }
}

fn provoke_refusals(all: &mut Provoked, tracker: &Tracker) {
    let large = vec![b' '; api::MAX_ANNOUNCE_BODY + 1];
    for (method, path) in all.that_answer("413") {
        let answer = tracker.send(&method.to_uppercase(), &path, &[], &large);
        all.take(&method, &path, 413, &answer);
    }
    // A body that is no object, or a name that is no text.
    for (method, path) in all.that_answer("400") {
        let target = match path.split_once('{') {
            Some((before, _)) => format!("{before}%ff"),
            None => path.clone(),
        };
        if path != "/v1/peers" {
            let answer = tracker.send(&method.to_uppercase(), &target, &[], b"[]");
            all.take(&method, &path, 400, &answer);
        }
    }
    // A client that asked too much hears so everywhere.
    let from = [("X-Forwarded-For", "198.51.100.7")];
    wait_for("a refusal", || {
        let answer = tracker.send("GET", "/v1/info", &from, b"");
        (answer.status == 429).then_some(())
    });
    for (method, path) in all.that_answer("429") {
        let refused = wait_for("a refusal", || {
            let answer = tracker.send(&method.to_uppercase(), &target(&path), &from, b"{}");
            (answer.status == 429).then_some(answer)
        });
        all.take(&method, &path, 429, &refused);
    }
    // One that takes signed announcements only.
    let strict = Tracker::start(&["--require-signed"]);
    for (method, path) in all.that_answer("401") {
        if path != "/v1/announce" {
            all.ask(&strict, &method, &path, &example(&path), 401);
        }
    }
}

fn provoke_failures(all: &mut Provoked) {
    // One whose database is full.
    let small = Tracker::start(&["--db-quota", "200kB"]);
    let key = SecretKey::generate();
    let hashes: Vec<String> = (0..20_000).map(|n| format!("{n:032}")).collect();
    let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
    let refused = small.announce(&key, &small.full(&key, now(), &hashes));
    all.take("post", "/v1/announce", 503, &refused);
    all.take("get", "/health", 503, &small.get("/health"));

    // One whose database went away, after it was told who has a path.
    let mut others = all.that_answer("503");
    others.retain(|(_, path)| !path.starts_with("/v1/") && path != "/health");
    let Some(server) = Postgres::start() else {
        let others = others
            .iter()
            .map(|(method, path)| format!("{method} {path} 503"));
        all.seen.extend(others);
        return skip("PostgreSQL is not installed");
    };
    let orphan = Tracker::start(&["--database", &server.database("tracker")]);
    for path in ["/announce", "/packages/batch"] {
        assert_eq!(orphan.post(path, &example(path)).status, 200);
    }
    drop(server);
    for (method, path) in others {
        all.ask(&orphan, &method, &path, &example(&path), 503);
    }
}
