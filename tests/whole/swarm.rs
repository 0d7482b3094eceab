//! Peers of a swarm know what the others have, without a tracker and without asking.

use crate::support::{
    nix_store::{Key, NixStore, PathSpec, store_path_named},
    peer::PeerOptions,
    tree::Node,
    wait_for,
};

/// A store with some signed paths of its own.
fn store_with(key: &Key, name: &str, count: usize) -> (NixStore, Vec<String>) {
    let store = NixStore::new();
    let paths = add(&store, key, name, count);
    (store, paths)
}

fn add(store: &NixStore, key: &Key, name: &str, count: usize) -> Vec<String> {
    let spec = |number| {
        let content = Node::text(&format!("{name} {number}"));
        PathSpec::new(&format!("{name}-{number}"), content)
    };
    let paths = store.add_all((0..count).map(spec).collect());
    let signed: Vec<&str> = paths.iter().map(String::as_str).collect();
    store.sign(key, &signed);
    paths
}

/// A peer that offers what `key` signed.
fn options(store: &NixStore, key: &Key) -> PeerOptions {
    PeerOptions::new(store).of_cache(&key.public)
}

#[test]
fn three_peers_without_a_tracker_find_every_path_and_a_miss_sends_no_packet() {
    let key = Key::generate("public-1");
    // More than an announcement holds: it comes as an inventory.
    let (a, of_a) = store_with(&key, "a", 300);
    let (b, of_b) = store_with(&key, "b", 3);
    let (c, of_c) = store_with(&key, "c", 3);
    let first = options(&a, &key).start();
    let second = options(&b, &key).peer(&first).start();
    let third = options(&c, &key).peer(&first).start();
    let all = [&first, &second, &third];
    for peer in all {
        peer.wait_for_inventories(2);
    }
    for peer in all {
        for path in of_a.iter().step_by(30).chain(&of_b).chain(&of_c) {
            assert_eq!(peer.narinfo(path).status, 200, "{path}");
        }
    }
    // Neither of these two was told of the other.
    c.substitute(&of_b[1], &[third.url()], &[&key.public]);

    let asked = || third.metric("peerix_peer_requests_total").unwrap();
    let before = asked();
    for number in 0..20 {
        let nowhere = store_path_named(&format!("nowhere-{number}"));
        assert_eq!(third.narinfo(&nowhere).status, 404);
    }
    assert_eq!(asked(), before, "a miss was asked for");

    // What comes later is found soon.
    let later = add(&b, &key, "later", 2);
    wait_for("a new path", || {
        (third.narinfo(&later[0]).status == 200).then_some(())
    });
}

#[test]
fn who_leaves_is_forgotten_and_found_again_when_it_is_back() {
    let key = Key::generate("public-1");
    let (a, of_a) = store_with(&key, "a", 2);
    let (b, _) = store_with(&key, "b", 2);
    let first = options(&a, &key).start();
    let second = options(&b, &key).peer(&first).start();
    second.wait_for_inventories(1);
    let mut first = first;
    first.stop();
    second.wait_for_inventories(0);
    let _first = first.restart();
    second.wait_for_inventories(1);
    wait_for("a path of the peer that is back", || {
        (second.narinfo(&of_a[0]).status == 200).then_some(())
    });
}

#[test]
fn what_is_not_announced_is_found_by_asking() {
    let key = Key::generate("public-1");
    let (a, of_a) = store_with(&key, "a", 2);
    let (b, of_b) = store_with(&key, "b", 2);
    let store = NixStore::new();
    let silent = options(&a, &key).flag("announce", "none").start();
    let shared = options(&b, &key).flag("announce", "shared").start();
    shared.share(&of_b[0]);
    let asker = options(&store, &key).peer(&silent).peer(&shared).start();
    asker.wait_for_inventories(1);
    for path in of_a.iter().chain(&of_b) {
        assert_eq!(asker.narinfo(path).status, 200, "{path}");
    }
}

#[test]
fn without_a_swarm_peers_are_asked_as_ever() {
    let key = Key::generate("public-1");
    let (a, of_a) = store_with(&key, "a", 2);
    let store = NixStore::new();
    let other = options(&a, &key).flag("swarm", "none").start();
    let asker = options(&store, &key)
        .flag("swarm", "none")
        .peer(&other)
        .start();
    assert_eq!(asker.narinfo(&of_a[0]).status, 200);
    assert!(asker.status()["swarm"].is_null());
}

#[test]
fn what_is_no_longer_shared_is_taken_back_from_the_swarm() {
    let (public, own) = (Key::generate("public-1"), Key::generate("own-1"));
    // Offered because it is shared, and for nothing else.
    let (a, of_a) = store_with(&own, "a", 1);
    let store = NixStore::new();
    let sharer = options(&a, &public).trust(&own.public).start();
    sharer.share(&of_a[0]);
    let asker = options(&store, &public)
        .trust(&own.public)
        .peer(&sharer)
        .start();
    asker.wait_for_inventories(1);
    wait_for("what is shared", || {
        (asker.narinfo(&of_a[0]).status == 200).then_some(())
    });
    sharer.run_cli(&["unshare", &of_a[0]]);
    let asked = || asker.metric("peerix_peer_requests_total").unwrap();
    wait_for("a miss without a question", || {
        let before = asked();
        (asker.narinfo(&of_a[0]).status == 404 && asked() == before).then_some(())
    });
}

#[test]
fn who_was_met_in_the_swarm_alone_is_let_go_when_it_leaves() {
    let key = Key::generate("public-1");
    let (a, _) = store_with(&key, "a", 1);
    let (b, _) = store_with(&key, "b", 1);
    let (c, of_c) = store_with(&key, "c", 1);
    let first = options(&a, &key).start();
    let second = options(&b, &key).peer(&first).start();
    let mut third = options(&c, &key).peer(&first).start();
    second.wait_for_inventories(2);
    assert_eq!(second.narinfo(&of_c[0]).status, 200);
    let known = || second.status()["known_peers"].clone();
    wait_for("both others", || (known() == 2).then_some(()));
    third.stop();
    wait_for("the one that stays", || (known() == 1).then_some(()));
    assert_eq!(second.narinfo(&of_c[0]).status, 404);
}
