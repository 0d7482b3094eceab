//! Bounds on what is sent and what is held.

use std::time::Instant;

use crate::support::{
    hostile::{Client, address_in},
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    tree::Node,
};

/// Bytes a second, and how much is sent at that rate: a little over ten seconds.
const RATE: u64 = 4_000_000;
const TOTAL: u64 = 42_000_000;

#[test]
fn an_upload_limit_holds_for_one_and_for_all() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("limited", Node::random(TOTAL, "limited")));
    let in_all = PeerOptions::new(&a).flag("upload-limit", "4MB").start();
    let for_each = PeerOptions::new(&a)
        .flag("upload-limit-per-peer", "4MB")
        .start();
    in_all.share(&path);
    for_each.share(&path);
    // Two requesters share the first limit; each has the second one for itself.
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let (in_all, for_each) = (&in_all, &for_each);
        let path = &path;
        let shared = scope.spawn(move || {
            let asked = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| fetch_some(in_all, path, TOTAL / 2));
                }
            });
            (TOTAL / 2 * 2) as f64 / asked.elapsed().as_secs_f64()
        });
        let own: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let asked = Instant::now();
                    let received = fetch_some(for_each, path, TOTAL);
                    received as f64 / asked.elapsed().as_secs_f64()
                })
            })
            .collect();
        let mut rates = vec![shared.join().expect("a rate")];
        rates.extend(own.into_iter().map(|rate| rate.join().expect("a rate")));
        rates
    });
    for rate in rates {
        let share = rate / RATE as f64;
        assert!((0.93..=1.05).contains(&share), "{share:.3} of the limit");
    }
}

/// Fetches the first `size` bytes with a stock client and returns how many came.
fn fetch_some(peer: &crate::support::peer::Peer, path: &str, size: u64) -> u64 {
    use bao_tree::{ChunkNum, ChunkRanges};
    use iroh_blobs::{get::fsm, protocol::GetRequest};
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let hash = client.blob_hash(&address, path);
    let connection = client
        .connect(&address, iroh_blobs::ALPN)
        .expect("a connection");
    client.block_on(async {
        let ranges = ChunkRanges::from(..ChunkNum(size.div_ceil(1024)));
        let request = GetRequest::blob_ranges(hash, ranges);
        let connected = fsm::start(connection, request, Default::default())
            .next()
            .await
            .expect("a stream");
        let fsm::ConnectedNext::StartRoot(root) = connected.next().await.expect("a request") else {
            panic!("not a blob");
        };
        let (content, _) = root.next().next().await.expect("a header");
        let end = content.drain().await.expect("verified bytes");
        drop(end);
    });
    size
}

/// FAULTS I4.
#[test]
fn many_transfers_at_once_stay_within_memory_and_descriptors() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let paths: Vec<String> = (0..48)
        .map(|n| {
            let size = 2_000_000 + n * 200_000;
            a.add(PathSpec::new(
                &format!("p{n}"),
                Node::random(size, &format!("p{n}")),
            ))
        })
        .collect();
    a.sign(&key, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let sharer = PeerOptions::new(&a)
        .flag("public-cache-key", &key.public)
        .start();
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&paths[0]);
    let descriptors = |peer: &Peer| {
        std::fs::read_dir(format!("/proc/{}/fd", peer.pid())).map_or(0, Iterator::count)
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = paths
            .iter()
            .map(|path| {
                let receiver = &receiver;
                scope.spawn(move || receiver.get(&receiver.nar_target(path)).complete)
            })
            .collect();
        while readers.iter().any(|reader| !reader.is_finished()) {
            for peer in [&receiver, &sharer] {
                assert!(descriptors(peer) <= 512);
            }
            std::thread::yield_now();
        }
        for reader in readers {
            assert!(reader.join().expect("a reader"), "a NAR was cut off");
        }
    });
    for peer in [&receiver, &sharer] {
        let peak = peer.peak_memory();
        assert!(peak <= 256 * 1024 * 1024, "{peak} bytes");
    }
}

#[test]
fn memory_does_not_grow_with_the_nar() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("huge", Node::random(400_000_000, "huge")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    b.substitute(&path, &[receiver.url()], &[&key.public]);
    for peer in [&sharer, &receiver] {
        let peak = peer.peak_memory();
        assert!(peak < 256 << 20, "{} MiB", peak >> 20);
    }
    b.verify_contents();
}

#[test]
fn many_readers_of_one_nar_share_one_transfer() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("wanted", Node::random(20_000_000, "wanted")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    let target = receiver.nar_target(&path);
    let nar = a.dump(&path);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = receiver.get(&target);
                assert!(answer.complete && answer.body == nar);
            });
        }
    });
    let sent = sharer.metric("peerix_bytes_sent_total").expect("a figure");
    assert!(
        sent < 1.1 * nar.len() as f64,
        "{sent} bytes for 8 readers of {}",
        nar.len()
    );
}
