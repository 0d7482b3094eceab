//! Wrong input: one line that says what to do, and nothing half done.

use crate::support::{
    hostile::address_in,
    nix_store::{NixStore, PathSpec, store_path_named},
    peer::{Peer, PeerOptions, fails_saying, peerix},
    tree::Node,
};

fn nothing_is_shared(peer: &Peer) {
    assert_eq!(peer.json(&["shared"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn what_cannot_be_shared_is_said_in_one_line() {
    let a = NixStore::new();
    let good = a.add(PathSpec::new("good", Node::text("good")));
    let rotten = a.add(PathSpec::new("rotten", Node::random(50_000, "rotten")));
    a.corrupt(&a.physical(&rotten));
    let unregistered = store_path_named("unregistered");
    Node::text("never registered").write_at(&a.physical(&unregistered));
    let absent = store_path_named("absent");
    let peer = PeerOptions::new(&a).start();
    for path in [
        absent.as_str(),
        &unregistered,
        &rotten,
        "/nix/store/too-short",
        "/etc/passwd",
        "/nix/store",
        "",
    ] {
        fails_saying(&mut peer.cli(&["share", "--yes", path]), &[]);
        nothing_is_shared(&peer);
        // Not even the good one that was named beside it.
        fails_saying(&mut peer.cli(&["share", "--yes", &good, path]), &[]);
        nothing_is_shared(&peer);
    }
    let roots = a.root().join("nix/var/nix/gcroots");
    assert!(
        !tree_mentions(&roots, "good"),
        "a GC root of a share that failed is left"
    );
    fails_saying(&mut peer.cli(&["unshare", &good]), &["good"]);
}

#[test]
fn a_closure_with_a_rotten_part_is_not_shared() {
    let a = NixStore::new();
    let rotten = a.add(PathSpec::new("rotten", Node::random(50_000, "rotten")));
    let program =
        PathSpec::new("program", Node::text("x")).with_references(std::slice::from_ref(&rotten));
    let program = a.add(program);
    a.corrupt(&a.physical(&rotten));
    let peer = PeerOptions::new(&a).start();
    fails_saying(&mut peer.cli(&["share", "--yes", &program]), &["rotten"]);
    nothing_is_shared(&peer);
}

#[test]
fn a_cut_or_foreign_ticket_is_said_in_one_line() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    let peer = PeerOptions::new(&a).start();
    let ticket = peer.share(&path);
    assert_eq!(address_in(&ticket).id.to_string(), peer.status()["node_id"]);
    let blob = iroh_blobs::ticket::BlobTicket::new(
        address_in(&ticket),
        blake3::hash(b"x").into(),
        iroh_blobs::BlobFormat::Raw,
    )
    .to_string();
    let huge = format!("peerix{}", "a".repeat(200_000));
    let cut = &ticket[..ticket.len() / 2];
    let mut flipped = ticket.clone();
    flipped.replace_range(10..11, "!");
    for bad in [
        cut,
        &flipped,
        &blob,
        &huge[..100_000],
        "peerix",
        "hello",
        "",
    ] {
        fails_saying(&mut peer.cli(&["get", bad]), &[]);
        if bad.is_empty() {
            // For the daemon that means: no peer.
            continue;
        }
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut daemon = PeerOptions::new(&a)
            .flag("peer", bad)
            .command(home.path(), &home.path().join("state"));
        fails_saying(&mut daemon, &[]);
    }
}

#[test]
fn a_misspelt_key_names_the_nearest() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("config.toml");
    for (text, words) in [
        ("prioritty = 5\n", ["prioritty", "priority"]),
        (
            "trusted_public_key = []\n",
            ["trusted_public_key", "trusted_public_keys"],
        ),
        (
            "upload_limits = \"5MB\"\n",
            ["upload_limits", "upload_limit"],
        ),
    ] {
        std::fs::write(&file, text).expect("our own directory");
        for command in ["check-config", "daemon"] {
            let mut command_line = peerix(home.path());
            command_line.args([command, "--config"]).arg(&file);
            if command == "daemon" {
                command_line
                    .arg("--state-dir")
                    .arg(home.path().join("state"));
            }
            fails_saying(&mut command_line, &words);
        }
    }
    assert!(!home.path().join("state").exists());
}

#[test]
fn values_that_cannot_be_are_said_in_one_line() {
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    for (flag, value) in [
        ("port", "70000"),
        ("port", "x"),
        ("store", "s3://bucket"),
        ("trusted-public-key", "no-colon"),
        ("trusted-public-key", "name:not base64"),
        ("upload-limit", "fast"),
        ("iroh-bind", "localhost"),
        ("relay", "not a url"),
        ("peer", "ID@127.0.0.1:1"),
    ] {
        let mut daemon = PeerOptions::new(&a)
            .replace_flag(flag, value)
            .command(home.path(), &home.path().join("state"));
        fails_saying(&mut daemon, &[flag]);
    }
}

#[test]
fn what_can_not_be_is_refused_and_what_is_off_is_not() {
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let refused = |options: PeerOptions, name: &str| {
        let state = home.path().join("state");
        fails_saying(&mut options.command(home.path(), &state), &[name]);
        assert!(!state.join("http_address").exists());
    };
    refused(
        PeerOptions::new(&a).replace_flag("tracker", "http://127.0.0.1:1"),
        "Tracker URL must use HTTPS",
    );
    // What switches a feature off is never an error.
    PeerOptions::new(&a)
        .flag("wire-compression", "off")
        .start()
        .stop();
}

fn tree_mentions(directory: &std::path::Path, name: &str) -> bool {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            entry.file_name().to_string_lossy().contains(name)
                || target.to_string_lossy().ends_with(name)
                || (entry.path().is_dir()
                    && !entry.path().is_symlink()
                    && tree_mentions(&entry.path(), name))
        })
}
