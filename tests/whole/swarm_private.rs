//! A swarm of one's own: by its name, and by a secret that strangers who know the name lack.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::mpsc, time::Duration};

use iroh::{Endpoint, endpoint::ConnectionError};
use peerix::peer::{admission::NO_MEMBER, lookup, older, wire};

use crate::support::{
    PATIENCE,
    hostile::{address_in, runtime},
    loopback::loopback,
    network::Network,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions, fails_saying},
    tree::Node,
    wait_for,
};

/// Files with secrets, which go with this.
struct Secrets(tempfile::TempDir);

impl Secrets {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file with this secret and this mode.
    fn file(&self, name: &str, secret: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, secret).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A file with one of the secrets that are good ones.
    fn of(&self, name: &str) -> String {
        let path = self.file(name, &format!("{}\n", name.repeat(40)), 0o600);
        path.to_str().unwrap().to_owned()
    }
}

fn store_with(key: &Key, name: &str) -> (NixStore, String) {
    let store = NixStore::new();
    let path = store.add(PathSpec::new(name, Node::random(50_000, name)));
    store.sign(key, &[&path]);
    (store, path)
}

fn options(store: &NixStore, key: &Key, swarm: &str) -> PeerOptions {
    PeerOptions::new(store)
        .of_cache(&key.public)
        .flag("swarm", swarm)
}

/// `ID@ADDR:PORT`, which says nothing of a swarm.
fn plain_address(peer: &Peer) -> String {
    let addr = address_in(&peer.ticket());
    format!("{}@{}", addr.id, addr.ip_addrs().next().unwrap())
}

/// Whether `peer` found that `other` is of another swarm.
fn wait_until_refused(peer: &Peer, other: &Peer) {
    let id = other.status()["node_id"].clone();
    wait_for("the peer to be of another swarm", || {
        let peers = peer.json(&["peers"]);
        let peers = peers["peers"].as_array()?.clone();
        let other = peers.into_iter().find(|row| row["node_id"] == id)?;
        (other["other_swarm"] == true).then_some(())
    });
}

#[test]
fn members_of_a_private_swarm_share_and_who_knows_its_name_alone_gets_nothing() {
    let (key, secrets) = (Key::generate("public-1"), Secrets::new());
    let (a, of_a) = store_with(&key, "a");
    let (b, of_b) = store_with(&key, "b");
    let strangers_store = NixStore::new();
    let secret = secrets.of("s");
    let member = |store| options(store, &key, "ours").flag("swarm-secret-file", &secret);
    let first = member(&a).start();
    let second = member(&b).peer(&first).start();
    first.wait_for_inventories(1);
    second.wait_for_inventories(1);
    for (peer, path) in [(&first, &of_b), (&second, &of_a)] {
        assert_eq!(peer.narinfo(path).status, 200);
    }
    b.substitute(&of_a, &[second.url()], &[&key.public]);

    let other_secret = secrets.of("t");
    let guesses = options(&strangers_store, &key, "ours")
        .flag("swarm-secret-file", &other_secret)
        .peer(&first)
        .start();
    let knows_the_name = options(&strangers_store, &key, "ours").peer(&first).start();
    let public = options(&strangers_store, &key, "public")
        .flag("peer", &plain_address(&first))
        .start();
    for stranger in [&guesses, &knows_the_name] {
        wait_until_refused(stranger, &first);
    }
    for stranger in [&guesses, &knows_the_name, &public] {
        assert_eq!(stranger.narinfo(&of_a).status, 404);
        assert_eq!(stranger.status()["swarm"]["peers"], 0);
        assert_eq!(stranger.connected_peers(), 0);
    }
    // A member that dials one of them tells it nothing either.
    let third = member(&strangers_store)
        .flag("peer", &plain_address(&guesses))
        .start();
    wait_until_refused(&third, &guesses);
    assert_eq!(first.status()["swarm"]["peers"], 1);
    for peer in [&first, &second, &third, &guesses] {
        let log = peer.log_text();
        assert!(!log.contains("ssss") && !log.contains("tttt"), "{log}");
    }
    assert!(
        guesses
            .log_text()
            .contains("is not of the private swarm `ours`")
    );
}

