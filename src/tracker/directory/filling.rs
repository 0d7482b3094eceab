//! All that the database holds, taken up at once: holders with their paths become paths with their
//! holders, and nothing is looked up for each pair of both.

use std::collections::HashMap;

use peerix_store::nix::StorePathHash;

use super::{Directory, Present, path_of};
use crate::tracker::id_set::Rising;
use crate::tracker::storage::{Contents, Holding};

/// Numbers of paths that are turned around together: so few that what is written to at once stays
/// in the processor's cache, so many that each holder is seldom gone back to.
const BLOCK: u32 = 1 << 14;

impl Directory {
    /// Returns what the database holds, and the numbers of paths whose hashes are missing. Those
    /// are left out, and their holders are taken up whole when they are told of next.
    #[must_use]
    pub fn of(contents: Contents) -> (Self, Vec<u32>) {
        let names: HashMap<u32, StorePathHash> = contents.hashes.into_iter().collect();
        let mut directory = Self {
            numbers: HashMap::with_capacity(names.len()),
            paths: HashMap::with_capacity(names.len()),
            ..Self::default()
        };
        for Holding { holder, paths } in contents.holdings {
            if !holder.present || directory.by_id.contains_key(&holder.id) {
                continue;
            }
            let swarm = directory.swarm(&holder.swarm);
            let place = directory.enter(holder, swarm, paths.is_some());
            if let Some(Some(present)) = directory.places.get_mut(place as usize) {
                present.paths = paths.unwrap_or_default();
            }
        }
        let unknown = directory.file_all(&names);
        if !unknown.is_empty() {
            for present in directory.places.iter_mut().flatten() {
                present.lose(&unknown);
            }
        }
        (directory, unknown)
    }

    /// Files all holders under their paths; returns those paths that it has no names for, rising.
    fn file_all(&mut self, names: &HashMap<u32, StorePathHash>) -> Vec<u32> {
        let Self {
            places,
            swarms,
            paths,
            numbers,
            records,
            ..
        } = self;
        let mut unknown = Vec::new();
        let mut block: Vec<Rising> = Vec::new();
        block.resize_with(BLOCK as usize, Rising::default);
        let mut touched = Vec::new();
        for (swarm, members) in swarms {
            // They came one after the other, so their places rise.
            let holders = members.members.iter().filter_map(|place| {
                let present = places.get(*place as usize)?.as_ref()?;
                Some((*place, present.paths.iter().peekable()))
            });
            let mut holders: Vec<_> = holders.collect();
            while let Some(start) = holders
                .iter_mut()
                .filter_map(|(_, rest)| rest.peek().copied())
                .min()
            {
                for (place, rest) in &mut holders {
                    while let Some(number) = rest.next_if(|number| number - start < BLOCK) {
                        let rising = &mut block[(number - start) as usize];
                        if rising.is_empty() {
                            touched.push(number);
                        }
                        rising.push(*place);
                    }
                }
                for number in touched.drain(..) {
                    let holders = block[(number - start) as usize].take();
                    match path_of(paths, numbers, names, number) {
                        Some(path) => {
                            *records += holders.len() as u64;
                            path.holders.push((*swarm, holders));
                        }
                        None => unknown.push(number),
                    }
                }
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }
}

impl Present {
    /// Lets go of paths that have no name, so that the same revision is taken up again.
    fn lose(&mut self, unknown: &[u32]) {
        let is_unknown = |number: &u32| unknown.binary_search(number).is_ok();
        if self.paths.iter().any(|number| is_unknown(&number)) {
            self.paths = self.paths.changed(&[], unknown);
            self.revision = self.revision.saturating_sub(1);
        }
    }
}
