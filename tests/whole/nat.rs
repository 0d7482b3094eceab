//! Machines that can't simply be reached: behind NATs, with nothing but a tracker and its relay in
//! common.

use std::time::{Duration, Instant};

use crate::support::{
    nat::{Internet, Kind, SERVER},
    network::Host,
    nix_store::{Key, NixStore},
    peer::{Peer, PeerOptions},
    relay::Authority,
    shapes::add_closure,
    tracker::Tracker,
    wait_within,
};

/// How long two machines may take to find the path between them that they stay with.
const SETTLED: Duration = Duration::from_secs(120);

/// A tracker at [`SERVER`] with a relay that speaks TLS and helps with NATs.
fn tracker(authority: &Authority) -> Tracker {
    let files = authority.signed();
    let host = SERVER.to_string();
    let (certificate, key) = (
        files.certificate.display().to_string(),
        files.key.display().to_string(),
    );
    Tracker::start(&[
        "--host",
        &host,
        &format!("--relay={host}:443"),
        "--relay-certificate",
        &certificate,
        "--relay-key",
        &key,
        "--relay-announced-only",
    ])
}

/// A peer on `host` that knows nothing but the tracker.
fn start(host: &Host, store: &NixStore, key: &Key, url: &str, authority: &Authority) -> Peer {
    let authority = authority.file();
    let options = PeerOptions::new(store)
        .trust(&key.public)
        .flag("public-cache-key", &key.public)
        .replace_flag("tracker", url)
        .switch("allow-insecure-http")
        .replace_flag("relay", "tracker")
        .iroh_bind("0.0.0.0:12306")
        .flag("ca-file", authority.to_str().expect("a path"));
    host.inside(|| options.start())
}

/// How packets to the only peer travel.
fn path_to_the_other(peer: &Peer) -> Option<String> {
    let peers = peer.json(&["peers"]);
    let path = &peers["peers"][0]["path"];
    path.as_str().map(str::to_owned)
}

/// Two machines behind such NATs find each other and one substitutes a closure of the other's.
fn two_behind(kinds: [Kind; 2], expected: &str) {
    let Some(internet) = Internet::new(&kinds) else {
        return;
    };
    let authority = Authority::for_address(SERVER.into());
    let tracker = internet.server().inside(|| tracker(&authority));
    let key = Key::generate("nat-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let root = add_closure(&first, "far", 6, 300_000);
    let closure = first.closure(&root);
    let paths: Vec<&str> = closure.iter().map(String::as_str).collect();
    first.sign(&key, &paths);
    let (a, b) = (internet.machine(0), internet.machine(1));
    let _sharer = start(a, &first, &key, &tracker.url(), &authority);
    let receiver = start(b, &second, &key, &tracker.url(), &authority);
    wait_within(
        SETTLED,
        "a path of the kind expected between the two",
        || {
            // A direct one takes a while to be found.
            (path_to_the_other(&receiver)? == expected).then_some(())
        },
    );
    b.inside(|| second.substitute(&root, &[receiver.url()], &[&key.public]));
    second.verify_contents();
    // It stays so, also while iroh goes on looking for a better one.
    let until = Instant::now() + Duration::from_secs(10);
    wait_within(SETTLED, "a while", || {
        assert_eq!(path_to_the_other(&receiver).as_deref(), Some(expected));
        (Instant::now() > until).then_some(())
    });
}

#[test]
fn two_machines_behind_easy_nats_reach_each_other_directly() {
    two_behind([Kind::Easy, Kind::Easy], "direct");
}

#[test]
fn two_machines_behind_hard_nats_substitute_through_the_relay_alone() {
    two_behind([Kind::Hard, Kind::Hard], "relayed");
}
