//! What this machine tells the swarm, and when: a state machine without I/O.
//!
//! Paths that came and went are told one by one, as far as the swarm's rate goes; when there are
//! more than an announcement holds, the inventory is built anew. An announcement says after which
//! number its changes are complete, so that a receiver that missed one knows that it did.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::{EndpointAddr, EndpointId, TransportAddr};
use rand::{Rng, RngExt, rngs::ChaCha12Rng};

use crate::{
    announcement::{Announcement, Content, InventoryBlob, Offer, seconds},
    changes::{Changes, Tag},
    clock::Now,
    inventory::PathHash,
    limits, pacing,
};

/// The paths that a machine offers, sorted, without repetitions.
pub type Offered = Arc<[PathHash]>;

/// What this machine says of itself.
#[derive(Debug)]
pub struct Announcer {
    me: EndpointId,
    addr: EndpointAddr,
    systems: Vec<String>,
    offered: Offered,
    complete: bool,
    /// Nothing is told before the paths are known: an empty offer would be a lie.
    ready: bool,
    base: Base,
    build: Build,
    /// Changes told since the base, each with the number it was told under, oldest first.
    told: VecDeque<(u64, Tag, bool)>,
    /// Changes not told yet, oldest first.
    pending: VecDeque<(Tag, bool)>,
    /// How many changes the last announcement had room for.
    room: usize,
    /// Since when something is new that no announcement had room for.
    untold_since: Option<Instant>,
    /// How long the next one waits for the last, as the swarm was then.
    interval: Duration,
    /// Of its interval, how much the next one waits.
    part: f64,
    last_sequence: u64,
    last_sent: Option<(Instant, usize)>,
    changed_at: Option<Instant>,
    soon: Option<Instant>,
}

/// The parts of its interval after which an announcement comes.
const PARTS: Range<f64> = 0.85..1.15;

/// The same for the second one. Where many peers start at once, the others heard of all of them in a
/// moment: that is paid off by silence, and what follows comes evenly.
const FIRST_PARTS: Range<f64> = 1.0..2.0;

/// The inventory that changes are relative to.
#[derive(Debug, Default)]
struct Base {
    blob: Option<InventoryBlob>,
    sequence: u64,
}

#[derive(Debug)]
enum Build {
    Idle { last: Option<Instant> },
    UnderWay { since: Instant },
}

impl Announcer {
    /// Makes the announcer of `me`, which has said nothing since the announcement `last_sequence`
    /// of an earlier run.
    pub fn new(me: EndpointId, systems: Vec<String>, last_sequence: u64) -> Self {
        Self {
            me,
            addr: EndpointAddr::new(me),
            systems,
            offered: Arc::from([]),
            complete: true,
            ready: false,
            base: Base {
                blob: None,
                sequence: last_sequence,
            },
            build: Build::Idle { last: None },
            told: VecDeque::new(),
            pending: VecDeque::new(),
            room: limits::PATHS_WITHOUT_INVENTORY / 2,
            untold_since: None,
            interval: limits::LEAST_INTERVAL,
            part: 1.0,
            last_sequence,
            last_sent: None,
            changed_at: None,
            soon: None,
        }
    }

    /// Notes where this machine is reached.
    pub fn reached_at(&mut self, addr: EndpointAddr, now: Instant) {
        if self.addr != addr {
            self.addr = addr;
            self.changed_at.get_or_insert(now);
        }
    }

    /// Notes what is offered from now on; `complete`: and that nothing else is.
    pub fn offer(&mut self, offered: Offered, complete: bool, now: Instant) {
        let changes = differences(&self.offered, &offered);
        self.ready = true;
        self.complete = complete;
        self.offered = offered;
        if changes.is_empty() {
            return;
        }
        self.changed_at.get_or_insert(now);
        let told_anew: std::collections::HashSet<Tag> =
            changes.iter().map(|(tag, _)| *tag).collect();
        self.pending.retain(|(tag, _)| !told_anew.contains(tag));
        self.pending.extend(changes);
    }

    /// An announcement is due soon: a neighbour is there that may know nothing.
    pub fn hurry(&mut self, rng: &mut impl Rng, now: Instant) {
        if self.last_sent.is_none() && self.soon.is_none() {
            self.soon = Some(now + limits::FIRST_WITHIN.mul_f64(rng.random()));
        }
    }

