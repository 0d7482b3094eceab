//! Starting, stopping, and what may go wrong around it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{
    hostile::{Claim, Fault, Liar, signed_fields},
    http_server::{HttpServer, forward},
    nix_store::{Key, NixStore, PathSpec},
    older_tracker::OlderTracker,
    peer::{Peer, PeerOptions, fails_saying},
    run, skip, text_of,
    tracker::Tracker,
    tree::Node,
    wait_for,
};

#[test]
fn two_daemons_do_not_share_a_state_directory() {
    let a = NixStore::new();
    let mut first = PeerOptions::new(&a).start();
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut second = PeerOptions::new(&a).command(home.path(), first.state_dir());
    let pid = first.pid().to_string();
    fails_saying(&mut second, &[&pid]);
    assert!(first.is_running());
    assert_eq!(first.get("/nix-cache-info").status, 200);
    assert!(first.state_dir().join("http_address").exists());
    first.stop();
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let a = NixStore::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken
        .local_addr()
        .expect("a bound socket")
        .port()
        .to_string();
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut command = peerix_daemon(&a, home.path(), &port);
    fails_saying(&mut command, &[&port]);
    assert!(!home.path().join("state/http_address").exists());
    // Nothing half done: with a free port the same directory works.
    drop(taken);
    let state = home.path().join("state");
    PeerOptions::new(&a).start_in(home, state).stop();
}

/// A daemon on a port of our choice, with the flags of every test daemon besides.
fn peerix_daemon(store: &NixStore, home: &std::path::Path, port: &str) -> std::process::Command {
    PeerOptions::new(store)
        .replace_flag("port", port)
        .command(home, &home.join("state"))
}

#[test]
fn a_state_directory_that_is_not_ours_is_left_alone() {
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("documents");
    fs::create_dir(&state).expect("our own directory");
    fs::write(state.join("thesis.txt"), "precious").expect("our own directory");
    fails_saying(
        &mut PeerOptions::new(&a).command(home.path(), &state),
        &["documents"],
    );
    let left: Vec<_> = fs::read_dir(&state)
        .expect("a directory")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1);
    let file = home.path().join("file");
    fs::write(&file, "a file").expect("our own directory");
    fails_saying(
        &mut PeerOptions::new(&a).command(home.path(), &file),
        &["file"],
    );
}

#[test]
fn a_read_only_state_directory_is_said_in_one_line() {
    let a = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("state");
    fs::create_dir(&state).expect("our own directory");
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(&state, mode(0o555)).expect("our own directory");
    fs::set_permissions(home.path(), mode(0o755)).expect("our own directory");
    let daemon = PeerOptions::new(&a).command(home.path(), &state);
    let mut command = if rustix::process::geteuid().is_root() {
        // Root may write anywhere: somebody else has to try.
        let program = std::path::Path::new(crate::support::peer::PEERIX);
        let reachable = run(std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program)
            .arg("--version"));
        if !reachable.status.success() {
            return skip(&format!(
                "nobody can't run the program here: {}",
                text_of(&reachable)
            ));
        }
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program)
            .args(daemon.get_args())
            .env_clear()
            .env("HOME", home.path());
        command
    } else {
        daemon
    };
    fails_saying(&mut command, &["state"]);
    assert_eq!(fs::read_dir(&state).expect("a directory").count(), 0);
}

#[test]
fn a_damaged_secret_key_is_kept_and_said() {
    let a = NixStore::new();
    let mut peer = PeerOptions::new(&a).start();
    let id = peer.status()["node_id"].clone();
    peer.stop();
    let key = peer.state_dir().join("iroh_secret.key");
    assert_eq!(
        fs::metadata(&key).expect("the key").permissions().mode() & 0o777,
        0o600
    );
    let secret = fs::read(&key).expect("the key");
    assert_eq!(secret.len(), 32);
    fs::write(&key, &secret[..31]).expect("our own file");
    let (state, home) = (peer.state_dir().to_owned(), peer.into_directory());
    fails_saying(
        &mut PeerOptions::new(&a).command(home.path(), &state),
        &["iroh_secret.key"],
    );
    assert_eq!(fs::read(&key).expect("the key").len(), 31);
    fs::write(&key, &secret).expect("our own file");
    let again = PeerOptions::new(&a).start_in(home, state);
    assert_eq!(again.status()["node_id"], id);
}

#[test]
fn identity_and_shares_survive_a_kill() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("kept", Node::random(5_000_000, "kept")));
    a.sign(&key, &[&path]);
    let peer = PeerOptions::new(&a).start();
    let ticket = peer.share(&path);
    let id = peer.status()["node_id"].clone();
    let peer = peer.restart();
    assert_eq!(peer.status()["node_id"], id);
    assert!(peer.json(&["shared"]).to_string().contains(&path));
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).peer(&peer).trust(&key.public).start();
    b.substitute(&path, &[receiver.url()], &[&key.public]);
    b.verify_contents();
    assert!(ticket.starts_with("peerix"));
}

