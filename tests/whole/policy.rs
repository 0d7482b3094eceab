//! Who is spoken with, and what is offered.

use peerix::peer::lookup::{self, Answer, Mode};

use crate::support::{
    hostile::{Client, address_in},
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions, peerix},
    run, run_ok,
    shapes::add_closure,
    text_of,
    tree::Node,
    wait_for,
};

/// Every protocol that a daemon speaks.
const ALPNS: [&[u8]; 2] = [lookup::ALPN, iroh_blobs::ALPN];

fn is_offered(client: &Client, peer: &Peer, path: &str) -> bool {
    let address = address_in(&peer.ticket());
    let answer = client.look_up(&address, Mode::Presence, &[path]).remove(0);
    !matches!(answer, Answer::Absent | Answer::NotNow)
}

/// Whether the client gets as far as a stream that is answered or refused by the protocol.
fn is_spoken_with(client: &Client, peer: &Peer, alpn: &[u8]) -> bool {
    let Ok(connection) = client.connect(&address_in(&peer.ticket()), alpn) else {
        return false;
    };
    client.block_on(async {
        // The handshake may be over before the refusal arrives.
        let closed =
            tokio::time::timeout(std::time::Duration::from_millis(500), connection.closed());
        match closed.await {
            Ok(reason) => {
                assert!(reason.to_string().contains("not admitted"), "{reason}");
                false
            }
            Err(_) => true,
        }
    })
}

#[test]
fn denied_endpoints_are_turned_away_on_every_protocol() {
    let a = NixStore::new();
    let (friend, foe) = (Client::new(), Client::new());
    let id = |client: &Client| client.endpoint.id().to_string();
    let denying = PeerOptions::new(&a).flag("deny-peer", &id(&foe)).start();
    let allowing = PeerOptions::new(&a)
        .flag("allow-peer", &id(&friend))
        .start();
    for peer in [&denying, &allowing] {
        for alpn in ALPNS {
            assert!(is_spoken_with(&friend, peer, alpn));
            assert!(!is_spoken_with(&foe, peer, alpn));
        }
    }
}

#[test]
fn an_ephemeral_identity_is_another_one_at_each_start() {
    let a = NixStore::new();
    let first = PeerOptions::new(&a).switch("ephemeral-identity").start();
    let id = |peer: &Peer| peer.status()["node_id"].as_str().expect("an id").to_owned();
    let before = id(&first);
    assert!(!first.state_dir().join("iroh_secret.key").exists());
    let second = first.restart();
    assert_ne!(before, id(&second));
}

#[test]
fn rules_hide_names_and_offer_what_is_signed() {
    let key = Key::generate("company-1");
    let a = NixStore::new();
    let add = |name: &str| a.add(PathSpec::new(name, Node::text(name)));
    let (good, secret, mine, unsigned) = (
        add("tool-1.0"),
        add("db-password-file"),
        add("internal-thing"),
        add("unsigned"),
    );
    a.sign(&key, &[&good, &secret, &mine]);
    let client = Client::new();
    let peer = PeerOptions::new(&a)
        .trust(&key.public)
        .flag("filter-mode", "rules")
        .flag("filter-pattern", "*-internal-*")
        .start();
    assert!(is_offered(&client, &peer, &good));
    for hidden in [&secret, &mine, &unsigned] {
        assert!(!is_offered(&client, &peer, hidden), "{hidden}");
    }
    // What a person shares stands above the rules.
    peer.share(&secret);
    assert!(is_offered(&client, &peer, &secret));
    // Nobody trusts the key here: nobody vouches for anything.
    let strict = PeerOptions::new(&a).flag("filter-mode", "rules").start();
    assert!(!is_offered(&client, &strict, &good));
}

#[test]
fn no_verify_is_told_at_every_place() {
    let a = NixStore::new();
    let careless = PeerOptions::new(&a).switch("no-verify").start();
    assert!(
        careless.log_text().contains("no_verify"),
        "{}",
        careless.log_text()
    );
    assert_eq!(careless.status()["no_verify"], true);
    assert!(careless.run_cli(&["status"]).contains("no verify"));
    let careful = PeerOptions::new(&a).start();
    assert_eq!(careful.status()["no_verify"], false);
}

