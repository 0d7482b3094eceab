//! A real Nix installs paths out of another machine's store.

use peerix::limits;

use crate::support::{
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions, field, fields},
    shapes::{CHECKED_FIRST, add_closure, edge_shapes},
    text_of,
    tree::{Node, nix_base32, sha256},
    wait_for, wait_within,
};

/// A store with a signed closure, and the peer that shares it.
fn sharer(key: &Key, count: usize, size: u64) -> (NixStore, Peer, String) {
    let store = NixStore::new();
    let program = add_closure(&store, "program", count, size);
    store.sign(key, &[&program]);
    let peer = PeerOptions::new(&store).start();
    peer.share(&program);
    (store, peer, program)
}

#[test]
fn a_closure_is_substituted_out_of_another_store() {
    let key = Key::generate("sharer-1");
    let (a, sharer, program) = sharer(&key, 12, 300_000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();

    b.substitute(&program, &[receiver.url()], &[&key.public]);

    b.verify_contents();
    assert_eq!(b.closure(&program).len(), 13);
    assert_eq!(
        sorted(b.references(&program)),
        sorted(a.references(&program))
    );
    for path in a.closure(&program) {
        assert_eq!(a.nar_hash(&path), b.nar_hash(&path));
    }
}

#[test]
fn connections_that_blobs_came_over_are_let_go_of_a_minute_after_the_last() {
    let key = Key::generate("sharer-1");
    let (_a, sharer, program) = sharer(&key, 3, 300_000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .flag("swarm", "none")
        .start();
    let open = || {
        let count = |what: &str| {
            let name = format!("iroh_socket_num_conns_{what}_total");
            receiver.metric(&name).expect("counted")
        };
        count("opened") - count("closed")
    };
    wait_for("the connection that is kept", || {
        (receiver.connected_peers() == 1).then_some(())
    });
    let before = open();
    b.substitute(&program, &[receiver.url()], &[&key.public]);
    assert!(open() > before, "they came over no connection of their own");
    let patience = 2 * limits::BLOB_CONNECTION_IDLE;
    wait_within(patience, "they are let go of", || {
        (open() <= before).then_some(())
    });
    assert_eq!(receiver.connected_peers(), 1);
}

#[test]
fn a_key_that_is_not_trusted_gets_nothing() {
    let (ours, theirs) = (Key::generate("ours-1"), Key::generate("theirs-1"));
    let (_a, sharer, program) = sharer(&theirs, 1, 1000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&ours.public)
        .start();

    assert_eq!(receiver.narinfo(&program).status, 404);
    let output = b.try_substitute(&program, &[receiver.url()], &[&ours.public]);
    assert!(!output.status.success(), "{}", text_of(&output));
    assert!(!b.has(&program));
}

#[test]
fn nix_refuses_what_its_own_keys_do_not_sign() {
    let (ours, theirs) = (Key::generate("ours-1"), Key::generate("theirs-1"));
    let (_a, sharer, program) = sharer(&theirs, 1, 1000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&theirs.public)
        .start();
    receiver.wait_for_narinfo(&program);

    let output = b.try_substitute(&program, &[receiver.url()], &[&ours.public]);
    assert!(!output.status.success());
    assert!(
        text_of(&output).contains("not signed by any of the keys"),
        "{}",
        text_of(&output)
    );
    assert!(!b.has(&program));
}

#[test]
fn every_edge_shape_arrives_byte_for_byte() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let paths = a.add_all(edge_shapes());
    let all = a.add(PathSpec::new("all", Node::text(&paths.join("\n"))).with_references(&paths));
    a.sign(&key, &[&all]);
    a.verify_contents();
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&all);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();

    b.substitute(&all, &[receiver.url()], &[&key.public]);

    b.verify_contents();
    for path in &paths {
        assert_eq!(a.dump(path), b.dump(path), "{path}");
    }
}

