//! Who is there and who has which path, in memory, to answer from.
//!
//! It is what [`super::storage`] keeps, turned around: for each path the set of its holders, a byte
//! or two for each. Nothing here is the only copy.

use std::collections::{HashMap, hash_map::Entry};

use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use tokio::sync::watch;

use super::api::TrackedPeer;
use super::id_set::IdSet;
use super::limits;
use super::storage::{Contact, Holder, HolderId, HolderKey, Holding};

mod answers;
mod filling;

pub use answers::Sample;

/// The holders and paths that there are at the moment.
#[derive(Debug, Default)]
pub struct Directory {
    /// Holders in places that are used again, so that places are small numbers.
    places: Vec<Option<Present>>,
    free: Vec<u32>,
    by_id: HashMap<HolderId, u32>,
    by_endpoint: HashMap<EndpointId, u32>,
    /// The older program's peers by their names.
    by_name: HashMap<String, u32>,
    numbers: HashMap<StorePathHash, u32>,
    paths: HashMap<u32, Path>,
    swarm_numbers: HashMap<String, u32>,
    swarms: HashMap<u32, Swarm>,
    next_swarm: u32,
    records: u64,
}

/// A holder that is there.
#[derive(Debug)]
struct Present {
    id: HolderId,
    key: HolderKey,
    swarm: u32,
    /// Its index among the swarm's members.
    index: usize,
    revision: i64,
    contact: Contact,
    last_seen: f64,
    paths: IdSet,
}

/// A path that somebody has.
#[derive(Debug)]
struct Path {
    hash: StorePathHash,
    /// The places of its holders, by swarm.
    holders: Vec<(u32, IdSet)>,
}

#[derive(Debug)]
struct Swarm {
    members: Vec<u32>,
    version: watch::Sender<u64>,
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Endpoints that sign.
    pub signed: u64,
    /// Peers of the older program that said what they have.
    pub older: u64,
    /// Distinct paths.
    pub paths: u64,
    /// Pairs of holder and path.
    pub records: u64,
    /// Swarms with somebody in them.
    pub swarms: u64,
}

impl Directory {
    /// Takes up one holder; `names` are the hashes of paths that may be new. Returns the numbers of
    /// paths that have no name; the others are taken up.
    pub fn take(&mut self, holding: Holding, names: &HashMap<u32, StorePathHash>) -> Vec<u32> {
        let Holding { holder, paths } = holding;
        if !holder.present {
            self.remove(&holder);
            return Vec::new();
        }
        let swarm = self.swarm(&holder.swarm);
        let known = self.by_id.get(&holder.id).copied();
        let place = match known {
            Some(place)
                if self
                    .present(place)
                    .is_some_and(|known| known.swarm != swarm) =>
            {
                self.leave(place);
                self.enter(holder, swarm, paths.is_some())
            }
            Some(place) => {
                let changed = self.update(place, holder, paths.is_some());
                if changed == Some(Update::Stale) {
                    return Vec::new();
                }
                if changed == Some(Update::Moved) {
                    self.announce_change(swarm);
                }
                place
            }
            None => self.enter(holder, swarm, paths.is_some()),
        };
        let Some(paths) = paths else {
            return Vec::new();
        };
        let unknown = self.set_paths(place, paths, names);
        if !unknown.is_empty()
            && let Some(present) = self.places.get_mut(place as usize).and_then(Option::as_mut)
        {
            // The same is taken up again, with all names.
            present.revision = present.revision.saturating_sub(1);
        }
        unknown
    }

    /// Lets go of what a holder no longer has, and takes up nothing.
    pub fn let_go(&mut self, holding: &Holding) {
        let Holding { holder, paths } = holding;
        if !holder.present {
            return self.remove(holder);
        }
        let Some(paths) = paths else {
            return;
        };
        let Some(place) = self.by_id.get(&holder.id).copied() else {
            return;
        };
        let kept = self.present(place).and_then(|present| {
            let gone = present.paths.without(paths);
            (present.revision < holder.revision).then(|| present.paths.changed(&[], &gone))
        });
        if let Some(kept) = kept {
            self.set_paths(place, kept, &HashMap::new());
        }
    }

