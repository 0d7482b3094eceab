//! The peers that trackers named: how many are taken up, and when they are let go.
//!
//! A tracker may name whomever it likes, thousands of them, under any addresses. Each tracker has a
//! share of a fixed number of places; those who hold one keep it while the tracker goes on naming
//! them, so that a flood of names drives nobody out.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use iroh::{
    EndpointAddr, EndpointId, TransportAddr,
    address_lookup::{EndpointInfo, MemoryLookup},
};
use rand::seq::IteratorRandom as _;

use super::limits;
use crate::{peer::peers::Peers, swarm::Swarm};

/// Who was named by trackers.
#[derive(Debug)]
pub(super) struct Found {
    peers: Peers,
    swarm: Option<Swarm>,
    /// Where they are said to be, apart from what others say.
    addresses: MemoryLookup,
    named: Mutex<Named>,
}

impl Found {
    /// Takes up peers for `peers`, of which `trackers` trackers will tell.
    pub(super) fn new(peers: Peers, swarm: Option<Swarm>, trackers: usize) -> Self {
        let addresses = MemoryLookup::with_provenance("tracker");
        peers.look_up_in(addresses.clone());
        Self {
            peers,
            swarm,
            addresses,
            named: Mutex::new(Named::new(trackers)),
        }
    }

    /// Takes up those that a tracker lists now, and lets go of those that it does not list any more.
    pub(super) fn list(&self, tracker: usize, listed: Vec<EndpointAddr>) {
        let listed = bounded(listed, self.peers.own_id());
        let ids: HashSet<EndpointId> = listed.keys().copied().collect();
        let gone = self
            .named()
            .list(tracker, &ids, Instant::now(), &mut rand::rng());
        self.let_go(gone);
        let kept: Vec<EndpointAddr> = {
            let named = self.named();
            let listed = listed.into_values();
            listed.filter(|addr| named.contains(&addr.id)).collect()
        };
        self.take_up(kept);
    }

    /// Takes up those that a tracker says have a path.
    pub(super) fn having(&self, addrs: Vec<EndpointAddr>) -> Vec<EndpointId> {
        let addrs = bounded(addrs, self.peers.own_id());
        let ids: Vec<EndpointId> = addrs.keys().copied().collect();
        let gone = self.named().having(ids.iter().copied(), Instant::now());
        self.let_go(gone);
        self.take_up(addrs.into_values().collect());
        ids
    }

    /// Takes up again those who were let go elsewhere while trackers still list them.
    pub(super) fn keep(&self) {
        for id in self.named().listed() {
            self.peers.meet_again(id);
        }
    }

    fn take_up(&self, addrs: Vec<EndpointAddr>) {
        let mut ids = Vec::new();
        for addr in addrs {
            let id = addr.id;
            let info = EndpointInfo::from(addr);
            let before = self.addresses.set_endpoint_info(info.clone());
            match before == Some(info.data) {
                true => self.peers.meet_again(id),
                // It is tried at once.
                false => drop(self.peers.meet(id)),
            }
            ids.push(EndpointAddr::new(id));
        }
        if let Some(swarm) = &self.swarm
            && !ids.is_empty()
        {
            swarm.gossip().join(ids);
        }
    }

    fn let_go(&self, gone: Vec<EndpointId>) {
        for id in gone {
            self.addresses.remove_endpoint_info(id);
            // Who is heard in the swarm is the swarm's to let go.
            let is_heard = self
                .swarm
                .as_ref()
                .is_some_and(|swarm| swarm.gossip().knows(&id));
            match (&self.swarm, is_heard) {
                (Some(swarm), true) => swarm.adopt(&self.peers, id),
                _ => self.peers.forget(id),
            }
        }
    }