#[test]
fn a_stranger_is_heard_on_no_protocol_of_a_private_swarm() {
    let (key, secrets) = (Key::generate("public-1"), Secrets::new());
    let (a, _) = store_with(&key, "a");
    let peer = options(&a, &key, "ours")
        .flag("swarm-secret-file", &secrets.of("s"))
        .start();
    let addr = address_in(&peer.ticket());
    runtime().block_on(async {
        let endpoint = stranger(Vec::new()).await;
        let of_ours: [&[u8]; 5] = [
            lookup::ALPN,
            wire::ALPN,
            iroh_blobs::ALPN,
            iroh_gossip::ALPN,
            b"peerix/catalogue/1",
        ];
        for alpn in of_ours {
            // It is another protocol than that of the public swarm.
            assert!(endpoint.connect(addr.clone(), alpn).await.is_err());
            let ours = [alpn, b"/ours"].concat();
            for proof in [&[][..], &[0; 32], &[0; 100_000]] {
                // Where the machine is slow, the two seconds are over before it gets this far.
                let Ok(connection) = endpoint.connect(addr.clone(), &ours).await else {
                    continue;
                };
                let mut streams = connection.open_bi().await;
                if let Ok((send, _)) = &mut streams {
                    let _ = send.write_all(proof).await;
                }
                let closed = connection.closed();
                let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
                let Ok(ConnectionError::ApplicationClosed(closed)) = closed else {
                    panic!("{alpn:?}: {closed:?}");
                };
                assert_eq!(u64::from(closed.error_code), u64::from(NO_MEMBER));
                if let Ok((_, mut receive)) = streams {
                    let answer = receive.read_to_end(1000).await;
                    assert!(answer.is_err(), "{alpn:?}: {answer:?}");
                }
            }
        }
        for alpn in older::narinfo::ALPNS.iter().chain(&older::nar::ALPNS) {
            assert!(endpoint.connect(addr.clone(), alpn).await.is_err());
        }
        endpoint.close().await;
    });
}

#[test]
fn a_stranger_that_is_dialled_learns_a_proof_of_no_use_and_no_question() {
    let (key, secrets) = (Key::generate("public-1"), Secrets::new());
    let (a, _) = store_with(&key, "a");
    let (say, heard) = mpsc::channel();
    let runtime = runtime();
    let lookups = [lookup::ALPN, b"/ours"].concat();
    let endpoint = runtime.block_on(stranger(vec![lookups]));
    let accepting = endpoint.clone();
    let listening = runtime.spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let Ok(connection) = incoming.await else {
                continue;
            };
            let Ok((mut send, mut receive)) = connection.accept_bi().await else {
                continue;
            };
            // All that is ever said, given back as one's own proof.
            let said = receive.read_to_end(10_000).await.unwrap_or_default();
            let _ = send.write_all(&said).await;
            let _ = send.finish();
            let code = match connection.closed().await {
                ConnectionError::ApplicationClosed(closed) => u64::from(closed.error_code),
                _ => 0,
            };
            let _ = say.send((said, code));
        }
    });
    let port = endpoint.bound_sockets()[0].port();
    let address = format!("{}@127.0.0.1:{port}", endpoint.id());
    let peer = options(&a, &key, "ours")
        .flag("swarm-secret-file", &secrets.of("s"))
        .flag("peer", &address)
        .start();
    let (said, code) = heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!((said.len(), code), (32, u64::from(NO_MEMBER)));
    assert_eq!(peer.connected_peers(), 0);
    listening.abort();
    runtime.block_on(endpoint.close());
}

/// An endpoint that knows what can be read on the wire.
async fn stranger(alpns: Vec<Vec<u8>>) -> Endpoint {
    loopback().alpns(alpns).bind().await.unwrap()
}