    /// Removes a holder that left or was silent for too long.
    pub fn remove(&mut self, holder: &Holder) {
        if let Some(place) = self.by_id.get(&holder.id).copied()
            && self
                .present(place)
                .is_some_and(|present| present.revision < holder.revision)
        {
            self.leave(place);
        }
    }

    /// Everybody who signs in a swarm, with the address that it announced itself from.
    pub fn signed_members(&self, swarm: &str) -> impl Iterator<Item = (TrackedPeer, &str)> {
        self.members(swarm).iter().filter_map(|place| {
            let present = self.present(*place)?;
            present
                .key
                .is_signed()
                .then_some((present.tracked()?, present.contact.addr.as_str()))
        })
    }

    /// Somebody who signs, in a swarm.
    #[must_use]
    pub fn signed_member(&self, swarm: &str, endpoint: &EndpointId) -> Option<TrackedPeer> {
        let swarm = self.swarm_numbers.get(swarm)?;
        let present = self.present(*self.by_endpoint.get(endpoint)?)?;
        (present.swarm == *swarm).then(|| present.tracked())?
    }

    /// Whether somebody who signs is there, in any swarm.
    #[must_use]
    pub fn is_signed_member(&self, endpoint: &EndpointId) -> bool {
        self.by_endpoint.contains_key(endpoint)
    }

    /// The names of the older peers that have a path.
    #[must_use]
    pub fn older_holders(&self, swarm: &str, hash: &StorePathHash) -> Vec<String> {
        let places = self.swarm_numbers.get(swarm).and_then(|swarm| {
            let path = self.paths.get(self.numbers.get(hash)?)?;
            path.of(*swarm)
        });
        places
            .into_iter()
            .flat_map(IdSet::iter)
            .filter_map(|place| match &self.present(place)?.key {
                HolderKey::Older(peer_id) => Some(peer_id.clone()),
                HolderKey::Signed(_) => None,
            })
            .collect()
    }

