//! The tracker, full: what an announcement, a change and a lookup cost, and what it takes of memory
//! and disk, over SQLite and over PostgreSQL.

use std::{
    io::{BufReader, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use iroh::SecretKey;
use peerix::tracker::api;
use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha12Rng, seq::index};
use serde_json::{Value, json};

use crate::{
    measure::{quantile, resident, row, seconds, table},
    support::{
        http::{connect, read_answer},
        postgres::Postgres,
        tracker::Tracker,
    },
};

/// Distinct paths.
const PATHS: usize = 200_000;
/// Paths of one peer.
const HELD: usize = 20_000;
/// Paths in a change.
const CHANGED: usize = 100;
/// Paths in a lookup.
const ASKED: usize = 256;
/// Clients that look up at once.
const CLIENTS: usize = 32;
/// Lookups of each client.
const LOOKUPS: usize = 100;
/// How often a client looks up where it does not do so without a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a peer says that it is still there.
const STAY: Duration = Duration::from_secs(100);

/// Measures both and prints their table. `PEERIX_PEERS` sets the number of peers.
pub fn run() {
    let peers = std::env::var("PEERIX_PEERS").ok();
    let peers = peers.and_then(|peers| peers.parse().ok()).unwrap_or(1000);
    table(
        &format!(
            "A tracker with {peers} peers of {HELD} paths each, out of {PATHS} (`scripts/bench tracker`)"
        ),
        &[
            "database",
            "database MiB",
            "memory MiB",
            "full announcement: median, p99",
            "change of 100: median, p99",
            "lookup of 256, 32 clients ten times a second each: median, p99",
            "the same without a pause: lookups a second, p99",
            "start",
        ],
    );
    measure("SQLite", Tracker::start(&[]), peers);
    match Postgres::start() {
        Some(server) => {
            let url = server.database("tracker");
            measure("PostgreSQL", Tracker::start(&["--database", &url]), peers);
        }
        None => println!("PostgreSQL is not installed."),
    }
}

fn measure(name: &str, mut tracker: Tracker, peers: usize) {
    let mut rng = ChaCha12Rng::seed_from_u64(9);
    let names: Vec<String> = (0..PATHS)
        .map(|_| {
            let bytes = rng.random::<[u8; 20]>();
            peerix_store::nix::StorePathHash::from_bytes(bytes).to_string()
        })
        .collect();
    let id = tracker.id();
    let started = now();
    let mut keys: Vec<Announcer> = Vec::new();
    let mut full = Vec::new();
    for _ in 0..peers {
        // On a slow machine the first ones would be gone before the last ones come.
        for announcer in &mut keys {
            announcer.stay(&id, tracker.address());
        }
        let key = SecretKey::generate();
        let held = index::sample(&mut rng, PATHS, HELD);
        let held: Vec<&str> = held.iter().map(|path| names[path].as_str()).collect();
        let body = announcement(&id, &key, started, "full", Value::Null, &held);
        full.push(announce(tracker.address(), &key, &body));
        keys.push(Announcer {
            key,
            base: started,
            sequence: started,
            last: Instant::now(),
        });
    }
    let mut deltas = Vec::new();
    for announcer in keys.iter_mut().step_by((peers / 100).max(1)) {
        announcer.sequence += 1;
        let (key, base) = (&announcer.key, json!(announcer.base));
        let added = index::sample(&mut rng, PATHS, CHANGED);
        let added: Vec<&str> = added.iter().map(|path| names[path].as_str()).collect();
        let body = announcement(&id, key, announcer.sequence, "delta", base, &added);
        deltas.push(announce(tracker.address(), key, &body));
    }
    for announcer in &mut keys {
        announcer.stay(&id, tracker.address());
    }
    let (paced, _) = lookups(tracker.address(), &names, Some(PAUSE));
    let (eager, rate) = lookups(tracker.address(), &names, None);
    let memory = resident(tracker.pid());
    let metrics = tracker.get("/metrics").text();
    let figure = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse().ok())
            .unwrap_or(0.0)
    };
    assert!(figure("peerix_tracker_records ") >= (peers * HELD) as f64);
    let size = figure("peerix_tracker_database_bytes ");
    let restarted = Instant::now();
    tracker.restart_within(Duration::from_secs(600));
    let start = restarted.elapsed().as_secs_f64();
    let both = |series: &[f64]| {
        let (median, slow) = (quantile(series, 0.5), quantile(series, 0.99));
        format!("{}, {}", seconds(median), seconds(slow))
    };
    row(&[
        name.to_owned(),
        format!("{:.0}", size / 1048576.0),
        format!("{:.0}", memory as f64 / 1048576.0),
        both(&full),
        both(&deltas),
        both(&paced),
        format!("{rate:.0}, {}", seconds(quantile(&eager, 0.99))),
        seconds(start),
    ]);
}

