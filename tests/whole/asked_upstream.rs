//! Paths that carry no signature are offered where the upstream has just them.

use peerix::peer::lookup::{Answer, Mode};

use crate::support::{
    hostile::{Client, address_in},
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions},
    static_cache::StaticCache,
    tree::Node,
    wait_for,
};

fn told(client: &Client, peer: &Peer, path: &str) -> Answer {
    let address = address_in(&peer.ticket());
    client.look_up(&address, Mode::Narinfo, &[path]).remove(0)
}

fn with_upstream(store: &NixStore, upstream: &StaticCache, key: &Key) -> PeerOptions {
    PeerOptions::new(store)
        .replace_flag("upstream-cache", &upstream.url())
        .switch("allow-insecure-http")
        .flag("public-cache-key", &key.public)
}

/// How often the upstream was asked for the narinfo of a path.
fn asked(upstream: &StaticCache, path: &str) -> usize {
    let narinfo = format!("{}.narinfo", hash_part(path));
    let requests = upstream.requests();
    requests
        .iter()
        .filter(|request| request.contains(&narinfo))
        .count()
}

#[test]
fn what_the_upstream_has_is_offered_with_its_signatures_and_nothing_else_is() {
    let key = Key::generate("cache-1");
    let same = || PathSpec::new("same", Node::random(50_000, "same"));
    let other = |content: &str| PathSpec::new("other", Node::text(content));
    let public = NixStore::new();
    let paths = public.add_all(vec![same(), other("as the cache has it")]);
    let (same_path, other_path) = (&paths[0], &paths[1]);
    public.sign(&key, &[same_path, other_path]);
    let upstream = StaticCache::of(&public, &[same_path, other_path], 40);

    // The same names here, unsigned: one with the same bytes, one with others, and one of our own.
    let mine = NixStore::new();
    mine.add_all(vec![same(), other("as nobody else has it")]);
    let own = mine.add(PathSpec::new("own", Node::text("own")));
    let peer = with_upstream(&mine, &upstream, &key).start();
    let client = Client::new();
    let fields = wait_for("the upstream's word", || {
        match told(&client, &peer, same_path) {
            Answer::Ready { fields, .. } | Answer::Hashing { fields, .. } => fields,
            Answer::Absent | Answer::NotNow | Answer::Part { .. } => None,
        }
    });
    assert!(fields.signatures[0].starts_with("cache-1:"), "{fields:?}");
    wait_for("all answers", || {
        (peer.status()["asked_upstream"] == 3).then_some(())
    });
    for path in [other_path, &own] {
        assert_eq!(told(&client, &peer, path), Answer::Absent, "{path}");
    }

    // With its signature another Nix takes it from us.
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).peer(&peer).trust(&key.public).start();
    receiver.wait_for_narinfo(same_path);
    b.substitute(same_path, &[receiver.url()], &[&key.public]);
    b.verify_contents();

    // What was answered is not asked again after a restart, and holds without the upstream.
    wait_for("the answers on disk", || {
        peer.state_dir().join("public_paths").exists().then_some(())
    });
    let before = asked(&upstream, same_path);
    let peer = peer.restart();
    wait_for("a look at the store", || {
        (peer.status()["available_hashes"] == 1).then_some(())
    });
    assert_ne!(told(&client, &peer, same_path), Answer::Absent);
    assert_eq!(asked(&upstream, same_path), before);
}

/// 20,000 of them would be as few requests: none.
#[test]
fn signed_paths_cost_no_request() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let specs = (0..200).map(|n| PathSpec::new(&format!("p{n}"), Node::text(&format!("{n}"))));
    let paths = a.add_all(specs.collect());
    a.sign(&key, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let upstream = StaticCache::of(&a, &[&paths[0]], 40);
    let peer = with_upstream(&a, &upstream, &key).start();
    wait_for("all of them offered", || {
        (peer.status()["available_hashes"] == 200).then_some(())
    });
    assert_eq!(upstream.requests(), Vec::<String>::new());
}