#[test]
fn an_unsigned_path_is_shared_with_a_key_that_get_asks_about() {
    let a = NixStore::new();
    let program = add_closure(&a, "program", 2, 10_000);
    let sharer = PeerOptions::new(&a).start();
    assert!(!sharer.state_dir().join("signing.key").exists());
    let refused = sharer.try_cli(&["share", &program]);
    assert_eq!(refused.status.code(), Some(4), "{}", text_of(&refused));
    assert!(
        text_of(&refused).contains("a key of this machine"),
        "{}",
        text_of(&refused)
    );
    let ticket = sharer.share(&program);
    let secret = std::fs::read_to_string(sharer.state_dir().join("signing.key")).expect("a key");
    let key = sharer.json(&["key", "show"])["public_key"]
        .as_str()
        .expect("a key")
        .to_owned();

    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).start();
    let unattended = receiver.try_cli(&["get", &ticket]);
    assert_eq!(
        unattended.status.code(),
        Some(4),
        "{}",
        text_of(&unattended)
    );
    assert!(
        text_of(&unattended).contains(&key),
        "{}",
        text_of(&unattended)
    );
    assert!(!b.has(&program));
    let got = receiver.try_cli(&["get", "--yes", &ticket]);
    assert!(got.status.success(), "{}", text_of(&got));
    b.verify_contents();
    // Nix itself finds our signature right, over references too.
    for path in b.closure(&program) {
        let mut verify = b.nix(&["store", "verify", "--no-contents"]);
        verify
            .args(["--option", "trusted-public-keys", &key])
            .arg(&path);
        run_ok(&mut verify);
    }
    // It was for that command only.
    let further = sharer_only(&a, &sharer);
    wait_for("the end of the trust", || {
        (receiver.narinfo(&further).status == 404).then_some(())
    });
    for peer in [&sharer, &receiver] {
        assert!(
            !peer
                .log_text()
                .contains(secret.trim().rsplit(':').next().expect("a key"))
        );
    }
    // The key stays over a restart.
    let sharer = sharer.restart();
    assert_eq!(sharer.json(&["key", "show"])["public_key"], key.as_str());
}

/// A further path that only the sharer's key signs.
fn sharer_only(store: &NixStore, sharer: &Peer) -> String {
    let path = store.add(PathSpec::new("further", Node::text("further")));
    sharer.share(&path);
    path
}

#[test]
fn a_configured_key_signs_beside_the_original_and_nix_agrees() {
    let (cache, mine) = (Key::generate("cache-1"), Key::generate("mine-1"));
    let a = NixStore::new();
    let program = add_closure(&a, "program", 2, 10_000);
    a.sign(&cache, &[&program]);
    let secret = mine.secret_file().to_str().expect("a path");
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &cache.public)
        .trust(&cache.public)
        .environment("NIX_SECRET_KEY_FILE", secret)
        .start();
    let own = sharer.narinfo(&program).text();
    assert!(
        own.contains("Sig: cache-1:") && own.contains("Sig: mine-1:"),
        "{own}"
    );
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&mine.public)
        .start();
    receiver.wait_for_narinfo(&program);
    b.substitute(&program, &[receiver.url()], &[&mine.public]);
    for key in [&cache, &mine] {
        let mut verify = b.nix(&["store", "verify", "-r"]);
        verify
            .args(["--option", "trusted-public-keys", &key.public])
            .arg(&program);
        run_ok(&mut verify);
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("cache.key");
    let mut generate = peerix(home.path());
    generate
        .args(["key", "generate", "--name", "cache-1", "--output"])
        .arg(&file);
    let printed = run_ok(&mut generate);
    assert!(printed.contains("cache-1:"), "{printed}");
    let secret = std::fs::read_to_string(&file).expect("a key");
    assert!(!printed.contains(secret.trim()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let options = PeerOptions::new(&a).flag("private-key", file.to_str().expect("a path"));
    let mut command = options.command(home.path(), &home.path().join("state"));
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text_of(&output).contains("chmod 600"),
        "{}",
        text_of(&output)
    );
    assert!(!text_of(&output).contains(secret.trim()));
}

#[test]
fn a_key_that_systemd_passes_may_be_readable_by_its_group() {
    use std::os::unix::fs::PermissionsExt;
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("private-key");
    let mut generate = peerix(home.path());
    generate
        .args(["key", "generate", "--name", "cache-1", "--output"])
        .arg(&file);
    run_ok(&mut generate);
    let path = file.to_str().expect("a path");
    let passed = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("our own");
        PeerOptions::new(&a)
            .environment(
                "CREDENTIALS_DIRECTORY",
                home.path().to_str().expect("a path"),
            )
            .flag("private-key", path)
    };
    // It would end at once if it refused the key.
    drop(passed(0o440).start());
    let options = passed(0o444);
    let mut command = options.command(home.path(), &home.path().join("state"));
    assert!(text_of(&run(&mut command)).contains("chmod 600"));
}

