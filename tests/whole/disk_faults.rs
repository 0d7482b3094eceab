//! Kills, full disks and disks that fail.

use std::{io::Read as _, net::TcpStream};

use crate::support::{
    http,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    skip,
    small_disk::SmallDisk,
    tree::Node,
    wait_for,
};

/// Reads the first `bytes` of a body, and leaves the connection open.
fn read_some(peer: &Peer, target: &str, bytes: u64) -> TcpStream {
    let mut connection = http::connect(peer.http()).expect("a connection");
    let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", peer.http());
    std::io::Write::write_all(&mut connection, request.as_bytes()).expect("a request");
    let mut body = (&mut connection).take(bytes);
    std::io::copy(&mut body, &mut std::io::sink()).expect("a body");
    connection
}

/// FAULTS P12.
#[test]
fn a_receiver_killed_in_the_middle_fetches_only_the_rest() {
    const SIZE: u64 = 200_000_000;
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("large", Node::random(SIZE, "large")));
    a.sign(&key, &[&path]);
    // Slow enough to be killed in the middle.
    let sharer = PeerOptions::new(&a).flag("upload-limit", "60MB").start();
    sharer.share(&path);
    let b = NixStore::new();
    let mut receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    receiver.wait_for_narinfo(&path);
    let target = receiver.nar_target(&path);
    let connection = read_some(&receiver, &target, SIZE * 6 / 10);
    receiver.kill();
    drop(connection);
    let receiver = receiver.restart();
    receiver.wait_for_narinfo(&path);
    let answer = receiver.get(&target);
    assert!(answer.complete && answer.body == a.dump(&path));
    let fetched = receiver
        .metric("peerix_bytes_received_total")
        .expect("a metric");
    assert!(fetched <= 0.45 * SIZE as f64, "{fetched}");
}

/// FAULTS D3.
#[test]
fn a_full_disk_stops_nothing_but_what_needs_it() {
    let Some(disk) = SmallDisk::new(8) else {
        return skip("mounting a small disk needs root");
    };
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let small = a.add(PathSpec::new("small", Node::random(300_000, "small")));
    let large = a.add(PathSpec::new("large", Node::random(20_000_000, "large")));
    a.sign(&key, &[&small, &large]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&small);
    sharer.share(&large);
    let b = NixStore::new();
    let own = b.add(PathSpec::new("own", Node::random(2_000_000, "own")));
    let later = b.add(PathSpec::new("later", Node::random(2_000_000, "later")));
    b.sign(&key, &[&own, &later]);
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start_in(
            tempfile::tempdir().expect("a temporary directory"),
            disk.path().join("state"),
        );
    receiver.wait_for_narinfo(&large);
    // What does not fit is not begun, and Nix asks the next substituter.
    assert_eq!(receiver.get(&receiver.nar_target(&large)).status, 404);
    // Small ones never touch the disk.
    disk.fill();
    let answer = receiver.get(&receiver.nar_target(&small));
    assert!(answer.complete && answer.body == a.dump(&small));
    // What Nix has is served though its hash can't be kept.
    let answer = receiver.get(&receiver.nar_target(&own));
    assert!(answer.complete && answer.body == b.dump(&own));
    assert_eq!(receiver.narinfo(&large).status, 200);
    assert_eq!(receiver.get(&receiver.nar_target(&large)).status, 404);
    receiver.assert_no_panic();
    // Room again, and all is as it was.
    disk.clear();
    wait_for("the index to be written again", || {
        receiver
            .try_cli(&["share", "--yes", &later])
            .status
            .success()
            .then_some(())
    });
    assert_eq!(receiver.json(&["shared"]).as_array().map(Vec::len), Some(1));
    let answer = receiver.get(&receiver.nar_target(&later));
    assert!(answer.complete && answer.body == b.dump(&later));
}
