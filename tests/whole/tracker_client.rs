//! The daemon's side of trackers: what they are told, what is taken of what they say, and that
//! nothing depends on them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    http_server::{Exchange, HttpServer, Reply, Request},
    nix_store::{Key, NixStore, PathSpec, hash_part, store_path_named},
    older_tracker::OlderTracker,
    peer::{Peer, PeerOptions},
    shapes::add_closure,
    tracker::Tracker,
    tree::Node,
    wait_for,
};

/// A peer that speaks with one tracker.
fn options(store: &NixStore, key: &Key, tracker: &str) -> PeerOptions {
    PeerOptions::new(store)
        .of_cache(&key.public)
        .of_tracker(tracker)
}

/// A store with a signed closure.
fn store_with_closure(key: &Key) -> (NixStore, String) {
    let store = NixStore::new();
    let root = add_closure(&store, "closure", 12, 200_000);
    let closure = store.closure(&root);
    let paths: Vec<&str> = closure.iter().map(String::as_str).collect();
    store.sign(key, &paths);
    (store, root)
}

fn node_id(peer: &Peer) -> String {
    let status = peer.status();
    status["node_id"].as_str().expect("an id").to_owned()
}

/// How it goes with the first tracker.
fn tracker(peer: &Peer) -> Value {
    peer.status()["trackers"][0].clone()
}

fn wait_until_connected(peer: &Peer, count: usize) {
    wait_for("connected peers", || {
        (peer.connected_peers() == count).then_some(())
    });
}

#[test]
fn with_only_a_tracker_in_common_two_peers_substitute_a_closure() {
    let server = Tracker::start(&[]);
    let key = Key::generate("public-1");
    let (first, root) = store_with_closure(&key);
    let second = NixStore::new();
    let mut sharer = options(&first, &key, &server.url()).start();
    wait_for("all paths at the tracker", || {
        (tracker(&sharer)["announced_paths"] == first.closure(&root).len()).then_some(())
    });
    assert_eq!(tracker(&sharer)["signed"], true);
    let receiver = options(&second, &key, &server.url()).start();
    wait_until_connected(&receiver, 1);
    second.substitute(&root, &[receiver.url()], &[&key.public]);
    second.verify_contents();

    let listed = || server.get_json("/v1/peers?swarm=public")["count"].clone();
    assert_eq!(listed(), 2);
    sharer.stop();
    assert_eq!(listed(), 1, "it said no goodbye");
}

#[test]
fn changes_are_told_as_changes_and_survive_kills_and_restarts() {
    let mut server = Tracker::start(&[]);
    let key = Key::generate("public-1");
    let (store, root) = store_with_closure(&key);
    let count = store.closure(&root).len();
    let front = HttpServer::before(server.address(), |_| None, |_, _| {});
    let peer = options(&store, &key, &front.url()).start();
    let announced = |peer: &Peer, count: usize| {
        wait_for("what the tracker knows", || {
            (tracker(peer)["announced_paths"] == count).then_some(())
        });
    };
    let of_kind = |kind: &str| {
        let asked = front.requests();
        let announcements = asked.iter().filter(|it| it.target == "/v1/announce");
        announcements
            .filter(|it| it.json()["kind"] == kind)
            .map(|it| it.json()["added"].as_array().map_or(0, Vec::len))
            .collect::<Vec<_>>()
    };
    announced(&peer, count);
    let later = store.add(PathSpec::new("later", Node::text("later")));
    store.sign(&key, &[&later]);
    announced(&peer, count + 1);
    assert_eq!(of_kind("delta"), [1]);
    assert!(of_kind("full").iter().all(|added| *added <= count));

    // The tracker comes back, and knows what it knew.
    server.restart();
    assert_eq!(server.get_json("/v1/peers?swarm=public")["count"], 1);
}

