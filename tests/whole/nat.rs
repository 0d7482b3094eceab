//! Machines that can't simply be reached: behind NATs, or with nothing but a relay in common.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    nat::{Internet, Kind, SERVER},
    network::Host,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    relay::{Authority, RelayServer},
    tree::Node,
    wait_within,
};

/// How long two machines may take to find the path between them that they stay with.
const SETTLED: Duration = Duration::from_secs(120);

/// Its address outside of the NATs.
fn relay_address() -> SocketAddr {
    SocketAddr::from((SERVER, 443))
}

/// A peer on `host` that can be reached through this relay and, as far as the NATs let it, directly.
fn start(host: &Host, store: &NixStore, key: &Key, relay: &str, authority: &Authority) -> Peer {
    let authority = authority.file();
    let options = PeerOptions::new(store)
        .trust(&key.public)
        .flag("public-cache-key", &key.public)
        .replace_flag("relay", relay)
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

/// A ticket of `peer` that names its relay, once it has one.
fn ticket_with_relay(host: &Host, peer: &Peer) -> String {
    wait_within(SETTLED, "a relay", || {
        let status = host.inside(|| peer.status());
        (status["relay_url"] != Value::Null).then_some(())
    });
    peer.ticket()
}

/// Two machines behind such NATs share a path; the kind of path that they settle on is returned.
fn two_behind(kinds: [Kind; 2], expected: &str) {
    let Some(internet) = Internet::new(&kinds) else {
        return;
    };
    let authority = Authority::for_address(SERVER.into());
    let relay = internet
        .server()
        .inside(|| RelayServer::start(relay_address(), Some(authority.signed())));
    let key = Key::generate("nat-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new("here", Node::random(3_000_000, "here")));
    first.sign(&key, &[&path]);
    let (a, b) = (internet.machine(0), internet.machine(1));
    let sharer = start(a, &first, &key, &relay.url(), &authority);
    let receiver = start(b, &second, &key, &relay.url(), &authority);
    let ticket = ticket_with_relay(a, &sharer);
    receiver.meet_by(&ticket);
    let settled = wait_within(SETTLED, "a path between the two", || {
        let path = path_to_the_other(&receiver)?;
        // A direct path takes a while to be found; a relayed one is there at first.
        (path == expected).then_some(path)
    });
    assert_eq!(settled, expected);
    b.inside(|| {
        let nar = receiver.get(&receiver.nar_target(&path));
        assert_eq!(nar.body, first.dump(&path));
    });
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
fn two_machines_behind_hard_nats_are_relayed() {
    two_behind([Kind::Hard, Kind::Hard], "relayed");
}
