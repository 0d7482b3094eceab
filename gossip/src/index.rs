//! Who may have a path: what the announcements and filters of a swarm add up to.
//!
//! A table of authors, bounded in number and memory, fed by [`Index::hear`] and
//! [`Index::fetched`]. It neither fetches nor sends; `engine.rs` makes actions of it.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId};
use lru::LruCache;
use rand::{RngExt, rngs::ChaCha12Rng};

use crate::{
    announcement::{Announcement, BlobHash, Content, InventoryBlob, Refused, Topic, Unverified},
    changes::Tag,
    inventory::{Inventory, PathHash},
    limits, pacing,
};

mod author;
mod catalogue;
mod filters;

use author::Author;
pub use catalogue::Entry;
pub use filters::blob_of;

/// What is known of a peer and a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its inventory says that it has it: wrong once in 65,536 times, or just gone.
    MayHave,
    /// Its inventory says that it lacks it.
    Lacks,
    /// Its inventory is not known.
    Unknown,
    /// Its inventory can't be had, and it lacked what it was asked for lately: not worth a question.
    Doubtful,
}

/// What an accepted announcement changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A peer offers something; its addresses, where they are news.
    Offer(Option<EndpointAddr>),
    /// A peer left.
    Leave(EndpointId),
}

/// How many announcements met which end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accepted.
    pub accepted: u64,
    /// Refused as malformed, absurd or too large.
    pub malformed: u64,
    /// Refused for their signature.
    pub forged: u64,
    /// Refused as not newer.
    pub old: u64,
    /// Dropped because their author announces too often.
    pub too_often: u64,
}

/// Bytes of memory for one that is gone.
const GONE: usize = 64;

/// The table. See the module.
#[derive(Debug)]
pub struct Index {
    me: EndpointId,
    topic: Topic,
    systems: Vec<String>,
    memory: usize,
    authors: HashMap<EndpointId, Author>,
    /// Whose filter a blob is; of those that are not held any more until there are too many.
    by_blob: HashMap<BlobHash, EndpointId>,
    gone: LruCache<EndpointId, u64>,
    held_bytes: usize,
    catalogue_bytes: usize,
    changes_bytes: usize,
    /// Who went for others, until it is told.
    displaced: Vec<EndpointId>,
    interests: Vec<PathHash>,
    counters: Counters,
}

