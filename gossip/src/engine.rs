//! The rules of a peer in a swarm, without I/O: `handle(event, now) -> actions`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId, SecretKey};
use rand::{RngExt, SeedableRng, rngs::ChaCha12Rng};
use serde::{Deserialize, Serialize};

use crate::{
    announcement::{Announcement, InventoryBlob, Refused, Topic, Unverified, seconds},
    announcer::{Announcer, Offered},
    clock::Now,
    index::{Entry, Heard, Index, Wanted},
    inventory::{Inventory, PathHash},
    limits,
    membership::Membership,
    pacing::Allowance,
};

mod accounts;
mod catch_up;

use accounts::Accounts;
use catch_up::CatchUp;

/// What a peer is, for the whole of its run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The key that signs, the endpoint's own.
    pub secret_key: SecretKey,
    /// The swarm.
    pub topic: Topic,
    /// The systems of this machine, as Nix names them.
    pub systems: Vec<String>,
    /// The number of the last announcement of an earlier run, 0 where it is not known.
    pub last_sequence: u64,
    /// Bytes that what is known of the others may take, filters included.
    pub index_memory: usize,
    /// Decides delays and choices.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// This machine offers these paths from now on: sorted, without repetitions.
    ///
    /// The second says whether it offers nothing else.
    Offered(Offered, bool),
    /// This machine is reached here.
    ReachedAt(EndpointAddr),
    /// The inventory of these paths was built, or could not be.
    Built(Offered, Option<InventoryBlob>),
    /// Gossip delivered a message.
    Message {
        /// Its bytes.
        bytes: Bytes,
        /// The neighbour that delivered it, not its author.
        from: EndpointId,
        /// How many others it came through, as they say.
        hops: u16,
    },
    /// A filter was fetched and read, or could not be.
    Fetched(Wanted, Option<Inventory>),
    /// A page of a neighbour's catalogue came, or did not.
    Page(EndpointId, Option<Page>),
    /// A neighbour in the overlay is there.
    NeighbourUp(EndpointId),
    /// A neighbour is none any more.
    NeighbourDown {
        /// Who it was.
        id: EndpointId,
        /// Whether its connection ended; else it made room for another one.
        is_lost: bool,
    },
    /// Peers to join through: given by hand, which are kept, or remembered and found in other ways,
    /// of whom the latest are.
    Seeds {
        /// Who they are.
        ids: Vec<EndpointId>,
        /// Whether they were given by hand.
        by_hand: bool,
    },
    /// Messages were lost on the way to us.
    Lagged,
    /// This machine leaves.
    Leave,
    /// Time passed: to be called each [`TICK`].
    Tick,
}

/// A page of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Announcements.
    pub entries: Vec<Entry>,
    /// Where the next page starts.
    pub next: Option<[u8; 32]>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell everyone.
    Broadcast(Bytes),
    /// Build the inventory of these paths, and say [`Event::Built`].
    Build(Offered),
    /// Fetch a filter from one of these, in this order, and say [`Event::Fetched`].
    Fetch(Wanted, Vec<EndpointId>),
    /// Ask a neighbour for the page of its catalogue after this id, and say [`Event::Page`].
    AskPage(EndpointId, [u8; 32]),
    /// Make neighbours of these.
    Join(Vec<EndpointId>),
    /// A peer is there, or is reached elsewhere now.
    Met(EndpointAddr),
    /// A peer is gone.
    Left(EndpointId),
    /// Nothing needs to be known any more of where a peer is reached.
    Forget(EndpointId),
    /// A peer delivers far too much that is of no use: end its connections, and refuse it for so long.
    Cut(EndpointId, Duration),
}

/// The rules. See the module.
#[derive(Debug)]
pub struct Engine {
    secret_key: SecretKey,
    topic: Topic,
    /// Who has what.
    pub index: Index,
    announcer: Announcer,
    neighbours: Vec<EndpointId>,
    accounts: Accounts,
    /// Given by hand.
    kept_seeds: Vec<EndpointId>,
    /// Found otherwise, the latest last.
    seeds: VecDeque<EndpointId>,
    membership: Membership,
    /// Our last announcement, for the catalogue, and when it was said.
    own: Option<(Bytes, Instant)>,
    fetches: Allowance,
    catch_up: CatchUp,
    rng: ChaCha12Rng,
}

/// Neighbours that are asked for a filter after its author.
const OTHER_HOLDERS: usize = 3;

impl Engine {
    /// Makes the rules of a peer that knows nobody yet.
    pub fn new(config: Config, now: Now) -> Self {
        let me = config.secret_key.public();
        let systems: Vec<String> = config
            .systems
            .into_iter()
            .take(limits::MAX_SYSTEMS)
            .collect();
        Self {
            index: Index::new(me, config.topic, systems.clone(), config.index_memory),
            announcer: Announcer::new(me, systems, config.last_sequence),
            secret_key: config.secret_key,
            topic: config.topic,
            neighbours: Vec::new(),
            accounts: Accounts::new(),
            kept_seeds: Vec::new(),
            seeds: VecDeque::new(),
            membership: Membership::default(),
            own: None,
            fetches: Allowance::new(limits::FETCH_RATE, limits::FETCH_BURST, now.at),
            catch_up: CatchUp::default(),
            rng: ChaCha12Rng::seed_from_u64(config.seed),
        }
    }