#[test]
fn a_path_is_asked_for_only_while_an_inventory_is_not_known() {
    let server = Tracker::start(&[]);
    let key = Key::generate("public-1");
    let (first, root) = store_with_closure(&key);
    let store = NixStore::new();
    let front = HttpServer::before(server.address(), |_| None, |_, _| {});
    let _sharer = options(&first, &key, &server.url()).start();
    let receiver = options(&store, &key, &front.url()).start();
    wait_for("the inventory of the other", || {
        (receiver.status()["swarm"]["inventories"] == 1).then_some(())
    });
    wait_until_connected(&receiver, 1);
    assert_eq!(receiver.narinfo(&root).status, 200);
    let before = front.count("POST", "/v1/lookup");
    for number in 0..20 {
        let nowhere = store_path_named(&format!("nowhere-{number}"));
        assert_eq!(receiver.narinfo(&nowhere).status, 404);
    }
    assert_eq!(front.count("POST", "/v1/lookup"), before);

    // Somebody comes who can't be reached, and whose paths nobody knows: the tracker may.
    let stranger = iroh::SecretKey::from_bytes(&[5; 32]);
    let theirs = store_path_named("theirs");
    let full = server.full(&stranger, 1_900_000_000_000, &[hash_part(&theirs)]);
    assert_eq!(server.announce(&stranger, &full).status, 200);
    wait_for("a question to the tracker", || {
        assert_eq!(receiver.narinfo(&theirs).status, 404);
        (front.count("POST", "/v1/lookup") > before).then_some(())
    });
}

#[test]
fn what_an_idle_machine_sends_to_its_tracker_in_an_hour() {
    let server = Tracker::start(&[]);
    let key = Key::generate("public-1");
    let (store, root) = store_with_closure(&key);
    // It asks for news far more often, so that the test need not wait; bytes are the same.
    let hurried = |asked: &mut Request| {
        asked.target = asked.target.replace("wait=55", "wait=0");
        None
    };
    let interval = Arc::new(AtomicU16::new(0));
    let told = interval.clone();
    let more_often = move |asked: &Request, reply: &mut Reply| {
        if asked.target == "/v1/info" {
            let mut info: Value = serde_json::from_slice(&reply.body).expect("JSON");
            let seconds = info["announce_interval"].as_u64().expect("seconds");
            told.store(u16::try_from(seconds).expect("minutes"), Ordering::Relaxed);
            info["announce_interval"] = json!(5);
            reply.body = info.to_string().into_bytes();
        }
    };
    let front = HttpServer::before(server.address(), hurried, more_often);
    let peer = options(&store, &key, &front.url()).start();
    wait_for("all paths at the tracker", || {
        (tracker(&peer)["announced_paths"] == store.closure(&root).len()).then_some(())
    });
    let of = |what: &dyn Fn(&Exchange) -> bool| {
        let exchanges = front.exchanges();
        exchanges
            .iter()
            .rev()
            .find(|it| what(it))
            .map(|it| it.bytes)
    };
    let refresh = wait_for("a refresh", || {
        of(&|it| it.request.json()["kind"] == "refresh")
    });
    let poll = wait_for("a question whether anybody came", || {
        of(&|it| it.request.target.starts_with("/v1/peers") && it.status == 304)
    });
    let interval = f64::from(interval.load(Ordering::Relaxed));
    let per_hour = 3600.0 / interval * refresh as f64 + 3600.0 / 55.0 * poll as f64;
    println!(
        "idle: {refresh} bytes for a refresh, {poll} for a question: {:.0} kB an hour at most",
        per_hour / 0.9 / 1000.0
    );
    assert!(per_hour < 200_000.0);
}

#[test]
fn with_only_an_older_tracker_in_common_two_peers_substitute_a_closure() {
    let older = OlderTracker::start();
    let key = Key::generate("public-1");
    let (first, root) = store_with_closure(&key);
    let second = NixStore::new();
    let url = older.server().url();
    let mut sharer = options(&first, &key, &url).start();
    let id = node_id(&sharer);
    wait_for("an announcement", || older.nodes().first().map(|_| ()));
    let receiver = options(&second, &key, &url).start();
    wait_until_connected(&receiver, 1);
    second.substitute(&root, &[receiver.url()], &[&key.public]);
    second.verify_contents();

    // It learnt the address, and nothing of what there is.
    let known = older.nodes();
    let node = known.iter().find(|node| node["node_id"] == id.as_str());
    let node = node.expect("the sharer");
    assert_eq!(node["peer_id"], id.as_str());
    assert!(!node["direct_addrs"].as_array().expect("a list").is_empty());
    let asked = older.server().requests();
    assert!(asked.iter().all(|asked| !asked.target.contains("packages")));
    assert_eq!(tracker(&sharer)["signed"], false);

    sharer.stop();
    assert!(
        older
            .nodes()
            .iter()
            .all(|node| node["node_id"] != id.as_str())
    );
}