    /// The paths to build an inventory of, where one is due.
    pub fn build(&mut self, now: Instant) -> Option<Offered> {
        let Build::Idle { last } = self.build else {
            return None;
        };
        let rested = last.is_none_or(|at| now.duration_since(at) >= limits::BUILD_INTERVAL);
        let many = if self.base.blob.is_none() {
            limits::PATHS_WITHOUT_INVENTORY
        } else {
            limits::MAX_CHANGES
        };
        // In a large swarm there may be no room for any change: what has waited for long is told by
        // an inventory.
        let patience = limits::UNTOLD_MOST.max(self.interval.mul_f64(PARTS.start));
        let waits = self
            .untold_since
            .is_some_and(|at| now.saturating_duration_since(at) >= patience);
        let due = self.ready && (waits || self.told.len() + self.pending.len() > many);
        (due && rested).then(|| {
            self.build = Build::UnderWay { since: now };
            self.offered.clone()
        })
    }

    /// Takes the inventory built of `paths`; `None` where it could not be built.
    ///
    /// What came and was not told yet is told still, where that takes two announcements at most:
    /// whoever holds an older inventory needs no new one. What went is not: at worst it costs
    /// somebody a round trip, and then a fetch.
    pub fn built(&mut self, paths: &Offered, blob: Option<InventoryBlob>, now: Now) {
        let since = match self.build {
            Build::UnderWay { since } => since,
            Build::Idle { .. } => now.at,
        };
        self.build = Build::Idle { last: Some(since) };
        if blob.is_none() && !paths.is_empty() {
            return;
        }
        self.base.blob = blob;
        let came = self.pending.iter().filter(|(_, came)| *came).count();
        self.untold_since = None;
        if came > self.room * 2 || self.pending.len() > limits::CHANGES_KEPT {
            // Too many to be told one by one: receivers see the gap and fetch the inventory.
            self.last_sequence = now.sequence_after(self.last_sequence);
            self.base.sequence = self.last_sequence;
            self.pending = differences(paths, &self.offered).into();
        } else {
            self.base.sequence = self.last_sequence;
            if self.told.len() + self.pending.len() > limits::MAX_CHANGES {
                self.pending.retain(|(_, came)| *came);
            }
        }
        self.told.clear();
        self.changed_at.get_or_insert(now.at);
    }

    /// The next announcement, if it is due in a swarm of `authors`.
    pub fn due(
        &mut self,
        authors: usize,
        heard: usize,
        rng: &mut ChaCha12Rng,
        now: Now,
    ) -> Option<Announcement> {
        if !self.ready || self.is_waiting_for_inventory() {
            return None;
        }
        let soon = self.soon.is_some_and(|at| at <= now.at);
        // The swarm may have turned out smaller since, or larger: then the others believe longer what
        // was said last.
        let changed = self.changed_at.is_some_and(|changed| {
            let settled = changed + limits::SETTLE;
            let allowed = self.last_sent.map_or(changed, |(at, size)| {
                let wait = pacing::wait_after(size, authors).mul_f64(self.part);
                at + wait.max(limits::CHANGE_INTERVAL)
            });
            settled.max(allowed) <= now.at && self.soon.is_none()
        });
        let heartbeat = self.last_sent.is_some_and(|(at, size)| {
            at + pacing::interval(size, authors).mul_f64(self.part) <= now.at
        });
        if !(soon || changed || heartbeat) {
            return None;
        }
        Some(self.announce(authors, heard, rng, now))
    }

    /// Says goodbye.
    pub fn leave(&mut self, now: Now) -> Announcement {
        self.ready = false;
        self.last_sequence = now.sequence_after(self.last_sequence);
        Announcement {
            author: self.me,
            sequence: self.last_sequence,
            lifetime: seconds(limits::LEAST_LIFETIME),
            heard: 0,
            content: Content::Leave,
        }
    }

    /// The number of the last announcement.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Notes how many bytes the last announcement took: the next one waits for that.
    pub fn sent(&mut self, size: usize) {
        if let Some((_, last)) = &mut self.last_sent {
            *last = size;
        }
    }

    /// Whether no path came that was not told yet.
    fn is_all_told(&self) -> bool {
        self.pending.iter().all(|(_, came)| !came)
    }

    /// Many paths, and no inventory yet that holds them.
    fn is_waiting_for_inventory(&self) -> bool {
        self.base.blob.is_none()
            && (matches!(self.build, Build::UnderWay { .. })
                || self.pending.len() > limits::PATHS_WITHOUT_INVENTORY)
    }

