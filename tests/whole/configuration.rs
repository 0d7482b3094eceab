//! Configuration that changes while the daemon runs, and what is written of it.

use std::{fs, path::Path};

use peerix::config::example;
use rustix::process::Signal;

use crate::documents::WRITE;
use crate::support::{
    ROOT,
    nix_store::{Key, NixStore, PathSpec},
    peer::{PeerOptions, peerix},
    run_ok,
    tree::Node,
    wait_for,
};

#[test]
fn sighup_takes_over_what_can_be_changed_and_names_the_rest() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let first = a.add(PathSpec::new("first", Node::text("first")));
    let second = a.add(PathSpec::new("second", Node::text("second")));
    a.sign(&key, &[&first, &second]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.toml");
    let write = |text: &str| fs::write(&file, text).expect("our own directory");
    write("");
    let name = file.to_str().expect("UTF-8");
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .flag("config", name)
        .start();
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&first);
    receiver.wait_for_narinfo(&second);

    write("[store]\nfilter_patterns = [\"*-second\"]\n[server]\npriority = 7\n");
    sharer.signal(Signal::HUP);
    let line = wait_for("a line of the log", || {
        let log = sharer.log_text();
        let mut lines = log.lines().filter(|line| line.contains("read again"));
        lines.next().map(str::to_owned)
    });
    for word in [
        "changed store.filter_patterns",
        "restart is needed for server.priority",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    wait_for("the second path's withdrawal", || {
        (receiver.narinfo(&second).status == 404).then_some(())
    });
    receiver.wait_for_narinfo(&first);

    // What can't be used changes nothing.
    write("[store]\nfilter_pattern = []\n");
    sharer.signal(Signal::HUP);
    wait_for("the other line", || {
        let log = sharer.log_text();
        let said =
            log.contains("stays as it was") && log.contains("did you mean `filter_patterns`");
        said.then_some(())
    });
    assert_eq!(receiver.narinfo(&second).status, 404);
}

#[test]
fn a_peer_that_is_denied_later_is_cut_off() {
    let key = Key::generate("cache-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    a.sign(&key, &[&path]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.toml");
    fs::write(&file, "").expect("our own directory");
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .flag("config", file.to_str().expect("UTF-8"))
        .start();
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&path);
    let id = receiver.status()["node_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    fs::write(&file, format!("deny_peers = [\"{id}\"]\n")).expect("our own directory");
    sharer.signal(Signal::HUP);
    wait_for("the connection's end", || {
        (receiver.connected_peers() == 0).then_some(())
    });
}

#[test]
fn the_readme_s_example_has_every_key_as_the_daemon_knows_it() {
    const EXAMPLE: &str = "docs/config.example.toml";
    let path = Path::new(ROOT).join(EXAMPLE);
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a document");
    assert!(
        readme.contains(EXAMPLE),
        "README.md does not name {EXAMPLE}"
    );
    let generated = example::example();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &generated).expect("our own checkout");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "{EXAMPLE} is not what the code says: run scripts/docs"
    );
}

#[test]
fn the_printed_example_is_a_configuration_that_changes_nothing() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let example = run_ok(peerix(home.path()).args(["check-config", "--example"]));
    let file = home.path().join("example.toml");
    fs::write(&file, example).expect("our own directory");
    let plain = run_ok(peerix(home.path()).args(["check-config", "--json"]));
    let with = run_ok(
        peerix(home.path())
            .args(["check-config", "--json", "--config"])
            .arg(&file),
    );
    assert_eq!(plain, with);
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let out = home.path().join("man");
    run_ok(peerix(home.path()).arg("man").arg("--out").arg(&out));
    let page = |name: &str| fs::read_to_string(out.join(name)).expect("a page");
    for name in [
        "peerix",
        "peerix-run",
        "peerix-share",
        "peerix-key-generate",
    ] {
        let page = page(&format!("man1/{name}.1"));
        assert!(
            page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
            "{name}: {page}"
        );
    }
    assert!(page("man1/peerix.1").contains(".SH \"EXIT CODES\""));
    let keys = page("man5/peerix.toml.5");
    for word in ["upload_limit", "PEERIX_UPLOAD_LIMIT", "filter_patterns"] {
        assert!(keys.replace('\\', "").contains(word), "{word}: {keys}");
    }
}
