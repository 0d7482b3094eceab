//! Who of many is named: some of the holders of a path, some of the members of a swarm.

use std::cmp::Reverse;

use rand::{
    Rng,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use super::Directory;
use crate::tracker::{
    api::{Found, PathHash, TrackedPeer},
    id_set::IdSet,
    limits,
};

/// Some who are in a swarm.
#[derive(Debug)]
pub struct Sample {
    /// Who.
    pub peers: Vec<TrackedPeer>,
    /// How many there are in all.
    pub count: u64,
}

/// The rank of who is not named.
const NOBODY: u32 = u32::MAX;

/// Of a path that many have so many times as many are looked at as are considered: some can't be named.
const LOOKED_AT: usize = 8;

/// How many of the holders of a path are named because they have most of what was asked for.
const BEST: usize = limits::HOLDERS_OF_ONE / 2;

impl Directory {
    /// Says who of a swarm has these paths: for each a few, those first that have most of them.
    #[must_use]
    pub fn lookup(&self, swarm: &str, hashes: &[PathHash], rng: &mut impl Rng) -> Found {
        self.lookup_within(limits::PAIRS_OF_A_LOOKUP, swarm, hashes, rng)
    }

    /// The same from at most so many pairs of holder and path, or one of each path.
    pub(super) fn lookup_within(
        &self,
        pairs: usize,
        swarm: &str,
        hashes: &[PathHash],
        rng: &mut impl Rng,
    ) -> Found {
        let Some(swarm) = self.swarm_numbers.get(swarm).copied() else {
            return Found::default();
        };
        let mut hashes = hashes.to_vec();
        hashes.sort_unstable();
        hashes.dedup();
        let held: Vec<(PathHash, &IdSet)> = hashes
            .into_iter()
            .filter_map(|hash| {
                let path = self.paths.get(self.numbers.get(&hash.0)?)?;
                Some((hash, path.of(swarm)?))
            })
            .collect();
        let most = (pairs / held.len().max(1)).max(1);
        // Where some are left out, it is not for those that can't be named.
        let some_of = |places: &'_ IdSet| {
            let is_all = places.as_bytes().len() <= most;
            let looked_at = places.iter().take(most.saturating_mul(LOOKED_AT));
            looked_at
                .filter(move |place| is_all || self.endpoint_is_known(*place))
                .take(most)
                .collect::<Vec<u32>>()
        };
        let held: Vec<(PathHash, Vec<u32>)> = held
            .into_iter()
            .map(|(hash, places)| (hash, some_of(places)))
            .collect();
        let (ranks, ranked) = self.rank(held.iter().map(|(_, places)| places.as_slice()));
        let mut chosen = Chosen::of(ranked.len());
        let mut found = Found::default();
        let mut others = Vec::new();
        for (hash, places) in held {
            let mut indices = Vec::with_capacity(limits::HOLDERS_OF_ONE);
            let picked = pick(&places, &ranks, &mut others, rng);
            indices.extend(picked.filter_map(|rank| chosen.index_of(rank)));
            if !indices.is_empty() {
                found.found.insert(hash, indices);
            }
        }
        found.peers = chosen
            .ranks
            .iter()
            .filter_map(|rank| self.present(*ranked.get(*rank as usize)?)?.tracked())
            .collect();
        found
    }

    /// Ranks the holders of paths, those first that are in most sets: the rank of each place, and
    /// the place of each rank. Who can't be reached is [`NOBODY`].
    fn rank<'a>(&self, sets: impl Iterator<Item = &'a [u32]>) -> (Vec<u32>, Vec<u32>) {
        let mut counts = vec![0_u32; self.places.len()];
        for place in sets.flatten() {
            if let Some(count) = counts.get_mut(*place as usize) {
                *count += 1;
            }
        }
        let counted = (0..).zip(&counts).filter(|(_, count)| **count > 0);
        let mut order: Vec<(Reverse<u32>, u32)> = counted
            .filter(|(place, _)| self.endpoint_is_known(*place))
            .map(|(place, count)| (Reverse(*count), place))
            .collect();
        order.sort_unstable();
        let mut ranks = counts;
        ranks.fill(NOBODY);
        for (rank, (_, place)) in (0..).zip(&order) {
            ranks[*place as usize] = rank;
        }
        (ranks, order.into_iter().map(|(_, place)| place).collect())
    }

    /// Who of a swarm is there, some at random, for a system first where one is named.
    #[must_use]
    pub fn sample(&self, swarm: &str, system: Option<&str>, rng: &mut impl Rng) -> Sample {
        let members = self.members(swarm);
        let is_for = |place: &u32| {
            system.is_none_or(|system| {
                self.present(*place)
                    .is_some_and(|present| present.contact.systems.iter().any(|s| s == system))
            })
        };
        let (suited, others): (Vec<u32>, Vec<u32>) = members
            .iter()
            .filter(|place| self.endpoint_is_known(**place))
            .partition(|place| is_for(place));
        let mut places: Vec<u32> = suited.sample(rng, limits::SWARM_SAMPLE).copied().collect();
        let rest = limits::SWARM_SAMPLE.saturating_sub(places.len());
        places.extend(others.sample(rng, rest));
        Sample {
            count: (suited.len() + others.len()) as u64,
            peers: places
                .into_iter()
                .filter_map(|place| self.present(place)?.tracked())
                .collect(),
        }
    }
}

/// The holders that an answer names, by their ranks.
struct Chosen {
    ranks: Vec<u32>,
    /// The index of each rank in the answer, [`NOBODY`] where it is not there.
    indices: Vec<u32>,
}

impl Chosen {
    /// None of this many.
    fn of(ranked: usize) -> Self {
        Self {
            ranks: Vec::new(),
            indices: vec![NOBODY; ranked],
        }
    }

    /// The index of a holder in the answer, where it is there or there is room for it.
    fn index_of(&mut self, rank: u32) -> Option<u32> {
        let index = self.indices.get_mut(rank as usize)?;
        if *index == NOBODY {
            if self.ranks.len() >= limits::HOLDERS_OF_ALL {
                return None;
            }
            *index = self.ranks.len() as u32;
            self.ranks.push(rank);
        }
        Some(*index)
    }
}

/// Picks some of the holders of a path: half of them those of the lowest ranks, which have most of
/// what was asked for, so that few are enough; the others at random, so that not everybody asks the
/// same. `others` is room to work in.
fn pick(
    places: &[u32],
    ranks: &[u32],
    others: &mut Vec<u32>,
    rng: &mut impl Rng,
) -> impl Iterator<Item = u32> {
    let mut best = [NOBODY; BEST];
    others.clear();
    for place in places {
        let mut rank = ranks.get(*place as usize).copied().unwrap_or(NOBODY);
        if rank < best[BEST - 1] {
            for better in &mut best {
                if rank < *better {
                    std::mem::swap(better, &mut rank);
                }
            }
        }
        if rank != NOBODY {
            others.push(rank);
        }
    }
    let wanted = limits::HOLDERS_OF_ONE - BEST;
    let others: &[u32] = if others.len() <= wanted {
        others.sort_unstable();
        others
    } else {
        others.partial_shuffle(rng, wanted).0
    };
    best.into_iter()
        .filter(|rank| *rank != NOBODY)
        .chain(others.iter().copied())
}
