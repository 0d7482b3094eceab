//! What a tracker knows of a daemon whose configuration changes, that dies, or that hears of a relay.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::{Endpoint, RelayMode, SecretKey, address_lookup::MemoryLookup};
use peerix::{
    announcing::{self, Trackers},
    authorities::Authorities,
    config::{Relay, WireCompression},
    metrics::Metrics,
    peer::{
        admission::Admission,
        endpoint::{self, Relays},
        open::OpenConnections,
        peers::{self, Peers, Reach},
    },
    state_dir::StateDir,
    swarm::SwarmId,
};
use rustix::process::Signal;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    http_server::HttpServer,
    install_tls_provider,
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions},
    run_ok,
    tracker::{Tracker, json_of},
    tree::Node,
    wait_for,
};

/// A peer that speaks with one tracker.
fn options(store: &NixStore, key: &Key, tracker: &str) -> PeerOptions {
    PeerOptions::new(store)
        .of_cache(&key.public)
        .of_tracker(tracker)
}

/// Adds a signed path.
fn add(store: &NixStore, key: &Key, name: &str) -> String {
    let path = store.add(PathSpec::new(name, Node::text(name)));
    store.sign(key, &[&path]);
    path
}

/// Which of these paths the tracker says that anybody has.
fn known(tracker: &Tracker, paths: &[String]) -> BTreeSet<String> {
    let hashes: Vec<&str> = paths.iter().map(|path| hash_part(path)).collect();
    let asked = json!({ "swarm": "public", "hashes": hashes });
    let found = json_of(&tracker.post("/v1/lookup", &asked), 200);
    let found = found["found"].as_object().expect("an object");
    let has = |path: &&String| {
        let holders = found.get(hash_part(path)).and_then(|it| it.as_array());
        holders.is_some_and(|holders| !holders.is_empty())
    };
    paths.iter().filter(has).cloned().collect()
}

fn wait_until_known(tracker: &Tracker, paths: &[String], expected: &[&String]) {
    let expected: BTreeSet<String> = expected.iter().map(|path| (*path).clone()).collect();
    let mut last = BTreeSet::new();
    wait_for("what the tracker is to know", || {
        last = known(tracker, paths);
        (last == expected).then_some(())
    });
}

#[test]
fn a_tracker_hears_of_it_when_something_else_is_announced() {
    let tracker = Tracker::start(&[]);
    let key = Key::generate("public-1");
    let store = NixStore::new();
    let paths = ["one", "two", "three"].map(|name| add(&store, &key, name));
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("config.toml");
    let announce = |what: &str| {
        fs::write(&file, format!("announce = \"{what}\"\n")).expect("our own directory");
    };
    announce("all");
    let peer = options(&store, &key, &tracker.url())
        .flag("config", file.to_str().expect("UTF-8"))
        .start();
    let all: Vec<&String> = paths.iter().collect();
    wait_until_known(&tracker, &paths, &all);
    peer.share(&paths[1]);
    for (what, expected) in [
        ("shared", &all[1..2]),
        ("none", &[]),
        ("all", &all),
        ("none", &[]),
        ("shared", &all[1..2]),
    ] {
        announce(what);
        peer.signal(Signal::HUP);
        wait_until_known(&tracker, &paths, expected);
        let log = peer.log_text();
        assert!(log.contains("changed announce"), "{log}");
    }
    // It is listed all the while.
    assert_eq!(tracker.get_json("/v1/peers?swarm=public")["count"], 1);
}

#[test]
fn what_a_killed_daemon_told_last_is_put_right_after_its_restart() {
    let tracker = Tracker::start(&[]);
    let key = Key::generate("public-1");
    let store = NixStore::new();
    let first = ["one", "two", "three", "four", "five", "six"].map(|name| add(&store, &key, name));
    let front = HttpServer::before(tracker.address(), |_| None, |_, _| {});
    let peer = options(&store, &key, &front.url()).start();
    wait_until_known(&tracker, &first, &first.iter().collect::<Vec<_>>());
    // What it knows is written down after the first announcement, and then a minute later.
    let remembered = peer.state_dir().join("trackers");
    wait_for("the file of what trackers know", || {
        remembered.exists().then_some(())
    });
    let written = fs::read(&remembered).expect("a file");
    let told_later = add(&store, &key, "told-and-not-written-down");
    let mut paths: Vec<String> = first.to_vec();
    paths.push(told_later.clone());
    wait_until_known(&tracker, &paths, &paths.iter().collect::<Vec<_>>());
    assert_eq!(fs::read(&remembered).expect("a file"), written);

    let mut peer = peer;
    peer.kill();
    // Meanwhile one of each goes, and another comes.
    run_ok(store.nix_store().args(["--delete", &first[0], &told_later]));
    paths.push(add(&store, &key, "new"));
    let before = front.count("POST", "/v1/announce");
    let peer = peer.restart();
    let expected = [&paths[1..6], &paths[7..]].concat();
    wait_until_known(&tracker, &paths, &expected.iter().collect::<Vec<_>>());
    wait_for("the same here", || {
        (announced(&peer) == expected.len()).then_some(())
    });
    // The tracker refused what builds on the announcement written down, and was told all.
    let asked = front.requests();
    let asked = asked.iter().filter(|it| it.target == "/v1/announce");
    let kinds: Vec<_> = asked
        .skip(before)
        .map(|it| it.json()["kind"].clone())
        .collect();
    println!("told after the restart: {kinds:?}");
    assert!(kinds.contains(&json!("full")), "{kinds:?}");
    assert_eq!(tracker.get_json("/v1/peers?swarm=public")["count"], 1);
}

