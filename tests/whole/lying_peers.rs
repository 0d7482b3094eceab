//! Peers that send wrong bytes, wrong sizes, too little or nothing.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::support::{
    hostile::{Claim, Client, Fault, Liar, address_in, signed_fields},
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    shapes::CHECKED_FIRST,
    static_cache::StaticCache,
    text_of,
    tree::{Node, sha256},
    wait_for,
};

const SMALL: u64 = 600_000;
const LARGE: u64 = 12_000_000;

/// A key, and a store with a signed path of each size.
struct Truth {
    key: Key,
    store: NixStore,
    small: String,
    large: String,
}

impl Truth {
    fn new() -> Truth {
        let (key, store) = (Key::generate("trusted-1"), NixStore::new());
        let small = store.add(PathSpec::new("small", Node::random(SMALL, "small")));
        let large = store.add(PathSpec::new("large", Node::random(LARGE, "large")));
        store.sign(&key, &[&small, &large]);
        Truth {
            key,
            store,
            small,
            large,
        }
    }

    /// A provider of `store_path` with a fault.
    fn faulty(&self, store_path: &str, fault: Fault) -> Liar {
        let liar = Liar::start();
        liar.claim(
            store_path,
            Claim {
                fields: signed_fields(&self.store, store_path),
                nar: self.store.dump(store_path).into(),
                fault,
            },
        );
        liar
    }

    /// A provider that offers the blob of other bytes under the right fields.
    fn impostor(&self, store_path: &str) -> Liar {
        let mut nar = self.store.dump(store_path);
        let middle = nar.len() / 2;
        nar[middle] ^= 1;
        let liar = Liar::start();
        liar.claim(
            store_path,
            Claim {
                fields: signed_fields(&self.store, store_path),
                nar: nar.into(),
                fault: Fault::None,
            },
        );
        liar
    }

    fn receiver(&self, store: &NixStore, liars: &[&Liar]) -> PeerOptions {
        let options = PeerOptions::new(store).trust(&self.key.public);
        liars.iter().fold(options, |options, liar| {
            options.flag("peer", &liar.address())
        })
    }
}

/// Asks for the NAR and makes sure that no wrong NAR is handed out whole; `true` for the right one.
fn arrives(receiver: &Peer, truth: &Truth, store_path: &str) -> bool {
    let nar_hash = truth.store.nar_hash(store_path);
    let hash = crate::support::nix_store::hash_part(store_path);
    let target = format!("/nar/{}.nar?hash={hash}", &nar_hash["sha256:".len()..]);
    let answer = receiver.get(&target);
    assert!([200, 404].contains(&answer.status), "{}", answer.status);
    if answer.status == 200 && answer.complete {
        assert_eq!(sha256(&answer.body), sha256(&truth.store.dump(store_path)));
        return true;
    }
    false
}

#[test]
fn flipped_bits_never_reach_a_reader() {
    let truth = Truth::new();
    let mut seed = blake3::Hasher::new().update(b"flips").finalize_xof();
    let mut offset_below = |size: u64| {
        let mut bytes = [0; 8];
        seed.fill(&mut bytes);
        u64::from_le_bytes(bytes) % size
    };
    for round in 0..12 {
        let (path, size) = match round % 3 {
            0 => (&truth.large, LARGE),
            _ => (&truth.small, SMALL),
        };
        let offset = offset_below(size);
        let liar = truth.faulty(path, Fault::FlipBit(offset));
        let b = NixStore::new();
        let receiver = truth.receiver(&b, &[&liar]).start();
        receiver.wait_for_narinfo(path);
        assert!(!arrives(&receiver, &truth, path), "bit {offset} of {path}");
        assert!(liar.blob_requests() > 0);
    }
}

