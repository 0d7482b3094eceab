//! Swarms of up to 10,000 peers, simulated with a seed: `PEERIX_SEED=N` for another one.
//!
//! `scripts/bench gossip-simulation` prints the table of BENCHMARKS.md.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

use std::time::Duration;

#[path = "simulation/overlay.rs"]
mod overlay;
#[path = "simulation/population.rs"]
mod population;

use overlay::Overlay;
use peerix_gossip::limits;
use population::Setting;

fn seed() -> u64 {
    let seed = std::env::var("PEERIX_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("PEERIX_SEED={seed}");
    seed
}

fn setting(peers: usize, hours: f64) -> Setting {
    Setting {
        peers,
        observers: 3,
        hours,
        seed: seed(),
        churn: 0.1,
    }
}

fn at(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share) as usize)
        .copied()
        .unwrap_or_default()
}

/// The announcement's bytes in these simulations.
const MESSAGE: usize = 400;

#[test]
fn a_message_reaches_nearly_everyone_within_seconds_though_a_tenth_of_the_peers_died() {
    let mut overlay = Overlay::new(100, seed());
    overlay.kill(0.1);
    let spreads: Vec<_> = (0..20).map(|_| overlay.broadcast(MESSAGE)).collect();
    let reached = spreads.iter().map(|spread| spread.reached).sum::<f64>() / 20.0;
    let slowest = spreads.iter().map(|spread| spread.most).max().unwrap();
    assert!(reached > 0.99, "{reached}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_hundred_peers_stay_within_their_rates_and_find_new_paths_within_minutes() {
    let outcome = population::run(&setting(100, 1.0));
    assert!(outcome.announcements < 2048.0, "{outcome:?}");
    assert!(outcome.announcements_worst < 2048.0, "{outcome:?}");
    assert!(outcome.fetches < limits::FETCH_RATE, "{outcome:?}");
    assert!(outcome.known > 0.97, "{outcome:?}");
    assert!(
        at(&outcome.alone, 0.5) < Duration::from_secs(120),
        "{outcome:?}"
    );
    assert!(outcome.alone_never < 0.12, "{outcome:?}");
    assert!(
        outcome.newcomer.unwrap() < Duration::from_secs(10),
        "{outcome:?}"
    );
}

#[test]
#[ignore = "takes minutes: scripts/bench gossip-simulation"]
fn table() {
    let sizes: Vec<usize> = match std::env::var("PEERIX_PEERS") {
        Ok(sizes) => sizes.split(',').map(|size| size.parse().unwrap()).collect(),
        Err(_) => vec![10, 100, 1000, 10_000],
    };
    println!(
        "| peers | reached | 99 % of them after | copies received | announcements B/s (worst 10 min) | filters B/s (worst 10 min) | peers known | filters held | memory MiB | new path on one peer found after: median, p99, never in half an hour | on 1 % of the peers | newcomer knows 99 % after |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for peers in sizes {
        let mut overlay = Overlay::new(peers, seed());
        overlay.kill(0.1);
        let rounds = 20;
        // The tree is made by its first messages.
        for _ in 0..rounds {
            overlay.broadcast(MESSAGE);
        }
        (overlay.data, overlay.control) = (0, 0);
        let spreads: Vec<_> = (0..rounds).map(|_| overlay.broadcast(MESSAGE)).collect();
        let reached = spreads.iter().map(|spread| spread.reached).sum::<f64>() / f64::from(rounds);
        let mut most: Vec<_> = spreads.iter().map(|spread| spread.most).collect();
        most.sort_unstable();
        let told = MESSAGE as f64 * f64::from(rounds) * peers as f64 * 0.9;
        let factor = overlay.data as f64 / told;
        drop(overlay);
        let outcome = population::run(&setting(peers, 1.5));
        assert!(outcome.announcements < 2048.0, "{outcome:?}");
        assert!(outcome.fetches < limits::FETCH_RATE, "{outcome:?}");
        assert!(outcome.memory <= limits::INDEX_MEMORY, "{outcome:?}");
        assert!(outcome.known > 0.97, "{outcome:?}");
        let found = |times: &[Duration], never: f64| {
            format!(
                "{} s, {} s, {:.0} %",
                at(times, 0.5).as_secs(),
                at(times, 0.99).as_secs(),
                never * 100.0
            )
        };
        println!(
            "| {peers} | {:.2} % | {:.1} s | {factor:.2} | {:.0} ({:.0}) | {:.0} ({:.0}) | {:.1} % | {} | {:.1} | {} | {} | {} s |",
            reached * 100.0,
            at(&most, 0.5).as_secs_f64(),
            outcome.announcements,
            outcome.announcements_worst,
            outcome.fetches,
            outcome.fetches_worst,
            outcome.known * 100.0,
            outcome.filters,
            outcome.memory as f64 / (1 << 20) as f64,
            found(&outcome.alone, outcome.alone_never),
            found(&outcome.shared, outcome.shared_never),
            outcome.newcomer.unwrap_or_default().as_secs(),
        );
    }
}
