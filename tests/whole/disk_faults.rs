//! Kills, full disks and disks that fail.

use std::{io::Read as _, net::TcpStream};

use crate::support::{
    http,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    tree::Node,
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
