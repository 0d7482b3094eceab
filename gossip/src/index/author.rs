//! What is known of one author.

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId};

use super::Standing;
use crate::{
    announcement::{BlobHash, InventoryBlob, Offer},
    changes::{Changes, Tag},
    inventory::{Inventory, PathHash},
    limits,
    pacing::{self, Allowance},
};

/// How much of what we want a peer is taken to have before its filter was seen, in answers.
const OVERLAP_GUESS: f32 = 0.3;

/// The same where it is chosen whose filter to fetch: who was never looked at is worth a look.
const OVERLAP_HOPE: f32 = 1.0;

/// How much a peer for another system is worth less.
const OTHER_SYSTEM: f32 = 0.5;

/// Bytes of memory that an author takes, beside its filter, its changes and its announcement's
/// bytes: its record and some addresses.
pub(super) const MEMORY: usize = size_of::<Author>() + 4 * 64;

/// A filter, and what it is.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) inventory: Arc<Inventory>,
    /// None for the empty set, which no blob is needed for.
    pub(super) blob_hash: Option<BlobHash>,
    /// The number of the announcement up to which it holds all.
    pub(super) sequence: u64,
    pub(super) size: usize,
}

/// The record of one author.
#[derive(Debug)]
pub(super) struct Author {
    pub(super) id: EndpointId,
    pub(super) sequence: u64,
    pub(super) heard: u32,
    pub(super) first_heard: Instant,
    pub(super) last_heard: Instant,
    /// How long before that it spoke, where its words came by others.
    pub(super) age: Duration,
    /// How long it asked to be believed after it spoke.
    pub(super) asked: Duration,
    /// Bytes of its last announcement.
    pub(super) size: usize,
    pub(super) addr: EndpointAddr,
    pub(super) runs_ours: bool,
    pub(super) announced: Option<(InventoryBlob, u64)>,
    complete: bool,
    pub(super) held: Option<Held>,
    /// All that changed after `covers`.
    changes: Changes,
    covers: u64,
    /// The number of the announcement that `changes` reach.
    last_learnt: u64,
    pub(super) raw: Bytes,
    pub(super) allowance: Allowance,
    pub(super) fetching: bool,
    pub(super) fetch_after: Instant,
    pub(super) fetch_failures: u32,
    pub(super) usefulness: f32,
    /// It had what it was asked for once.
    pub(super) is_proven: bool,
    /// It could not be connected to: until then it comes after all others.
    unreachable_until: Option<Instant>,
    overlap: Option<f32>,
    false_hits: u32,
    /// False claims in a row that a newer inventory excuses.
    excused: u32,
    last_false: Option<Instant>,
    disbelieved_until: Option<Instant>,
    disbeliefs: u32,
    /// A claim was false: what went is not always told.
    is_stale: bool,
    /// Questions in a row that it was asked for want of its inventory, and had nothing.
    fruitless: u32,
    last_fruitless: Option<Instant>,
    left_alone_until: Option<Instant>,
    left_alone: u32,
}

impl Author {
    pub(super) fn new(id: EndpointId, now: Instant) -> Self {
        Self {
            id,
            sequence: 0,
            heard: 0,
            first_heard: now,
            last_heard: now,
            age: Duration::ZERO,
            asked: Duration::ZERO,
            size: 0,
            addr: EndpointAddr::new(id),
            runs_ours: true,
            announced: None,
            complete: true,
            held: None,
            changes: Changes::default(),
            covers: 0,
            last_learnt: 0,
            raw: Bytes::new(),
            allowance: {
                let (rate, burst) = (limits::AUTHOR_RATE, limits::AUTHOR_BURST);
                let mut allowance = Allowance::new(rate, burst, now);
                allowance.take(1.0, now);
                allowance
            },
            fetching: false,
            fetch_after: now,
            fetch_failures: 0,
            usefulness: 0.5,
            is_proven: false,
            unreachable_until: None,
            overlap: None,
            false_hits: 0,
            excused: 0,
            last_false: None,
            disbelieved_until: None,
            disbeliefs: 0,
            is_stale: false,
            fruitless: 0,
            last_fruitless: None,
            left_alone_until: None,
            left_alone: 0,
        }
    }

