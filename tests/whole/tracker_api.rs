//! The tracker against its own description: which routes there are, what each answers, and how.

use std::{collections::BTreeSet, time::SystemTime};

use iroh::SecretKey;
use peerix::tracker::api;
use serde_json::{Value, json};

use super::support::{
    http::Answer,
    tracker::{Tracker, json_of},
    wait_for,
};

const A: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3";

/// The older program's routes, the page for people and the metrics, which have descriptions of their
/// own.
const DESCRIBED_ELSEWHERE: [&str; 19] = [
    "get /",
    "get /metrics",
    "post /iroh/announce",
    "get /iroh/peers",
    "get /iroh/peer/{node_id}",
    "delete /iroh/peer/{node_id}",
    "post /packages/batch",
    "post /packages/delta",
    "post /announce",
    "get /status",
    "get /peers",
    "get /find/{hash}",
    "post /transfer/init",
    "post /report",
    "get /reputation/{peer_id}",
    "post /cid",
    "get /cid/{nar_hash}",
    "get /cids",
    "post /cids/batch",
];

/// What takes half a minute, or more memory than a test has.
const NOT_PROVOKED: [&str; 3] = [
    "post /v1/announce 408",
    "post /v1/lookup 408",
    "post /v1/lookup 503",
];

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
    if let Some(least) = schema["minimum"].as_f64() {
        assert!(
            value.is_null() || value.as_f64() >= Some(least),
            "{place}: {value}"
        );
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
    let key = SecretKey::generate();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let start = since.expect("a clock after 1970").as_millis() as u64;
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
    let large = vec![b' '; api::MAX_ANNOUNCE_BODY + 1];
    all.take(
        "post",
        "/v1/announce",
        413,
        &tracker.announce_as("00", &large),
    );

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

    // A client that asked too much hears so everywhere.
    let from = [("X-Forwarded-For", "198.51.100.7")];
    wait_for("a refusal", || {
        let answer = tracker.send("GET", "/v1/info", &from, b"");
        (answer.status == 429).then_some(())
    });
    for (method, path) in [
        ("get", "/openapi.json"),
        ("get", "/health"),
        ("get", "/v1/info"),
        ("get", "/v1/peers"),
        ("post", "/v1/lookup"),
        ("post", "/v1/announce"),
    ] {
        let refused = wait_for("a refusal", || {
            let answer = tracker.send(&method.to_uppercase(), path, &from, b"{}");
            (answer.status == 429).then_some(answer)
        });
        all.take(method, path, 429, &refused);
    }

    // One whose database is full.
    let small = Tracker::start(&["--db-quota", "200kB"]);
    let hashes: Vec<String> = (0..20_000).map(|n| format!("{n:032}")).collect();
    let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
    let refused = small.announce(&key, &small.full(&key, start, &hashes));
    all.take("post", "/v1/announce", 503, &refused);
    all.take("get", "/health", 503, &small.get("/health"));

    let mut described = described(&all.document);
    for what in NOT_PROVOKED {
        assert!(described.remove(what), "{what} is not described any more");
    }
    assert_eq!(all.seen, described);
}
