//! What liars, floods and partitions in the swarm cost a daemon, and what they must not.

use std::time::{Duration, Instant};

use crate::support::{
    hostile::address_in,
    network::Network,
    nix_store::{Key, NixStore, PathSpec, store_path_named},
    peer::{Peer, PeerOptions},
    swarm_member::{Claimant, Forger, announcement_of, false_notices, p99, swarm_hash, timed},
    tree::Node,
    wait_for, wait_within,
};

/// The most that a path which nobody has may cost at p99, whatever peers do.
const MISS: Duration = Duration::from_secs(1);

/// The same once the peers are known to be silent.
const MISS_AMONG_SILENT: Duration = Duration::from_millis(100);

fn store_with(key: &Key, name: &str) -> (NixStore, String) {
    let store = NixStore::new();
    let path = add(&store, key, name);
    (store, path)
}

fn add(store: &NixStore, key: &Key, name: &str) -> String {
    let path = store.add(PathSpec::new(name, Node::random(50_000, name)));
    store.sign(key, &[&path]);
    path
}

fn options(store: &NixStore, key: &Key) -> PeerOptions {
    PeerOptions::new(store).of_cache(&key.public)
}

/// Asks for paths that nobody has; how long each took.
fn misses(peer: &Peer, paths: &[String]) -> Vec<Duration> {
    let ask = |path: &String| {
        let (time, answer) = timed(|| peer.narinfo(path));
        assert_eq!(answer.status, 404, "{path}");
        time
    };
    paths.iter().map(ask).collect()
}

/// An honest peer with a path of its own, and one that knows its inventory and is asked.
struct Two {
    key: Key,
    a: NixStore,
    of_a: String,
    store: NixStore,
    _honest: Peer,
    asker: Peer,
}

fn two() -> Two {
    let key = Key::generate("public-1");
    let (a, of_a) = store_with(&key, "a");
    let store = NixStore::new();
    let honest = options(&a, &key).start();
    let asker = options(&store, &key).peer(&honest).start();
    asker.wait_for_inventories(1);
    Two {
        key,
        a,
        of_a,
        store,
        _honest: honest,
        asker,
    }
}

/// What a daemon may take of the machine under any load.
fn assert_bounded(peer: &Peer, since: Instant) {
    let memory = peer.peak_memory();
    assert!(memory <= 256 << 20, "{} MiB", memory >> 20);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", peer.pid()));
    let descriptors = descriptors.unwrap().count();
    assert!(descriptors <= 512, "{descriptors} descriptors");
    let lines = peer.log_text().lines().count();
    let most = 100.0 * since.elapsed().as_secs_f64().max(1.0);
    assert!(lines as f64 <= most, "{lines} lines in the log");
    println!(
        "{} MiB, {descriptors} descriptors, {lines} lines",
        memory >> 20
    );
}

#[test]
fn g1_an_honest_peer_is_heard_within_ten_seconds_of_a_flood_of_5000_messages_a_second() {
    let start = Instant::now();
    let Two {
        key,
        a,
        store,
        asker,
        ..
    } = &two();
    // One is cut for its flood soon: another follows it.
    let to = address_in(&asker.ticket());
    let floods = || {
        let flooder = Forger::start(&to);
        let flood = flooder.flood(5000);
        (flooder, flood)
    };
    let first = floods();
    wait_for("the flood", || (first.1.said() > 1000).then_some(()));
    let second = floods();
    let later = add(a, key, "later");
    let begun = Instant::now();
    wait_within(Duration::from_secs(10), "the honest peer's news", || {
        (asker.narinfo(&later).status == 200).then_some(())
    });
    println!("heard after {:?}", begun.elapsed());
    for (flooder, flood) in [first, second] {
        println!("{:.0} messages a second", flood.stop());
        drop(flooder);
    }
    store.substitute(&later, &[asker.url()], &[&key.public]);
    assert_eq!(asker.status()["swarm"]["restarts"], 0);
    assert_bounded(asker, start);
    asker.assert_no_panic();
}