#[test]
fn a_peer_serves_its_own_store_over_http() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let mut paths = a.add_all(edge_shapes());
    paths.push(add_closure(&a, "program", 3, 5_000_000));
    a.sign(&key, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let peer = PeerOptions::new(&a).trust(&key.public).start();
    for path in &paths {
        let narinfo = peer.wait_for_narinfo(path);
        assert_eq!(field(&narinfo, "StorePath"), Some(path.as_str()));
        let answer = peer.get(&peer.nar_target(path));
        assert_eq!(answer.status, 200);
        assert!(answer.complete);
        assert_eq!(answer.body, a.dump(path), "{path}");
    }
    let b = NixStore::new();
    b.substitute(paths.last().expect("paths"), &[peer.url()], &[&key.public]);
    b.verify_contents();
}

#[test]
fn a_narinfo_says_just_what_is_signed() {
    let key = Key::generate("sharer-1");
    let (a, sharer, program) = sharer(&key, 2, 1000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&program);
    let text = receiver.narinfo(&program).text();
    assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text:?}");
    let narinfo = fields(&text);

    let nar = a.dump(&program);
    let nar_hash = format!("sha256:{}", nix_base32(&sha256(&nar)));
    assert_eq!(field(&narinfo, "StorePath"), Some(program.as_str()));
    assert_eq!(field(&narinfo, "Compression"), Some("none"));
    assert_eq!(field(&narinfo, "NarHash"), Some(nar_hash.as_str()));
    assert_eq!(
        field(&narinfo, "NarSize"),
        Some(nar.len().to_string().as_str())
    );
    let url = format!(
        "nar/{}.nar?hash={}",
        &nar_hash["sha256:".len()..],
        hash_part(&program)
    );
    assert_eq!(field(&narinfo, "URL"), Some(url.as_str()));
    let mut references: Vec<String> = a.references(&program);
    references.sort();
    let references: Vec<&str> = references
        .iter()
        .map(|r| &r["/nix/store/".len()..])
        .collect();
    assert_eq!(
        field(&narinfo, "References"),
        Some(references.join(" ").as_str())
    );
    assert!(field(&narinfo, "Sig").is_some_and(|sig| sig.starts_with("sharer-1:")));
    assert_eq!(field(&narinfo, "CA"), None);

    let nix_agrees = b
        .nix_elsewhere(&["store", "verify", "--no-contents", "--store"])
        .arg(receiver.url())
        .args(["--trusted-public-keys", &key.public])
        .arg(&program)
        .output()
        .expect("nix");
    assert!(nix_agrees.status.success(), "{}", text_of(&nix_agrees));
}

#[test]
fn nix_copy_takes_a_closure_from_a_peer() {
    let key = Key::generate("sharer-1");
    let (_a, sharer, program) = sharer(&key, 5, 20_000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    let mut copy = b.nix_elsewhere(&["copy", "--from", &receiver.url(), "--to", &b.uri()]);
    copy.args([&program, "--option", "trusted-public-keys", &key.public]);
    crate::support::run_ok(&mut copy);
    b.verify_contents();
    assert_eq!(b.closure(&program).len(), 6);
}

#[test]
fn two_peers_each_have_a_part_of_a_closure() {
    let key = Key::generate("both-1");
    let (a, c) = (NixStore::new(), NixStore::new());
    let library = PathSpec::new("library", Node::random(100_000, "library"));
    c.add(library.clone());
    let library = a.add(library);
    let program = PathSpec::new("program", Node::text(&library))
        .with_references(std::slice::from_ref(&library));
    let program = a.add(program);
    a.sign(&key, &[&program]);
    c.sign(&key, &[&library]);
    // The first offers the program alone: what it refers to must come from the second.
    let only_program = PeerOptions::new(&a).start();
    only_program.share(&program);
    let only_library = PeerOptions::new(&c).start();
    only_library.share(&library);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&only_program)
        .peer(&only_library)
        .trust(&key.public)
        .start();
    b.substitute(&program, &[receiver.url()], &[&key.public]);
    b.verify_contents();
}

