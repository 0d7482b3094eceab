//! What it costs to be looked at: an open dashboard and `/metrics`, with 10,000 known peers.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use iroh::{EndpointAddr, EndpointId, SecretKey};
use peerix::{
    peer::{reputation, score::Score},
    state_dir::StateDir,
    ticket::Ticket,
};

use crate::{
    measure::{cpu_of, median, quantile, row, seconds, table},
    support::{
        http,
        nix_store::NixStore,
        peer::{Peer, PeerOptions},
        wait_within,
    },
};

const PEERS: usize = 10_000;
const SCRAPES: usize = 50;

/// Turns of looking and not looking, and how long each is.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_secs(20);

/// Measures both and prints their tables.
pub fn run() {
    let store = NixStore::new();
    let peer = crowded(&store);

    let target = "/metrics";
    let times = |target: &str| -> Vec<f64> {
        let ask = || {
            let asked = Instant::now();
            assert_eq!(peer.get(target).status, 200);
            asked.elapsed().as_secs_f64()
        };
        (0..SCRAPES).map(|_| ask()).collect()
    };
    table(
        &format!("One answer with {PEERS} known peers"),
        &["", "median", "slowest of 50"],
    );
    let page = "/dashboard/peers?sort=rtt&limit=25";
    for target in [
        target,
        page,
        "/dashboard/state",
        "/dashboard/history?span=hour",
    ] {
        let found = times(target);
        let (median, slowest) = (median(&found), quantile(&found, 1.0));
        row(&[target.to_owned(), seconds(median), seconds(slowest)]);
    }

    let (mut unseen, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        unseen.push(share_of_a_core(&peer, || std::thread::sleep(TURN)));
        seen.push(share_of_a_core(&peer, || look(&peer)));
    }
    let (unseen, seen) = (median(&unseen), median(&seen));
    table(
        &format!("Processor time with {PEERS} known peers, in percent of a core"),
        &["nobody looks", "one open page", "the page"],
    );
    row(&[
        format!("{:.2}", 100.0 * unseen),
        format!("{:.2}", 100.0 * seen),
        format!("{:.2}", 100.0 * (seen - unseen)),
    ]);
}

/// A daemon that knows many peers, of which none can be reached and thousands are remembered.
fn crowded(store: &NixStore) -> Peer {
    let ids: Vec<EndpointId> = (0..PEERS as u64)
        .map(|seed| {
            let mut bytes = [1; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            SecretKey::from_bytes(&bytes).public()
        })
        .collect();
    let directory = tempfile::tempdir().expect("a directory");
    let state_dir = directory.path().join("state");
    let scores = ids.iter().enumerate().map(|(index, id)| {
        let mut score = Score::default();
        score.success(Some(Duration::from_millis(20)), Instant::now());
        score.bytes_received = 1000 * index as u64;
        score.bytes_sent = 500;
        (*id, score)
    });
    let held = StateDir::open(&state_dir).expect("a state directory");
    let (now, clock) = (Instant::now(), SystemTime::now());
    reputation::write(&held, scores.collect(), now, clock).expect("reputations");
    drop(held);
    let tickets: Vec<String> = ids
        .iter()
        .map(|id| {
            format!(
                "{:?}",
                Ticket::new(EndpointAddr::new(*id), Vec::new()).to_string()
            )
        })
        .collect();
    let config = directory.path().join("config.toml");
    fs::write(&config, format!("peers = [{}]\n", tickets.join(",\n"))).expect("a configuration");
    let peer = PeerOptions::new(store)
        .flag("config", &config.to_string_lossy())
        .flag("swarm", "none")
        .start_in(directory, state_dir);
    wait_within(Duration::from_secs(60), "the peers", || {
        let known = peer.status()["known_peers"].as_u64();
        (known == Some(PEERS as u64)).then_some(())
    });
    peer
}

fn share_of_a_core(peer: &Peer, wait: impl FnOnce()) -> f64 {
    let (begun, cpu) = (Instant::now(), cpu_of(peer.pid()));
    wait();
    (cpu_of(peer.pid()) - cpu) / begun.elapsed().as_secs_f64()
}

/// Does what the page does: follows the news, asks for its page of peers and for the plots.
fn look(peer: &Peer) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let address = peer.http();
            let mut stream = http::connect(address).expect("a connection");
            write!(
                stream,
                "GET /dashboard/events HTTP/1.1\r\nHost: {address}\r\n\r\n"
            )
            .expect("a request");
            let mut lines = BufReader::new(stream).lines();
            while !over.load(Ordering::Relaxed) {
                lines.next().expect("news").expect("a line");
            }
        });
        let begun = Instant::now();
        let mut second = 0;
        while begun.elapsed() < TURN {
            if second % 3 == 0 {
                assert_eq!(peer.get("/dashboard/peers?limit=25").status, 200);
            }
            if second % 10 == 0 {
                assert_eq!(peer.get("/dashboard/history?span=hour").status, 200);
                assert_eq!(peer.get("/dashboard/tops").status, 200);
            }
            second += 1;
            std::thread::sleep(Duration::from_secs(1));
        }
        over.store(true, Ordering::Relaxed);
    });
}