#[test]
fn g2_a_million_false_notices_of_one_key_cost_64_mib_and_of_many_a_restart_of_gossip() {
    let start = Instant::now();
    let Two {
        key,
        a,
        of_a,
        asker,
        ..
    } = &two();
    let (before, to) = (asker.peak_memory(), address_in(&asker.ticket()));
    let taken = false_notices(&to);
    let grown = asker.peak_memory() - before;
    println!("{taken} notices of one key: {} MiB more", grown >> 20);
    assert!(
        (1..1_000_000).contains(&taken),
        "it was never cut, or heard"
    );
    assert!(grown <= 64 << 20, "{} MiB more", grown >> 20);

    let restarts = || asker.status()["swarm"]["restarts"].as_u64().unwrap();
    let mut keys = 1;
    while restarts() == 0 {
        assert!(keys < 40, "gossip is not started again");
        false_notices(&to);
        keys += 1;
    }
    let grown = asker.peak_memory() - before;
    println!("{keys} keys: {} MiB more", grown >> 20);
    assert!(grown <= 96 << 20, "{} MiB more", grown >> 20);
    // What was known is known still, and what is new is heard again.
    assert_eq!(asker.narinfo(of_a).status, 200);
    let later = add(a, key, "later");
    let begun = Instant::now();
    wait_within(Duration::from_secs(30), "the honest peer's news", || {
        (asker.narinfo(&later).status == 200).then_some(())
    });
    println!("heard after {:?}", begun.elapsed());
    assert_bounded(asker, start);
    asker.assert_no_panic();
}

#[test]
fn p5_a_liar_that_announces_a_million_paths_wastes_three_questions() {
    let Two {
        key,
        of_a,
        store,
        asker,
        ..
    } = &two();
    let false_paths: Vec<String> = (0..200)
        .map(|number| store_path_named(&format!("false-{number}")))
        .collect();
    let mut claims: Vec<_> = (0..1_000_000u32)
        .map(|number| {
            let mut claim = [0; 20];
            claim.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..20]);
            claim
        })
        .collect();
    claims.extend(false_paths.iter().map(|path| swarm_hash(path)));
    claims.push(swarm_hash(of_a));
    let liar = Claimant::start(address_in(&asker.ticket()), claims);
    asker.wait_for_inventories(2);

    let times = misses(asker, &false_paths);
    assert!(liar.asked() >= 1, "the liar was never believed");
    assert!(liar.asked() <= 3, "{} questions were wasted", liar.asked());
    assert!(p99(times.clone()) <= MISS, "{:?}", p99(times));
    assert_eq!(asker.narinfo(of_a).status, 200);
    store.substitute(of_a, &[asker.url()], &[&key.public]);
    asker.assert_no_panic();
}

#[test]
fn a_claimant_whose_inventory_is_too_large_to_fetch_costs_few_misses_a_question() {
    let Two { of_a, asker, .. } = &two();
    // More than a 24th of the memory for filters holds.
    let claims = (0..1_300_000u32).map(|number| {
        let mut claim = [0; 20];
        claim.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..20]);
        claim
    });
    let liar = Claimant::start(address_in(&asker.ticket()), claims.collect());
    wait_for("its announcement", || {
        (asker.status()["swarm"]["peers"] == 2).then_some(())
    });
    wait_for("a connection with it", || {
        (asker.connected_peers() == 2).then_some(())
    });
    let nowhere = |number| store_path_named(&format!("nowhere-{number}"));
    misses(asker, &(0..100).map(nowhere).collect::<Vec<_>>());
    println!("asked for {} of 100 misses", liar.asked());
    assert!((1..=10).contains(&liar.asked()), "{}", liar.asked());
    assert_eq!(asker.status()["swarm"]["inventories"], 1);
    assert_eq!(asker.narinfo(of_a).status, 200);
}

#[test]
fn g6_a_thousand_fresh_keys_with_a_hundred_false_paths_each_hide_nobody() {
    let Two {
        key,
        of_a,
        store,
        asker,
        ..
    } = &two();
    let before = asker.peak_memory();
    let forger = Forger::start(&address_in(&asker.ticket()));
    let wanted = swarm_hash(of_a);
    let false_path = |seed: u16, number: u16| store_path_named(&format!("false-{seed}-{number}"));
    for seed in 0..1000 {
        let claims = (0..100).map(|number| swarm_hash(&false_path(seed, number)));
        forger.broadcast(announcement_of(seed, claims.chain([wanted]).collect()));
    }
    let heard = wait_within(Duration::from_secs(60), "most of the keys", || {
        let peers = asker.status()["swarm"]["peers"].as_u64()?;
        (peers >= 500).then_some(peers)
    });
    println!("{heard} peers in the swarm");

    let paths: Vec<String> = (0..100u16)
        .map(|number| false_path(number * 9, number))
        .collect();
    let times = misses(asker, &paths);
    println!("a miss: {:?} at p99", p99(times.clone()));
    assert!(p99(times.clone()) <= MISS, "{:?}", p99(times));
    let (time, answer) = timed(|| asker.narinfo(of_a));
    assert_eq!(answer.status, 200);
    assert!(time <= MISS, "{time:?}");
    store.substitute(of_a, &[asker.url()], &[&key.public]);
    let grown = asker.peak_memory().saturating_sub(before);
    println!("{} MiB more", grown >> 20);
    assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
    asker.assert_no_panic();
}