#[test]
fn an_older_tracker_is_told_of_paths_if_that_was_asked_for() {
    let older = OlderTracker::start();
    let key = Key::generate("public-1");
    let (store, root) = store_with_closure(&key);
    let peer = options(&store, &key, &older.server().url())
        .flag("announce", "all")
        .flag("peer-id", "workstation")
        .start();
    let expected = |store: &NixStore| {
        let closure = store.closure(&root);
        let hashes = closure.iter().map(|path| hash_part(path).to_owned());
        hashes.collect::<std::collections::BTreeSet<_>>()
    };
    wait_for("all paths", || {
        (older.packages("workstation")? == expected(&store)).then_some(())
    });
    // What comes later goes as a change.
    let later = store.add(PathSpec::new("later", Node::text("later")));
    store.sign(&key, &[&later]);
    wait_for("the new path", || {
        let known = older.packages("workstation")?;
        known.contains(hash_part(&later)).then_some(())
    });
    let asked = older.server().requests();
    let deltas = asked
        .iter()
        .filter(|asked| asked.target == "/packages/delta");
    assert!(deltas.count() >= 1);
    let count = store.closure(&root).len() + 1;
    assert_eq!(tracker(&peer)["announced_paths"], count);
}

#[test]
fn g7_nothing_depends_on_a_tracker_that_is_down_slow_or_lies() {
    let key = Key::generate("public-1");
    let (first, root) = store_with_closure(&key);
    let sharer = PeerOptions::new(&first)
        .flag("public-cache-key", &key.public)
        .start();
    let lies: Vec<Value> = (0..2000)
        .map(|number| {
            let secret = iroh::SecretKey::from_bytes(&{
                let mut bytes = [9; 32];
                bytes[..4].copy_from_slice(&u32::to_le_bytes(number));
                bytes
            });
            json!({
                "endpoint": secret.public().to_string(),
                "relay_url": null,
                "direct_addrs": ["127.0.0.1:9"],
                "last_seen": 1e9,
            })
        })
        .collect();
    // It knows thousands of peers, none of which is there, and all of them have everything.
    let liar = HttpServer::start(move |asked| {
        let target = asked.target.split('?').next().unwrap_or_default();
        Some(match target {
            "/v1/info" => Reply::json(
                200,
                json!({
                    "name": "peerix-tracker", "version": "9", "id": "0".repeat(32),
                    "require_signed": true, "ttl": 120, "announce_interval": 60,
                    "max_lookup": 1000, "max_announce": 100_000, "relay": null,
                }),
            ),
            "/v1/announce" => Reply::json(
                409,
                json!({
                    "error": "no", "sequence": u64::MAX >> 1, "base": 7,
                }),
            ),
            "/v1/lookup" => {
                let hashes = asked.json()["hashes"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let found = hashes.iter().map(|hash| {
                    (
                        hash.as_str().unwrap_or_default().to_owned(),
                        json!([0, 1, 2, 99_999]),
                    )
                });
                let found: serde_json::Map<String, Value> = found.collect();
                Reply::json(200, json!({ "peers": lies[..8], "found": found }))
            }
            "/v1/peers" => Reply::json(200, json!({ "peers": lies, "count": 1_000_000 })),
            _ => Reply::text(404, "Not Found"),
        })
    });
    let endless = HttpServer::start(|_| Some(Reply::text(200, &"[".repeat(3 << 20))));
    let silent = HttpServer::start(|_| None);
    let second = NixStore::new();
    let trackers = [
        "http://127.0.0.1:1".to_owned(),
        silent.url(),
        endless.url(),
        liar.url(),
    ];
    let mut options = options(&second, &key, &trackers[0]).peer(&sharer);
    for url in &trackers[1..] {
        options = options.flag("tracker", url);
    }
    let began = Instant::now();
    let mut receiver = options.start();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    wait_for("the liar's peers", || {
        (receiver.status()["known_peers"].as_u64()? > 1).then_some(())
    });
    // Bounded, whatever it names.
    assert!(receiver.status()["known_peers"].as_u64() <= Some(1 + 64 + 64));
    wait_until_connected(&receiver, 1);
    // A few misses are enough to see through it, however sure it is.
    let mut misses: Vec<Duration> = (0..40)
        .map(|number| {
            let asked = Instant::now();
            let nowhere = store_path_named(&format!("nowhere-{number}"));
            assert_eq!(receiver.narinfo(&nowhere).status, 404);
            asked.elapsed()
        })
        .collect();
    misses.sort();
    println!(
        "misses beside a lying tracker: median {:?}, worst {:?}",
        misses[20], misses[39]
    );
    assert!(misses[39] < Duration::from_secs(2), "{misses:?}");
    assert!(misses[20] < Duration::from_millis(250), "{misses:?}");
    second.substitute(&root, &[receiver.url()], &[&key.public]);
    wait_for("words on each tracker", || {
        let status = receiver.status();
        let trackers = status["trackers"].as_array()?.clone();
        let has_failed = |index: usize| trackers[index]["error"].is_string();
        (has_failed(0) && has_failed(2)).then_some(())
    });
    receiver.stop();
}

#[test]
fn g7_a_tracker_that_comes_back_is_found_again() {
    let older = OlderTracker::start();
    let gate = Arc::new(AtomicU16::new(500));
    let (deciding, behind) = (gate.clone(), older.server().address());
    // What stands before the tracker fails at first, then forwards.
    let failing = move |_: &mut Request| match deciding.load(Ordering::Relaxed) {
        0 => None,
        status => Some(Reply::text(status, "down")),
    };
    let front = HttpServer::before(behind, failing, |_, _| {});
    let key = Key::generate("public-1");
    let store = NixStore::new();
    let peer = options(&store, &key, &front.url()).start();
    wait_for("a failure", || {
        tracker(&peer)["error"].as_str().map(str::to_owned)
    });
    assert!(older.nodes().is_empty());
    gate.store(0, Ordering::Relaxed);
    wait_for("an announcement", || older.nodes().first().map(|_| ()));
    wait_for("no error", || {
        tracker(&peer)["error"].is_null().then_some(())
    });
}

#[test]
fn g8_without_a_network_the_daemon_is_there_at_once_and_misses_are_quick() {
    let Some(network) = crate::support::network::Network::new(1) else {
        return;
    };
    let host = &network.hosts()[0];
    let store = NixStore::new();
    let key = Key::generate("public-1");
    let path = store.add(PathSpec::new("here", Node::text("here")));
    store.sign(&key, &[&path]);
    // No address but loopback's, no route, and nobody who answers for names.
    let peer = host.inside(|| {
        let began = Instant::now();
        let peer = PeerOptions::plain(&store)
            .flag("port", "0")
            .trust(&key.public)
            .flag("public-cache-key", &key.public)
            .start();
        println!("up without a network after {:?}", began.elapsed());
        peer
    });
    let mut peer = host.inside(move || {
        assert_eq!(peer.narinfo(&path).status, 200);
        let mut slowest = Duration::ZERO;
        for number in 0..20 {
            let asked = Instant::now();
            let nowhere = store_path_named(&format!("nowhere-{number}"));
            assert_eq!(peer.narinfo(&nowhere).status, 404);
            slowest = slowest.max(asked.elapsed());
        }
        println!("slowest of twenty misses without a network: {slowest:?}");
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        peer
    });
    wait_for("what became of the tracker", || {
        let status = host.inside(|| peer.status());
        status["trackers"][0]["error"].as_str().map(str::to_owned)
    });
    peer.stop();
}
