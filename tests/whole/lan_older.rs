//! The older program's protocols on the local network, both roles, byte for byte.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha12Rng};

use crate::support::{
    http::{self, Answer},
    network::{Host, Network},
    nix_store::{Key, NixStore, PathSpec, hash_part, store_path_named},
    older_peer::{OlderPeer, PORT, nar_name, older_narinfo, receive, request, response, socket},
    peer::{Peer, PeerOptions, field, fields},
    tree::Node,
    wait_for,
};

/// Long enough for an answer that comes.
const ANSWERED: Duration = Duration::from_secs(10);

/// Long enough for an answer that should not come, since others came in far less.
const SILENCE: Duration = Duration::from_millis(400);

fn lan(store: &NixStore, key: &Key) -> PeerOptions {
    PeerOptions::plain(store)
        .flag("mode", "lan")
        .flag("public-cache-key", &key.public)
        .trust(&key.public)
}

fn start(host: &Host, options: PeerOptions) -> Peer {
    host.inside(move || options.start())
}

/// The next answer; our own broadcasts come back to whoever sends them.
fn receive_answer(socket: &UdpSocket, patience: Duration) -> Option<(Vec<u8>, SocketAddr)> {
    let until = Instant::now() + patience;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let received = receive(socket, left.max(Duration::from_millis(1)))?;
        if received.1 != SocketAddr::from(([10, 77, 0, 2], PORT)) {
            return Some(received);
        }
    }
    None
}

/// Asks everybody, and returns what is answered at once.
fn answer_to(socket: &UdpSocket, bytes: &[u8]) -> Option<(Vec<u8>, SocketAddr)> {
    socket.send_to(bytes, ("10.77.0.255", PORT)).expect("sent");
    receive_answer(socket, SILENCE)
}

fn dropped(host: &Host, peer: &Peer) -> f64 {
    host.inside(|| peer.metric("peerix_lan_dropped_total").unwrap_or(0.0))
}

#[test]
fn an_older_peer_is_answered_and_fetches_what_is_offered_alone() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [ours, older] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let store = NixStore::new();
    let reference = store.add(PathSpec::new("referred", Node::random(1000, "referred")));
    let offered = PathSpec::new("offered", Node::random(300_000, "offered"));
    let offered = store.add(offered.with_references(&[reference]));
    let private = store.add(PathSpec::new("private", Node::random(1000, "private")));
    store.sign(&key, &[&offered]);
    let peer = start(ours, lan(&store, &key));
    let hash = hash_part(&offered);

    older.inside(|| {
        let socket = socket();
        socket
            .send_to(&request(4, hash), ("10.77.0.255", PORT))
            .expect("sent");
        let (answer, from) = receive_answer(&socket, ANSWERED).expect("an answer");
        assert_eq!(answer, response(4, PORT, hash));
        assert_eq!(from, "10.77.0.1:12304".parse().expect("an address"));
        assert_eq!(receive_answer(&socket, SILENCE), None, "a second answer");
        for absent in [hash_part(&private), hash_part(&store_path_named("absent"))] {
            assert_eq!(answer_to(&socket, &request(5, absent)), None);
        }

        let at = |target: &str| http::get(from, target);
        let narinfo = at(&format!("/local/{hash}.narinfo"));
        assert_eq!(
            (narinfo.status, narinfo.header("content-type")),
            (200, "text/x-nix-narinfo")
        );
        let lines = fields(&narinfo.text());
        let url = field(&lines, "URL").expect("a URL");
        assert_eq!(url, format!("local/nar/{}", nar_name(&offered)));
        assert_eq!(field(&lines, "NarHash"), Some(&*store.nar_hash(&offered)));
        let nar = at(&format!("/{url}"));
        assert!(nar.complete && nar.status == 200 && nar.body == store.dump(&offered));
        assert_eq!(at("/nix-cache-info").status, 200);
        let renamed = offered.replace("-offered", "-renamed");
        for refused in [
            format!("/local/{}.narinfo", hash_part(&private)),
            format!("/local/nar/{}", nar_name(&private)),
            format!("/local/nar/{}", nar_name(&renamed)),
            format!("/local/nar/{}", nar_name("/etc/passwd")),
            format!("/local/nar/../nar/{}", nar_name(&offered)),
        ] {
            assert_eq!(at(&refused).status, 404, "{refused}");
        }
    });
    assert_eq!(
        ours.inside(|| peer.metric("peerix_lan_answers_total")),
        Some(1.0)
    );
    // Programs on the machine itself get all of its own store under these names.
    ours.inside(|| {
        assert_eq!(
            peer.get(&format!("/local/{}.narinfo", hash_part(&private)))
                .status,
            200
        );
        for place in ["local/nar", "nar"] {
            let nar = peer.get(&format!("/{place}/{}", nar_name(&private)));
            assert_eq!(nar.body, store.dump(&private), "{place}");
        }
    });
}