#[test]
fn keys_are_made_before_their_machine_and_rotated() {
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("state");
    let key = |words: &[&str]| -> serde_json::Value {
        let mut command = peerix(home.path());
        command
            .arg("key")
            .args(words)
            .arg("--json")
            .arg("--state-dir")
            .arg(&state);
        serde_json::from_str(&run_ok(&mut command)).expect("JSON")
    };
    let made = key(&["generate", "--name", "laptop-1"]);
    assert_eq!(key(&["show"]), made);
    assert_eq!(key(&["generate"]), made);
    let rotated = key(&["rotate"]);
    assert!(
        rotated["public_key"]
            .as_str()
            .is_some_and(|key| key.starts_with("laptop-2:"))
    );
    assert_eq!(rotated["endpoint_id"], made["endpoint_id"]);
    assert_ne!(
        key(&["rotate", "--identity"])["endpoint_id"],
        made["endpoint_id"]
    );
    let made = key(&["show"]);
    let peer = PeerOptions::new(&a).start_in(home, state);
    assert_eq!(peer.status()["node_id"], made["endpoint_id"]);
}

#[test]
fn a_private_share_is_for_those_who_have_the_ticket() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("secret", Node::random(50_000, "secret")));
    let key = Key::generate("mine-1");
    a.sign(&key, &[&path]);
    let peer = PeerOptions::new(&a).start();
    let printed = peer.run_cli(&["share", "--private", "--yes", &path]);
    let ticket = printed.trim();
    assert!(peer.run_cli(&["shared"]).contains("private"));
    let hash = blake3::hash(&a.dump(&path)).into();
    let stranger = Client::new();
    let fetched_by_stranger = |peer: &Peer| {
        let address = address_in(&peer.ticket());
        assert_eq!(
            stranger
                .look_up(&address, Mode::WantedNow, &[&path])
                .remove(0),
            Answer::Absent
        );
        stranger.fetch(&address, hash).is_ok()
    };
    assert!(!fetched_by_stranger(&peer));

    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).trust(&key.public).start();
    let mut get = receiver.cli(&["get", ticket]);
    get.env(
        "NIX_CONFIG",
        format!("trusted-public-keys = {}", key.public),
    );
    run_ok(&mut get);
    b.verify_contents();
    // Others have not learnt it, and neither has the ticket's holder become an open source.
    assert!(!fetched_by_stranger(&peer));
    assert!(!is_offered(&stranger, &receiver, &path));
    // Over a restart it is as private, and a new receiver with the ticket is let in.
    let peer = peer.restart();
    assert!(!fetched_by_stranger(&peer));
    // Shared openly, it is.
    peer.share(&path);
    assert!(is_offered(&stranger, &peer, &path));
    peer.run_cli(&["unshare", &path]);
    assert!(!is_offered(&stranger, &peer, &path));
}