    /// Takes what happened and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Offered(offered, complete) => self.announcer.offer(offered, complete, now.at),
            Event::ReachedAt(addr) => self.announcer.reached_at(addr, now.at),
            Event::Built(paths, blob) => self.announcer.built(&paths, blob, now),
            Event::Message { bytes, from, hops } => {
                // What follows from it waits for a tick: a flood costs no look at all authors.
                self.message(&bytes, from, hops, now.at, &mut actions);
                return actions;
            }
            Event::Fetched(wanted, Some(inventory)) => {
                self.index.fetched(&wanted, inventory, now.at);
            }
            Event::Fetched(wanted, None) => {
                // Others were tried after its author, and each may have sent all but the end.
                let others = self.neighbours.len().min(OTHER_HOLDERS) as f64;
                let cost = wanted.blob.size.max(limits::FETCH_LEAST);
                self.fetches.take(f64::from(cost) * others, now.at);
                self.index.failed(&wanted, now.at);
            }
            Event::Page(_, page) => self.take_page(page, now.at, &mut actions),
            Event::NeighbourUp(id) => self.neighbour_up(id, now.at),
            Event::NeighbourDown { id, is_lost } => {
                self.neighbours.retain(|neighbour| *neighbour != id);
                self.membership.down(is_lost, self.neighbours.len(), now.at);
            }
            Event::Seeds { ids, by_hand } => self.seeds(ids, by_hand, &mut actions),
            Event::Lagged => self.catch_up.want(),
            Event::Leave => {
                let leave = self.announcer.leave(now);
                actions.extend(self.broadcast(&leave, now.at));
                return actions;
            }
            Event::Tick => {
                for id in self.index.expire(now.at) {
                    self.left(id, &mut actions);
                }
            }
        }
        self.announce(now, &mut actions);
        self.fetch(now.at, &mut actions);
        self.join(now.at, &mut actions);
        actions
    }

    /// A page of what is known, for a neighbour that is new; our own words first.
    pub fn page(&self, start: &[u8; 32], now: Instant) -> Page {
        let (mut entries, next) = self.index.page(start, now);
        if *start == [0; 32]
            && let Some((bytes, said)) = &self.own
        {
            entries.push(Entry {
                age: seconds(now.saturating_duration_since(*said)),
                bytes: bytes.clone(),
            });
        }
        Page { entries, next }
    }

    fn told(&self, heard: Heard, actions: &mut Vec<Action>) {
        match heard {
            Heard::Offer(addr) => actions.extend(addr.map(Action::Met)),
            Heard::Leave(id) => self.left(id, actions),
        }
    }

    fn seeds(&mut self, ids: Vec<EndpointId>, by_hand: bool, actions: &mut Vec<Action>) {
        let me = self.secret_key.public();
        for id in ids.into_iter().filter(|id| *id != me) {
            if self.kept_seeds.contains(&id) {
                continue;
            }
            self.seeds.retain(|other| *other != id);
            if by_hand && self.kept_seeds.len() < limits::SEEDS {
                self.kept_seeds.push(id);
                continue;
            }
            self.seeds.push_back(id);
            if self.seeds.len() > limits::SEEDS
                && let Some(earliest) = self.seeds.pop_front()
                && !self.index.contains(&earliest)
            {
                actions.push(Action::Forget(earliest));
            }
        }
    }

    fn is_seed(&self, id: &EndpointId) -> bool {
        self.kept_seeds.contains(id) || self.seeds.contains(id)
    }

    fn left(&self, id: EndpointId, actions: &mut Vec<Action>) {
        actions.push(Action::Left(id));
        if !self.is_seed(&id) {
            actions.push(Action::Forget(id));
        }
    }

    fn join(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let known = self.index.len() + self.kept_seeds.len() + self.seeds.len();
        let count = self.membership.due(self.neighbours.len(), known, now);
        if count == 0 {
            return;
        }
        let is_far = |id: &EndpointId| !self.neighbours.contains(id);
        let seeds = self.kept_seeds.iter().chain(&self.seeds).copied();
        let vouched: Vec<EndpointId> = seeds
            .clone()
            .chain(self.index.proven())
            .filter(is_far)
            .collect();
        let authors = self.index.authors();
        let mut far: Vec<EndpointId> = authors.chain(seeds).filter(is_far).collect();
        let mut chosen = Vec::new();
        // Anybody can be an author, thousands of times: one at least is somebody else's word.
        if !vouched.is_empty() && (count > 1 || self.rng.random()) {
            chosen.push(vouched[self.rng.random_range(0..vouched.len())]);
        }
        while chosen.len() < count && !far.is_empty() {
            let next = far.swap_remove(self.rng.random_range(0..far.len()));
            if !chosen.contains(&next) {
                chosen.push(next);
            }
        }
        if !chosen.is_empty() {
            actions.push(Action::Join(chosen));
        }
    }

    /// The number of our last announcement, to be remembered for the next run.
    pub fn last_sequence(&self) -> u64 {
        self.announcer.last_sequence()
    }

    /// The neighbours in the overlay.
    pub fn neighbours(&self) -> Vec<EndpointId> {
        self.neighbours.clone()
    }

    /// Notes paths that this machine has or asked for.
    pub fn interested_in(&mut self, paths: Vec<PathHash>) {
        self.index.interested_in(paths);
    }

    fn announce(&mut self, now: Now, actions: &mut Vec<Action>) {
        if let Some(paths) = self.announcer.build(now.at) {
            actions.push(Action::Build(paths));
        }
        // With nobody to hear it, what is new stays to be told.
        if self.neighbours.is_empty() {
            return;
        }
        let authors = self.index.swarm_size();
        let heard = self.index.len();
        if let Some(due) = self.announcer.due(authors, heard, &mut self.rng, now) {
            actions.extend(self.broadcast(&due, now.at));
        }
    }

    fn broadcast(&mut self, announcement: &Announcement, now: Instant) -> Option<Action> {
        match announcement.seal(&self.secret_key, &self.topic) {
            Ok(bytes) => {
                self.announcer.sent(bytes.len());
                self.own = Some((bytes.clone(), now));
                Some(Action::Broadcast(bytes))
            }
            Err(error) => {
                tracing::error!(%error, "our own announcement could not be made");
                None
            }
        }
    }

    fn message(
        &mut self,
        bytes: &Bytes,
        from: EndpointId,
        hops: u16,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let known = self.index.len();
        let heard = self.index.hear(bytes, &mut self.rng, now);
        // Fresh keys cost nothing to make: what they say counts as what nobody should have said.
        // So do goodbyes of who was not there.
        let is_of_use = match &heard {
            Ok(Heard::Offer(_)) => self.index.len() <= known,
            Ok(Heard::Leave(_)) => self.index.len() < known,
            Err(_) => false,
        };
        if !is_of_use && let Some(time) = self.accounts.wastes(from, bytes.len(), hops, now) {
            actions.push(Action::Cut(from, time));
        }
        match heard {
            Ok(heard) => self.told(heard, actions),
            Err(Refused::TooOften) => {
                // Honest neighbours hand on what others write: only who writes itself is cut.
                let author = Unverified::read(bytes).map(|unverified| unverified.claims().author);
                if author == Ok(from) && self.accounts.floods(from, now) {
                    actions.push(Action::Cut(from, limits::BAN));
                }
            }
            Err(_) => {}
        }
    }

    fn neighbour_up(&mut self, id: EndpointId, now: Instant) {
        // With one or two it may have been beside the swarm, and missed what was said in it.
        let was_aside = self.neighbours.len() < limits::FEW_NEIGHBOURS;
        if self.neighbours.len() < limits::NEIGHBOURS && !self.neighbours.contains(&id) {
            self.neighbours.push(id);
        }
        self.membership.up();
        self.announcer.hurry(&mut self.rng, now);
        // After a partition it knows what was said on its side, which nobody says again for a minute.
        let was_parted = self.membership.is_unrest(now);
        if was_aside || was_parted || !self.index.contains(&id) {
            self.catch_up.want();
        }
        if was_parted {
            self.catch_up.prefer(id);
        }
    }

    fn take_page(&mut self, page: Option<Page>, now: Instant, actions: &mut Vec<Action>) {
        if !self.catch_up.is_answered() {
            return;
        }
        let Some(page) = page else {
            self.catch_up.failed(now);
            return;
        };
        for entry in &page.entries {
            self.fetches.take(entry.bytes.len() as f64, now);
            if let Some(heard) = self.index.hear_entry(entry, &mut self.rng, now) {
                self.told(heard, actions);
            }
        }
        self.catch_up.took(&page, self.neighbours.len(), now);
    }

    fn fetch(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.fetches.left(now) <= 0.0 {
            return;
        }
        let page = self.catch_up.due(&self.neighbours, &mut self.rng, now);
        actions.extend(page.map(|(id, start)| Action::AskPage(id, start)));
        while self.fetches.left(now) > 0.0
            && let Some(wanted) = self.index.next_fetch(now)
        {
            let cost = wanted.blob.size.max(limits::FETCH_LEAST);
            self.fetches.take(f64::from(cost), now);
            // Its author first; a neighbour may hold it too.
            let mut from = vec![wanted.author];
            let others = self.neighbours.iter().copied();
            from.extend(others.filter(|id| *id != wanted.author).take(OTHER_HOLDERS));
            actions.push(Action::Fetch(wanted, from));
        }
    }
}

/// How often [`Event::Tick`] is due.
pub const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