#[test]
fn g9_both_sides_of_a_partition_go_on_and_are_together_again_within_thirty_seconds() {
    const PARTED: Duration = Duration::from_secs(60);
    const TOGETHER: Duration = Duration::from_secs(30);
    let Some(network) = Network::with_addresses(4) else {
        return;
    };
    let hosts = network.hosts();
    let key = Key::generate("public-1");
    let (stores, paths): (Vec<NixStore>, Vec<String>) =
        (0..4).map(|n| store_with(&key, &format!("of-{n}"))).unzip();
    let mut peers: Vec<Peer> = Vec::new();
    for (number, (host, store)) in hosts.iter().zip(&stores).enumerate() {
        let own = options(store, &key).iroh_bind(&format!("10.77.0.{}:12306", number + 1));
        let first = peers.first();
        let ticket = first.map(|first| hosts[0].inside(|| first.ticket()));
        let own = match ticket {
            Some(ticket) => own.flag("peer", &ticket),
            None => own,
        };
        peers.push(host.inside(|| own.start()));
    }
    let on = |number: usize| (&hosts[number], &peers[number]);
    let inside = |number: usize, work: &(dyn Fn(&Peer) + Sync)| {
        let (host, peer) = on(number);
        host.inside(|| work(peer));
    };
    for number in 0..4 {
        inside(number, &|peer| peer.wait_for_inventories(3));
    }

    let addresses = ["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"];
    for (number, host) in hosts.iter().enumerate() {
        let (ours, theirs) = addresses.split_at(2);
        host.lose_what_comes_from(if number < 2 { theirs } else { ours });
    }
    let start = Instant::now();
    // What the other side gets meanwhile.
    let later = add(&stores[2], &key, "later");
    let mut times = Vec::new();
    let mut round = 0;
    while start.elapsed() < PARTED {
        inside(0, &|peer| assert_eq!(peer.narinfo(&paths[1]).status, 200));
        inside(3, &|peer| assert_eq!(peer.narinfo(&paths[2]).status, 200));
        let (host, peer) = on(0);
        let miss = |path: &str| {
            let (time, answer) = host.inside(|| timed(|| peer.narinfo(path)));
            assert_eq!(answer.status, 404, "{path}");
            time
        };
        // Nobody has the one; the others are on the other side.
        let nowhere = store_path_named(&format!("none-{round}"));
        for path in [&nowhere, &paths[2], &later] {
            times.push((start.elapsed(), miss(path)));
        }
        round += 1;
    }
    let all: Vec<Duration> = times.iter().map(|(_, time)| *time).collect();
    let settled = times.iter().filter(|(at, _)| *at > PARTED / 2);
    let settled: Vec<Duration> = settled.map(|(_, time)| *time).collect();
    println!(
        "{} misses: {:?} at p99, {:?} in the second half",
        all.len(),
        p99(all.clone()),
        p99(settled.clone())
    );
    assert!(p99(all.clone()) <= MISS, "{:?}", p99(all));
    assert!(
        p99(settled.clone()) <= MISS_AMONG_SILENT,
        "{:?}",
        p99(settled)
    );

    for host in hosts {
        host.lose_nothing();
    }
    let end = Instant::now();
    for number in 0..2 {
        let (host, peer) = on(number);
        host.inside(|| {
            wait_within(TOGETHER, "what the other side got", || {
                (peer.narinfo(&later).status == 200).then_some(())
            });
        });
    }
    for number in 2..4 {
        let (host, peer) = on(number);
        host.inside(|| {
            wait_within(TOGETHER, "a path of the other side", || {
                (peer.narinfo(&paths[0]).status == 200).then_some(())
            });
        });
    }
    println!("together after {:?}", end.elapsed());
    assert!(end.elapsed() <= TOGETHER, "{:?}", end.elapsed());
    let (host, peer) = on(1);
    host.inside(|| stores[1].substitute(&later, &[peer.url()], &[&key.public]));
    for peer in &peers {
        peer.assert_no_panic();
    }
}