    /// Takes what the author offers; `self.sequence` is that of the same announcement.
    pub(super) fn learn(&mut self, offer: &Offer) {
        self.complete = offer.complete;
        let Some(blob) = offer.inventory else {
            self.announced = None;
            self.held = Inventory::build([], 0).ok().map(|inventory| Held {
                inventory: Arc::new(inventory),
                blob_hash: None,
                sequence: offer.inventory_sequence,
                size: 0,
            });
            self.start_over(offer);
            return;
        };
        self.announced = Some((blob, offer.inventory_sequence));
        let previous = std::mem::replace(&mut self.last_learnt, self.sequence);
        let reaches_held = self
            .held
            .as_ref()
            .is_some_and(|held| offer.since <= held.sequence);
        let reaches_us = offer.since <= previous;
        if reaches_held || !reaches_us {
            self.start_over(offer);
            return;
        }
        self.changes.merge(&offer.changes);
        let most = match self.held {
            Some(_) => limits::CHANGES_KEPT,
            None => limits::MAX_CHANGES,
        };
        if self.changes.len() > most {
            self.start_over(offer);
        }
    }

    /// Forgets all changes: what it offers is not known until its inventory is fetched again.
    pub(super) fn drop_changes(&mut self) {
        self.changes = Changes::default();
        self.covers = self.sequence;
    }

    pub(super) fn changes_bytes(&self) -> usize {
        self.changes.memory()
    }