#[test]
fn a_database_that_appears_later_is_taken_up() {
    let key = Key::generate("own-1");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("root");
    fs::create_dir(&root).expect("a new directory");
    let late = NixStore::at(&root);
    let peer = PeerOptions::new(&late).trust(&key.public).start();
    assert_eq!(peer.get("/nix-cache-info").status, 200);
    assert_eq!(
        peer.get("/00000000000000000000000000000000.narinfo").status,
        404
    );
    let said = format!("{}{}", peer.log_text(), peer.status());
    assert!(said.contains("database"), "{said}");

    late.initialise();
    let path = late.add(PathSpec::new("late", Node::text("late")));
    late.sign(&key, &[&path]);
    peer.wait_for_narinfo(&path);
    assert_eq!(peer.get(&peer.nar_target(&path)).body, late.dump(&path));
}

#[test]
fn a_peer_without_a_database_passes_on_what_it_fetched() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let small = a.add(PathSpec::new("small", Node::random(50_000, "small")));
    let large = a.add(PathSpec::new("large", Node::random(9_000_000, "large")));
    a.sign(&key, &[&small, &large]);
    let mut sharer = PeerOptions::new(&a).start();
    sharer.share(&small);
    sharer.share(&large);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let without = NixStore::at(directory.path());
    let middle = PeerOptions::new(&without)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    for path in [&small, &large] {
        let answer = middle.get(&middle.nar_target(path));
        assert!(answer.complete && answer.body == a.dump(path));
    }
    sharer.kill();
    for path in [&small, &large] {
        wait_for("the NAR from what was fetched", || {
            let answer = middle.get(&middle.nar_target(path));
            (answer.complete && answer.body == a.dump(path)).then_some(())
        });
    }
    assert_eq!(fs::read_dir(directory.path()).map_or(0, Iterator::count), 0);
}

#[test]
fn what_nix_imported_is_not_kept_twice() {
    let key = Key::generate("sharer-1");
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
    b.substitute(&path, &[receiver.url()], &[&key.public]);
    wait_for("the blob's end", || {
        let blobs = receiver.state_dir().join("blobs");
        let left: u64 = fs::read_dir(blobs)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
        (left < 1_000_000).then_some(())
    });
    assert_eq!(
        receiver.get(&receiver.nar_target(&path)).body,
        a.dump(&path)
    );
}

#[test]
fn an_idle_daemon_ends_at_once_when_asked() {
    let a = NixStore::new();
    let mut peer = PeerOptions::new(&a).start();
    let address = peer.state_dir().join("http_address");
    assert!(address.exists());
    assert!(peer.stop() < Duration::from_secs(5));
    assert!(!address.exists());
    let mut peer = PeerOptions::new(&a).start();
    peer.signal(Signal::INT);
    assert!(peer.wait_for_end(Duration::from_secs(10)).success());
}

#[test]
fn peers_that_hang_do_not_delay_the_end() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(12_000_000, "large")));
    a.sign(&key, &[&path]);
    let silent = Liar::start_silent();
    let hanging = Liar::start();
    hanging.claim(
        &path,
        Claim {
            fields: signed_fields(&a, &path),
            nar: a.dump(&path).into(),
            fault: Fault::SilentAfter(6_000_000),
        },
    );
    let b = NixStore::new();
    let mut receiver = PeerOptions::new(&b)
        .flag("peer", &silent.address())
        .flag("peer", &hanging.address())
        .trust(&key.public)
        .start();
    let target = receiver.nar_target(&path);
    let address = receiver.http();
    let reader = {
        let target = target.clone();
        std::thread::spawn(move || crate::support::http::get(address, &target))
    };
    // A client that never reads what it asked for, and one in the middle of its headers.
    let idle: Vec<_> = [
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "GET".to_owned(),
    ]
    .iter()
    .map(|begun| {
        let mut stream = crate::support::http::connect(address).expect("a connection");
        std::io::Write::write_all(&mut stream, begun.as_bytes()).expect("an open connection");
        stream
    })
    .collect();
    wait_for("a transfer under way", || {
        (hanging.bytes_sent() > 1_000_000).then_some(())
    });
    let taken = receiver.stop();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    // Who came too late has a clean miss; who was in the middle is cut off.
    let answer = reader.join().expect("the reader");
    assert!(answer.status == 404 || !answer.complete);
    drop(idle);
}

