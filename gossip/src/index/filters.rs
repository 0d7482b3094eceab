//! Which filters are fetched next, and which ones are held under the cap.

use std::time::{Duration, Instant};

use iroh::EndpointId;

use super::{Author, Index, Wanted};
use crate::{announcement::InventoryBlob, inventory::Inventory, limits};

/// A filter displaces another where its author is worth this much more: else two of the same worth
/// would displace each other for ever.
const MARGIN: f32 = 0.02;

/// Authors in a row for whose filter there may be no room at one look: with four looks a second, all
/// that are remembered are put off before the first of them is due again.
const TRIES: usize = 16;

/// How long receivers spread their fetches of a new filter, in a swarm of `authors`.
pub(super) fn spread(authors: usize) -> Duration {
    let authors = u32::try_from(authors).unwrap_or(u32::MAX);
    limits::FETCH_SPREAD
        .saturating_mul(authors)
        .min(limits::FETCH_SPREAD_MOST)
}

impl Index {
    /// The filter to fetch now, if there is one and `allowed` (the rate is the caller's matter);
    /// it counts as under way until [`Index::fetched`] or [`Index::failed`].
    pub fn next_fetch(&mut self, now: Instant) -> Option<Wanted> {
        let under_way = self
            .authors
            .values()
            .filter(|author| author.fetching)
            .count();
        if under_way >= limits::FETCHES {
            return None;
        }
        for _ in 0..TRIES {
            let wanted = self.most_wanted(now)?;
            let author = self.authors.get(&wanted.author)?;
            let (worth, replaced) = (author.worth_fetching(), author.held_bytes());
            let size = wanted.blob.size as usize;
            let has_room = self.has_room(wanted.author, worth, size, replaced, now);
            let author = self.authors.get_mut(&wanted.author)?;
            if has_room {
                author.fetching = true;
                return Some(wanted);
            }
            // Not worth its place now; looked at again later.
            author.fetch_after = now + limits::FETCH_SPREAD_MOST;
        }
        None
    }

    /// The filter that is worth most of those that are due.
    fn most_wanted(&self, now: Instant) -> Option<Wanted> {
        let due = |author: &&Author| {
            !author.fetching && author.fetch_after <= now && !author.is_disbelieved(now)
        };
        let wanted = self.authors.values().filter(due);
        let wanted = wanted.filter_map(|author| Some((author, author.wants()?)));
        let wanted = wanted.filter(|(author, blob)| self.may_be_held(author, blob));
        // One that is held already is only brought up to date: newcomers go first.
        // And who could not be fetched from waits for all others.
        let (author, blob) = wanted.min_by(|(a, _), (b, _)| {
            let failed = a.fetch_failures.cmp(&b.fetch_failures);
            let held = a.held.is_some().cmp(&b.held.is_some());
            let worth = b.worth_fetching().total_cmp(&a.worth_fetching());
            failed.then(held).then(worth).then(Author::order(a, b))
        })?;
        Some(Wanted {
            author: author.id,
            blob,
        })
    }

    /// Takes a filter that was fetched.
    pub fn fetched(&mut self, wanted: &Wanted, inventory: Inventory, now: Instant) {
        let Some(author) = self.authors.get_mut(&wanted.author) else {
            return;
        };
        if inventory.len() != wanted.blob.count {
            // Its author signed another count than it built: nothing of it is to be believed.
            self.failed(wanted, now);
            return;
        }
        author.fetching = false;
        author.fetch_failures = 0;
        if !author.announces(&wanted.blob) {
            // Another one by now, which is due when it is.
            return;
        }
        author.fetch_after = now + limits::FETCH_SPREAD_MOST;
        if author.is_disbelieved(now) {
            return;
        }
        // Nothing goes for what it only might have been.
        let worth = author.worth_holding(&inventory, &self.interests);
        let before = author.held_bytes();
        let size = wanted.blob.size as usize;
        if !self.make_room_for(wanted.author, worth, size, before, now) {
            return;
        }
        if let Some(author) = self.authors.get_mut(&wanted.author) {
            author.hold(&wanted.blob, inventory);
            author.fetch_after = now;
            self.held_bytes = self.held_bytes + size - before;
            self.by_blob.insert(wanted.blob.blob_hash, wanted.author);
            if self.by_blob.len() > 2 * self.authors.len() {
                let authors = &self.authors;
                self.by_blob.retain(|blob_hash, id| {
                    let held = authors.get(id).and_then(|author| author.held.as_ref());
                    held.is_some_and(|held| held.blob_hash == Some(*blob_hash))
                });
            }
        }
    }