impl Index {
    /// Makes an empty index of the swarm `topic` for the machine `me`, which runs `systems` and
    /// takes `memory` bytes: filters have what the authors leave of it, and half of it in any case.
    pub fn new(me: EndpointId, topic: Topic, systems: Vec<String>, memory: usize) -> Self {
        let remembered = NonZeroUsize::new(limits::GONE_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self {
            me,
            topic,
            systems,
            memory,
            authors: HashMap::new(),
            by_blob: HashMap::new(),
            gone: LruCache::new(remembered),
            held_bytes: 0,
            catalogue_bytes: 0,
            changes_bytes: 0,
            displaced: Vec::new(),
            interests: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes an announcement as it came.
    ///
    /// # Errors
    /// [`Refused`] for one that changes nothing. An author's rate is charged by valid announcements
    /// alone, so that nobody can use up another's.
    pub fn hear(
        &mut self,
        bytes: &Bytes,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) -> Result<Heard, Refused> {
        self.hear_with(bytes, None, rng, now)
    }

    fn hear_with(
        &mut self,
        bytes: &Bytes,
        age: Option<u32>,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) -> Result<Heard, Refused> {
        let heard = self.judge(bytes, age.is_some(), now);
        let counter = match &heard {
            Ok(_) => &mut self.counters.accepted,
            Err(Refused::Forged) => &mut self.counters.forged,
            Err(Refused::Old | Refused::Own) => &mut self.counters.old,
            Err(Refused::TooOften) => &mut self.counters.too_often,
            Err(_) => &mut self.counters.malformed,
        };
        *counter += 1;
        let age = Duration::from_secs(age.unwrap_or(0).into());
        Ok(self.accept(heard?, bytes, age, rng, now))
    }

    /// Cheap checks first; the signature is looked at only where all else is right.
    fn judge(
        &mut self,
        bytes: &[u8],
        is_relayed: bool,
        now: Instant,
    ) -> Result<Announcement, Refused> {
        let unverified = Unverified::read(bytes)?;
        let claimed = unverified.claims();
        let author = claimed.author;
        if author == self.me {
            return Err(Refused::Own);
        }
        let known = self.authors.get_mut(&author);
        let last = match &known {
            Some(known) => Some(known.sequence),
            None => self.gone.peek(&author).copied(),
        };
        if last.is_some_and(|last| claimed.sequence <= last) {
            return Err(Refused::Old);
        }
        // A newcomer's catalogue holds one announcement of each: the rate is not its matter.
        let charged = known.filter(|_| !is_relayed);
        if let Some(known) = charged {
            if known.allowance.left(now) < 1.0 {
                return Err(Refused::TooOften);
            }
            let announcement = unverified.verify(&self.topic)?;
            known.allowance.take(1.0, now);
            return Ok(announcement);
        }
        unverified.verify(&self.topic)
    }

    fn accept(
        &mut self,
        announcement: Announcement,
        bytes: &Bytes,
        age: Duration,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) -> Heard {
        let id = announcement.author;
        let addr = announcement.addr();
        let Content::Offer(offer) = announcement.content else {
            self.gone.put(id, announcement.sequence);
            self.remove(id);
            return Heard::Leave(id);
        };
        let is_new = !self.authors.contains_key(&id);
        if is_new {
            self.make_room(now);
            self.gone.pop(&id);
        }
        let spread = filters::spread(self.authors.len());
        let author = self
            .authors
            .entry(id)
            .or_insert_with(|| Author::new(id, now));
        let before = author.announced;
        let (was_held, changes_before) = (author.held_bytes(), author.changes_bytes());
        author.last_heard = now;
        author.sequence = announcement.sequence;
        author.heard = announcement.heard;
        author.age = age;
        author.asked = Duration::from_secs(announcement.lifetime.into());
        author.size = bytes.len();
        author.runs_ours = offer.systems.is_empty()
            || offer
                .systems
                .iter()
                .any(|system| self.systems.contains(system));
        author.learn(&offer);
        if before != author.announced {
            let due = now + spread.mul_f64(rng.random());
            author.fetch_after = match author.fetch_failures {
                0 => due,
                // It announces a new one each time: that makes up for no failure.
                _ => author.fetch_after.max(due),
            };
        }
        let others = self.changes_bytes - changes_before;
        if others + author.changes_bytes() > limits::CHANGES_MEMORY {
            author.drop_changes();
        }
        self.changes_bytes = others + author.changes_bytes();
        self.held_bytes = self.held_bytes + author.held_bytes() - was_held;
        self.catalogue_bytes -= author.raw.len();
        author.raw = Bytes::new();
        if self.catalogue_bytes + bytes.len() <= limits::CATALOGUE_MEMORY {
            self.catalogue_bytes += bytes.len();
            author.raw = Bytes::copy_from_slice(bytes);
        }
        let moved = author.addr != addr;
        if moved {
            author.addr = addr;
        }
        Heard::Offer(moved.then(|| author.addr.clone()))
    }

    /// Whether `peer` has the path, as far as is known.
    pub fn standing(&self, peer: &EndpointId, path_hash: &PathHash, now: Instant) -> Standing {
        match self.authors.get(peer) {
            Some(author) => match author.standing(path_hash, Tag::of(path_hash), now) {
                Standing::Unknown if self.is_doubtful(author, now) => Standing::Doubtful,
                standing => standing,
            },
            None => Standing::Unknown,
        }
    }

    /// Whether it was asked in vain lately, and its inventory will not be known soon.
    fn is_doubtful(&self, author: &Author, now: Instant) -> bool {
        let can_be_fetched =
            |blob: &InventoryBlob| author.fetch_failures == 0 && self.may_be_held(author, blob);
        let (announced, _) = author.announced.unzip();
        author.is_left_alone(now) && announced.is_some_and(|blob| !can_be_fetched(&blob))
    }

    /// The peers that may have the path, the most useful first.
    pub fn may_have(&self, path_hash: &PathHash, now: Instant) -> Vec<EndpointId> {
        let tag = Tag::of(path_hash);
        let mut having: Vec<&Author> = self
            .authors
            .values()
            .filter(|author| author.standing(path_hash, tag, now) == Standing::MayHave)
            .collect();
        having.sort_by(|a, b| Author::order(a, b));
        having.into_iter().map(|author| author.id).collect()
    }

    /// Authors whose filter is wanted and not held, the most useful first: what may be missed.
    pub fn unknown(&self, now: Instant) -> Vec<EndpointId> {
        let mut unknown: Vec<&Author> = self
            .authors
            .values()
            .filter(|author| author.held.is_none() && !author.is_disbelieved(now))
            .collect();
        unknown.sort_by(|a, b| Author::order(a, b));
        unknown.into_iter().map(|author| author.id).collect()
    }

    /// Notes how useful the caller finds a peer, 0 to 1: it orders answers and what is held.
    pub fn judge_peer(&mut self, peer: &EndpointId, usefulness: f32) {
        if let Some(author) = self.authors.get_mut(peer) {
            author.usefulness = usefulness.clamp(0.0, 1.0);
        }
    }

    /// Notes whether a peer that was said to have a path had it, when it was asked for it.
    ///
    /// One false hit lowers nobody; [`limits::FALSE_CLAIMS`] of them in a row do.
    ///
    /// The filter of who is not believed any more goes.
    pub fn answered(&mut self, peer: &EndpointId, had: bool, asked: Instant, now: Instant) {
        let Some(author) = self.authors.get_mut(peer) else {
            return;
        };
        author.answered(had, asked, now);
        if author.is_disbelieved(now) {
            self.drop_held(*peer);
        }
    }

    /// Notes that a peer lacked a path that it was asked for because its inventory is not known.
    ///
    /// After [`limits::FRUITLESS`] of them in a row it is not worth a question for a while, unless
    /// its inventory can be fetched.
    pub fn asked_in_vain(&mut self, peer: &EndpointId, asked: Instant, now: Instant) {
        if let Some(author) = self.authors.get_mut(peer) {
            author.asked_in_vain(asked, now);
        }
    }

    /// Notes that a peer could not be connected to: for a while it comes after all others.
    pub fn unreachable(&mut self, peer: &EndpointId, now: Instant) {
        if let Some(author) = self.authors.get_mut(peer) {
            author.unreachable(now + limits::UNREACHABLE);
        }
    }

    /// Notes paths that this machine has or asked for: who has them too is useful.
    pub fn interested_in(&mut self, mut paths: Vec<PathHash>) {
        paths.truncate(limits::INTERESTS);
        self.interests = paths;
        for author in self.authors.values_mut() {
            author.compare(&self.interests);
        }
    }

    /// Forgets what expired; returns who is gone since the last call.
    pub fn expire(&mut self, now: Instant) -> Vec<EndpointId> {
        let swarm_size = self.swarm_size();
        let expired = self.authors.values_mut().filter_map(|author| {
            author.reconsider(now);
            author
                .is_expired(swarm_size, now)
                .then_some((author.id, author.sequence))
        });
        let expired: Vec<_> = expired.collect();
        for (id, sequence) in &expired {
            self.gone.put(*id, *sequence);
            self.remove(*id);
        }
        self.make_filters_fit(now);
        let mut gone = std::mem::take(&mut self.displaced);
        gone.retain(|id| !self.authors.contains_key(id));
        gone.extend(expired.into_iter().map(|(id, _)| id));
        gone
    }

    /// The number of authors heard of.
    pub fn len(&self) -> usize {
        self.authors.len()
    }

    /// Whether nobody was heard of.
    pub fn is_empty(&self) -> bool {
        self.authors.is_empty()
    }

    /// The authors heard of, in no order.
    pub fn authors(&self) -> impl Iterator<Item = EndpointId> {
        self.authors.keys().copied()
    }

    /// The authors that had what they were asked for once, in no order.
    pub fn proven(&self) -> impl Iterator<Item = EndpointId> {
        let proven = self.authors.values().filter(|author| author.is_proven);
        proven.map(|author| author.id)
    }

    /// Whether `peer` was heard of.
    pub fn contains(&self, peer: &EndpointId) -> bool {
        self.authors.contains_key(peer)
    }

    /// Known authors and where they are reached: those first that had what they were asked for, and
    /// of each kind the most useful.
    pub fn peers(&self) -> Vec<EndpointAddr> {
        let mut authors: Vec<&Author> = self.authors.values().collect();
        authors.sort_by(|a, b| {
            let proven = b.is_proven.cmp(&a.is_proven);
            proven.then_with(|| Author::order(a, b))
        });
        authors
            .into_iter()
            .map(|author| author.addr.clone())
            .collect()
    }

    /// How many authors there are, by what all of them say.
    pub fn swarm_size(&self) -> usize {
        let mut hints: Vec<u32> = self.authors.values().map(|author| author.heard).collect();
        pacing::swarm_size(self.authors.len(), &mut hints)
    }

    /// How many announcements met which end.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of filters held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Filters held.
    pub fn held(&self) -> usize {
        self.authors
            .values()
            .filter(|author| author.held.is_some())
            .count()
    }

    /// Bytes of memory that the index takes, filters included.
    pub fn memory(&self) -> usize {
        self.memory_without_filters() + self.held_bytes
    }

    fn memory_without_filters(&self) -> usize {
        let each = self.authors.len() * author::MEMORY + self.gone.len() * GONE;
        each + self.catalogue_bytes + self.changes_bytes
    }

    /// The inventory of anyone with this blob hash, where it is held.
    pub fn inventory(&self, blob_hash: &BlobHash) -> Option<Arc<Inventory>> {
        let author = self.authors.get(self.by_blob.get(blob_hash)?)?;
        let held = author.held.as_ref()?;
        (held.blob_hash == Some(*blob_hash)).then(|| held.inventory.clone())
    }

    fn remove(&mut self, id: EndpointId) {
        if let Some(author) = self.authors.remove(&id) {
            self.held_bytes -= author.held_bytes();
            self.catalogue_bytes -= author.raw.len();
            self.changes_bytes -= author.changes_bytes();
        }
    }

    /// Drops a sixteenth of the authors, the least useful ones, where there are too many.
    fn make_room(&mut self, now: Instant) {
        if self.authors.len() < limits::MAX_AUTHORS {
            return;
        }
        let mut ids: Vec<(EndpointId, bool, f32, Instant)> = self
            .authors
            .values()
            .map(|author| {
                (
                    author.id,
                    author.held_bytes() > 0,
                    author.worth_now(now),
                    author.first_heard,
                )
            })
            .collect();
        // Newcomers go first among equals: a stream of fresh keys displaces itself.
        ids.sort_by(|a, b| {
            let worth = a.2.total_cmp(&b.2);
            a.1.cmp(&b.1).then(worth).then(b.3.cmp(&a.3))
        });
        for (id, ..) in ids.into_iter().take(limits::MAX_AUTHORS / 16) {
            self.remove(id);
            self.displaced.push(id);
        }
    }
}

/// A filter to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub author: EndpointId,
    /// What to fetch.
    pub blob: InventoryBlob,
}

#[cfg(test)]
mod tests;