fn announced(peer: &Peer) -> usize {
    let announced = peer.status()["trackers"][0]["announced_paths"].as_u64();
    announced
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(usize::MAX)
}

/// An endpoint with this choice of relays.
async fn bind(relay: &Relay) -> Endpoint {
    install_tls_provider();
    let key = SecretKey::generate();
    let admission = Admission::new(key.public(), &[], &[], None);
    let relays = Relays {
        relays: relay,
        authorities: &Authorities::default(),
    };
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let (known, open) = (MemoryLookup::new(), OpenConnections::default());
    let links = peerix_gossip::Links::new("");
    let bound = endpoint::bind(key, relays, Some(here), known, admission, open, links);
    bound.await.expect("an endpoint")
}

#[test]
fn a_tracker_s_relay_is_used_beside_iroh_s_own() {
    let tracker = Tracker::start(&["--relay=127.0.0.1:0"]);
    let info = tracker.get_json("/v1/info");
    let relay_url = info["relay"]["url"].as_str().expect("a relay").to_owned();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = bind(&Relay::Default).await;
        let swarm_id = SwarmId::default();
        let peers = Peers::new(
            endpoint.clone(),
            MemoryLookup::new(),
            OpenConnections::default(),
            peers::Options {
                reach: Reach::Anywhere,
                connect_timeout: Duration::from_secs(5),
                wire_compression: WireCompression::Auto,
                swarm_id: swarm_id.clone(),
            },
            Arc::new(Metrics::new()),
        );
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state_dir = StateDir::open(&directory.path().join("state")).expect("our own");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let trackers = Trackers::start(
            announcing::Options {
                urls: vec![tracker.url()],
                allow_insecure_http: true,
                authorities: Authorities::default(),
                peer_id: None,
                swarm_id,
                tell_older: false,
                tell: false,
                relay: Relay::Default,
            },
            announcing::Parts {
                endpoint: endpoint.clone(),
                peers,
                swarm: None,
                state_dir: Arc::new(state_dir),
            },
            &tasks,
            &stop,
        );
        let trackers = trackers.expect("a URL");
        let until = Instant::now() + Duration::from_secs(60);
        while trackers.describe()[0].relay_url.is_none() {
            assert!(Instant::now() < until, "{:?}", trackers.describe());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(trackers.describe()[0].relay_url.as_ref(), Some(&relay_url));
        // Each can be taken out, so each was there.
        let own: Vec<iroh::RelayUrl> = RelayMode::Default.relay_map().urls();
        assert!(!own.is_empty());
        for url in own {
            assert!(endpoint.remove_relay(&url).await.is_some(), "{url} is lost");
        }
        let url = relay_url.parse().expect("a URL");
        assert!(endpoint.remove_relay(&url).await.is_some());
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        endpoint.close().await;
    });
}

#[test]
fn a_daemon_with_no_relay_configured_is_reached_through_its_tracker_s() {
    let tracker = Tracker::start(&["--relay=127.0.0.1:0"]);
    let info = tracker.get_json("/v1/info");
    let relay_url = info["relay"]["url"].as_str().expect("a relay").to_owned();
    let key = Key::generate("public-1");
    let store = NixStore::new();
    let mut peer = options(&store, &key, &tracker.url())
        .replace_flag("relay", "default")
        .start();
    wait_for("the relay of the tracker", || {
        let status = peer.status();
        let used = &status["trackers"][0]["relay_url"];
        (used == &json!(relay_url)).then_some(())
    });
    peer.stop();
}
