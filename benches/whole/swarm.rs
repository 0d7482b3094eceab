//! The swarm: real daemons without a tracker.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    measure::{row, table},
    support::{
        network::Network,
        nix_store::{Key, NixStore, PathSpec, store_path_named},
        peer::{Peer, PeerOptions},
        swarm_member::{p99, timed},
        tree::Node,
        wait_within,
    },
};

/// Daemons, where `PEERIX_PEERS` says nothing else.
const PEERS: usize = 30;

/// Paths that each of them alone has.
const PATHS: usize = 10;

/// How long it has rested by then: connections that inventories came over are let go of in that time.
const REST: Duration = Duration::from_secs(100);

/// How long the traffic of an idle swarm is watched.
const IDLE: Duration = Duration::from_secs(120);

/// How long all of them may take to know each other's inventories.
const ALL_KNOWN: Duration = Duration::from_secs(600);

/// Daemons on one machine that know one of them each: what is found, how fast, and what it costs.
pub fn run() {
    let count = std::env::var("PEERIX_PEERS").ok();
    let count = count.map_or(PEERS, |count| count.parse().expect("a number of peers"));
    let Some(network) = Network::new(1) else {
        return;
    };
    let host = &network.hosts()[0];
    host.ip("link set lo up");
    host.inside(|| measure(count));
}

fn measure(count: usize) {
    let key = Key::generate("public-1");
    let stores: Vec<(NixStore, Vec<String>)> =
        (0..count).map(|number| store_of(&key, number)).collect();
    let mut peers: Vec<Peer> = Vec::new();
    let started = Instant::now();
    for (store, _) in &stores {
        let options = PeerOptions::new(store).of_cache(&key.public);
        // Each knows the first one: the rest is gossip's.
        let options = match peers.first() {
            Some(first) => options.peer(first),
            None => options,
        };
        peers.push(options.start());
    }
    for peer in &peers {
        wait_within(ALL_KNOWN, "all inventories", || {
            (peer.status()["swarm"]["inventories"] == count as u64 - 1).then_some(())
        });
    }
    let known_after = started.elapsed();

    thread::sleep(REST);
    let before = loopback_bytes();
    thread::sleep(IDLE);
    let minutes = IDLE.as_secs_f64() / 60.0;
    let idle = (loopback_bytes() - before) as f64 / minutes / count as f64;

    let (mut hits, mut misses, mut asked, mut found) = (Vec::new(), Vec::new(), 0, 0);
    let questions = |peer: &Peer| peer.metric("peerix_peer_requests_total").expect("counted");
    let mut packets = 0.0;
    for (number, peer) in peers.iter().enumerate() {
        for (other, (_, paths)) in stores.iter().enumerate() {
            for path in paths.iter().filter(|_| other != number) {
                let (time, answer) = timed(|| peer.narinfo(path));
                asked += 1;
                found += usize::from(answer.status == 200);
                hits.push(time);
            }
        }
        let before = questions(peer);
        for miss in 0..100 {
            let path = store_path_named(&format!("nowhere-{number}-{miss}"));
            let (time, answer) = timed(|| peer.narinfo(&path));
            assert_eq!(answer.status, 404, "{path}");
            misses.push(time);
        }
        packets += questions(peer) - before;
    }
    let memory: Vec<u64> = peers.iter().map(Peer::peak_memory).collect();

    table(
        &format!("{count} daemons on one machine, {PATHS} paths of its own each, no tracker"),
        &["figure", ""],
    );
    let figures = [
        (
            "all know all inventories, from the start of the first of them",
            format!("{:.0} s", known_after.as_secs_f64()),
        ),
        (
            "lookups of paths that one other has: found",
            format!("{found} of {asked}"),
        ),
        ("a hit: median, p99", milliseconds(&hits)),
        ("a miss: median, p99", milliseconds(&misses)),
        (
            "peers asked for misses",
            format!("{packets} of {} lookups", misses.len()),
        ),
        (
            "traffic of the idle swarm: sent by each daemon, packets with their headers, and as much received",
            format!("{:.1} KiB a minute", idle / 1024.0),
        ),
        (
            "peak memory of a daemon: most",
            format!("{} MiB", memory.iter().max().unwrap_or(&0) >> 20),
        ),
    ];
    for (figure, value) in figures {
        row(&[figure.to_owned(), value]);
    }
    assert_eq!(found, asked, "not every path was found");
}

fn store_of(key: &Key, number: usize) -> (NixStore, Vec<String>) {
    let store = NixStore::new();
    let spec = |path: usize| {
        let name = format!("of-{number}-{path}");
        PathSpec::new(&name, Node::random(20_000, &name))
    };
    let paths = store.add_all((0..PATHS).map(spec).collect());
    let signed: Vec<&str> = paths.iter().map(String::as_str).collect();
    store.sign(key, &signed);
    (store, paths)
}

fn milliseconds(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let at = |time: Duration| time.as_secs_f64() * 1000.0;
    format!("{:.1} ms, {:.1} ms", at(median), at(p99(sorted)))
}

/// Bytes that passed this network's loopback interface; each is received where it is sent.
fn loopback_bytes() -> u64 {
    // That of this thread: the process began in another network.
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("a table");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next());
    bytes
        .and_then(|bytes| bytes.parse().ok())
        .expect("loopback")
}
