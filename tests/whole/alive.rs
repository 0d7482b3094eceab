//! What Nix does to its store is noticed, and what the machine has is hashed when it is idle.

use std::{fs, process::Command};

use crate::support::{
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions},
    run, run_ok, text_of,
    tree::Node,
    wait_for,
};

fn offered(peer: &Peer, count: u64) {
    wait_for(&format!("{count} paths to be offered"), || {
        (peer.status()["available_hashes"] == count).then_some(())
    });
}

fn hashed(peer: &Peer, count: u64) {
    wait_for(&format!("{count} paths to be hashed"), || {
        (peer.json(&["store", "stats"])["hashed"] == count).then_some(())
    });
}

#[test]
fn what_nix_adds_signs_and_deletes_is_noticed() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let first = a.add(PathSpec::new("first", Node::text("first")));
    a.sign(&key, &[&first]);
    let peer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .trust(&key.public)
        .start();
    offered(&peer, 1);
    hashed(&peer, 1);

    // Added without a signature, then signed, with no other change.
    let second = a.add(PathSpec::new("second", Node::random(20_000_000, "second")));
    a.sign(&key, &[&second]);
    offered(&peer, 2);
    hashed(&peer, 2);

    // The links of an optimised store change no NAR.
    run_ok(a.nix_store().arg("--optimise"));
    assert!(peer.get(&peer.nar_target(&second)).complete);

    let gone = peer.nar_target(&second);
    run_ok(a.nix_store().arg("--delete").arg(&second));
    wait_for("the path to go", || {
        (peer.narinfo(&second).status == 404).then_some(())
    });
    assert_eq!(peer.get(&gone).status, 404);
    offered(&peer, 1);
    hashed(&peer, 1);
    assert_eq!(
        fs::read_dir(peer.state_dir().join("outboards")).map_or(0, Iterator::count),
        0,
        "the outboard of a path that Nix deleted"
    );

    // And it comes back.
    let back = a.add(PathSpec::new("second", Node::random(20_000_000, "second")));
    assert_eq!(back, second);
    a.sign(&key, &[&second]);
    offered(&peer, 2);
    hashed(&peer, 2);
}

/// FAULTS D6, from the side of whoever fetches.
#[test]
fn a_path_that_goes_while_it_is_served_never_ends_cleanly() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(40_000_000, "large")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .flag("upload-limit", "10MB")
        .start();
    offered(&sharer, 1);
    hashed(&sharer, 1);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&path);
    let nar = a.dump(&path);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| receiver.get(&receiver.nar_target(&path)));
        wait_for("bytes under way", || {
            (receiver.metric("peerix_bytes_received_total") > Some(1_000_000.0)).then_some(())
        });
        // Other bytes in the same file, as no Nix would: none of them may arrive.
        let file = a.physical(&path);
        run_ok(Command::new("chmod").arg("u+w").arg(&file));
        fs::write(&file, vec![0; 40_000_000]).expect("a file to write");
        let answer = reading.join().expect("a reader");
        assert!(!answer.complete);
        assert!(nar.starts_with(&answer.body));
    });
    wait_for("the path to be withdrawn", || {
        let stats = sharer.json(&["store", "stats"]);
        (stats["hashed"] == 0).then_some(())
    });
}

#[test]
fn a_pause_keeps_the_machine_quiet_and_demand_goes_on() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let peer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .start();
    peer.run_cli(&["scan", "--pause"]);
    let path = a.add(PathSpec::new("path", Node::random(1_000_000, "path")));
    a.sign(&key, &[&path]);
    offered(&peer, 1);
    let stats = peer.json(&["store", "stats"]);
    assert_eq!(stats["hashed"], 0);
    assert_eq!(stats["to_hash"], 1);
    assert_eq!(stats["hashing_paused"], "on request");
    peer.run_cli(&["scan", "--resume"]);
    hashed(&peer, 1);
    let text = peer.run_cli(&["store", "stats"]);
    assert!(text.contains("hashed in background"), "{text}");
}

#[test]
fn verify_reads_all_and_drops_what_is_wrong() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let right = a.add(PathSpec::new("right", Node::random(1_000_000, "right")));
    let wrong = a.add(PathSpec::new("wrong", Node::random(1_000_000, "wrong")));
    a.sign(&key, &[&right, &wrong]);
    let peer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .start();
    hashed(&peer, 2);
    let summary = peer.run_cli(&["verify"]);
    assert!(summary.contains("2 NARs right"), "{summary}");
    a.corrupt(&a.physical(&wrong));
    let output = peer.try_cli(&["verify"]);
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&wrong) && text.contains("1 wrong"), "{text}");
    assert_eq!(peer.json(&["store", "stats"])["hashed"], 1);
    assert!(peer.run_cli(&["verify"]).contains("0 wrong"));
}

#[test]
fn forget_drops_what_was_downloaded_and_leaves_nix_alone() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(9_000_000, "large")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&path);
    assert!(receiver.get(&receiver.nar_target(&path)).complete);
    wait_for("the download to be kept", || {
        (receiver.json(&["store", "stats"])["in_files"] == 1).then_some(())
    });
    let known = receiver.json(&["forget", &path]);
    assert_eq!(known[0], path.as_str());
    let stats = receiver.json(&["store", "stats"]);
    assert_eq!(
        (&stats["in_files"], &stats["downloads_bytes"]),
        (&0.into(), &0.into())
    );
    assert_eq!(receiver.json(&["forget", &path]), serde_json::json!([]));

    let refused = run(&mut sharer.cli(&["forget", &path]));
    assert!(
        text_of(&refused).contains("unshare"),
        "{}",
        text_of(&refused)
    );
    sharer.run_cli(&["unshare", &path]);
    sharer.run_cli(&["forget", &path]);
    assert!(a.has(&path), "{}", hash_part(&path));
}