#[test]
fn a_tracker_and_a_relay_that_hang_or_are_gone_do_not_delay_the_end() {
    for fault in [Signal::STOP, Signal::KILL] {
        let tracker = Tracker::start(&["--relay=127.0.0.1:0"]);
        let stores = [NixStore::new(), NixStore::new()];
        let mut peers = stores.each_ref().map(|store| {
            PeerOptions::new(store)
                .replace_flag("tracker", &tracker.url())
                .replace_flag("relay", "tracker")
                .switch("allow-insecure-http")
                .start()
        });
        wait_for("both at the relay, and connected", || {
            let is_there =
                |peer: &Peer| peer.status()["relay_url"].is_string() && peer.connected_peers() == 1;
            peers.iter().all(is_there).then_some(())
        });
        tracker.signal(fault);
        for peer in &mut peers {
            let taken = peer.stop();
            println!("{fault:?}: ended after {taken:?}");
            assert!(taken < Duration::from_secs(10), "{fault:?}: {taken:?}");
        }
    }
}

#[test]
fn trackers_that_never_answer_do_not_delay_the_end() {
    let a = NixStore::new();
    let silent = HttpServer::start(|_| None);
    let older = OlderTracker::start();
    let (hears, deaf) = (Tracker::start(&[]), Arc::new(AtomicBool::new(false)));
    let grows_deaf = |behind: SocketAddr| {
        let deaf = deaf.clone();
        HttpServer::start(move |asked| match deaf.load(Ordering::Relaxed) {
            true => None,
            false => forward(behind, asked),
        })
    };
    // One that never said anything, and those of both kinds that stop answering later.
    let fronts = [hears.address(), older.server().address()].map(grows_deaf);
    let mut options = PeerOptions::new(&a)
        .replace_flag("tracker", &silent.url())
        .switch("allow-insecure-http");
    for front in &fronts {
        options = options.flag("tracker", &front.url());
    }
    let mut peer = options.start();
    wait_for("announcements", || {
        let told = |front: &HttpServer, target| front.count("POST", target) > 0;
        (told(&fronts[0], "/v1/announce") && told(&fronts[1], "/iroh/announce")).then_some(())
    });
    deaf.store(true, Ordering::Relaxed);
    let taken = peer.stop();
    println!("with trackers that never answer: ended after {taken:?}");
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}

#[test]
fn a_requester_that_never_reads_does_not_delay_the_end() {
    use crate::support::hostile::{Client, address_in};
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(50_000_000, "large")));
    let mut peer = PeerOptions::new(&a).start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let hash = client.blob_hash(&address, &path);
    let connection = client
        .connect(&address, iroh_blobs::ALPN)
        .expect("a connection");
    let held = client.block_on(async {
        let mut held = Vec::new();
        for _ in 0..8 {
            let (mut send, recv) = connection.open_bi().await.expect("a stream");
            let request = iroh_blobs::protocol::GetRequest::blob(hash);
            let mut bytes = vec![iroh_blobs::protocol::RequestType::Get as u8];
            bytes.extend(postcard::to_allocvec(&request).expect("an encoding"));
            send.write_all(&bytes).await.expect("an open stream");
            send.finish().expect("an open stream");
            held.push(recv);
        }
        held
    });
    wait_for("bytes under way", || {
        (peer.metric("peerix_bytes_sent_total") > Some(100_000.0)).then_some(())
    });
    assert!(peer.stop() < Duration::from_secs(10));
    drop(held);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(12_000_000, "large")));
    a.sign(&key, &[&path]);
    let hanging = Liar::start();
    hanging.claim(
        &path,
        Claim {
            fields: signed_fields(&a, &path),
            nar: a.dump(&path).into(),
            fault: Fault::SilentAfter(6_000_000),
        },
    );
    let b = NixStore::new();
    let mut receiver = PeerOptions::new(&b)
        .flag("peer", &hanging.address())
        .trust(&key.public)
        .start();
    let target = receiver.nar_target(&path);
    let address = receiver.http();
    let reader = std::thread::spawn(move || crate::support::http::get(address, &target));
    wait_for("a transfer under way", || {
        (hanging.bytes_sent() > 1_000_000).then_some(())
    });
    receiver.signal(Signal::TERM);
    let asked = Instant::now();
    wait_for("the end", || {
        receiver.signal(Signal::TERM);
        (!receiver.is_running()).then_some(())
    });
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    let _ = reader.join();
}

#[test]
fn a_sharer_that_starts_later_is_found() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let ticket = sharer.ticket();
    let address = crate::support::hostile::address_in(&ticket);
    let socket = address
        .ip_addrs()
        .next()
        .copied()
        .expect("a socket address");
    let (options, state, home) = (
        PeerOptions::new(&a).iroh_bind(&socket.to_string()),
        sharer.state_dir().to_owned(),
        sharer.into_directory(),
    );
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .flag("peer", &ticket)
        .trust(&key.public)
        .start();
    assert_eq!(receiver.narinfo(&path).status, 404);
    let _sharer = options.start_in(home, state);
    receiver.wait_for_narinfo(&path);
    b.substitute(&path, &[receiver.url()], &[&key.public]);
}
