//! Peers of the older program, which ask for a narinfo and a whole NAR.

use std::{
    fs,
    time::{Duration, Instant},
};

use iroh::{EndpointAddr, TransportAddr};
use peerix::{
    narinfo::older::nar_name,
    peer::older::{nar, narinfo},
};
use peerix_store::nix::{NarInfo, StorePath};

use crate::support::{
    hostile::{Client, address_in},
    nix_store::{Key, NixStore, PathSpec, hash_part},
    older::{self, OlderFault, OlderPeer, PlayedOlder},
    peer::{Peer, PeerOptions, field},
    shapes::edge_shapes,
    text_of,
    tree::Node,
    wait_for,
};

/// What `peer` answers to `question`, read only after `pause`.
fn ask(
    client: &Client,
    peer: &EndpointAddr,
    alpn: &[u8],
    question: &[u8],
    pause: Duration,
) -> Result<Vec<u8>, String> {
    let connection = client.connect(peer, alpn)?;
    client.block_on(async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
        send.write_all(question).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        tokio::time::sleep(pause).await;
        recv.read_to_end(1 << 28).await.map_err(|e| e.to_string())
    })
}

fn url_of(path: &str) -> String {
    nar_name(&StorePath::from_absolute_path(path.as_bytes()).expect("a store path"))
}

/// A NAR as the older protocol frames it.
fn framed(nar: &[u8]) -> Vec<u8> {
    let mut framed = (nar.len() as u64).to_be_bytes().to_vec();
    framed.extend_from_slice(nar);
    framed
}

fn parsed(text: &[u8]) -> NarInfo {
    let text = std::str::from_utf8(text).expect("text");
    text.parse()
        .unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn an_older_peer_gets_narinfos_and_nars_of_every_shape() {
    let key = Key::generate("public-1");
    let a = NixStore::new();
    let mut specs = edge_shapes();
    specs.push(PathSpec::new("large", Node::random(9_000_000, "large")));
    let paths = a.add_all(specs);
    a.sign(&key, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let peer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .start();
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    for (number, path) in paths.iter().enumerate() {
        let (narinfo, nar) = (narinfo::ALPNS[number % 2], nar::ALPNS[number % 2]);
        let question = format!(" {}\n", hash_part(path));
        let said = ask(
            &client,
            &address,
            narinfo,
            question.as_bytes(),
            Duration::ZERO,
        );
        let said = parsed(&said.expect("a narinfo"));
        assert_eq!(said.store_path().to_absolute_path(), *path);
        assert_eq!(said.url(), url_of(path));
        assert_eq!(said.signatures().len(), 1);
        let expected = a.dump(path);
        // A slow reader loses nothing: the connection waits.
        for pause in [Duration::ZERO, Duration::from_millis(300)] {
            let got = ask(&client, &address, nar, said.url().as_bytes(), pause);
            assert!(got.expect("a NAR") == framed(&expected), "{path}");
        }
    }
    let sent = peer.metric("peerix_nars_served_total").expect("a count");
    assert_eq!(sent as usize, 2 * paths.len());
}

#[test]
fn what_is_not_offered_is_not_there_for_an_older_peer() {
    let a = NixStore::new();
    let private = a.add(PathSpec::new("private", Node::random(50_000, "private")));
    let peer = PeerOptions::new(&a).start();
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let try_both = || {
        let narinfo = ask(
            &client,
            &address,
            narinfo::ALPNS[0],
            hash_part(&private).as_bytes(),
            Duration::ZERO,
        );
        let question = url_of(&private);
        let nar = ask(
            &client,
            &address,
            nar::ALPNS[0],
            question.as_bytes(),
            Duration::ZERO,
        );
        (narinfo, nar.unwrap_or_default())
    };
    assert_eq!(try_both(), (Ok(b"NOTFOUND".to_vec()), Vec::new()));
    peer.share(&private);
    let (narinfo, nar) = try_both();
    assert_eq!(
        parsed(&narinfo.expect("a narinfo")).nar_size(),
        a.dump(&private).len() as u64
    );
    assert!(nar == framed(&a.dump(&private)));

    // Another name behind the same hash is another path.
    let other = format!("/nix/store/{}-other", hash_part(&private));
    let wrong = ask(
        &client,
        &address,
        nar::ALPNS[0],
        url_of(&other).as_bytes(),
        Duration::ZERO,
    );
    assert_eq!(wrong.unwrap_or_default(), b"");
}

#[test]
fn questions_that_are_none_end_their_connection_alone() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("shared", Node::text("shared")));
    let mut peer = PeerOptions::new(&a).start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let long = vec![b'a'; 100_000];
    let questions: [&[u8]; 6] = [
        b"",
        b"\xff\xfe",
        b"not a hash",
        b"../../etc",
        &long,
        b"L2V0Yw==.nar",
    ];
    for alpn in narinfo::ALPNS.into_iter().chain(nar::ALPNS) {
        for question in questions {
            let started = Instant::now();
            let answer = ask(&client, &address, alpn, question, Duration::ZERO);
            assert!(answer.unwrap_or_default().is_empty(), "{question:?}");
            assert!(started.elapsed() < Duration::from_secs(5), "{question:?}");
        }
    }
    let still = ask(
        &client,
        &address,
        narinfo::ALPNS[0],
        hash_part(&path).as_bytes(),
        Duration::ZERO,
    );
    assert_eq!(
        parsed(&still.expect("a narinfo")).nar_size(),
        a.dump(&path).len() as u64
    );
    peer.stop();
}