#[test]
fn a_flipped_bit_costs_its_sender_and_the_honest_peer_delivers() {
    let truth = Truth::new();
    let honest = PeerOptions::new(&truth.store).start();
    honest.share(&truth.small);
    honest.share(&truth.large);
    for path in [&truth.small, &truth.large] {
        let liar = truth.faulty(path, Fault::FlipBit(SMALL / 2));
        let b = NixStore::new();
        let receiver = truth.receiver(&b, &[&liar]).peer(&honest).start();
        wait_for("both peers", || connected(&receiver, 2));
        // At the latest the second attempt finds the liar demoted.
        wait_for("the right NAR", || {
            arrives(&receiver, &truth, path).then_some(())
        });
        if liar.blob_requests() > 0 {
            let bad = fault_count(&receiver, "bad_data");
            assert!(bad > 0.0, "{}", receiver.get("/metrics").text());
        }
        b.substitute(path, &[receiver.url()], &[&truth.key.public]);
        b.verify_contents();
    }
}

#[test]
fn a_liar_is_known_after_a_restart() {
    let truth = Truth::new();
    let liar = truth.faulty(&truth.large, Fault::FlipBit(LARGE / 2));
    let b = NixStore::new();
    let mut receiver = truth.receiver(&b, &[&liar]).start();
    wait_for("the liar", || connected(&receiver, 1));
    assert!(!arrives(&receiver, &truth, &truth.large));
    let told = |receiver: &Peer| {
        let peers = receiver.json(&["peers"]);
        let row = &peers["peers"][0];
        let lies = row["lies"].as_u64().expect("a figure");
        (lies, row["reputation"]["backed_off"] == true)
    };
    let before = told(&receiver);
    assert!(before.0 > 0 && before.1, "{before:?}");
    receiver.stop();
    let receiver = receiver.restart();
    assert_eq!(told(&receiver), before);
}

#[test]
fn a_small_wrong_nar_is_retried_unseen() {
    let truth = Truth::new();
    let impostor = truth.impostor(&truth.small);
    let honest = PeerOptions::new(&truth.store).start();
    honest.share(&truth.small);
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&impostor]).peer(&honest).start();
    wait_for("both peers", || connected(&receiver, 2));
    receiver.wait_for_narinfo(&truth.small);
    b.substitute(&truth.small, &[receiver.url()], &[&truth.key.public]);
    b.verify_contents();
}

#[test]
fn a_small_wrong_nar_from_the_only_peer_is_a_miss() {
    let truth = Truth::new();
    let impostor = truth.impostor(&truth.small);
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&impostor]).start();
    let target = receiver.nar_target(&truth.small);
    assert_eq!(receiver.get(&target).status, 404);
    assert!(
        fault_count(&receiver, "wrong_nar") > 0.0,
        "{}",
        receiver.get("/metrics").text()
    );
}

#[test]
fn a_wrong_blob_that_nobody_vouches_for_is_not_fetched() {
    let truth = Truth::new();
    let mut nar = truth.store.dump(&truth.large);
    nar[1000] ^= 1;
    let liar = Liar::start();
    liar.claim(
        &truth.large,
        Claim {
            fields: signed_fields(&truth.store, &truth.large),
            nar: nar.into(),
            fault: Fault::OnlyPart,
        },
    );
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&liar]).start();
    let target = receiver.nar_target(&truth.large);
    assert_eq!(receiver.get(&target).status, 404);
    assert_eq!(liar.blob_requests(), 0);
    // One who has it is believed, and the other is of no account.
    let honest = PeerOptions::new(&truth.store).start();
    honest.share(&truth.large);
    receiver.meet(&honest);
    wait_for("the right NAR", || {
        arrives(&receiver, &truth, &truth.large).then_some(())
    });
}