    /// Whether a peer of the older program with this name said what it has.
    #[must_use]
    pub fn has_older(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Tells of changes of who is in a swarm; the value rises with each.
    pub fn watch(&mut self, swarm: &str) -> watch::Receiver<u64> {
        let number = self.swarm(swarm);
        match self.swarms.get(&number) {
            Some(swarm) => swarm.version.subscribe(),
            None => watch::channel(0).1,
        }
    }

    /// The number of changes of who is in a swarm.
    #[must_use]
    pub fn version(&self, swarm: &str) -> u64 {
        self.named(swarm).map_or(0, |swarm| *swarm.version.borrow())
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let signed = self.by_endpoint.len();
        Fill {
            signed: signed as u64,
            older: (self.by_id.len() - signed) as u64,
            paths: self.paths.len() as u64,
            records: self.records,
            swarms: self
                .swarms
                .values()
                .filter(|swarm| !swarm.members.is_empty())
                .count() as u64,
        }
    }

    /// Whether there is room for these paths of a holder, in place of what it has where `replaces`.
    #[must_use]
    pub fn has_room_for(&self, key: &HolderKey, added: &[StorePathHash], replaces: bool) -> bool {
        self.fits(key, added, replaces, &Bounds::default())
    }

    fn fits(
        &self,
        key: &HolderKey,
        added: &[StorePathHash],
        replaces: bool,
        bounds: &Bounds,
    ) -> bool {
        let place = match key {
            HolderKey::Signed(endpoint) => self.by_endpoint.get(endpoint),
            HolderKey::Older(name) => self.by_name.get(name),
        };
        let present = place.and_then(|place| self.present(*place));
        if present.is_none() && self.by_id.len() >= bounds.holders {
            return false;
        }
        let mut records = self.records.saturating_add(added.len() as u64);
        if records > bounds.records && replaces {
            let held = present.map_or(0, |present| present.paths.len());
            records = records.saturating_sub(held as u64);
        }
        let mut paths = self.paths.len().saturating_add(added.len());
        if paths > bounds.paths {
            let is_known = |hash: &&StorePathHash| self.numbers.contains_key(*hash);
            paths -= added.iter().filter(is_known).count();
        }
        records <= bounds.records && paths <= bounds.paths
    }

    /// Forgets swarms that nobody is in and nobody waits for.
    pub fn forget_empty_swarms(&mut self) {
        self.swarms
            .retain(|_, swarm| !swarm.members.is_empty() || swarm.version.receiver_count() > 0);
        let swarms = &self.swarms;
        self.swarm_numbers
            .retain(|_, number| swarms.contains_key(number));
    }

    fn named(&self, swarm: &str) -> Option<&Swarm> {
        self.swarms.get(self.swarm_numbers.get(swarm)?)
    }

    fn members(&self, swarm: &str) -> &[u32] {
        self.named(swarm)
            .map_or(&[], |swarm| swarm.members.as_slice())
    }

    fn present(&self, place: u32) -> Option<&Present> {
        self.places.get(place as usize)?.as_ref()
    }

    fn endpoint_is_known(&self, place: u32) -> bool {
        self.present(place)
            .is_some_and(|present| present.contact.endpoint.is_some())
    }

    fn swarm(&mut self, name: &str) -> u32 {
        if let Some(number) = self.swarm_numbers.get(name) {
            return *number;
        }
        let number = self.next_swarm;
        // Numbers aren't used again: paths may still be filed under one for a moment.
        self.next_swarm = self.next_swarm.wrapping_add(1);
        let swarm = Swarm {
            members: Vec::new(),
            // An answer of before a restart must not look like one of after it.
            version: watch::Sender::new(u64::from(rand::random::<u32>()) << 20),
        };
        self.swarms.insert(number, swarm);
        self.swarm_numbers.insert(name.to_owned(), number);
        number
    }

    fn announce_change(&mut self, swarm: u32) {
        if let Some(swarm) = self.swarms.get_mut(&swarm) {
            swarm.version.send_modify(|version| *version += 1);
        }
    }

    fn enter(&mut self, holder: Holder, swarm: u32, has_paths: bool) -> u32 {
        let id = holder.id;
        let present = Present {
            id,
            key: holder.key,
            swarm,
            index: self
                .swarms
                .get(&swarm)
                .map_or(0, |swarm| swarm.members.len()),
            // Its paths of this revision are still to come where they are not here.
            revision: holder.revision.saturating_sub(i64::from(!has_paths)),
            contact: holder.contact,
            last_seen: holder.last_seen,
            paths: IdSet::default(),
        };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(None);
                (self.places.len() - 1) as u32
            }
        };
        match &present.key {
            HolderKey::Signed(endpoint) => self.by_endpoint.insert(*endpoint, place),
            HolderKey::Older(name) => self.by_name.insert(name.clone(), place),
        };
        if let Some(slot) = self.places.get_mut(place as usize) {
            *slot = Some(present);
        }
        self.by_id.insert(id, place);
        if let Some(swarm) = self.swarms.get_mut(&swarm) {
            swarm.members.push(place);
            swarm.version.send_modify(|version| *version += 1);
        }
        place
    }

    fn leave(&mut self, place: u32) {
        self.set_paths(place, IdSet::default(), &HashMap::new());
        let Some(present) = self.places.get_mut(place as usize).and_then(Option::take) else {
            return;
        };
        self.by_id.remove(&present.id);
        match &present.key {
            HolderKey::Signed(endpoint) => self.by_endpoint.remove(endpoint),
            HolderKey::Older(name) => self.by_name.remove(name),
        };
        self.free.push(place);
        let Some(swarm) = self.swarms.get_mut(&present.swarm) else {
            return;
        };
        if swarm.members.get(present.index) == Some(&place) {
            swarm.members.swap_remove(present.index);
        }
        let moved = swarm.members.get(present.index).copied();
        swarm.version.send_modify(|version| *version += 1);
        if let Some(moved) = moved.and_then(|moved| self.places.get_mut(moved as usize)?.as_mut()) {
            moved.index = present.index;
        }
    }

    /// Takes up what a holder that is there says of itself.
    fn update(&mut self, place: u32, holder: Holder, has_paths: bool) -> Option<Update> {
        let present = self.places.get_mut(place as usize)?.as_mut()?;
        let is_old = if has_paths {
            holder.revision <= present.revision
        } else {
            holder.revision < present.revision
        };
        if is_old {
            return Some(Update::Stale);
        }
        let moved = present.contact != holder.contact;
        if has_paths {
            present.revision = holder.revision;
        }
        present.contact = holder.contact;
        present.last_seen = present.last_seen.max(holder.last_seen);
        Some(if moved { Update::Moved } else { Update::Same })
    }

    /// Files a holder under its paths; returns those that it has no names for.
    fn set_paths(
        &mut self,
        place: u32,
        paths: IdSet,
        names: &HashMap<u32, StorePathHash>,
    ) -> Vec<u32> {
        let Some(present) = self.places.get_mut(place as usize).and_then(Option::as_mut) else {
            return Vec::new();
        };
        let swarm = present.swarm;
        let added = paths.without(&present.paths);
        let removed = present.paths.without(&paths);
        let mut unknown = Vec::new();
        for number in added {
            let Some(path) = path_of(&mut self.paths, &mut self.numbers, names, number) else {
                unknown.push(number);
                continue;
            };
            path.in_swarm(swarm).insert(place);
            self.records += 1;
        }
        for number in removed {
            let Some(path) = self.paths.get_mut(&number) else {
                continue;
            };
            path.in_swarm(swarm).remove(place);
            path.holders.retain(|(_, places)| !places.is_empty());
            self.records = self.records.saturating_sub(1);
            if path.holders.is_empty() {
                if self.numbers.get(&path.hash) == Some(&number) {
                    self.numbers.remove(&path.hash);
                }
                self.paths.remove(&number);
            }
        }
        present.paths = if unknown.is_empty() {
            paths
        } else {
            paths.changed(&[], &unknown)
        };
        unknown
    }
}

