//! Who of many is named: some of the holders of a path, some of the members of a swarm.

use std::collections::HashMap;

use rand::{Rng, seq::IndexedRandom as _};

use super::Directory;
use crate::tracker::{
    api::{Found, PathHash, TrackedPeer},
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

impl Directory {
    /// Says who of a swarm has these paths: for each a few, those first that have most of them.
    #[must_use]
    pub fn lookup(&self, swarm: &str, hashes: &[PathHash], rng: &mut impl Rng) -> Found {
        let Some(swarm) = self.swarm_numbers.get(swarm).copied() else {
            return Found::default();
        };
        let mut hashes = hashes.to_vec();
        hashes.sort_unstable();
        hashes.dedup();
        let mut coverage = vec![0_u32; self.places.len()];
        let held: Vec<(PathHash, Vec<u32>)> = hashes
            .into_iter()
            .filter_map(|hash| {
                let path = self.paths.get(self.numbers.get(&hash.0)?)?;
                let places: Vec<u32> = path.of(swarm)?.iter().collect();
                for place in &places {
                    if let Some(count) = coverage.get_mut(*place as usize) {
                        *count += 1;
                    }
                }
                Some((hash, places))
            })
            .collect();
        let mut chosen = Chosen::default();
        let mut found = Found::default();
        for (hash, mut places) in held {
            places.retain(|place| self.endpoint_is_known(*place));
            let indices: Vec<u32> = pick(&mut places, &coverage, rng)
                .into_iter()
                .filter_map(|place| chosen.index_of(place))
                .collect();
            if !indices.is_empty() {
                found.found.insert(hash, indices);
            }
        }
        found.peers = chosen
            .places
            .iter()
            .filter_map(|place| self.present(*place)?.tracked())
            .collect();
        found
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

/// The holders that an answer names.
#[derive(Default)]
struct Chosen {
    places: Vec<u32>,
    indices: HashMap<u32, u32>,
}

impl Chosen {
    /// The index of a holder in the answer, where it is there or there is room for it.
    fn index_of(&mut self, place: u32) -> Option<u32> {
        if let Some(index) = self.indices.get(&place) {
            return Some(*index);
        }
        if self.places.len() >= limits::HOLDERS_OF_ALL {
            return None;
        }
        let index = self.places.len() as u32;
        self.places.push(place);
        self.indices.insert(place, index);
        Some(index)
    }
}

/// Picks some of the holders of a path: half of them those that have most of what was asked for,
/// so that few are enough; the others at random, so that not everybody asks the same.
fn pick(places: &mut [u32], coverage: &[u32], rng: &mut impl Rng) -> Vec<u32> {
    let rank = |place: &u32| {
        let count = coverage.get(*place as usize).copied().unwrap_or_default();
        (std::cmp::Reverse(count), *place)
    };
    if places.len() <= limits::HOLDERS_OF_ONE {
        places.sort_unstable_by_key(rank);
        return places.to_vec();
    }
    let half = limits::HOLDERS_OF_ONE / 2;
    places.select_nth_unstable_by_key(half, rank);
    let (best, others) = places.split_at_mut(half);
    best.sort_unstable_by_key(rank);
    let mut picked = best.to_vec();
    picked.extend(others.sample(rng, limits::HOLDERS_OF_ONE - half));
    picked
}
