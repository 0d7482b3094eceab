//! Which paths are counted most, in bounded memory: the space-saving algorithm of Metwally et al.
//!
//! Of `capacity` counters the least goes to a path that has none, with what it counted. So no count
//! is too low, none is too high by more than the least, and what is frequent is never lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Peers of which it is known how often they got one path.
const PEERS: usize = 8;

/// Longest name that is kept, in bytes.
const MAX_NAME: usize = 211;

/// One path, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// The store path hash.
    pub hash: String,
    /// How often.
    pub count: u64,
    /// The store path's name without its hash; empty where it was never known.
    pub name: String,
    /// How often each of some peers got it, by the first 16 characters of their ids.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<String, u64>,
}

/// Counters of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Top {
    #[serde(skip)]
    capacity: usize,
    total: u64,
    paths: Vec<Counted>,
}

impl Top {
    /// Makes counters of `capacity` paths.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Counts one path, and the peer that got it.
    pub fn count(&mut self, hash: &str, name: &str, peer: Option<&str>) {
        self.total = self.total.saturating_add(1);
        let found = self.paths.iter().position(|counted| counted.hash == hash);
        let index = match found {
            Some(index) => index,
            None if self.paths.len() < self.capacity => {
                self.paths.push(Counted {
                    hash: hash.to_owned(),
                    ..Counted::default()
                });
                self.paths.len() - 1
            }
            None => {
                let least = self.paths.iter().enumerate();
                let Some((index, counted)) = least.min_by_key(|(_, counted)| counted.count) else {
                    return;
                };
                let count = counted.count;
                self.paths[index] = Counted {
                    hash: hash.to_owned(),
                    count,
                    ..Counted::default()
                };
                index
            }
        };
        let counted = &mut self.paths[index];
        counted.count = counted.count.saturating_add(1);
        if counted.name.is_empty() && name.len() <= MAX_NAME {
            name.clone_into(&mut counted.name);
        }
        let Some(peer) = peer else { return };
        if counted.peers.len() < PEERS || counted.peers.contains_key(peer) {
            *counted.peers.entry(peer.to_owned()).or_default() += 1;
        }
    }

    /// The paths that were counted most, in that order.
    #[must_use]
    pub fn best(&self, limit: usize) -> Vec<Counted> {
        let mut best: Vec<&Counted> = self.paths.iter().collect();
        best.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.hash.cmp(&b.hash)));
        best.into_iter().take(limit).cloned().collect()
    }

    /// How often anything was counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Takes up counts of before, as far as there is room.
    pub(super) fn restore(&mut self, before: Self) {
        self.total = self.total.saturating_add(before.total);
        let mut paths = before.paths;
        paths.retain(|counted| {
            counted.hash.len() == 32
                && counted.hash.is_ascii()
                && counted.name.len() <= MAX_NAME
                && counted.peers.len() <= PEERS
        });
        paths.sort_by_key(|counted| std::cmp::Reverse(counted.count));
        paths.truncate(self.capacity);
        self.paths = paths;
    }

    /// The counts of a file of the older program.
    pub(super) fn of(paths: Vec<Counted>) -> Self {
        let total = paths.iter().map(|counted| counted.count);
        Self {
            capacity: 0,
            total: total.fold(0, u64::saturating_add),
            paths,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frequent_is_found_among_what_is_not() {
        let mut top = Top::new(4);
        for round in 0..1000 {
            top.count("often", "hello-2.12", None);
            if round % 2 == 0 {
                top.count("half", "", Some("peer"));
            }
            top.count(&format!("once-{round}"), "", None);
        }
        let best = top.best(2);
        assert_eq!(best[0].hash, "often");
        assert_eq!(best[0].name, "hello-2.12");
        assert!(best[0].count >= 1000, "{best:?}");
        assert_eq!(best[1].hash, "half");
        assert_eq!(top.paths.len(), 4);
        assert_eq!(top.total(), 2500);
    }

    #[test]
    fn a_path_that_many_peers_get_keeps_a_few_of_them() {
        let mut top = Top::new(4);
        for peer in 0..100 {
            top.count("hash", "name", Some(&format!("{peer}")));
        }
        assert_eq!(top.best(1)[0].peers.len(), PEERS);
        assert_eq!(top.best(1)[0].count, 100);
    }
}