#[test]
fn the_upload_limit_holds_for_older_peers() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("limited", Node::random(2_000_000, "limited")));
    let peer = PeerOptions::new(&a).flag("upload-limit", "1MB").start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let started = Instant::now();
    let question = url_of(&path);
    let got = ask(
        &client,
        &address,
        nar::ALPNS[0],
        question.as_bytes(),
        Duration::ZERO,
    );
    assert!(got.expect("a NAR") == framed(&a.dump(&path)));
    let taken = started.elapsed();
    assert!(taken > Duration::from_millis(1700), "2 MB in {taken:?}");
}

#[test]
fn a_client_on_iroh_s_python_bindings_fetches_under_both_pairs_of_names() {
    let Some(python) = older::python() else {
        return;
    };
    let a = NixStore::new();
    let library = a.add(PathSpec::new("library", Node::random(100, "library")));
    let program = PathSpec::new("program", Node::random(3_000_000, "program"));
    let path = a.add(program.with_references(std::slice::from_ref(&library)));
    let peer = PeerOptions::new(&a).start();
    peer.share(&path);
    let address = address_in(&peer.ticket());
    let out = tempfile::tempdir().expect("a temporary directory");
    let fetch = |path: &str, name: &str| {
        let socket = socket_of(&address);
        let out = out.path().join(name);
        let output = older::fetch(
            python,
            &address.id.to_string(),
            &socket,
            hash_part(path),
            &out,
        );
        assert!(output.status.success(), "{}", text_of(&output));
        move |part: &str| fs::read(format!("{}.{part}", out.display())).expect("what came")
    };
    let got = fetch(&path, "shared");
    for number in ["0", "1"] {
        let narinfo = parsed(&got(&format!("narinfo{number}")));
        assert_eq!(narinfo.store_path().to_absolute_path(), path);
        assert_eq!(narinfo.references().len(), 1);
        assert!(got(&format!("nar{number}")) == a.dump(&path));
    }
    let absent = fetch(
        &a.add(PathSpec::new("absent", Node::text("absent"))),
        "absent",
    );
    assert_eq!(absent("narinfo0"), b"NOTFOUND");
    assert_eq!(absent("narinfo1"), b"NOTFOUND");
}

fn socket_of(address: &EndpointAddr) -> String {
    let socket = address.addrs.iter().find_map(|addr| match addr {
        TransportAddr::Ip(socket) => Some(socket.to_string()),
        _ => None,
    });
    socket.expect("a socket's address")
}

/// A narinfo as an older peer tells it of a path of `store`.
fn older_narinfo(store: &NixStore, path: &str, key: Option<&Key>) -> String {
    let nar_size = store.dump(path).len();
    let mut text = format!(
        "StorePath: {path}\nURL: {}\nCompression: none\nNarHash: {}\nNarSize: {nar_size}\n",
        url_of(path),
        store.nar_hash(path),
    );
    let references = store.references(path);
    if !references.is_empty() {
        let names = references
            .iter()
            .map(|path| path.trim_start_matches("/nix/store/"));
        text += &format!("References: {}\n", names.collect::<Vec<_>>().join(" "));
    }
    if let Some(key) = key {
        store.sign(key, &[path]);
        text += &format!("Sig: {}\n", store.signature(path));
    }
    text
}

#[test]
fn an_older_peer_s_path_is_told_of_if_a_trusted_key_signed_it() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("signed", Node::random(60_000, "signed")));
    let narinfo = older_narinfo(&a, &path, Some(&key));
    let server = PlayedOlder::serve(&narinfo, a.dump(&path), OlderFault::None);
    let c = NixStore::new();
    let stranger = PeerOptions::new(&c).flag("peer", &server.address()).start();
    let b = NixStore::new();
    let peer = PeerOptions::new(&b)
        .flag("peer", &server.address())
        .trust(&key.public)
        .start();
    let told = peer.wait_for_narinfo(&path);
    assert_eq!(field(&told, "StorePath"), Some(path.as_str()));
    wait_for("a question of the stranger", || {
        let answer = stranger.narinfo(&path);
        assert_eq!(answer.status, 404);
        (stranger.metric("peerix_peer_faults_total")? > 0.0).then_some(())
    });
    // A path that it does not have is a miss, and costs it nothing.
    let other = a.add(PathSpec::new("other", Node::text("other")));
    let asked = server.asked();
    assert_eq!(peer.narinfo(&other).status, 404);
    assert!(server.asked() > asked);
    let row = &peer.json(&["peers"])["peers"][0];
    assert_eq!(row["older"], true, "{row}");
    assert_eq!(row["reputation"]["failed"], 0, "{row}");
}