#[test]
fn nix_takes_the_next_cache_after_a_large_wrong_nar() {
    let truth = Truth::new();
    let impostor = truth.impostor(&truth.large);
    let upstream = StaticCache::of(&truth.store, &[&truth.large], 40);
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&impostor]).start();
    receiver.wait_for_narinfo(&truth.large);

    let substituters = [receiver.url(), upstream.url()];
    let output = b.try_substitute(&truth.large, &substituters, &[&truth.key.public]);

    assert!(output.status.success(), "{}", text_of(&output));
    assert!(
        !text_of(&output).contains("hash mismatch"),
        "{}",
        text_of(&output)
    );
    assert!(
        impostor.blob_requests() > 0,
        "Nix never asked through the peer"
    );
    b.verify_contents();
    // The next attempt through us succeeds: an honest peer has it, the impostor is demoted.
    let honest = PeerOptions::new(&truth.store).start();
    honest.share(&truth.large);
    let c = NixStore::new();
    let again = truth.receiver(&c, &[&impostor]).peer(&honest).start();
    wait_for("both peers", || connected(&again, 2));
    again.wait_for_narinfo(&truth.large);
    wait_for("the right NAR", || {
        arrives(&again, &truth, &truth.large).then_some(())
    });
    c.substitute(&truth.large, &[again.url()], &[&truth.key.public]);
    c.verify_contents();
}

#[test]
fn the_end_of_a_large_wrong_nar_is_withheld() {
    let truth = Truth::new();
    let impostor = truth.impostor(&truth.large);
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&impostor]).start();
    let target = receiver.nar_target(&truth.large);
    let answer = receiver.get(&target);
    assert_eq!(answer.status, 200);
    assert!(!answer.complete);
    let nar = truth.store.dump(&truth.large);
    assert!(answer.body.len() < nar.len(), "{}", answer.body.len());
    // To resume onto a wrong prefix would fail the build: it must start again from 0.
    let resumed = format!("bytes={}-", answer.body.len());
    let again =
        crate::support::http::request(receiver.http(), "GET", &target, &[("Range", &resumed)]);
    assert_eq!(again.status, 404);
}

#[test]
fn a_provider_that_lies_about_the_size_stores_nothing() {
    let truth = Truth::new();
    let size = truth.store.dump(&truth.small).len() as u64;
    for lie in [0, 1, size - 1, size + 1, size + 16_384, 1 << 40, u64::MAX] {
        let liar = truth.faulty(&truth.small, Fault::Size(lie));
        let b = NixStore::new();
        let receiver = truth.receiver(&b, &[&liar]).start();
        receiver.wait_for_narinfo(&truth.small);
        let before = receiver.peak_memory();
        assert!(!arrives(&receiver, &truth, &truth.small), "size {lie}");
        let grown = receiver.peak_memory() - before;
        assert!(grown < 32 << 20, "size {lie} cost {grown} bytes");
        assert_nothing_stored(&receiver);
    }
}

#[test]
fn bytes_after_the_end_do_no_harm() {
    let truth = Truth::new();
    for path in [&truth.small, &truth.large] {
        let liar = truth.faulty(path, Fault::Trailing(3_000_000));
        let b = NixStore::new();
        let receiver = truth.receiver(&b, &[&liar]).start();
        receiver.wait_for_narinfo(path);
        arrives(&receiver, &truth, path);
        assert!(receiver.peak_memory() < 256 << 20);
    }
}

#[test]
fn signed_sizes_that_no_nar_has_are_refused() {
    let truth = Truth::new();
    for size in [0, u64::MAX, 1 << 63] {
        let liar = Liar::start();
        let mut fields = signed_fields(&truth.store, &truth.small);
        fields.nar_size = size;
        liar.claim(
            &truth.small,
            Claim {
                fields,
                nar: Bytes::from_static(b"x"),
                fault: Fault::None,
            },
        );
        let b = NixStore::new();
        // Even where nothing is verified.
        let receiver = truth.receiver(&b, &[&liar]).switch("no-verify").start();
        wait_for("the liar to be asked", || {
            assert_eq!(receiver.narinfo(&truth.small).status, 404);
            (liar.lookups() > 0).then_some(())
        });
    }
}

#[test]
fn a_nar_that_is_cut_off_never_ends_cleanly() {
    let truth = Truth::new();
    for fault in [
        Fault::EndAfter(LARGE / 2),
        Fault::CloseAfter(LARGE / 2),
        Fault::EndAfter(100),
        Fault::EndAfter(8),
        Fault::EndAfter(0),
    ] {
        let liar = truth.faulty(&truth.large, fault.clone());
        let b = NixStore::new();
        let receiver = truth.receiver(&b, &[&liar]).start();
        receiver.wait_for_narinfo(&truth.large);
        let asked = Instant::now();
        // What a provider gives before it ends is right, and may add up to the whole.
        let gives_much =
            matches!(fault, Fault::EndAfter(n) | Fault::CloseAfter(n) if n == LARGE / 2);
        let arrived = arrives(&receiver, &truth, &truth.large);
        assert!(gives_much || !arrived, "{fault:?}");
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
    }
}

