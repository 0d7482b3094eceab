//! The own store over HTTP against `nix-store --dump` piped to a loopback socket.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    measure::{
        Series, cpu_of, cpu_of_children, peak, quantile, reset_peak, resident, row, seconds, table,
    },
    support::{
        http,
        nix_store::{Key, NixStore, PathSpec, hash_part, store_path_named},
        peer::{Peer, PeerOptions},
        tree::Node,
    },
};

/// Runs of each program.
const RUNS: usize = 7;

/// A flat file of 500 MB, a tree of 3,000 files and 130 MB, and a NAR of 1 MB.
pub fn run() {
    let key = Key::generate("bench-1");
    let store = NixStore::new();
    let flat = store.add(PathSpec::new("flat", Node::random(500_000_000, "flat")));
    let tree = store.add(PathSpec::new("tree", tree_of(3_000, 130_000_000)));
    let small = store.add(PathSpec::new("small", Node::random(1_000_000, "small")));
    store.sign(&key, &[&flat, &tree, &small]);
    let peer = PeerOptions::new(&store).trust(&key.public).start();
    let targets: Vec<String> = [&flat, &tree, &small]
        .map(|path| peer.nar_target(path))
        .to_vec();
    let idle = resident(peer.pid());

    table(
        "The own store over HTTP",
        &[
            "NAR",
            "`nix-store --dump` MB/s",
            "peerix MB/s",
            "ratio",
            "spread of peerix",
            "CPU s/GB dump",
            "CPU s/GB peerix",
            "peak memory over idle",
        ],
    );
    for (name, path, target, repeat) in [
        ("flat file, 500 MB", &flat, &targets[0], 1),
        ("3,000 files, 130 MB", &tree, &targets[1], 2),
        ("1 MB", &small, &targets[2], 40),
    ] {
        // Hashed and in the page cache before either is measured.
        let size = get(peer.http(), target);
        crate::support::wait_for("a second reading", || {
            (get(peer.http(), target) == size).then_some(())
        });
        let (mut dumped, mut served) = (Series::default(), Series::default());
        reset_peak(peer.pid());
        for _ in 0..RUNS {
            let before = cpu_of_children();
            let begun = Instant::now();
            for _ in 0..repeat {
                assert_eq!(dump(&store, path), size);
            }
            dumped.add(begun.elapsed(), cpu_of_children() - before, 0.0);
            let before = cpu_of(peer.pid());
            let begun = Instant::now();
            for _ in 0..repeat {
                assert_eq!(get(peer.http(), target), size);
            }
            served.add(begun.elapsed(), cpu_of(peer.pid()) - before, 0.0);
        }
        let bytes = size * repeat;
        let over = peak(peer.pid()).saturating_sub(idle);
        row(&[
            name.to_owned(),
            format!("{:.0}", dumped.rate(bytes)),
            format!("{:.0}", served.rate(bytes)),
            format!("**{:.2}**", served.rate(bytes) / dumped.rate(bytes)),
            served.spread(bytes),
            format!("{:.2}", dumped.cpu_for_gigabyte(bytes)),
            format!("{:.2}", served.cpu_for_gigabyte(bytes)),
            format!("{:.0} MiB", over as f64 / f64::from(1 << 20)),
        ]);
    }
    narinfos(&peer, &small);
}

/// Latencies of narinfos, with a known peer that lacks the path as well.
fn narinfos(peer: &Peer, path: &str) {
    let other = NixStore::new();
    let asked = PeerOptions::new(&other).start();
    let own = NixStore::new();
    let with_peer = PeerOptions::new(&own).peer(&asked).start();
    crate::support::wait_for("a connection", || {
        with_peer
            .narinfo(&store_path_named("first"))
            .status
            .eq(&404)
            .then_some(())
    });
    table(
        "Narinfos, one after the other on one connection",
        &["request", "p50", "p99"],
    );
    let hit = |_| format!("/{}.narinfo", hash_part(path));
    let miss = |n: usize| {
        format!(
            "/{}.narinfo",
            hash_part(&store_path_named(&format!("missing-{n}")))
        )
    };
    for (name, address, times) in [
        (
            "hit in the own store",
            peer.http(),
            latencies(peer.http(), 200, hit),
        ),
        (
            "miss, no peers",
            peer.http(),
            latencies(peer.http(), 200, miss),
        ),
        (
            "miss, one peer that lacks it",
            with_peer.http(),
            latencies(with_peer.http(), 404, miss),
        ),
    ] {
        let _ = address;
        row(&[
            name.to_owned(),
            seconds(quantile(&times, 0.5)),
            seconds(quantile(&times, 0.99)),
        ]);
    }
}