/// A peer that announced itself.
struct Announcer {
    key: SecretKey,
    base: u64,
    sequence: u64,
    last: Instant,
}

impl Announcer {
    /// Says that it is still there, where that is due.
    fn stay(&mut self, tracker: &str, address: SocketAddr) {
        if self.last.elapsed() < STAY {
            return;
        }
        self.sequence += 1;
        let body = announcement(
            tracker,
            &self.key,
            self.sequence,
            "refresh",
            Value::Null,
            &[],
        );
        announce(address, &self.key, &body);
        self.last = Instant::now();
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970").as_millis() as u64
}

fn announcement(
    tracker: &str,
    key: &SecretKey,
    sequence: u64,
    kind: &str,
    base: Value,
    added: &[&str],
) -> String {
    json!({
        "tracker": tracker, "endpoint": key.public().to_string(), "sequence": sequence,
        "swarm": "public", "direct_addrs": ["192.0.2.1:12306"], "systems": ["x86_64-linux"],
        "kind": kind, "base": base, "added": added,
    })
    .to_string()
}

/// Announces, and returns the seconds until the answer.
fn announce(address: SocketAddr, key: &SecretKey, body: &str) -> f64 {
    let signature = api::sign(key, body.as_bytes());
    let request = post(
        "/v1/announce",
        &format!("Peerix-Signature: {signature}\r\n"),
        body,
    );
    let mut stream = connect(address).expect("a connection");
    let begun = Instant::now();
    stream.write_all(request.as_bytes()).expect("the request");
    let answer = read_answer(&mut BufReader::new(stream), false).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    begun.elapsed().as_secs_f64()
}

fn post(target: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Has all clients look up, and returns the seconds of each lookup, and lookups a second in all.
fn lookups(address: SocketAddr, names: &[String], pause: Option<Duration>) -> (Vec<f64>, f64) {
    let begun = Instant::now();
    let taken: Vec<f64> = thread::scope(|scope| {
        let client = |seed: u64| {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let stream = connect(address).expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            let mut writer = stream;
            let first = Instant::now() + pause.unwrap_or_default().mul_f64(rng.random());
            let mut taken = Vec::new();
            for round in 0..LOOKUPS as u32 {
                if let Some(pause) = pause {
                    let due = first + pause * round;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                let asked = index::sample(&mut rng, PATHS, ASKED);
                let asked: Vec<&str> = asked.iter().map(|path| names[path].as_str()).collect();
                let body = json!({ "hashes": asked }).to_string();
                let request = post("/v1/lookup", "", &body);
                let begun = Instant::now();
                writer.write_all(request.as_bytes()).expect("the request");
                let answer = read_answer(&mut reader, false).expect("an answer");
                taken.push(begun.elapsed().as_secs_f64());
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            taken
        };
        let clients: Vec<_> = (0..CLIENTS as u64)
            .map(|seed| scope.spawn(move || client(seed)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"))
            .collect()
    });
    let rate = taken.len() as f64 / begun.elapsed().as_secs_f64();
    (taken, rate)
}