#[test]
fn a_provider_that_falls_silent_is_given_up() {
    let truth = Truth::new();
    // Less than a chunk group of each answer: more would add up to the NAR, try by try.
    for (path, silent) in [(&truth.small, 10_000), (&truth.large, 10_000)] {
        let liar = truth.faulty(path, Fault::SilentAfter(silent));
        let b = NixStore::new();
        let receiver = truth.receiver(&b, &[&liar]).start();
        receiver.wait_for_narinfo(path);
        let asked = Instant::now();
        assert!(!arrives(&receiver, &truth, path));
        assert!(
            asked.elapsed() < Duration::from_secs(30),
            "{:?}",
            asked.elapsed()
        );
    }
}

#[test]
fn the_only_provider_killed_in_the_middle_cuts_the_connection() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(60_000_000, "large")));
    a.sign(&key, &[&path]);
    // Slow enough to be in the middle for as long as it takes.
    let mut sharer = PeerOptions::new(&a).flag("upload-limit", "8MB").start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    let target = receiver.nar_target(&path);

    let reading = {
        let (address, target) = (receiver.http(), target.clone());
        std::thread::spawn(move || crate::support::http::get(address, &target))
    };
    // So many that the head of the answer is long out.
    wait_for("bytes under way", || {
        (receiver.metric("peerix_bytes_received_total") > Some(12_000_000.0)).then_some(())
    });
    sharer.kill();
    let killed = Instant::now();
    let answer = reading.join().expect("the reader");
    assert_eq!(answer.status, 200);
    assert!(!answer.complete, "a whole body out of a dead provider");
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    // What came is right as far as it goes.
    let nar = a.dump(&path);
    assert!(nar.starts_with(&answer.body));
}

#[test]
fn a_silent_peer_costs_little_and_then_nothing() {
    let truth = Truth::new();
    let silent = Liar::start_silent();
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&silent]).start();
    let mut taken = Vec::new();
    wait_for("the silent peer to be asked", || {
        taken.push(time_of_a_miss(&receiver, taken.len()));
        (silent.lookups() > 0).then_some(())
    });
    for n in 0..30 {
        taken.push(time_of_a_miss(&receiver, 1000 + n));
    }
    let slowest = taken.iter().max().expect("some").as_millis();
    assert!(slowest <= 1000, "{taken:?}");
    let known = taken[taken.len() - 10..].iter().max().expect("some");
    assert!(known.as_millis() <= 100, "{taken:?}");
}

#[test]
fn nix_completes_from_its_other_cache_while_peers_misbehave() {
    let truth = Truth::new();
    let silent = Liar::start_silent();
    let cutting = truth.faulty(&truth.large, Fault::EndAfter(LARGE / 3));
    let flipping = truth.faulty(&truth.small, Fault::FlipBit(1000));
    let upstream = StaticCache::of(&truth.store, &[&truth.large, &truth.small], 40);
    let b = NixStore::new();
    let receiver = truth.receiver(&b, &[&silent, &cutting, &flipping]).start();
    for path in [&truth.small, &truth.large] {
        b.substitute(
            path,
            &[receiver.url(), upstream.url()],
            &[&truth.key.public],
        );
    }
    b.verify_contents();
}