    /// How long ago it spoke.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.last_heard);
        since.saturating_add(self.age)
    }

    /// Whether it is to be forgotten, in a swarm of `authors`.
    ///
    /// What a neighbour handed on is believed for a moment in any case: who catches up does not know
    /// yet how many authors there are.
    pub(super) fn is_expired(&self, authors: usize, now: Instant) -> bool {
        let received = now.saturating_duration_since(self.last_heard);
        received >= limits::CATCH_UP_MOST
            && self.silent_for(now) >= pacing::believed(self.asked, self.size, authors)
    }

    /// Keeps the offer's changes alone.
    fn start_over(&mut self, offer: &Offer) {
        self.last_learnt = self.sequence;
        self.changes = offer.changes.clone();
        self.covers = offer.since;
    }

    /// Whether the filter that is held and the changes miss something.
    pub(super) fn has_gap(&self) -> bool {
        self.held
            .as_ref()
            .is_none_or(|held| held.sequence < self.covers)
    }

    /// The blob to fetch, where it would tell more than is known.
    pub(super) fn wants(&self) -> Option<InventoryBlob> {
        let (blob, sequence) = self.announced?;
        let newer = self
            .held
            .as_ref()
            .is_none_or(|held| held.sequence < sequence);
        // What went is not always told: a false claim shows it.
        let differs = self.is_stale && self.has_newer();
        (differs || newer && self.has_gap()).then_some(blob)
    }

    /// Whether another inventory than the one held is announced.
    fn has_newer(&self) -> bool {
        let (Some(held), Some((announced, _))) = (&self.held, &self.announced) else {
            return false;
        };
        held.blob_hash != Some(announced.blob_hash)
    }

    /// Whether this is the inventory that it announced last.
    pub(super) fn announces(&self, blob: &InventoryBlob) -> bool {
        self.announced
            .is_some_and(|(announced, _)| announced == *blob)
    }

    /// Takes the filter that it announces as `blob`.
    pub(super) fn hold(&mut self, blob: &InventoryBlob, inventory: Inventory) {
        let Some((_, sequence)) = self.announced else {
            return;
        };
        self.held = Some(Held {
            inventory: Arc::new(inventory),
            blob_hash: Some(blob.blob_hash),
            sequence,
            size: blob.size as usize,
        });
        self.is_stale = false;
    }

    pub(super) fn standing(&self, path_hash: &PathHash, tag: Tag, now: Instant) -> Standing {
        if self.is_disbelieved(now) {
            return Standing::Lacks;
        }
        let held = self.held.as_ref();
        let was = || held.is_some_and(|held| held.inventory.may_contain(path_hash));
        match (self.changes.after(tag, was), held) {
            (true, _) => Standing::MayHave,
            (false, Some(_)) if self.complete && !self.has_gap() => Standing::Lacks,
            (false, _) => Standing::Unknown,
        }
    }

    /// Notes whether it had what it claimed.
    ///
    /// Answers that come together are one: a batch that asks for what was just collected shows one
    /// mistake. And while a newer inventory than the one held is announced, the mistake may be ours:
    /// that inventory is fetched, a few times in a row.
    pub(super) fn answered(&mut self, had: bool, asked: Instant, now: Instant) {
        if had {
            self.false_hits = 0;
            self.excused = 0;
            self.disbeliefs = 0;
            self.is_proven = true;
            self.unreachable_until = None;
            (self.fruitless, self.left_alone, self.left_alone_until) = (0, 0, None);
            return;
        }
        // It was asked before it was known to have been wrong: one mistake.
        let is_same_batch = self.last_false.is_some_and(|at| asked <= at);
        let since = self.last_false.map(|at| now.saturating_duration_since(at));
        if !is_same_batch {
            self.last_false = Some(now);
        }
        if since.is_none_or(|since| since >= limits::DISBELIEF) {
            self.false_hits = 0;
        }
        if self.has_newer() && self.excused < limits::EXCUSED_CLAIMS {
            self.excused += u32::from(!is_same_batch);
            if !self.is_stale && self.fetch_failures == 0 {
                self.fetch_after = self.fetch_after.min(now);
            }
            self.is_stale = true;
            return;
        }
        self.is_stale = true;
        if is_same_batch && self.false_hits > 0 {
            return;
        }
        self.false_hits += 1;
        if self.false_hits >= limits::FALSE_CLAIMS {
            let doubled = 1u32 << self.disbeliefs.min(8);
            let wait = (limits::DISBELIEF * doubled).min(limits::DISBELIEF_MOST);
            self.disbelieved_until = Some(now + wait);
            self.disbeliefs = self.disbeliefs.saturating_add(1);
            self.false_hits = 0;
        }
    }

    /// Notes that it lacked what it was asked for while its inventory was not known.
    ///
    /// As with false claims, what was asked before the last answer came counts with that.
    pub(super) fn asked_in_vain(&mut self, asked: Instant, now: Instant) {
        if self.last_fruitless.is_some_and(|at| asked <= at) {
            return;
        }
        self.last_fruitless = Some(now);
        self.fruitless += 1;
        if self.fruitless >= limits::FRUITLESS {
            let doubled = 1u32 << self.left_alone.min(8);
            let wait = (limits::LEFT_ALONE * doubled).min(limits::LEFT_ALONE_MOST);
            self.left_alone_until = Some(now + wait);
            self.left_alone = self.left_alone.saturating_add(1);
            // One question then shows whether it changed.
            self.fruitless = limits::FRUITLESS - 1;
        }
    }

    /// Whether it was asked in vain so often that it is not asked now.
    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone_until.is_some_and(|until| now < until)
    }

    pub(super) fn is_disbelieved(&self, now: Instant) -> bool {
        self.disbelieved_until.is_some_and(|until| now < until)
    }

    /// Notes that it could not be connected to, until then.
    pub(super) fn unreachable(&mut self, until: Instant) {
        self.unreachable_until = Some(until);
    }

    /// Forgets that it could not be connected to, where that is long ago.
    pub(super) fn reconsider(&mut self, now: Instant) {
        self.unreachable_until = self.unreachable_until.filter(|until| now < *until);
    }

    /// Measures how much of `paths` it has.
    pub(super) fn compare(&mut self, paths: &[PathHash]) {
        let Some(held) = &self.held else { return };
        if let Some(overlap) = self.overlap(&held.inventory, paths) {
            self.overlap = Some(overlap);
        }
    }

    /// How much of `paths` it has by this inventory, where there are any.
    fn overlap(&self, inventory: &Inventory, paths: &[PathHash]) -> Option<f32> {
        let has = |path: &&PathHash| {
            let was = || inventory.may_contain(path);
            self.changes.after(Tag::of(path), was)
        };
        let shared = paths.iter().filter(has).count();
        (!paths.is_empty()).then(|| shared as f32 / paths.len() as f32)
    }

    /// How useful it is, as far as is known.
    pub(super) fn worth(&self) -> f32 {
        self.worth_with(OVERLAP_GUESS)
    }

    /// How useful it is to fetch its filter.
    pub(super) fn worth_fetching(&self) -> f32 {
        self.worth_with(OVERLAP_HOPE)
    }

    /// How useful it is if this is its inventory.
    pub(super) fn worth_holding(&mut self, inventory: &Inventory, paths: &[PathHash]) -> f32 {
        self.overlap = self.overlap(inventory, paths).or(self.overlap);
        self.worth()
    }

    /// What it claims to share counts as far as it was found useful; 0.5 to 1.5 of a stranger's.
    fn worth_with(&self, unseen: f32) -> f32 {
        let system = if self.runs_ours { 0.0 } else { OTHER_SYSTEM };
        if self.unreachable_until.is_some() {
            return -system;
        }
        self.usefulness * (1.0 + 2.0 * self.overlap.unwrap_or(unseen)) - system
    }

    /// The more useful one first; among equals the one that is known for longer.
    pub(super) fn order(a: &Self, b: &Self) -> Ordering {
        let worth = b.worth().total_cmp(&a.worth());
        worth
            .then(a.first_heard.cmp(&b.first_heard))
            .then(a.id.cmp(&b.id))
    }

    /// How useful it is to hold its filter now.
    pub(super) fn worth_now(&self, now: Instant) -> f32 {
        match self.is_disbelieved(now) {
            true => -1.0,
            false => self.worth(),
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.size)
    }
}