    /// Whether somebody who was named lately may have paths that nobody here knows of: no inventory
    /// of theirs is known, and they can't be asked themselves yet.
    pub(super) fn any_unknown(&self) -> bool {
        let now = Instant::now();
        let recent = self.named().recent(now);
        if recent.is_empty() {
            return false;
        }
        let known: HashSet<EndpointId> = match &self.swarm {
            Some(swarm) => swarm.known_inventories(&recent).into_iter().collect(),
            None => HashSet::new(),
        };
        recent
            .iter()
            .any(|id| !known.contains(id) && !self.peers.is_connected(*id))
    }

    fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One entry for each peer but this machine, each with so many addresses at most.
fn bounded(addrs: Vec<EndpointAddr>, own: EndpointId) -> HashMap<EndpointId, EndpointAddr> {
    let mut by_id: HashMap<EndpointId, EndpointAddr> = HashMap::new();
    for addr in addrs.into_iter().filter(|addr| addr.id != own) {
        let entry = by_id
            .entry(addr.id)
            .or_insert_with(|| EndpointAddr::new(addr.id));
        for at in addr.addrs.into_iter().filter(is_of_use) {
            if entry.addrs.len() < limits::ADDRESSES {
                entry.addrs.insert(at);
            }
        }
    }
    by_id
}

/// Whether an address can be dialled at all.
fn is_of_use(addr: &TransportAddr) -> bool {
    match addr {
        TransportAddr::Ip(addr) => {
            let ip = addr.ip();
            addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
        }
        TransportAddr::Relay(_) => true,
        _ => false,
    }
}

/// The rules, without the peers themselves.
#[derive(Debug)]
struct Named {
    /// Places of each tracker.
    share: usize,
    /// Who holds a place, by tracker, and since when.
    listed: HashMap<usize, HashMap<EndpointId, Instant>>,
    /// Who was said to have a path, the earliest first.
    having: VecDeque<(EndpointId, Instant)>,
}

impl Named {
    fn new(trackers: usize) -> Self {
        Self {
            share: (limits::PEERS / trackers.max(1)).max(1),
            listed: HashMap::new(),
            having: VecDeque::new(),
        }
    }

    fn contains(&self, id: &EndpointId) -> bool {
        self.listed.values().any(|listed| listed.contains_key(id))
            || self.having.iter().any(|(other, _)| other == id)
    }

    fn listed(&self) -> Vec<EndpointId> {
        let listed = self.listed.values().flat_map(HashMap::keys);
        listed.copied().collect()
    }

    /// Gives a tracker's places to those that it lists: those who hold one first, then by lot.
    /// Returns who holds none any more.
    fn list(
        &mut self,
        tracker: usize,
        ids: &HashSet<EndpointId>,
        now: Instant,
        rng: &mut impl rand::Rng,
    ) -> Vec<EndpointId> {
        let listed = self.listed.entry(tracker).or_default();
        let before: Vec<EndpointId> = listed.keys().copied().collect();
        listed.retain(|id, _| ids.contains(id));
        let room = self.share.saturating_sub(listed.len());
        let newcomers = ids.iter().filter(|id| !listed.contains_key(*id));
        let newcomers: Vec<EndpointId> = newcomers.copied().sample(rng, room);
        listed.extend(newcomers.into_iter().map(|id| (id, now)));
        before.into_iter().filter(|id| !self.contains(id)).collect()
    }

    /// Notes who is said to have a path. Returns who made room for them.
    fn having(&mut self, ids: impl Iterator<Item = EndpointId>, now: Instant) -> Vec<EndpointId> {
        let mut gone = Vec::new();
        for id in ids {
            if self.contains(&id) {
                continue;
            }
            self.having.push_back((id, now));
            if self.having.len() > limits::PEERS_HAVING {
                gone.extend(self.having.pop_front().map(|(id, _)| id));
            }
        }
        gone.retain(|id| !self.contains(id));
        gone
    }