#[test]
fn random_bytes_on_every_protocol_leave_the_router_standing() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("offered", Node::text("offered")));
    let peer = PeerOptions::new(&a).start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let mut noise = blake3::Hasher::new().update(b"noise").finalize_xof();
    let alpns: [&[u8]; 5] = [
        iroh_blobs::ALPN,
        peerix::peer::lookup::ALPN,
        b"/iroh-gossip/1",
        b"peerix/catalogue/1",
        b"peerix/unknown/1",
    ];
    for alpn in alpns {
        let Ok(connection) = client.connect(&address, alpn) else {
            continue;
        };
        let mut connection = connection;
        // Gossip reads streams of one direction alone, and lets no more than a hundred wait.
        let is_gossip = alpn == b"/iroh-gossip/1";
        for n in 0..if is_gossip { 500 } else { 5_000u32 } {
            let mut length = [0; 2];
            noise.fill(&mut length);
            let mut bytes = vec![0; usize::from(u16::from_le_bytes(length) % 700)];
            noise.fill(&mut bytes);
            // Half of them get past the first checks: a small frame length, or a known request.
            if n % 2 == 0 && bytes.len() > 5 {
                if alpn == iroh_blobs::ALPN {
                    bytes[0] %= 12;
                } else {
                    let inside = (bytes.len() - 4) as u32;
                    bytes[..4].copy_from_slice(&inside.to_le_bytes());
                }
            }
            let sent = client.block_on(async {
                let opening = async {
                    match is_gossip {
                        true => Ok((connection.open_uni().await?, None)),
                        false => connection
                            .open_bi()
                            .await
                            .map(|(send, recv)| (send, Some(recv))),
                    }
                };
                let patience = Duration::from_secs(if is_gossip { 1 } else { 10 });
                let Ok(Ok((mut send, recv))) = tokio::time::timeout(patience, opening).await else {
                    return false;
                };
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
                drop(recv);
                true
            });
            if !sent || connection.close_reason().is_some() {
                connection = client.connect(&address, alpn).expect("the router accepts");
            }
        }
    }
    let hash = client.blob_hash(&address, &path);
    assert_eq!(
        client.fetch(&address, hash).expect("the NAR"),
        a.dump(&path)
    );
    peer.assert_no_panic();
    assert!(
        peer.log_text().lines().count() < 2_000,
        "a peer can fill the log"
    );
}

#[test]
fn an_oversized_batch_is_refused() {
    use peerix::peer::lookup::{ALPN, Mode, Request, encode};
    let a = NixStore::new();
    let peer = PeerOptions::new(&a).start();
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let connection = client.connect(&address, ALPN).expect("a connection");
    let hash =
        crate::support::hostile::path_hash(&crate::support::nix_store::store_path_named("x"));
    let request = Request::new(Mode::Narinfo, vec![hash; 100_000]);
    let frame = encode(&request, usize::MAX).expect("an encoding");
    let refused = client.block_on(async {
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        let _ = send.write_all(&frame).await;
        let _ = send.finish();
        !matches!(recv.read_to_end(1 << 20).await, Ok(bytes) if !bytes.is_empty())
    });
    assert!(refused);
}

#[test]
fn the_checked_first_limit_is_where_the_tests_think() {
    assert_eq!(CHECKED_FIRST, peerix::limits::CHECKED_FIRST);
    const { assert!(SMALL < CHECKED_FIRST && LARGE > CHECKED_FIRST) };
}

fn time_of_a_miss(receiver: &Peer, n: usize) -> Duration {
    let missing = crate::support::nix_store::store_path_named(&format!("nobody-has-{n}"));
    let asked = Instant::now();
    assert_eq!(receiver.narinfo(&missing).status, 404);
    asked.elapsed()
}

fn connected(peer: &Peer, count: usize) -> Option<()> {
    (peer.connected_peers() >= count).then_some(())
}

fn fault_count(peer: &Peer, kind: &str) -> f64 {
    let series = format!("peerix_peer_faults_total{{kind=\"{kind}\"}} ");
    let text = peer.get("/metrics").text();
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix(&series)?.parse().ok());
    count.unwrap_or(0.0)
}

fn assert_nothing_stored(peer: &Peer) {
    for directory in ["blobs", "tmp"] {
        let path = peer.state_dir().join(directory);
        let entries = std::fs::read_dir(&path).map_or(0, Iterator::count);
        assert_eq!(entries, 0, "{}", path.display());
    }
}
