//! What one stranger can make a machine do, and what it leaves to the others.

use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use iroh_blobs::protocol::{GetRequest, RequestType};
use peerix::{
    limits,
    peer::lookup::{self, Answer, Mode, Request},
};

use crate::support::{
    hostile::{Client, address_in, path_hash},
    nix_store::{NixStore, PathSpec, store_path_named},
    peer::{Peer, PeerOptions},
    tree::Node,
    wait_for,
};

/// Processor time that `peer` has used so far.
fn processor_time(peer: &Peer) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", peer.pid())).expect("a process");
    let (_, fields) = stat.rsplit_once(')').expect("a command");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a figure"))
        .sum();
    // Linux counts in hundredths of a second, on every machine that this runs on.
    Duration::from_millis(ticks * 10)
}

/// Sends one lookup and reads all of its answer.
async fn ask(connection: Connection, frame: Vec<u8>) -> bool {
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        send.write_all(&frame).await.ok()?;
        send.finish().ok()?;
        recv.read_to_end(1 << 20).await.ok()
    };
    exchange.await.is_some()
}

/// As many lookups as it gets answers to, 64 at once, for so long.
async fn flood(connection: Connection, batch: usize, duration: Duration) -> u64 {
    let mut asked = 0_u64;
    let mut under_way = tokio::task::JoinSet::new();
    let started = Instant::now();
    while started.elapsed() < duration {
        while under_way.len() < 64 {
            let path_hashes = (0..batch as u64)
                .map(|n| {
                    path_hash(&store_path_named(&format!(
                        "nothing-{}",
                        (asked + n) % 5000
                    )))
                })
                .collect();
            asked += batch as u64;
            let request = Request::new(Mode::Narinfo, path_hashes);
            let frame = lookup::encode(&request, limits::LOOKUP_MAX_REQUEST).expect("a frame");
            under_way.spawn(ask(connection.clone(), frame));
        }
        // The rest is 10,000 a second at most.
        let pace = Duration::from_secs_f64(asked as f64 / 10_000.0);
        tokio::select! {
            _ = under_way.join_next() => {}
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        tokio::time::sleep(pace.saturating_sub(started.elapsed())).await;
    }
    asked
}

/// Ten thousand lookups a second of one stranger. Built as the tests are, they cost a tenth of a core
/// on a quiet machine, and more beside others that use its caches.
#[test]
fn a_flood_of_lookups_costs_a_fifth_of_a_core_at_most_and_harms_nobody() {
    let a = NixStore::new();
    let path = a.add(PathSpec::new("wanted", Node::text("wanted")));
    let peer = PeerOptions::new(&a).start();
    peer.share(&path);
    let address = address_in(&peer.ticket());
    let (stranger, honest) = (Client::new(), Client::new());
    honest.blob_hash(&address, &path);
    let watch = || {
        let (began, used) = (Instant::now(), processor_time(&peer));
        let mut slowest = Duration::ZERO;
        while began.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            let answer = honest.look_up(&address, Mode::Narinfo, &[&path]).remove(0);
            assert!(matches!(answer, Answer::Ready { .. }));
            slowest = slowest.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(200));
        }
        let used = processor_time(&peer).saturating_sub(used);
        (used.as_secs_f64() / began.elapsed().as_secs_f64(), slowest)
    };
    let (without, _) = watch();
    for batch in [1, limits::LOOKUP_MAX_PATHS] {
        let connection = stranger
            .connect(&address, lookup::ALPN)
            .expect("a connection");
        // What it may have at once is used up first.
        stranger.block_on(flood(connection.clone(), batch, Duration::from_secs(3)));
        let (with, slowest) = std::thread::scope(|scope| {
            let flooding =
                scope.spawn(|| stranger.block_on(flood(connection, batch, Duration::from_secs(5))));
            std::thread::sleep(Duration::from_millis(500));
            let watched = watch();
            let asked = flooding.join().expect("no panic");
            println!("{} lookups a second", asked / 5);
            watched
        });
        let cost = with - without;
        println!("batches of {batch}: {cost:.3} of a core, an honest peer waits {slowest:?}");
        assert!(cost <= 0.20, "{cost:.3} of a core");
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    }
}

/// Asks for a blob on so many streams, and reads none of them.
async fn unread_streams(
    connection: &Connection,
    request: &[u8],
    count: usize,
) -> Vec<iroh::endpoint::RecvStream> {
    let mut unread = Vec::new();
    for _ in 0..count {
        let opening = tokio::time::timeout(Duration::from_secs(1), connection.open_bi());
        let Ok(Ok((mut send, recv))) = opening.await else {
            break;
        };
        let _ = send.write_all(request).await;
        let _ = send.finish();
        unread.push(recv);
    }
    unread
}

/// FAULTS P8.
#[test]
fn requesters_that_never_read_are_closed_and_honest_ones_keep_their_rate() {
    const SIZE: u64 = 60_000_000;
    let a = NixStore::new();
    let path = a.add(PathSpec::new("wanted", Node::random(SIZE, "wanted")));
    let peer = PeerOptions::new(&a).start();
    peer.share(&path);
    let address = address_in(&peer.ticket());
    let (hostile, honest) = (Client::new(), Client::new());
    let hash = honest.blob_hash(&address, &path);
    let fetch = || {
        let asked = Instant::now();
        let fetched = honest.fetch(&address, hash).expect("the NAR");
        assert_eq!(fetched.len() as u64, peer_size(&a, &path));
        SIZE as f64 / asked.elapsed().as_secs_f64()
    };
    let alone = (0..3).map(|_| fetch()).fold(0.0, f64::max);

    let mut request = vec![RequestType::Get as u8];
    request.extend(postcard::to_allocvec(&GetRequest::blob(hash)).expect("an encoding"));
    let connection = hostile
        .connect(&address, iroh_blobs::ALPN)
        .expect("a connection");
    let began = Instant::now();
    let unread = hostile.block_on(unread_streams(&connection, &request, 100));
    assert!(unread.len() >= 64, "{} streams", unread.len());
    let beside = (0..3).map(|_| fetch()).fold(0.0, f64::max);
    println!("alone {alone:.0} bytes/s, beside 100 unread streams {beside:.0}");
    assert!(beside >= 0.8 * alone, "{beside:.0} of {alone:.0} bytes/s");
    wait_for("the end of the connection", || {
        connection.close_reason().map(|_| ())
    });
    // Ten seconds of patience, and what it takes to notice on a busy machine.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    drop(unread);
    assert!(peer.peak_memory() < 256 << 20);

    // A request that comes a byte at a time is no better.
    let connection = hostile
        .connect(&address, iroh_blobs::ALPN)
        .expect("a connection");
    let dripping = hostile.block_on(async {
        let (mut send, recv) = connection.open_bi().await.expect("a stream");
        let _ = send.write_all(&request[..1]).await;
        (send, recv)
    });
    wait_for("the end of the slow one", || {
        connection.close_reason().map(|_| ())
    });
    drop(dripping);
}

fn peer_size(store: &NixStore, path: &str) -> u64 {
    store.dump(path).len() as u64
}