    /// Who was named a short time ago.
    fn recent(&self, now: Instant) -> Vec<EndpointId> {
        let listed = self.listed.values().flatten();
        let recent = listed.filter(|(_, since)| {
            now.saturating_duration_since(**since) < limits::UNKNOWN_INVENTORY
        });
        recent.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use iroh::SecretKey;
    use rand::SeedableRng;

    use super::*;

    fn id(number: u16) -> EndpointId {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        SecretKey::from_bytes(&bytes).public()
    }

    fn ids(numbers: std::ops::Range<u16>) -> HashSet<EndpointId> {
        numbers.map(id).collect()
    }

    /// How many hold a place.
    fn places(named: &Named) -> usize {
        let having = named.having.iter().map(|(id, _)| *id);
        let all: HashSet<EndpointId> = named.listed().into_iter().chain(having).collect();
        all.len()
    }

    #[test]
    fn a_flood_of_names_drives_out_nobody_who_is_listed() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(1);
        let now = Instant::now();
        let mut named = Named::new(2);
        let honest = ids(0..10);
        assert!(named.list(0, &honest, now, &mut rng).is_empty());
        for round in 0..20 {
            let mut flood = ids(1000 + round * 100..1100 + round * 100);
            named.list(1, &flood, now, &mut rng);
            // The same tracker, too, names more than there is room for.
            flood.extend(&honest);
            named.list(0, &flood, now, &mut rng);
            assert!(honest.iter().all(|id| named.contains(id)));
            assert!(places(&named) <= limits::PEERS);
        }
    }

    #[test]
    fn who_is_not_listed_any_more_is_let_go_unless_another_tracker_lists_them() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(1);
        let now = Instant::now();
        let mut named = Named::new(2);
        named.list(0, &ids(0..3), now, &mut rng);
        named.list(1, &ids(2..3), now, &mut rng);
        let gone = named.list(0, &ids(0..1), now, &mut rng);
        assert_eq!(gone, [id(1)]);
        assert!(named.contains(&id(2)));
        assert_eq!(named.list(1, &HashSet::new(), now, &mut rng), [id(2)]);
    }

    #[test]
    fn those_who_have_a_path_make_room_for_each_other_only() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(1);
        let now = Instant::now();
        let mut named = Named::new(1);
        named.list(0, &ids(0..5), now, &mut rng);
        for number in 100..400 {
            let gone = named.having([id(number), id(2)].into_iter(), now);
            assert!(gone.len() <= 1);
            assert!(!gone.contains(&id(2)));
        }
        assert!(ids(0..5).iter().all(|id| named.contains(id)));
        assert_eq!(places(&named), 5 + limits::PEERS_HAVING);
    }

    #[test]
    fn who_was_named_long_ago_is_no_reason_to_ask_the_tracker() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(1);
        let now = Instant::now();
        let mut named = Named::new(1);
        named.list(0, &ids(0..3), now, &mut rng);
        let later = now + limits::UNKNOWN_INVENTORY - Duration::from_secs(1);
        named.list(0, &ids(0..4), later, &mut rng);
        assert_eq!(named.recent(later).len(), 4);
        let later = now + limits::UNKNOWN_INVENTORY;
        assert_eq!(named.recent(later), [id(3)]);
    }

    #[test]
    fn addresses_of_one_peer_are_bounded_and_this_machine_is_left_out() {
        let addrs = (0..100u8).map(|number| {
            let at = TransportAddr::Ip(std::net::SocketAddr::from(([192, 0, 2, number], 7)));
            EndpointAddr::from_parts(id(1), [at])
        });
        let own = EndpointAddr::new(id(2));
        let nowhere = EndpointAddr::from_parts(
            id(3),
            [TransportAddr::Ip(std::net::SocketAddr::from(([0; 4], 7)))],
        );
        let bounded = bounded(addrs.chain([own, nowhere]).collect(), id(2));
        assert_eq!(bounded.len(), 2);
        assert_eq!(bounded[&id(1)].addrs.len(), limits::ADDRESSES);
        assert!(bounded[&id(3)].addrs.is_empty());
    }
}