#[test]
fn a_silent_older_peer_costs_lookups_little_and_is_left_alone() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("silent", Node::text("silent")));
    let narinfo = older_narinfo(&a, &path, None);
    let server = PlayedOlder::serve(&narinfo, a.dump(&path), OlderFault::SilentAtOnce);
    let b = NixStore::new();
    let peer = PeerOptions::new(&b).flag("peer", &server.address()).start();
    wait_for("a question", || {
        let asked = Instant::now();
        assert_eq!(peer.narinfo(&path).status, 404);
        assert!(asked.elapsed() < Duration::from_secs(5));
        (server.asked() > 0).then_some(())
    });
    wait_for("that it is left alone", || {
        let row = &peer.json(&["peers"])["peers"][0];
        (row["reputation"]["backed_off"] == true).then_some(())
    });
}

/// Two peers of `b`: one that misbehaves, one that does not.
fn with_two(size: u64, fault: OlderFault) -> (NixStore, String, Vec<u8>, Peer, [PlayedOlder; 2]) {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new(
        "taken-over",
        Node::random(size, "taken-over"),
    ));
    let narinfo = older_narinfo(&a, &path, Some(&key));
    let servers =
        [fault, OlderFault::None].map(|fault| PlayedOlder::serve(&narinfo, a.dump(&path), fault));
    let b = NixStore::new();
    let peer = PeerOptions::new(&b)
        .flag("peer", &servers[0].address())
        .flag("peer", &servers[1].address())
        .trust(&key.public)
        .start();
    wait_for("both servers", || {
        let older = peer.json(&["peers"])["peers"].as_array()?.clone();
        older.iter().all(|row| row["older"] == true).then_some(())
    });
    (b, path.clone(), a.dump(&path), peer, servers)
}

#[test]
fn the_real_nix_substitutes_what_an_older_peer_has() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("substituted", Node::random(5_000_000, "sub")));
    let narinfo = older_narinfo(&a, &path, Some(&key));
    let server = PlayedOlder::serve(&narinfo, a.dump(&path), OlderFault::None);
    let b = NixStore::new();
    let peer = PeerOptions::new(&b)
        .flag("peer", &server.address())
        .trust(&key.public)
        .start();
    peer.wait_for_narinfo(&path);
    b.substitute(&path, &[peer.url()], &[&key.public]);
    b.verify_contents();
    let row = &peer.json(&["peers"])["peers"][0];
    assert_eq!(row["bytes_received"], a.dump(&path).len() as u64, "{row}");
}

#[test]
fn an_older_peer_that_fails_is_replaced_by_another() {
    for size in [60_000, 6_000_000] {
        for fault in [
            OlderFault::Length,
            OlderFault::LeavesHalfWay,
            OlderFault::SilentHalfWay,
        ] {
            let (_b, path, nar, peer, _servers) = with_two(size, fault);
            let got = peer.get(&peer.nar_target(&path));
            assert_eq!(got.status, 200, "{fault:?} {size}");
            assert!(got.complete && got.body == nar, "{fault:?} {size}");
        }
    }
}

#[test]
fn wrong_bytes_of_an_older_peer_never_end_a_nar() {
    for size in [60_000, 6_000_000] {
        let (_b, path, nar, peer, _servers) = with_two(size, OlderFault::FlipBit);
        let target = peer.nar_target(&path);
        wait_for("the right NAR", || {
            let got = peer.get(&target);
            assert!(
                !got.complete || got.status != 200 || got.body == nar,
                "{size}"
            );
            (got.status == 200 && got.complete).then_some(())
        });
    }
}

#[test]
fn a_server_on_iroh_s_python_bindings_gives_its_path_to_the_real_nix() {
    let Some(python) = older::python() else {
        return;
    };
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("served", Node::random(3_000_000, "served")));
    let files = tempfile::tempdir().expect("a temporary directory");
    let (narinfo, nar) = (files.path().join("narinfo"), files.path().join("nar"));
    fs::write(&narinfo, older_narinfo(&a, &path, Some(&key))).expect("our own directory");
    fs::write(&nar, a.dump(&path)).expect("our own directory");
    let server = OlderPeer::serve(python, &narinfo, &nar);
    let b = NixStore::new();
    let peer = PeerOptions::new(&b)
        .flag("peer", server.address())
        .trust(&key.public)
        .start();
    peer.wait_for_narinfo(&path);
    b.substitute(&path, &[peer.url()], &[&key.public]);
    b.verify_contents();
}