fn latencies(address: SocketAddr, _status: u16, target: impl Fn(usize) -> String) -> Vec<f64> {
    let stream = http::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut writer = stream;
    (0..3_000)
        .map(|n| {
            let request = format!("GET {} HTTP/1.1\r\nHost: {address}\r\n\r\n", target(n));
            let begun = Instant::now();
            writer
                .write_all(request.as_bytes())
                .expect("an open connection");
            let answer = http::read_answer(&mut reader, false).expect("an answer");
            assert!([200, 404].contains(&answer.status));
            begun.elapsed().as_secs_f64()
        })
        .skip(500)
        .collect()
}

/// A tree of `files` files, `bytes` in all, in directories of a hundred.
pub fn tree_of(files: usize, bytes: u64) -> Node {
    let each = bytes / files as u64;
    let mut directories = BTreeMap::new();
    for n in 0..files {
        // From a twentieth of the mean to twice of it.
        let size = each / 20 + (n as u64 * 7919 % 1000) * (each * 19 / 10) / 1000;
        let Node::Directory(entries) = directories
            .entry(format!("directory-{}", n / 100))
            .or_insert_with(|| Node::Directory(BTreeMap::new()))
        else {
            unreachable!("only directories are put in");
        };
        entries.insert(
            format!("file-{n}"),
            Node::random(size, &format!("tree {n}")),
        );
    }
    Node::Directory(directories)
}

/// `nix-store --dump` into a loopback socket that is drained; returns the bytes that came.
fn dump(store: &NixStore, path: &str) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let sender = TcpStream::connect(address).expect("our own socket");
    let (mut receiver, _) = listener.accept().expect("our own connection");
    let mut child = store
        .program("nix-store")
        .arg("--dump")
        .arg(store.physical(path))
        .stdout(Stdio::from(OwnedFd::from(sender)))
        .spawn()
        .expect("nix-store");
    let size = drain(&mut receiver);
    assert!(child.wait().expect("our own child").success());
    size
}

/// Gets a NAR on a connection of its own and drains it; returns the bytes of its body.
pub fn get(address: SocketAddr, target: &str) -> u64 {
    get_timed(address, target).0
}

/// The same, with the time from the request to the first byte of the body.
pub fn get_timed(address: SocketAddr, target: &str) -> (u64, Duration) {
    let mut stream = http::connect(address).expect("a connection");
    let begun = Instant::now();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .expect("an open connection");
    let mut reader = BufReader::with_capacity(16 * 1024, stream);
    let (status, headers) = http::read_head(&mut reader).expect("an answer");
    assert_eq!(status, 200);
    reader.fill_buf().expect("a body");
    let first = begun.elapsed();
    let buffered = reader.buffer().len() as u64;
    let size = buffered + drain(&mut reader.into_inner());
    assert_eq!(
        Some(size.to_string()),
        headers.get("content-length").cloned()
    );
    (size, first)
}

/// Reads the first `bytes` of a body and tells the longest time in which nothing came of it.
pub fn longest_pause(address: SocketAddr, target: &str, bytes: u64) -> Duration {
    let mut stream = http::connect(address).expect("a connection");
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .expect("an open connection");
    let mut reader = BufReader::with_capacity(16 * 1024, stream);
    let (status, _) = http::read_head(&mut reader).expect("an answer");
    assert_eq!(status, 200);
    let mut buffer = vec![0; 256 * 1024];
    let (mut read, mut longest) = (0, Duration::ZERO);
    while read < bytes {
        let asked = Instant::now();
        let n = reader.read(&mut buffer).expect("an open connection");
        assert_ne!(n, 0, "cut after {read} bytes");
        longest = longest.max(asked.elapsed());
        read += n as u64;
    }
    longest
}

fn drain(stream: &mut TcpStream) -> u64 {
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match stream.read(&mut buffer).expect("an open connection") {
            0 => return size,
            n => size += n as u64,
        }
    }
}
