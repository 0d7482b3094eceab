//! One NAR from several providers, which are killed, slow, silent, or fetch it themselves.

use std::{
    io::{BufReader, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use crate::support::{
    hostile::{Claim, Fault, Liar, signed_fields},
    http,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    tree::Node,
    wait_for,
};

const MB: u64 = 1_000_000;

/// What a client saw of one body.
struct Body {
    length: u64,
    sha256: [u8; 32],
    complete: bool,
    longest_pause: Duration,
}

/// Reads a NAR and tells `watch` at each piece how much has come.
fn read_nar(address: SocketAddr, target: &str, mut watch: impl FnMut(u64)) -> Body {
    let mut stream = http::connect(address).expect("a connection");
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .expect("a request");
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let (status, headers) = http::read_head(&mut reader).expect("an answer");
    assert_eq!(status, 200);
    let promised: u64 = headers["content-length"].parse().expect("a length");
    let mut hasher = Sha256::new();
    let (mut length, mut longest_pause) = (0, Duration::ZERO);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let asked = Instant::now();
        let read = reader.read(&mut buffer).unwrap_or(0);
        longest_pause = longest_pause.max(asked.elapsed());
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
        watch(length);
    }
    Body {
        length,
        sha256: hasher.finalize().into(),
        complete: length == promised,
        longest_pause,
    }
}

/// A signed NAR of random bytes and its SHA-256.
struct Nar {
    key: Key,
    store: NixStore,
    path: String,
    size: u64,
    sha256: [u8; 32],
}

impl Nar {
    fn of(size: u64) -> Nar {
        let (key, store) = (Key::generate("trusted-1"), NixStore::new());
        let path = store.add(PathSpec::new("wanted", Node::random(size, "wanted")));
        store.sign(&key, &[&path]);
        let dump = store.dump(&path);
        Nar {
            key,
            size: dump.len() as u64,
            sha256: Sha256::digest(&dump).into(),
            store,
            path,
        }
    }

    /// A peer that has it and has hashed it, and sends at most at `limit`.
    fn provider(&self, limit: &str) -> Peer {
        let peer = PeerOptions::new(&self.store)
            .flag("public-cache-key", &self.key.public)
            .flag("upload-limit", limit)
            .start();
        peer.share(&self.path);
        peer
    }

    fn receiver(&self, store: &NixStore, providers: &[&Peer]) -> Peer {
        let options = PeerOptions::new(store)
            .trust(&self.key.public)
            .flag("public-cache-key", &self.key.public);
        let receiver = providers
            .iter()
            .fold(options, |options, peer| options.peer(peer))
            .start();
        wait_for("all peers", || {
            (receiver.connected_peers() >= providers.len()).then_some(())
        });
        receiver
    }

    /// A provider of it that lies.
    fn liar(&self, fault: Fault) -> Liar {
        let liar = Liar::start();
        liar.claim(
            &self.path,
            Claim {
                fields: signed_fields(&self.store, &self.path),
                nar: self.store.dump(&self.path).into(),
                fault,
            },
        );
        liar
    }

    fn assert_arrived(&self, body: &Body, receiver: &Peer) {
        assert!(body.complete, "{} of {}", body.length, self.size);
        assert_eq!(body.sha256, self.sha256);
        receiver.assert_no_panic();
    }
}

fn received(peer: &Peer) -> u64 {
    peer.metric("peerix_bytes_received_total").unwrap_or(0.0) as u64
}

/// FAULTS P1.
#[test]
fn a_provider_that_is_killed_is_replaced_within_one_response() {
    let nar = Nar::of(120 * MB);
    for percent in [10, 50, 95] {
        let mut doomed = nar.provider("30MB");
        let other = nar.provider("30MB");
        let b = NixStore::new();
        let receiver = nar.receiver(&b, &[&doomed, &other]);
        let target = receiver.nar_target(&nar.path);
        let body = read_nar(receiver.http(), &target, |length| {
            if length * 100 >= nar.size * percent && doomed.is_running() {
                doomed.kill();
            }
        });
        nar.assert_arrived(&body, &receiver);
        let all = received(&receiver);
        assert!(all <= nar.size + nar.size / 50, "{all} of {}", nar.size);
        // Three seconds are asked for; a busy machine may add some.
        assert!(
            body.longest_pause < Duration::from_secs(6),
            "{percent} %: {:?}",
            body.longest_pause
        );
    }
}

/// FAULTS P6.
#[test]
fn a_crawling_provider_does_not_hold_up_a_fast_one() {
    let nar = Nar::of(60 * MB);
    let crawling = nar.provider("1KB");
    let fast = nar.provider("20MB");
    let b = NixStore::new();
    let receiver = nar.receiver(&b, &[&crawling, &fast]);
    let target = receiver.nar_target(&nar.path);
    let begun = Instant::now();
    let body = read_nar(receiver.http(), &target, |_| {});
    nar.assert_arrived(&body, &receiver);
    // Three seconds at the fast one's rate; a minute and more if the other held it up.
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    let crawled = crawling.metric("peerix_bytes_sent_total").unwrap_or(0.0);
    assert!(crawled < 0.01 * nar.size as f64, "{crawled}");
}

/// FAULTS P6: the last source is kept while it makes progress.
#[test]
fn a_slow_only_provider_is_kept() {
    let nar = Nar::of(600_000);
    let slow = nar.provider("50KB");
    let b = NixStore::new();
    let receiver = nar.receiver(&b, &[&slow]);
    let target = receiver.nar_target(&nar.path);
    let body = read_nar(receiver.http(), &target, |_| {});
    nar.assert_arrived(&body, &receiver);
}

/// FAULTS P6: accepting, and never answering.
#[test]
fn a_provider_that_never_answers_is_left_for_another() {
    for size in [500_000, 30 * MB] {
        let nar = Nar::of(size);
        let silent = nar.liar(Fault::SilentAfter(0));
        let honest = nar.provider("100MB");
        let b = NixStore::new();
        let receiver = PeerOptions::new(&b)
            .trust(&nar.key.public)
            .flag("peer", &silent.address())
            .peer(&honest)
            .start();
        wait_for("both peers", || {
            (receiver.connected_peers() >= 2).then_some(())
        });
        let target = receiver.nar_target(&nar.path);
        let body = read_nar(receiver.http(), &target, |_| {});
        nar.assert_arrived(&body, &receiver);
        assert!(
            body.longest_pause < Duration::from_secs(20),
            "{:?}",
            body.longest_pause
        );
    }
}

/// FAULTS P3: one provider of two flips bits.
#[test]
fn a_provider_that_flips_bits_is_left_and_the_response_goes_on() {
    let nar = Nar::of(40 * MB);
    let liar = nar.liar(Fault::FlipBit(nar.size / 3));
    let honest = nar.provider("40MB");
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .trust(&nar.key.public)
        .flag("peer", &liar.address())
        .peer(&honest)
        .start();
    wait_for("both peers", || {
        (receiver.connected_peers() >= 2).then_some(())
    });
    let target = receiver.nar_target(&nar.path);
    let body = read_nar(receiver.http(), &target, |_| {});
    nar.assert_arrived(&body, &receiver);
    // It was asked for some of it, though maybe not for the byte that it flips.
    assert!(liar.bytes_sent() > 0);
}

#[test]
fn both_providers_of_a_nar_carry_their_share() {
    let nar = Nar::of(60 * MB);
    let (one, other) = (nar.provider("10MB"), nar.provider("10MB"));
    let b = NixStore::new();
    let receiver = nar.receiver(&b, &[&one, &other]);
    let target = receiver.nar_target(&nar.path);
    let body = read_nar(receiver.http(), &target, |_| {});
    nar.assert_arrived(&body, &receiver);
    for peer in [&one, &other] {
        let sent = peer.metric("peerix_bytes_sent_total").unwrap_or(0.0);
        let share = sent / nar.size as f64;
        assert!((0.4..0.65).contains(&share), "{share:.2} of the NAR");
    }
}

#[test]
fn a_provider_that_appears_in_the_middle_helps() {
    let nar = Nar::of(60 * MB);
    let first = nar.provider("5MB");
    let later = nar.provider("30MB");
    let b = NixStore::new();
    let receiver = nar.receiver(&b, &[&first]);
    let target = receiver.nar_target(&nar.path);
    let mut told = false;
    let body = read_nar(receiver.http(), &target, |_| {
        if !told {
            told = true;
            receiver.meet(&later);
        }
    });
    nar.assert_arrived(&body, &receiver);
    let helped = later.metric("peerix_bytes_sent_total").unwrap_or(0.0);
    assert!(helped > 0.4 * nar.size as f64, "{helped}");
}

/// FAULTS P13, the bytes: machines that fetch one NAR at once help each other.
#[test]
fn a_flash_crowd_costs_its_source_little_more_than_one_copy() {
    const CROWD: usize = 6;
    let nar = Nar::of(24 * MB);
    let source = nar.provider("4MB");
    let stores: Vec<NixStore> = (0..CROWD).map(|_| NixStore::new()).collect();
    let mut crowd: Vec<Peer> = Vec::new();
    for store in &stores {
        let options = PeerOptions::new(store)
            .trust(&nar.key.public)
            .flag("public-cache-key", &nar.key.public)
            .flag("upload-limit", "4MB")
            .peer(&source);
        let peer = crowd
            .iter()
            .fold(options, |options, other| options.peer(other))
            .start();
        crowd.push(peer);
    }
    // Each knows all: the earlier ones through the later ones' tickets.
    for (at, peer) in crowd.iter().enumerate() {
        for later in &crowd[at + 1..] {
            peer.meet(later);
        }
    }
    wait_for("everyone to know everyone", || {
        crowd
            .iter()
            .all(|peer| peer.connected_peers() >= CROWD)
            .then_some(())
    });
    let before = source.metric("peerix_bytes_sent_total").unwrap_or(0.0);
    std::thread::scope(|scope| {
        for peer in &crowd {
            let nar = &nar;
            scope.spawn(move || {
                let target = peer.nar_target(&nar.path);
                let body = read_nar(peer.http(), &target, |_| {});
                nar.assert_arrived(&body, peer);
            });
        }
    });
    let sent = source.metric("peerix_bytes_sent_total").unwrap_or(0.0) - before;
    let copies = sent / nar.size as f64;
    assert!(copies <= 1.3, "the source sent {copies:.2} copies");
}

/// FAULTS P14: a suspended machine goes on where it was.
#[test]
fn a_receiver_that_sleeps_in_the_middle_wakes_and_goes_on() {
    let nar = Nar::of(60 * MB);
    let provider = nar.provider("15MB");
    let b = NixStore::new();
    let receiver = nar.receiver(&b, &[&provider]);
    let target = receiver.nar_target(&nar.path);
    let mut slept = false;
    let body = read_nar(receiver.http(), &target, |length| {
        if length > nar.size / 3 && !slept {
            slept = true;
            receiver.signal(Signal::STOP);
            let woken = Instant::now() + Duration::from_secs(7);
            wait_for("the end of the sleep", || {
                (Instant::now() >= woken).then_some(())
            });
            receiver.signal(Signal::CONT);
        }
    });
    nar.assert_arrived(&body, &receiver);
}