/// FAULTS H6.
#[test]
fn another_host_stays_another_host_whatever_its_headers_say() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [ours, other] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let store = NixStore::new();
    let path = store.add(PathSpec::new("offered", Node::random(1000, "offered")));
    store.sign(&key, &[&path]);
    let peer = start(ours, lan(&store, &key));
    let narinfo = format!("/{}.narinfo", hash_part(&path));
    let nar = ours.inside(|| peer.nar_target(&path));
    let from = |address: &str, target: &str, headers: &[(&str, &str)]| -> Answer {
        let address = format!("{address}:{PORT}").parse().expect("an address");
        http::request(address, "GET", target, headers)
    };
    let forwarded = [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
    ];
    other.inside(|| {
        for header in forwarded {
            for (target, status) in [
                (&*narinfo, 404),
                (&*nar, 404),
                ("/status", 403),
                ("/metrics", 403),
                ("/peers", 403),
                ("/health", 403),
            ] {
                assert_eq!(
                    from("10.77.0.1", target, &[header]).status,
                    status,
                    "{target}"
                );
            }
        }
        let rebound = b"GET /nix-cache-info HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        let address = "10.77.0.1:12304".parse().expect("an address");
        assert_eq!(
            http::exchange(address, rebound, false)
                .expect("an answer")
                .status,
            421
        );
    });
    // The machine itself is known under all of its addresses.
    ours.inside(|| {
        for address in ["127.0.0.1", "10.77.0.1"] {
            assert_eq!(from(address, &narinfo, &[]).status, 200, "{address}");
            assert_eq!(from(address, "/status", &[]).status, 200, "{address}");
        }
    });
}

#[test]
fn spoofed_truncated_oversized_and_random_datagrams_are_dropped_and_counted() {
    const RANDOM: usize = 30_000;
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [ours, older] = network.hosts() else {
        unreachable!()
    };
    // An address that is on no network of ours.
    older.ip("addr add 198.51.100.7/32 dev eth0");
    let key = Key::generate("lan-1");
    let store = NixStore::new();
    let path = store.add(PathSpec::new("offered", Node::random(1000, "offered")));
    store.sign(&key, &[&path]);
    let peer = start(ours, lan(&store, &key));
    let hash = hash_part(&path);
    older.inside(|| {
        let socket = socket();
        let valid = request(1, hash);
        let mut oversized = valid.clone();
        oversized.resize(1400, b'x');
        for wrong in [
            &[][..],
            &valid[..4],
            &valid[..36],
            &oversized,
            &response(1, PORT, hash),
        ] {
            assert_eq!(answer_to(&socket, wrong), None);
        }
        let spoofed = UdpSocket::bind("198.51.100.7:12304");
        assert!(spoofed.is_err(), "the wildcard socket holds the port");
    });
    wait_for("counted drops", || {
        (dropped(ours, &peer) >= 5.0).then_some(())
    });
    older.inside(|| {
        let spoofing = UdpSocket::bind("198.51.100.7:12304").expect("a socket");
        spoofing
            .send_to(&request(2, hash), ("10.77.0.1", PORT))
            .expect("sent");
        assert_eq!(receive(&spoofing, SILENCE), None);
    });
    wait_for("a counted stranger", || {
        (dropped(ours, &peer) >= 6.0).then_some(())
    });

    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let before = dropped(ours, &peer);
    older.inside(|| {
        let socket = socket();
        let mut bytes = [0; 100];
        for _ in 0..RANDOM {
            rng.fill(&mut bytes[..]);
            let length = rng.random_range(0..100);
            let _ = socket.send_to(&bytes[..length], ("10.77.0.1", PORT));
        }
        // An honest request is answered again once the flood is over.
        wait_for("an answer after the flood", || {
            answer_to(&socket, &request(9, hash))
        });
    });
    assert!(dropped(ours, &peer) > before);
    assert!(peer.peak_memory() < 256 << 20);
}

