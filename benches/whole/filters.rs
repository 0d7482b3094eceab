//! Inventories as filters, beside what the standard library makes of the same hashes.

use std::{
    collections::HashSet,
    hint::black_box,
    time::{Duration, Instant},
};

use peerix_gossip::{Inventory, PathHash};

use crate::{
    measure::{median, row, seconds, table},
    support::swarm_member::timed,
};

/// Sets that are measured, in paths.
const SIZES: [u32; 4] = [100, 20_000, 100_000, 1_000_000];

/// Questions of one run, about paths that are not in the set.
const QUERIES: u32 = 1_000_000;

/// Questions that the false answers are counted of.
const COUNTED: u32 = 20_000_000;

/// One question in so many about what is not there is answered with yes, by 16 bits.
const THEORY: f64 = 65_536.0;

/// Runs of each, in turn.
const RUNS: usize = 5;

/// Small sets are built several times a run, for at least so long.
const LEAST: Duration = Duration::from_millis(20);

/// How long filters take, how large they are, and how often they err.
pub fn run() {
    table(
        "Inventories as filters",
        &[
            "paths",
            "build",
            "of sorting the hashes",
            "a query",
            "of a lookup in a `HashSet` of them",
            "bits a path",
            "false positives",
            "in theory",
        ],
    );
    // None of these is in any set.
    let strangers: Vec<PathHash> = (0..QUERIES)
        .map(|number| path(number + (1 << 30)))
        .collect();
    for size in SIZES {
        measure(size, &strangers);
    }
}

fn measure(size: u32, strangers: &[PathHash]) {
    let paths: Vec<PathHash> = (0..size).map(path).collect();
    let build = || Inventory::build(paths.iter().copied(), 1).expect("a set that converges");
    let (inventory, set): (Inventory, HashSet<PathHash>) =
        (build(), paths.iter().copied().collect());
    let [mut building, mut sorting, mut asking, mut looking] = [const { Vec::new() }; 4];
    for _ in 0..RUNS {
        building.push(each(|| drop(black_box(build()))));
        sorting.push(each(|| {
            let mut sorted = paths.clone();
            sorted.sort_unstable();
            drop(black_box(sorted));
        }));
        let count = |has: &dyn Fn(&PathHash) -> bool| {
            let (time, wrong) = timed(|| strangers.iter().filter(|other| has(other)).count());
            black_box(wrong);
            time.as_secs_f64() / f64::from(QUERIES)
        };
        asking.push(count(&|other| inventory.may_contain(other)));
        looking.push(count(&|other| set.contains(other)));
    }
    let others = (0..COUNTED).map(|number| path(number + (1 << 30)));
    let wrong = others.filter(|other| inventory.may_contain(other)).count();
    let bits = inventory.to_bytes().len() as f64 * 8.0 / f64::from(size);
    let expected = f64::from(COUNTED) / THEORY;
    let (built, sorted) = (median(&building), median(&sorting));
    let (asked, looked) = (median(&asking), median(&looking));
    row(&[
        size.to_string(),
        seconds(built),
        format!("**{:.2}**", built / sorted),
        format!("{:.0} ns", asked * 1e9),
        format!("**{:.2}**", asked / looked),
        format!("{bits:.2}"),
        format!("{wrong} of {COUNTED}"),
        format!(
            "{expected:.0} (two in three times \u{b1}{:.0})",
            expected.sqrt()
        ),
    ]);
}

/// Seconds that `work` takes, done as often as needed to tell.
fn each(work: impl Fn()) -> f64 {
    let start = Instant::now();
    let mut times = 0u32;
    while start.elapsed() < LEAST {
        work();
        times += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(times)
}

/// A path hash that looks like any other, quickly.
fn path(number: u32) -> PathHash {
    let mut hash = [0; 20];
    let mut state = u64::from(number);
    for part in hash.chunks_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let bytes = mixed.to_le_bytes();
        part.copy_from_slice(&bytes[..part.len()]);
    }
    hash
}
