//! A NAR from one peer to the HTTP client against a stock iroh-blobs get that only verifies.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use iroh::{EndpointAddr, protocol::Router};
use iroh_blobs::{BlobsProtocol, get::fsm, protocol::GetRequest, store::mem::MemStore};
use peerix_store::BlobHash;

use crate::{
    measure::{Series, cpu_of, cpu_of_children, median, row, seconds, table},
    own_store::get_timed,
    support::{
        hostile::{Client, address_in},
        nix_store::{Key, NixStore, PathSpec},
        peer::{Peer, PeerOptions},
        tree::Node,
    },
};

/// Says which part a process of this program plays.
pub const ROLE: &str = "PEERIX_BENCH_ROLE";

/// Runs of each program.
const RUNS: usize = 7;

/// A flat NAR of 500 MB over loopback.
pub fn run() {
    let key = Key::generate("bench-1");
    let store = NixStore::new();
    let path = store.add(PathSpec::new("flat", Node::random(500_000_000, "flat")));
    store.sign(&key, &[&path]);
    let size = 500_000_112;
    let provider = PeerOptions::new(&store).start();
    provider.share(&path);
    let ours = address_in(&provider.ticket());
    let hash = Client::new().blob_hash(&ours, &path);
    let stock = StockProvider::start(&store.dump(&path));

    let (mut plain, mut stock_from_ours, mut through) =
        (Series::default(), Series::default(), Series::default());
    let mut first_bytes = Vec::new();
    for _ in 0..RUNS {
        let (before, ended) = (cpu_of(stock.child.id()), cpu_of_children());
        let taken = stock_get(&stock.address, hash);
        plain.add(
            taken,
            cpu_of_children() - ended,
            cpu_of(stock.child.id()) - before,
        );

        let (before, ended) = (cpu_of(provider.pid()), cpu_of_children());
        let taken = stock_get(&ours, hash);
        stock_from_ours.add(
            taken,
            cpu_of_children() - ended,
            cpu_of(provider.pid()) - before,
        );

        // A receiver keeps what it fetched: each run has a new one.
        let (empty, receiver) = receiver(&provider, &key);
        let target = receiver.nar_target(&path);
        let (before, ours_before) = (cpu_of(provider.pid()), cpu_of(receiver.pid()));
        let begun = Instant::now();
        let (came, first) = get_timed(receiver.http(), &target);
        assert_eq!(came, size);
        through.add(
            begun.elapsed(),
            cpu_of(receiver.pid()) - ours_before,
            cpu_of(provider.pid()) - before,
        );
        first_bytes.push(first.as_secs_f64());
        drop((receiver, empty));
    }

    table(
        "One peer, 500 MB over loopback",
        &[
            "from and to",
            "MB/s",
            "spread",
            "ratio",
            "CPU s/GB receiving",
            "CPU s/GB providing",
        ],
    );
    for (name, series) in [
        (
            "stock provider (memory) to a stock get that only verifies",
            &plain,
        ),
        ("peerix to the same stock get", &stock_from_ours),
        ("peerix to peerix to the HTTP client", &through),
    ] {
        row(&[
            name.to_owned(),
            format!("{:.0}", series.rate(size)),
            series.spread(size),
            format!("**{:.2}**", series.rate(size) / plain.rate(size)),
            format!("{:.2}", series.cpu_for_gigabyte(size)),
            format!("{:.2}", series.other_cpu_for_gigabyte(size)),
        ]);
    }
    println!(
        "\nFirst byte of the body after the request, blob hash known: median {}, slowest {}.",
        seconds(median(&first_bytes)),
        seconds(first_bytes.iter().copied().fold(0.0, f64::max)),
    );
}

/// A peer over an empty store that knows `provider`.
pub fn receiver(provider: &Peer, key: &Key) -> (NixStore, Peer) {
    let empty = NixStore::new();
    let peer = PeerOptions::new(&empty)
        .peer(provider)
        .trust(&key.public)
        .start();
    (empty, peer)
}

/// A process that provides one blob out of memory with iroh-blobs' own code.
pub struct StockProvider {
    child: Child,
    /// Where it is.
    pub address: EndpointAddr,
}

impl StockProvider {
    /// Starts it.
    pub fn start(blob: &[u8]) -> StockProvider {
        let mut child = role("provide")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(blob).expect("a reading child");
        drop(input);
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        let address = serde_json::from_str(&line).expect("an address");
        StockProvider { child, address }
    }
}

impl Drop for StockProvider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, name);
    command
}

/// Gets a blob in a process of its own, which tells how long it took without its start.
pub fn stock_get(address: &EndpointAddr, hash: BlobHash) -> Duration {
    let output = role("get")
        .env(
            "PEERIX_BENCH_ADDRESS",
            serde_json::to_string(address).expect("JSON"),
        )
        .env("PEERIX_BENCH_HASH", hash.to_string())
        .output()
        .expect("this program");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    Duration::from_secs_f64(text.trim().parse().expect("seconds"))
}

/// Gets `blob` so many times from one stock provider in memory.
pub fn stock_series(blob: &[u8], runs: usize) -> Series {
    let hash = BlobHash::from_bytes(*blake3::hash(blob).as_bytes());
    let stock = StockProvider::start(blob);
    let mut series = Series::default();
    for _ in 0..runs {
        let (before, ended) = (cpu_of(stock.child.id()), cpu_of_children());
        let taken = stock_get(&stock.address, hash);
        series.add(
            taken,
            cpu_of_children() - ended,
            cpu_of(stock.child.id()) - before,
        );
    }
    series
}

/// Plays the part of a process of its own.
pub fn play(role: &str) {
    match role {
        "provide" => provide(),
        "get" => get_and_verify(),
        "delay" => crate::long_path::delay(),
        other => panic!("no role {other}"),
    }
}

fn provide() {
    let client = Client::new();
    let mut blob = Vec::new();
    std::io::copy(&mut std::io::stdin().lock(), &mut blob).expect("a blob");
    client.block_on(async {
        let store = MemStore::new();
        store.add_bytes(blob).await.expect("memory");
        let router = Router::builder(client.endpoint.clone())
            .accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None))
            .spawn();
        let address = client.endpoint.addr();
        println!("{}", serde_json::to_string(&address).expect("JSON"));
        std::future::pending::<()>().await;
        drop(router);
    });
}

fn get_and_verify() {
    let variable = |name: &str| std::env::var(name).expect("a variable");
    let address: EndpointAddr =
        serde_json::from_str(&variable("PEERIX_BENCH_ADDRESS")).expect("JSON");
    let hash: BlobHash = variable("PEERIX_BENCH_HASH").parse().expect("a hash");
    let client = Client::anywhere();
    let connection = client
        .connect(&address, iroh_blobs::ALPN)
        .expect("a connection");
    let begun = Instant::now();
    client.block_on(async {
        let start = fsm::start(connection, GetRequest::blob(hash), Default::default());
        let connected = start.next().await.expect("a stream");
        let fsm::ConnectedNext::StartRoot(root) = connected.next().await.expect("a request") else {
            panic!("not a blob");
        };
        root.next().drain().await.expect("verified bytes");
    });
    println!("{}", begun.elapsed().as_secs_f64());
}
