//! What a person does on the command line.

use crate::support::{
    nix_store::{Key, NixStore, PathSpec, store_path_named},
    peer::{PeerOptions, fails_saying},
    run,
    shapes::add_closure,
    text_of,
    tree::Node,
};

#[test]
fn share_pins_and_unshare_lets_go() {
    let a = NixStore::new();
    let program = add_closure(&a, "program", 2, 1000);
    let peer = PeerOptions::new(&a).start();
    assert_eq!(peer.json(&["shared"]).as_array().map(Vec::len), Some(0));

    let ticket = peer.share(&program);

    assert!(ticket.starts_with("peerix"), "{ticket}");
    assert!(peer.run_cli(&["shared"]).contains(&program));
    let collected = run(a.nix_store().arg("--gc"));
    assert!(collected.status.success(), "{}", text_of(&collected));
    assert_eq!(
        a.closure(&program).len(),
        3,
        "the garbage collector took what is shared"
    );

    peer.run_cli(&["unshare", &program]);
    assert_eq!(peer.json(&["shared"]).as_array().map(Vec::len), Some(0));
    run(a.nix_store().arg("--gc"));
    assert!(!a.has(&program));
}

#[test]
fn share_of_what_no_public_cache_has_needs_a_yes() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("own", Node::text("own")));
    let peer = PeerOptions::new(&a).start();
    let refused = peer.try_cli(&["share", &path]);
    assert_eq!(refused.status.code(), Some(4), "{}", text_of(&refused));
    assert!(text_of(&refused).contains("--yes"), "{}", text_of(&refused));
    assert_eq!(peer.json(&["shared"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn the_ticket_is_the_last_word_and_all_of_standard_output() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("own", Node::text("own")));
    let peer = PeerOptions::new(&a).start();
    let printed = peer.run_cli(&["share", "--yes", &path]);
    assert_eq!(printed.split_whitespace().count(), 1, "{printed:?}");
    let own = peer.run_cli(&["ticket"]);
    assert!(own.starts_with("peerix") && own.split_whitespace().count() == 1);
    let json = peer.json(&["share", "--yes", &path]);
    assert!(
        json["ticket"]
            .as_str()
            .is_some_and(|t| t.starts_with("peerix")),
        "{json}"
    );
}

#[test]
fn get_installs_what_a_ticket_names() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let program = add_closure(&a, "program", 3, 200_000);
    a.sign(&key, &[&program]);
    let sharer = PeerOptions::new(&a).start();
    let ticket = sharer.share(&program);
    let b = NixStore::new();
    // It knows nobody: the ticket says where to go.
    let receiver = PeerOptions::new(&b).trust(&key.public).start();

    let got = run(receiver.cli(&["get", &ticket]).env(
        "NIX_CONFIG",
        format!("trusted-public-keys = {}", key.public),
    ));

    assert!(got.status.success(), "{}", text_of(&got));
    b.verify_contents();
    assert_eq!(b.closure(&program).len(), 4);
}

#[test]
fn get_lets_nix_decide_whom_to_trust() {
    let (key, other) = (Key::generate("sharer-1"), Key::generate("other-1"));
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    let ticket = sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).trust(&other.public).start();
    let got = run(receiver.cli(&["get", &ticket]).env(
        "NIX_CONFIG",
        format!("trusted-public-keys = {}", other.public),
    ));
    assert!(!got.status.success());
    assert!(!b.has(&path));
}

#[test]
fn get_writes_a_nar_file() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let small = a.add(PathSpec::new("small", Node::text("small")));
    let large = a.add(PathSpec::new("large", Node::random(9_000_000, "large")));
    a.sign(&key, &[&small, &large]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&small);
    sharer.share(&large);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    for path in [&small, &large] {
        let file = directory.path().join("out.nar");
        let name = file.to_str().expect("UTF-8");
        receiver.run_cli(&["get", "--output", name, path]);
        assert!(std::fs::read(&file).expect("the file") == a.dump(path));
        std::fs::remove_file(&file).expect("the file");
    }
    // What fails leaves nothing behind.
    let file = directory.path().join("missing.nar");
    let missing = store_path_named("missing");
    fails_saying(
        &mut receiver.cli(&["get", "--output", file.to_str().expect("UTF-8"), &missing]),
        &["missing"],
    );
    assert_eq!(
        std::fs::read_dir(directory.path())
            .expect("a directory")
            .count(),
        0
    );
}

#[test]
fn status_peers_and_scan_answer_people_and_programs() {
    let a = NixStore::new();
    add_closure(&a, "program", 2, 1000);
    let other = PeerOptions::new(&NixStore::new()).start();
    let peer = PeerOptions::new(&a).peer(&other).start();
    for command in ["status", "peers", "scan", "shared", "ticket"] {
        let people = peer.run_cli(&[command]);
        assert!(
            !people.trim().is_empty() || command == "shared",
            "{command}"
        );
        peer.json(&[command]);
    }
    let id = other.status()["node_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(peer.json(&["peers"]).to_string().contains(&id));
    let status = peer.json(&["status"]);
    assert_eq!(status["node_id"], peer.status()["node_id"]);
}

#[test]
fn a_command_without_a_daemon_says_so() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for words in [
        &["status"][..],
        &["share", "/nix/store/00000000000000000000000000000000-x"],
        &["ticket"],
        &["peers"],
    ] {
        let mut command = crate::support::peer::peerix(home.path());
        command
            .args(words)
            .arg("--state-dir")
            .arg(home.path().join("none"));
        fails_saying(&mut command, &["peerix daemon"]);
        assert_eq!(run(&mut command).status.code(), Some(3));
    }
}

#[test]
fn check_config_prints_values_and_their_origin() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("config.toml");
    std::fs::write(&file, "[server]\npriority = 7\n").expect("our own directory");
    let mut command = crate::support::peer::peerix(home.path());
    command
        .args(["check-config", "--config"])
        .arg(&file)
        .args(["--port", "4711"])
        .env("PEERIX_TIMEOUT", "12");
    let printed = crate::support::run_ok(&mut command);
    for word in [
        "priority",
        "7",
        "config.toml",
        "4711",
        "12",
        "PEERIX_TIMEOUT",
    ] {
        assert!(printed.contains(word), "{word}: {printed}");
    }
}

#[test]
fn completions_are_printed() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for shell in ["bash", "zsh", "fish"] {
        let mut command = crate::support::peer::peerix(home.path());
        let printed = crate::support::run_ok(command.args(["completions", shell]));
        assert!(printed.contains("check-config"), "{shell}");
    }
}