#[test]
fn swarms_by_name_keep_to_themselves_and_tickets_say_which() {
    let key = Key::generate("public-1");
    let (a, of_a) = store_with(&key, "a");
    let (b, _) = store_with(&key, "b");
    let first = options(&a, &key, "ours").start();
    let second = options(&b, &key, "ours").peer(&first).start();
    second.wait_for_inventories(1);
    assert_eq!(second.narinfo(&of_a).status, 200);
    b.substitute(&of_a, &[second.url()], &[&key.public]);

    let ticket = first.share(&of_a);
    let words = ["of the swarm `ours`", "this machine is of `public`"];
    let public = options(&b, &key, "public").start();
    fails_saying(&mut public.cli(&["get", &ticket]), &words);
    let directory = tempfile::tempdir().unwrap();
    let refused = options(&b, &key, "public").flag("peer", &ticket);
    let state = directory.path().join("state");
    fails_saying(&mut refused.command(directory.path(), &state), &words);
    // An address says nothing of a swarm: what is there does.
    let address = plain_address(&first);
    let store = NixStore::new();
    let asker = options(&store, &key, "theirs")
        .flag("peer", &address)
        .start();
    wait_until_refused(&asker, &first);
    assert_eq!(asker.narinfo(&of_a).status, 404);
}

#[test]
fn a_secret_that_is_none_or_for_nothing_is_said_in_one_line() {
    let (key, secrets) = (Key::generate("public-1"), Secrets::new());
    let store = NixStore::new();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let fails = |swarm: &str, file: &str, words: &[&str]| {
        let options = options(&store, &key, swarm).flag("swarm-secret-file", file);
        fails_saying(&mut options.command(directory.path(), &state), words);
    };
    let good = secrets.of("s");
    fails("public", &good, &["--swarm-secret-file", "--swarm NAME"]);
    fails("none", &good, &["--swarm-secret-file", "--swarm NAME"]);
    let open = secrets.file("open", &"x".repeat(40), 0o644);
    fails(
        "ours",
        open.to_str().unwrap(),
        &["can be read or changed by others", "0644", "chmod g-wx,o="],
    );
    let short = secrets.file("short", "x", 0o600);
    fails(
        "ours",
        short.to_str().unwrap(),
        &["holds 1 byte", "openssl rand -hex 32"],
    );
    fails(
        "ours",
        "/nowhere/secret",
        &["cannot read the swarm's secret /nowhere/secret"],
    );
    fails("a swarm", &good, &["--swarm", "not a name for a swarm"]);
}

#[test]
fn on_a_local_network_the_members_of_a_private_swarm_find_each_other_and_nobody_else() {
    let Some(network) = Network::with_addresses(3) else {
        return;
    };
    let [a, b, c] = network.hosts() else {
        unreachable!()
    };
    let (key, secrets) = (Key::generate("lan-1"), Secrets::new());
    let (first_store, path) = store_with(&key, "a");
    let (second_store, third_store) = (NixStore::new(), NixStore::new());
    let secret = secrets.of("s");
    let lan = |store| {
        PeerOptions::plain(store)
            .flag("mode", "lan")
            .flag("public-cache-key", &key.public)
            .trust(&key.public)
    };
    let member = |store| {
        lan(store)
            .flag("swarm", "ours")
            .flag("swarm-secret-file", &secret)
    };
    let (of_first, of_second, of_third) = (
        member(&first_store),
        member(&second_store),
        lan(&third_store),
    );
    let first = a.inside(move || of_first.start());
    let public = c.inside(move || of_third.start());
    let second = b.inside(move || of_second.start());
    b.inside(|| {
        wait_for("a connected member", || {
            (second.connected_peers() == 1).then_some(())
        });
        assert_eq!(second.narinfo(&path).status, 200);
    });
    c.inside(|| {
        assert_eq!(public.narinfo(&path).status, 404);
        assert_eq!(public.json(&["peers"])["count"], 0);
    });
    // Over HTTP nobody proves anything: it is not there for others.
    c.inside(|| {
        let refused = std::net::TcpStream::connect(("10.77.0.1", 12304));
        assert!(refused.is_err(), "{refused:?}");
    });
    assert_eq!(a.inside(|| first.connected_peers()), 1);
}
