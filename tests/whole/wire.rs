//! What passes between peers compressed, and what does not.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use iroh_blobs::protocol::{GetRequest, Request};
use peerix::peer::wire::{self, decoder::Decoder};

use crate::support::{
    hostile::{Claim, Client, Fault, Liar, address_in, signed_fields},
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    tree::Node,
};

/// A key, and a store with a signed path whose NAR compresses and one whose NAR does not.
struct Sharer {
    key: Key,
    store: NixStore,
    text: String,
    noise: String,
}

impl Sharer {
    fn new(size: usize) -> Sharer {
        let (key, store) = (Key::generate("sharer-1"), NixStore::new());
        let text = store.add(PathSpec::new("text", Node::bytes(&prose(size))));
        let noise = store.add(PathSpec::new("noise", Node::random(size as u64, "noise")));
        store.sign(&key, &[&text, &noise]);
        Sharer {
            key,
            store,
            text,
            noise,
        }
    }

    fn provider(&self, flags: &[(&str, &str)]) -> Peer {
        let options = PeerOptions::new(&self.store);
        let options = flags
            .iter()
            .fold(options, |options, (name, value)| options.flag(name, value));
        let peer = options.start();
        peer.share(&self.text);
        peer.share(&self.noise);
        peer
    }

    /// Fetches `path` through a new peer that knows `provider`; returns it and how long it took.
    fn fetch(&self, provider: &Peer, path: &str, setting: &str) -> (Peer, Duration) {
        let empty = NixStore::new();
        let receiver = PeerOptions::new(&empty)
            .peer(provider)
            .trust(&self.key.public)
            .flag("wire-compression", setting)
            .start();
        let target = receiver.nar_target(path);
        let asked = Instant::now();
        let answer = receiver.get(&target);
        let taken = asked.elapsed();
        assert!(answer.complete && answer.body == self.store.dump(path));
        (receiver, taken)
    }
}

/// Text that zstd makes about three times smaller.
fn prose(size: usize) -> Vec<u8> {
    let mut stream = blake3::Hasher::new().update(b"prose").finalize_xof();
    let mut text = Vec::with_capacity(size + 16);
    let mut bytes = [0; 4096];
    while text.len() < size {
        stream.fill(&mut bytes);
        for byte in bytes {
            text.extend_from_slice(&b"abcdefghijklmnop"[usize::from(byte % 16)..][..1]);
            text.extend_from_slice(&b"lorem ipsum dolor sit amet conse"[..usize::from(byte / 64)]);
        }
    }
    text.truncate(size);
    text
}

fn metric(peer: &Peer, name: &str) -> f64 {
    peer.metric(name).expect("a figure")
}

/// How many times fewer bytes were received on the wire than came out.
fn ratio(receiver: &Peer, size: usize) -> f64 {
    size as f64 / metric(receiver, "peerix_wire_bytes_received_total")
}

#[test]
fn a_limited_provider_carries_more_than_its_limit_by_compressing() {
    const SIZE: usize = 20_000_000;
    let sharer = Sharer::new(SIZE);
    let provider = sharer.provider(&[("upload-limit", "2MB")]);
    let (receiver, taken) = sharer.fetch(&provider, &sharer.text, "auto");
    // Raw it would take ten seconds.
    assert!(taken < Duration::from_millis(8_500), "{taken:?}");
    let ratio = ratio(&receiver, SIZE);
    assert!(ratio > 1.5, "{ratio:.2}");
    // The limit and the metric of the wire count what is on it, the other metric NAR bytes.
    let sent = metric(&provider, "peerix_wire_bytes_sent_total");
    let rate = sent / taken.as_secs_f64();
    assert!(rate < 2_000_000.0 * 1.2, "{rate:.0} bytes a second");
    let nar_bytes = metric(&provider, "peerix_bytes_sent_total");
    assert!(nar_bytes >= SIZE as f64, "{nar_bytes} NAR bytes");
    let received = metric(&receiver, "peerix_bytes_received_total");
    assert!((received - SIZE as f64).abs() < 1000.0, "{received}");
}

#[test]
fn what_does_not_compress_goes_raw_and_costs_nothing_on_the_wire() {
    const SIZE: usize = 24_000_000;
    let sharer = Sharer::new(SIZE);
    for provider in [
        sharer.provider(&[("upload-limit", "8MB")]),
        sharer.provider(&[("wire-compression", "3")]),
    ] {
        let (receiver, _) = sharer.fetch(&provider, &sharer.noise, "auto");
        let ratio = ratio(&receiver, SIZE);
        // The tree's hashes are 0.4 % of it.
        assert!(ratio > 0.985, "{ratio:.4}");
    }
}

