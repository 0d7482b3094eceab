//! The local network: from a start to being found, and what a miss costs beside silent neighbours.

use std::time::Instant;

use crate::{
    measure::{quantile, row, seconds, table},
    support::{
        network::{Host, Network},
        nix_store::{Key, NixStore, PathSpec, store_path_named},
        older_peer::{OlderPeer, older_narinfo},
        peer::{Peer, PeerOptions},
        tree::Node,
        wait_for,
    },
};

const STARTS: usize = 20;
const MISSES: usize = 1000;

/// Measures both and prints their tables.
pub fn run() {
    let Some(network) = Network::with_addresses(4) else {
        return;
    };
    let key = Key::generate("lan-1");
    let stores: Vec<NixStore> = (0..4).map(|_| NixStore::new()).collect();
    let start = |host: &Host, store: &NixStore| -> Peer {
        let options = PeerOptions::plain(store)
            .flag("mode", "lan")
            .trust(&key.public);
        host.inside(move || options.start())
    };
    let [ours, first, second, older] = network.hosts() else {
        return;
    };
    let peer = start(ours, &stores[0]);

    let found: Vec<f64> = (0..STARTS)
        .map(|_| {
            let asked = Instant::now();
            let other = start(first, &stores[1]);
            first.inside(|| {
                wait_for("a peer", || (other.connected_peers() > 0).then_some(()));
            });
            asked.elapsed().as_secs_f64()
        })
        .collect();
    table(
        "Two hosts on a local network, from the start of the second to a connection",
        &["median", "slowest"],
    );
    row(&[
        seconds(quantile(&found, 0.5)),
        seconds(quantile(&found, 1.0)),
    ]);

    let held = stores[3].add(PathSpec::new("held", Node::random(1000, "held")));
    stores[3].sign(&key, &[&held]);
    let (narinfo, nar) = (older_narinfo(&stores[3], &held), stores[3].dump(&held));
    let _older = older.inside(|| OlderPeer::start(&held, narinfo, nar));
    let _others = [start(first, &stores[1]), start(second, &stores[2])];
    table(
        "A miss with two peers and an older one on the local network",
        &["the older peer", "p50", "p99", "slowest"],
    );
    ours.inside(|| {
        wait_for("two peers", || (peer.connected_peers() >= 2).then_some(()));
        for (what, is_heard) in [("never answered", false), ("answered before", true)] {
            if is_heard {
                peer.wait_for_narinfo(&held);
            }
            let taken: Vec<f64> = (0..MISSES)
                .map(|number| {
                    let absent = store_path_named(&format!("{}-{number}", what.replace(' ', "-")));
                    let asked = Instant::now();
                    assert_eq!(peer.narinfo(&absent).status, 404);
                    asked.elapsed().as_secs_f64()
                })
                .collect();
            let at = |q| seconds(quantile(&taken, q));
            row(&[what.to_owned(), at(0.5), at(0.99), at(1.0)]);
        }
    });
}
