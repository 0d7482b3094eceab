//! The peers that announced themselves on a local network: how many are kept, and how long.
//!
//! Anybody on the network can announce anything, under any source address. So what is kept is
//! bounded in all and for each source, new ones are taken up at a bounded rate, and where there is
//! no room a peer goes that was never connected.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use iroh::EndpointId;

use super::limits;

/// The peers heard of. A value of rules: it knows no sockets and no clock.
#[derive(Debug, Default)]
pub struct Found {
    entries: HashMap<EndpointId, Entry>,
    admitted: Option<(Instant, u32)>,
}

#[derive(Debug)]
struct Entry {
    source: IpAddr,
    addrs: Vec<SocketAddr>,
    heard_at: Instant,
    changed_at: Instant,
}

/// What follows from an announcement.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A peer that is new, or has other addresses: it is to be known under these. Another may have
    /// to be forgotten for it.
    Known {
        /// The peer's addresses.
        addrs: Vec<SocketAddr>,
        /// The peer whose place it takes.
        instead_of: Option<EndpointId>,
    },
    /// Nothing new.
    Nothing,
    /// There is no room for it.
    Refused,
}

impl Found {
    /// Takes an announcement of `id` from `source` with addresses that may be dialled.
    pub fn heard(
        &mut self,
        id: EndpointId,
        source: IpAddr,
        mut addrs: Vec<SocketAddr>,
        now: Instant,
        is_connected: impl Fn(EndpointId) -> bool,
    ) -> Heard {
        addrs.sort_unstable();
        addrs.dedup();
        addrs.truncate(limits::ADDRESSES_PER_PEER);
        if addrs.is_empty() {
            return Heard::Nothing;
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.heard_at = now;
            // A forger's news can't keep a peer from being connected to.
            let is_early =
                now.saturating_duration_since(entry.changed_at) < limits::ADDRESS_CHANGE_PAUSE;
            if entry.addrs == addrs || is_early {
                return Heard::Nothing;
            }
            entry.changed_at = now;
            entry.addrs.clone_from(&addrs);
            entry.source = source;
            return Heard::Known {
                addrs,
                instead_of: None,
            };
        }
        let from_there = self.entries.values().filter(|entry| entry.source == source);
        if from_there.count() >= limits::PEERS_PER_ADDRESS || !self.admits(now) {
            return Heard::Refused;
        }
        let instead_of = if self.entries.len() >= limits::PEERS {
            let candidates = self.entries.iter().filter(|(id, _)| !is_connected(**id));
            let oldest = candidates.min_by_key(|(_, entry)| entry.heard_at);
            match oldest.map(|(id, _)| *id) {
                Some(oldest) => Some(oldest),
                None => return Heard::Refused,
            }
        } else {
            None
        };
        if let Some(oldest) = instead_of {
            self.entries.remove(&oldest);
        }
        let entry = Entry {
            source,
            addrs: addrs.clone(),
            heard_at: now,
            changed_at: now,
        };
        self.entries.insert(id, entry);
        Heard::Known { addrs, instead_of }
    }

    /// Takes a farewell of `id`, which anybody can send: one that is connected stays.
    pub fn left(&mut self, id: EndpointId, is_connected: impl Fn(EndpointId) -> bool) -> bool {
        !is_connected(id) && self.entries.remove(&id).is_some()
    }

    /// Lets go of those that were not heard of for long and are not connected; returns them.
    pub fn expire(
        &mut self,
        now: Instant,
        is_connected: impl Fn(EndpointId) -> bool,
    ) -> Vec<EndpointId> {
        let gone: Vec<EndpointId> = self
            .entries
            .iter()
            .filter(|(id, entry)| {
                now.saturating_duration_since(entry.heard_at) > limits::PEER_AGE
                    && !is_connected(**id)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            self.entries.remove(id);
        }
        gone
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn admits(&mut self, now: Instant) -> bool {
        let (since, count) = match self.admitted {
            Some((since, count))
                if now.saturating_duration_since(since) < Duration::from_secs(1) =>
            {
                (since, count)
            }
            _ => (now, 0),
        };
        let admits = count < limits::NEW_PEERS_PER_SECOND;
        self.admitted = Some((since, count + u32::from(admits)));
        admits
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn id() -> EndpointId {
        SecretKey::generate().public()
    }

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 12306))
    }

    fn host(number: usize) -> IpAddr {
        let [.., c, d] = number.to_be_bytes();
        IpAddr::from([10, 1, c, d])
    }

    #[test]
    fn a_peer_is_told_of_once_and_again_with_other_addresses() {
        let (mut found, peer, now) = (Found::default(), id(), Instant::now());
        let heard = found.heard(peer, host(1), vec![addr(1)], now, |_| false);
        assert!(matches!(
            heard,
            Heard::Known {
                instead_of: None,
                ..
            }
        ));
        assert_eq!(
            found.heard(peer, host(1), vec![addr(1)], now, |_| true),
            Heard::Nothing
        );
        let early = found.heard(peer, host(2), vec![addr(2)], now, |_| false);
        assert_eq!(early, Heard::Nothing);
        let now = now + limits::ADDRESS_CHANGE_PAUSE;
        let moved = found.heard(peer, host(2), vec![addr(2)], now, |_| false);
        assert_eq!(
            moved,
            Heard::Known {
                addrs: vec![addr(2)],
                instead_of: None
            }
        );
        assert_eq!(
            found.heard(peer, host(2), vec![], now, |_| false),
            Heard::Nothing
        );
    }

    #[test]
    fn a_flood_of_announcements_stays_bounded_and_costs_no_connected_peer() {
        let (mut found, mut now) = (Found::default(), Instant::now());
        let friend = id();
        let is_friend = |id| id == friend;
        found.heard(friend, host(0), vec![addr(1)], now, is_friend);
        let (mut known, mut refused) = (0, 0);
        for number in 1..4000 {
            now += Duration::from_millis(5);
            match found.heard(id(), host(number), vec![addr(2)], now, is_friend) {
                Heard::Known { instead_of, .. } => {
                    known += 1;
                    assert_ne!(instead_of, Some(friend));
                }
                Heard::Refused => refused += 1,
                Heard::Nothing => panic!("a new peer is news"),
            }
            assert!(found.len() <= limits::PEERS);
        }
        assert!(
            known <= 21 * limits::NEW_PEERS_PER_SECOND && refused > 3000,
            "{known} {refused}"
        );
        let one_host = (0..100)
            .filter(|_| {
                now += Duration::from_secs(1);
                found.heard(id(), host(9999), vec![addr(3)], now, is_friend) != Heard::Refused
            })
            .count();
        assert_eq!(one_host, limits::PEERS_PER_ADDRESS);
    }

    #[test]
    fn whoever_is_gone_is_let_go_of_unless_it_is_connected() {
        let (mut found, now) = (Found::default(), Instant::now());
        let (stays, goes) = (id(), id());
        found.heard(stays, host(1), vec![addr(1)], now, |_| false);
        found.heard(goes, host(2), vec![addr(2)], now, |_| false);
        let later = now + limits::PEER_AGE + Duration::from_secs(1);
        assert_eq!(found.expire(later, |id| id == stays), [goes]);
        assert!(!found.left(stays, |_| true) && found.left(stays, |_| false));
        assert!(found.is_empty());
    }
}