#[test]
fn a_level_compresses_always_and_off_on_either_side_never() {
    const SIZE: usize = 6_000_000;
    let sharer = Sharer::new(SIZE);
    let compressing = sharer.provider(&[("wire-compression", "9")]);
    let (receiver, _) = sharer.fetch(&compressing, &sharer.text, "1");
    assert!(
        ratio(&receiver, SIZE) > 2.0,
        "{:.2}",
        ratio(&receiver, SIZE)
    );
    let (receiver, _) = sharer.fetch(&compressing, &sharer.text, "off");
    assert!(ratio(&receiver, SIZE) < 1.0);
    let plain = sharer.provider(&[("wire-compression", "off")]);
    for setting in ["auto", "3", "off"] {
        let (receiver, _) = sharer.fetch(&plain, &sharer.text, setting);
        assert!(ratio(&receiver, SIZE) < 1.0, "{setting}");
    }
}

#[test]
fn a_stock_client_gets_raw_bytes_and_frames_hold_the_same_answer() {
    let sharer = Sharer::new(3_000_000);
    let provider = sharer.provider(&[("wire-compression", "3")]);
    let (client, address) = (Client::new(), address_in(&provider.ticket()));
    let hash = client.blob_hash(&address, &sharer.text);
    let nar = sharer.store.dump(&sharer.text);
    assert_eq!(client.fetch(&address, hash).expect("the NAR"), nar);

    let answer = |alpn: &[u8]| {
        let connection = client.connect(&address, alpn).expect("a connection");
        client.block_on(async {
            let (mut send, recv) = connection.open_bi().await.expect("a stream");
            let request = Request::Get(GetRequest::blob(hash));
            let bytes = postcard::to_allocvec(&request).expect("an encoding");
            send.write_all(&bytes).await.expect("a sent request");
            send.finish().expect("a sent request");
            (recv, connection)
        })
    };
    let (mut raw, _open) = answer(iroh_blobs::ALPN);
    let raw = client.block_on(raw.read_to_end(10_000_000)).expect("all");
    let (framed, _open) = answer(wire::ALPN);
    let mut decoder = Decoder::new(framed, wire::window_log(nar.len() as u64));
    let mut came = BytesMut::new();
    client.block_on(async { while decoder.read_buf(&mut came).await.expect("right frames") {} });
    assert!(came == raw[..], "{} and {} bytes", came.len(), raw.len());
    assert!(decoder.wire_bytes() * 2 < raw.len() as u64);
}

#[test]
fn random_bytes_on_the_compressed_wire_are_refused_and_it_lives() {
    let sharer = Sharer::new(100_000);
    let provider = sharer.provider(&[]);
    let (client, address) = (Client::new(), address_in(&provider.ticket()));
    let connection = client.connect(&address, wire::ALPN).expect("a connection");
    let mut seed = blake3::Hasher::new().update(b"garbage").finalize_xof();
    for n in 0..200 {
        let mut bytes = vec![0; n * 7 + 1];
        seed.fill(&mut bytes);
        let refused = client.block_on(async {
            let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            recv.read_to_end(1024).await.is_err()
        });
        assert!(refused, "{n}");
    }
    let (receiver, _) = sharer.fetch(&provider, &sharer.text, "auto");
    drop(receiver);
}

#[test]
fn frames_that_lie_cost_their_sender_and_the_honest_peer_delivers() {
    let sharer = Sharer::new(600_000);
    let honest = sharer.provider(&[]);
    for frames in [
        vec![7, 0, 0, 0],
        // A zstd stream of 4 GiB windows, and one that goes on without a beginning.
        [&[1, 7, 0, 0][..], &wire::frame::ZSTD_MAGIC, &[0, 0xb0, 1]].concat(),
        vec![2, 4, 0, 0, 1, 2, 3, 4],
        // Right frames of wrong bytes.
        [&[0, 0, 1, 0][..], &[9; 256]].concat(),
    ] {
        let liar = Liar::start_framing(frames.clone());
        liar.claim(
            &sharer.text,
            Claim {
                fields: signed_fields(&sharer.store, &sharer.text),
                nar: sharer.store.dump(&sharer.text).into(),
                fault: Fault::None,
            },
        );
        let empty = NixStore::new();
        let alone = PeerOptions::new(&empty)
            .trust(&sharer.key.public)
            .flag("peer", &liar.address());
        let receiver = alone.clone().start();
        let target = receiver.nar_target(&sharer.text);
        let answer = receiver.get(&target);
        assert!(!(answer.status == 200 && answer.complete), "{frames:?}");
        let text = receiver.get("/metrics").text();
        let bad = text
            .lines()
            .find_map(|line| line.strip_prefix("peerix_peer_faults_total{kind=\"bad_data\"} "));
        assert_ne!(bad, Some("0"), "{frames:?}\n{text}");
        drop(receiver);

        let both = alone.peer(&honest).start();
        crate::support::wait_for("the right NAR", || {
            let answer = both.get(&both.nar_target(&sharer.text));
            (answer.complete && answer.body == sharer.store.dump(&sharer.text)).then_some(())
        });
    }
}