/// The path of a number, a new one where its name is known.
fn path_of<'a>(
    paths: &'a mut HashMap<u32, Path>,
    numbers: &mut HashMap<StorePathHash, u32>,
    names: &HashMap<u32, StorePathHash>,
    number: u32,
) -> Option<&'a mut Path> {
    match paths.entry(number) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(entry) => {
            let hash = *names.get(&number)?;
            numbers.insert(hash, number);
            Some(entry.insert(Path {
                hash,
                holders: Vec::with_capacity(1),
            }))
        }
    }
}

/// How much there may be.
struct Bounds {
    holders: usize,
    paths: usize,
    records: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            holders: limits::MAX_HOLDERS,
            paths: limits::MAX_PATHS,
            records: limits::MAX_RECORDS,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Update {
    /// Something newer was taken up before.
    Stale,
    /// It is reached in another way.
    Moved,
    /// It is reached as before.
    Same,
}

impl Present {
    fn tracked(&self) -> Option<TrackedPeer> {
        Some(TrackedPeer {
            endpoint: self.contact.endpoint?,
            relay_url: self.contact.relay_url.clone(),
            direct_addrs: self.contact.direct_addrs.clone(),
            last_seen: self.last_seen,
        })
    }
}

impl Path {
    fn of(&self, swarm: u32) -> Option<&IdSet> {
        self.holders
            .iter()
            .find_map(|(number, places)| (*number == swarm).then_some(places))
    }

    fn in_swarm(&mut self, swarm: u32) -> &mut IdSet {
        let index = match self.holders.iter().position(|(number, _)| *number == swarm) {
            Some(index) => index,
            None => {
                self.holders.push((swarm, IdSet::default()));
                self.holders.len() - 1
            }
        };
        &mut self.holders[index].1
    }
}

#[cfg(test)]
mod tests;