#[test]
fn a_narinfo_whose_references_nobody_has_is_a_miss() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let library = a.add(PathSpec::new("library", Node::text("library")));
    let program = PathSpec::new("program", Node::text(&library))
        .with_references(std::slice::from_ref(&library));
    let program = a.add(program);
    a.sign(&key, &[&program]);
    // A public cache signed the program but not the library: only the program is offered.
    let public = Key::generate("public-1");
    crate::support::run_ok(
        a.nix(&["store", "sign"])
            .arg("-k")
            .arg(public.secret_file())
            .arg(&program),
    );
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &public.public)
        .start();
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    crate::support::wait_for("a connection", || {
        (!receiver
            .json(&["peers"])
            .to_string()
            .contains("\"connected\":false"))
        .then_some(())
    });
    assert_eq!(receiver.narinfo(&program).status, 404);
}

#[test]
fn both_sides_of_the_limit_of_checking_first_arrive() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let b = NixStore::new();
    let mut specs = Vec::new();
    for size in [
        CHECKED_FIRST / 2,
        CHECKED_FIRST * 2,
        CHECKED_FIRST * 10 + 12_345,
    ] {
        specs.push(PathSpec::new(
            &format!("sized-{size}"),
            Node::random(size, "sized"),
        ));
    }
    let paths = a.add_all(specs);
    a.sign(&key, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let sharer = PeerOptions::new(&a).start();
    for path in &paths {
        sharer.share(path);
    }
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    for path in &paths {
        let answer = receiver.get(&receiver.nar_target(path));
        assert_eq!((answer.status, answer.complete), (200, true));
        assert_eq!(answer.body, a.dump(path));
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("content-encoding"), "");
        b.substitute(path, &[receiver.url()], &[&key.public]);
    }
    b.verify_contents();
}

#[test]
fn a_path_signed_by_a_public_cache_needs_no_share() {
    let key = Key::generate("cache.example-1");
    let a = NixStore::new();
    let public = a.add(PathSpec::new("public", Node::text("public")));
    let private = a.add(PathSpec::new("private", Node::text("private")));
    a.sign(&key, &[&public]);
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .start();
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    b.substitute(&public, &[receiver.url()], &[&key.public]);
    assert_eq!(receiver.narinfo(&private).status, 404);
}

#[test]
fn a_content_address_that_proves_a_path_needs_no_key() {
    let a = NixStore::new();
    let path = a.add_content_addressed("proved", &Node::directory([("file", Node::text("x"))]));
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).peer(&sharer).start();
    let narinfo = receiver.wait_for_narinfo(&path);
    assert!(field(&narinfo, "CA").is_some_and(|ca| ca.starts_with("fixed:r:sha256:")));
    b.substitute(&path, &[receiver.url()], &[]);
    b.verify_contents();
}

#[test]
fn keys_come_from_nix_conf_too() {
    let key = Key::generate("sharer-1");
    let (_a, sharer, program) = sharer(&key, 1, 1000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .environment(
            "NIX_CONFIG",
            &format!("extra-trusted-public-keys = {}", key.public),
        )
        .start();
    b.substitute(&program, &[receiver.url()], &[&key.public]);
}

#[test]
fn a_path_that_nobody_has_is_a_quick_miss() {
    let key = Key::generate("sharer-1");
    let (_a, sharer, program) = sharer(&key, 1, 1000);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&program);
    let mut slowest = std::time::Duration::ZERO;
    for n in 0..50 {
        let missing = crate::support::nix_store::store_path_named(&format!("missing-{n}"));
        let asked = std::time::Instant::now();
        assert_eq!(receiver.narinfo(&missing).status, 404);
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest.as_millis() < 1000, "{slowest:?}");
}

#[test]
fn a_garbage_collected_path_is_no_longer_served() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("gone", Node::random(100_000, "gone")));
    a.sign(&key, &[&path]);
    let peer = PeerOptions::new(&a).trust(&key.public).start();
    let target = peer.nar_target(&path);
    assert_eq!(peer.get(&target).status, 200);
    crate::support::run_ok(a.nix_store().arg("--delete").arg(&path));
    crate::support::wait_for("the miss", || {
        (peer.narinfo(&path).status == 404 && peer.get(&target).status == 404).then_some(())
    });
}

fn sorted(mut paths: Vec<String>) -> Vec<String> {
    paths.sort();
    paths
}