#[test]
fn an_older_peer_is_asked_where_nobody_else_knows() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [ours, older] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new(
        "held-by-older",
        Node::random(700_000, "held"),
    ));
    first.sign(&key, &[&path]);
    let (narinfo, nar) = (older_narinfo(&first, &path), first.dump(&path));
    let older_peer = older.inside(|| OlderPeer::start(&path, narinfo, nar));
    let peer = start(ours, lan(&second, &key));
    ours.inside(|| {
        let narinfo = peer.wait_for_narinfo(&path);
        assert_eq!(field(&narinfo, "NarHash"), Some(&*first.nar_hash(&path)));
        // The URL is this machine's own, whatever the older peer's narinfo says.
        assert!(field(&narinfo, "URL").is_some_and(|url| url.starts_with("nar/")));
        second.substitute(&path, &[peer.url()], &[&key.public]);
        second.verify_contents();
    });
    let asked = older_peer.asked();
    for bytes in &asked {
        let id = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        assert_eq!(*bytes, request(id, hash_part(&path)));
    }
    // Ids are no numbers to guess.
    let ids: Vec<&[u8]> = asked.iter().map(|bytes| &bytes[1..5]).collect();
    assert!(ids.iter().all(|id| id[..2] != [0, 0]), "{ids:?}");
}

#[test]
fn what_an_older_peer_says_has_to_be_signed() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [ours, older] = network.hosts() else {
        unreachable!()
    };
    let (key, other) = (Key::generate("lan-1"), Key::generate("other-1"));
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new(
        "signed-by-a-stranger",
        Node::random(5000, "held"),
    ));
    first.sign(&other, &[&path]);
    let (narinfo, nar) = (older_narinfo(&first, &path), first.dump(&path));
    let older_peer = older.inside(|| OlderPeer::start(&path, narinfo, nar));
    let peer = start(ours, lan(&second, &key));
    ours.inside(|| {
        wait_for("a question", || {
            assert_eq!(peer.narinfo(&path).status, 404);
            (!older_peer.asked().is_empty()).then_some(())
        });
    });
}

#[test]
fn a_miss_with_silent_neighbours_is_cheap() {
    let Some(network) = Network::with_addresses(4) else {
        return;
    };
    let [ours, first, second, older] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let stores: Vec<NixStore> = (0..4).map(|_| NixStore::new()).collect();
    let held = stores[3].add(PathSpec::new("held", Node::random(1000, "held")));
    stores[3].sign(&key, &[&held]);
    let narinfo = older_narinfo(&stores[3], &held);
    let nar = stores[3].dump(&held);
    let peer = start(ours, lan(&stores[0], &key));
    let _others = [
        start(first, lan(&stores[1], &key)),
        start(second, lan(&stores[2], &key)),
    ];
    // It is silent but for one path, and so far nobody knows that it is there.
    let _older = older.inside(|| OlderPeer::start(&held, narinfo, nar));
    let misses = |what: &str, count: usize| {
        let mut taken: Vec<Duration> = (0..count)
            .map(|number| {
                let absent = store_path_named(&format!("{what}-{number}"));
                let asked = Instant::now();
                assert_eq!(peer.narinfo(&absent).status, 404);
                asked.elapsed()
            })
            .collect();
        taken.sort_unstable();
        let (half, most) = (taken[count / 2], taken[count * 99 / 100]);
        println!(
            "a miss, {what}: p50 {half:?}, p99 {most:?}, slowest {:?}",
            taken[count - 1]
        );
        (half, most)
    };
    ours.inside(|| {
        wait_for("two peers", || (peer.connected_peers() >= 2).then_some(()));
        let (_, most) = misses("older-peers-never-heard", 1000);
        assert!(most <= Duration::from_millis(50), "p99 {most:?}");
        peer.wait_for_narinfo(&held);
        // Of waits a busy machine's timers come late: no bound on the slowest.
        let (half, _) = misses("an-older-peer-heard", 300);
        assert!(half <= Duration::from_millis(50), "p50 {half:?}");
    });
}
