//! What a daemon says, and what it keeps to itself.

use crate::support::{
    nix_store::{Key, NixStore},
    peer::{Peer, PeerOptions},
    shapes::add_closure,
    wait_for,
};

/// Two peers after a transfer between them, each with these words on its command line.
fn after_a_transfer(words: &[(&str, &str)]) -> (Peer, Peer, String) {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let program = add_closure(&a, "telltale", 2, 500_000);
    a.sign(&key, &[&program]);
    let with = |mut options: PeerOptions| {
        for (name, value) in words {
            options = options.flag(name, value);
        }
        options
    };
    let sharer = with(PeerOptions::new(&a)).start();
    sharer.share(&program);
    let b = NixStore::new();
    let receiver = with(PeerOptions::new(&b).peer(&sharer).trust(&key.public)).start();
    b.substitute(&program, &[receiver.url()], &[&key.public]);
    // A path that was there and is gone is a reason to complain, without its name.
    let store = a.physical(&program);
    std::fs::remove_dir_all(&store)
        .or_else(|_| std::fs::remove_file(&store))
        .expect("our own store");
    let _cut = sharer.get(&sharer_target(&receiver, &program));
    (sharer, receiver, program)
}

fn sharer_target(receiver: &Peer, path: &str) -> String {
    receiver.nar_target(path)
}

#[test]
fn a_quiet_log_names_neither_packages_nor_peers() {
    let (sharer, receiver, _) = after_a_transfer(&[]);
    let addresses = |peer: &Peer| -> Vec<String> {
        let status = peer.status();
        let addresses = status["direct_addrs"].as_array().expect("addresses");
        let own = status["node_id"].as_str().expect("an id").to_owned();
        let addresses = addresses.iter().filter_map(|addr| addr.as_str());
        addresses.map(str::to_owned).chain([own]).collect()
    };
    let (of_sharer, of_receiver) = (addresses(&sharer), addresses(&receiver));
    for (log, strangers) in [
        (sharer.log_text(), of_receiver),
        (receiver.log_text(), of_sharer),
    ] {
        assert!(log.contains("ready at http://127.0.0.1:"), "{log}");
        assert!(!log.contains("telltale"), "{log}");
        for stranger in strangers {
            assert!(!log.contains(&stranger), "{stranger}: {log}");
        }
        assert!(
            log.lines().count() <= 6,
            "a healthy daemon says little: {log}"
        );
    }
}

#[test]
fn json_logs_are_an_object_a_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let verbose = directory.path().join("config.toml");
    std::fs::write(&verbose, "[server]\nverbose = true\n").expect("our own directory");
    let (_sharer, receiver, _) = after_a_transfer(&[
        ("log-format", "json"),
        ("config", verbose.to_str().expect("UTF-8")),
    ]);
    let log = wait_for("a line", || {
        let log = receiver.log_text();
        log.contains("ready at").then_some(log)
    });
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(
            value["level"].is_string() && value["timestamp"].is_string(),
            "{line}"
        );
    }
    assert!(log.contains("\"DEBUG\""), "verbose: {log}");
}