    fn announce(
        &mut self,
        authors: usize,
        heard: usize,
        rng: &mut ChaCha12Rng,
        now: Now,
    ) -> Announcement {
        self.last_sequence = now.sequence_after(self.last_sequence);
        let bare = 240 + self.addr.addrs.len().min(limits::MAX_ADDRESSES) * 20;
        let room = pacing::room_for_changes(bare, authors);
        let room = match self.base.blob {
            // Without an inventory the changes are all there is.
            None => limits::MAX_CHANGES,
            Some(_) => room,
        };
        self.room = room;
        let (changes, since) = self.take_changes(room);
        let size = bare + changes.len() * 4;
        let parts = if self.last_sent.is_none() {
            FIRST_PARTS
        } else {
            PARTS
        };
        self.part = rng.random_range(parts);
        self.last_sent = Some((now.at, size));
        self.interval = pacing::interval(size, authors);
        self.untold_since = match self.is_all_told() {
            true => None,
            false => Some(self.untold_since.unwrap_or(now.at)),
        };
        self.changed_at = (!self.pending.is_empty()).then_some(now.at);
        self.soon = None;
        Announcement {
            author: self.me,
            sequence: self.last_sequence,
            lifetime: seconds(pacing::lifetime(size, authors)),
            heard: u32::try_from(heard + 1).unwrap_or(u32::MAX),
            content: Content::Offer(Box::new(self.say(changes, since))),
        }
    }

    fn say(&self, changes: Changes, since: u64) -> Offer {
        let ip = |addr: &TransportAddr| match addr {
            TransportAddr::Ip(addr) => Some(*addr),
            _ => None,
        };
        let relay = |addr: &TransportAddr| match addr {
            TransportAddr::Relay(url) if url.as_str().len() <= limits::MAX_RELAY_URL => {
                Some(url.clone())
            }
            _ => None,
        };
        let direct = self.addr.addrs.iter().filter_map(ip);
        Offer {
            relay: self.addr.addrs.iter().find_map(relay),
            direct: direct.take(limits::MAX_ADDRESSES).collect(),
            systems: self.systems.clone(),
            inventory: self.base.blob,
            inventory_sequence: self.base.sequence,
            // What could not be told yet is offered too.
            complete: self.complete && self.is_all_told(),
            since,
            changes,
        }
    }

    /// Takes at most `room` changes: what is new first, and of that what came; then some of what
    /// was told before. Returns them and the number after which they are complete.
    fn take_changes(&mut self, room: usize) -> (Changes, u64) {
        let mut chosen = Vec::new();
        for came in [true, false] {
            let free = room - chosen.len();
            let newest = self.pending.iter().rev().filter(|change| change.1 == came);
            chosen.extend(newest.take(free).copied());
        }
        let new: std::collections::HashSet<Tag> = chosen.iter().map(|(tag, _)| *tag).collect();
        self.pending.retain(|(tag, _)| !new.contains(tag));
        let again = match self.base.blob {
            None => room,
            Some(_) => chosen.len().max(limits::CHANGES_AGAIN),
        };
        let again = again.min(room - chosen.len());
        let mut since = self.base.sequence;
        let mut earlier = Vec::new();
        for (sequence, tag, came) in self.told.iter().rev() {
            if new.contains(tag) {
                continue;
            }
            if earlier.len() == again {
                since = *sequence;
                break;
            }
            earlier.push((*tag, *came));
        }
        let sequence = self.last_sequence;
        self.told.retain(|(_, tag, _)| !new.contains(tag));
        let told = chosen
            .iter()
            .rev()
            .map(|(tag, came)| (sequence, *tag, *came));
        self.told.extend(told);
        earlier.extend(chosen);
        (Changes::gather(earlier), since)
    }
}

/// What came and went between two sorted sets of paths.
fn differences(before: &[PathHash], after: &[PathHash]) -> Vec<(Tag, bool)> {
    let went = before
        .iter()
        .filter(|path| after.binary_search(path).is_err());
    let came = after
        .iter()
        .filter(|path| before.binary_search(path).is_err());
    let went = went.map(|path| (Tag::of(path), false));
    went.chain(came.map(|path| (Tag::of(path), true))).collect()
}

#[cfg(test)]
mod tests;