    /// Notes that a filter could not be fetched.
    pub fn failed(&mut self, wanted: &Wanted, now: Instant) {
        if let Some(author) = self.authors.get_mut(&wanted.author) {
            author.fetching = false;
            let doubled = 1u32 << author.fetch_failures.min(10);
            let wait = (limits::FETCH_BACKOFF * doubled).min(limits::FETCH_BACKOFF_MOST);
            author.fetch_failures = author.fetch_failures.saturating_add(1);
            author.fetch_after = now + wait;
        }
    }

    /// Whether the cap leaves room, or would after less useful filters went.
    fn has_room(
        &self,
        id: EndpointId,
        worth: f32,
        size: usize,
        replaced: usize,
        now: Instant,
    ) -> bool {
        let free = (self.filter_memory() + replaced).saturating_sub(self.held_bytes);
        if size <= free {
            return true;
        }
        let lesser = self.lesser(id, worth, now).map(Author::held_bytes);
        size <= free + lesser.sum::<usize>()
    }

    /// Drops less useful filters until `size` bytes fit.
    fn make_room_for(
        &mut self,
        id: EndpointId,
        worth: f32,
        size: usize,
        replaced: usize,
        now: Instant,
    ) -> bool {
        if !self.has_room(id, worth, size, replaced, now) {
            return false;
        }
        let lesser = self.lesser(id, worth, now);
        let lesser = lesser.map(|author| worth_and_id(author, now)).collect();
        let most = (self.filter_memory() + replaced).saturating_sub(size);
        self.drop_until(most, lesser);
        true
    }

    /// Drops the least useful filters where the authors that are known leave less room by now.
    pub(super) fn make_filters_fit(&mut self, now: Instant) {
        let most = self.filter_memory();
        if self.held_bytes > most {
            let all = self
                .authors
                .values()
                .filter(|author| author.held_bytes() > 0);
            self.drop_until(most, all.map(|author| worth_and_id(author, now)).collect());
        }
    }

    /// Drops filters of these, the least useful first, until at most so many bytes are held.
    fn drop_until(&mut self, most: usize, mut of: Vec<(f32, EndpointId)>) {
        of.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, id) in of {
            if self.held_bytes <= most {
                break;
            }
            self.drop_held(id);
        }
    }

    /// Bytes that filters may take.
    fn filter_memory(&self) -> usize {
        let left = self.memory.saturating_sub(self.memory_without_filters());
        left.max(self.memory / 2)
    }

    /// Lets go of the filter of an author, where there is one.
    pub(super) fn drop_held(&mut self, id: EndpointId) {
        if let Some(author) = self.authors.get_mut(&id) {
            self.held_bytes -= author.held_bytes();
            author.held = None;
        }
    }

    fn lesser(&self, id: EndpointId, worth: f32, now: Instant) -> impl Iterator<Item = &Author> {
        self.authors.values().filter(move |author| {
            author.id != id && author.held_bytes() > 0 && author.worth_now(now) + MARGIN < worth
        })
    }

    /// Whether the filter of an author may take so much memory: of those that never had what they
    /// were asked for, each has a small share.
    pub(super) fn may_be_held(&self, author: &Author, blob: &InventoryBlob) -> bool {
        let share = (self.memory / limits::STRANGERS).max(limits::STRANGERS_FILTER);
        author.is_proven || blob.size as usize <= share
    }
}

fn worth_and_id(author: &Author, now: Instant) -> (f32, EndpointId) {
    (author.worth_now(now), author.id)
}

/// What an inventory is as a blob.
pub fn blob_of(bytes: &[u8], inventory: &Inventory) -> InventoryBlob {
    InventoryBlob {
        blob_hash: *blake3::hash(bytes).as_bytes(),
        size: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        count: inventory.len(),
    }
}
