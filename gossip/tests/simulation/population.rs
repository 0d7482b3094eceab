//! Hours of a swarm: who speaks when, what that costs a peer, and when it can find a new path.
//!
//! Every peer runs the announcer's real rules; some, the observers, also run the whole engine and
//! hear everything. Filters of the others hold few paths and claim the size of 20,000.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId, SecretKey};
use peerix_gossip::{
    Action, Announcer, Config, Engine, Event, Inventory, Now, Offered, Page, PathHash, Standing,
    announcement::InventoryBlob, limits, pacing,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha12Rng};

const TOPIC: [u8; 32] = [7; 32];
/// The size of a filter of 20,000 paths.
const FILTER: u32 = 50_000;
/// Paths that each peer of the simulation really has; changes are those of 20,000, so that a path
/// stays for 35 minutes.
const PATHS: usize = 600;
/// Bytes of an announcement in a catalogue.
const MESSAGE: usize = 350;
/// 5 % of 20,000 come in an hour, and as many go, once a minute.
const CHANGES_A_MINUTE: usize = 17;

pub struct Setting {
    pub peers: usize,
    pub observers: usize,
    pub hours: f64,
    pub seed: u64,
    /// Share of the peers that leave in an hour, half of them without a goodbye; as many come.
    pub churn: f64,
}

/// How long a new path is looked for.
const LOOKED_FOR: u64 = 1800;

/// What an observer saw.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes of announcements a second, with what gossip adds, on average and in the worst ten
    /// minutes after the first ten.
    pub announcements: f64,
    pub announcements_worst: f64,
    /// Bytes of filters and catalogues a second, the same way.
    pub fetches: f64,
    pub fetches_worst: f64,
    /// Share of the living peers that are known at the end.
    pub known: f64,
    pub filters: usize,
    pub memory: usize,
    /// How long a path that one peer got stays unfound, where it is found in half an hour.
    pub alone: Vec<Duration>,
    pub alone_never: f64,
    /// The same for a path that one in a hundred peers got at once, three at least.
    pub shared: Vec<Duration>,
    pub shared_never: f64,
    /// How long a newcomer takes to know 99 % of the others.
    pub newcomer: Option<Duration>,
}

struct Speaker {
    key: SecretKey,
    announcer: Announcer,
    /// The oldest first.
    paths: VecDeque<PathHash>,
    base: Offered,
    heard: Vec<u64>,
    heard_count: usize,
    speaks: bool,
    /// When it has a neighbour's catalogue.
    learns_at: Option<u64>,
}

struct Observer {
    engine: Engine,
    announced: Vec<f64>,
    fetched: Vec<f64>,
    joined: bool,
    complete: Option<Duration>,
    paths: Offered,
    base: Offered,
}

struct Probe {
    path: PathHash,
    holders: Vec<EndpointId>,
    at: Duration,
    found: Vec<Option<Duration>>,
    shared: bool,
}

impl Speaker {
    fn offer(&mut self, now: Instant) {
        let mut offered: Vec<PathHash> = self.paths.iter().copied().collect();
        offered.sort_unstable();
        offered.dedup();
        self.announcer.offer(offered.into(), true, now);
    }
}

pub fn run(setting: &Setting) -> Outcome {
    Population::new(setting).run()
}

struct Population<'a> {
    setting: &'a Setting,
    rng: ChaCha12Rng,
    start: Instant,
    second: u64,
    speakers: Vec<Speaker>,
    observers: Vec<Observer>,
    slots: HashMap<EndpointId, usize>,
    probes: Vec<Probe>,
    keys: u64,
}

impl<'a> Population<'a> {
    fn new(setting: &'a Setting) -> Self {
        let mut population = Self {
            setting,
            rng: ChaCha12Rng::seed_from_u64(setting.seed),
            start: Instant::now(),
            second: 0,
            speakers: Vec::new(),
            observers: Vec::new(),
            slots: HashMap::new(),
            probes: Vec::new(),
            keys: 0,
        };
        let now = population.now();
        for _ in 0..setting.peers {
            let speaker = population.speaker(now.at);
            let slot = population.speakers.len();
            population.slots.insert(speaker.key.public(), slot);
            population.speakers.push(speaker);
        }
        for number in 0..setting.observers {
            let secret_key = population.key();
            let config = Config {
                secret_key,
                topic: TOPIC,
                systems: vec!["x86_64-linux".into()],
                last_sequence: 0,
                index_memory: limits::INDEX_MEMORY,
                seed: setting.seed + number as u64,
            };
            let paths = population.some_paths(PATHS);
            population.observers.push(Observer {
                engine: Engine::new(config, now),
                announced: Vec::new(),
                fetched: Vec::new(),
                joined: false,
                complete: None,
                paths: paths.into_iter().collect(),
                base: Offered::from([]),
            });
        }
        population
    }

    fn now(&self) -> Now {
        Now {
            at: self.start + Duration::from_secs(self.second),
            unix_ms: 1_000_000_000 + self.second * 1000,
        }
    }

    fn key(&mut self) -> SecretKey {
        self.keys += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.keys.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.setting.seed.to_le_bytes());
        SecretKey::from_bytes(&bytes)
    }

    fn some_paths(&mut self, count: usize) -> BTreeSet<PathHash> {
        (0..count).map(|_| self.rng.random()).collect()
    }

    fn speaker(&mut self, now: Instant) -> Speaker {
        let key = self.key();
        let mut announcer = Announcer::new(key.public(), vec!["x86_64-linux".into()], 0);
        let addr = EndpointAddr::new(key.public())
            .with_ip_addr("192.0.2.1:12306".parse().unwrap())
            .with_ip_addr("[2001:db8::1]:12306".parse().unwrap())
            .with_relay_url("https://relay.example.org/".parse().unwrap());
        announcer.reached_at(addr, now);
        let paths = self.some_paths(PATHS);
        announcer.offer(paths.iter().copied().collect(), true, now);
        Speaker {
            key,
            announcer,
            paths: paths.into_iter().collect(),
            base: Offered::from([]),
            heard: vec![0; (self.setting.peers + 64).div_ceil(64)],
            heard_count: 0,
            speaks: false,
            learns_at: None,
        }
    }

    fn run(mut self) -> Outcome {
        let seconds = (self.setting.hours * 3600.0) as u64;
        // Peers come within ten minutes; the last observer comes late.
        let starts: Vec<u64> = (0..self.setting.peers)
            .map(|_| self.rng.random_range(0..600))
            .collect();
        while self.second < seconds {
            self.second += 1;
            for (slot, start) in starts.iter().enumerate() {
                if *start == self.second {
                    self.begin(slot);
                    self.speakers[slot].learns_at = Some(self.second + self.catalogue_takes());
                }
            }
            self.learn();
            self.change();
            self.churn();
            self.speak();
            self.observe(seconds);
            if self.second.is_multiple_of(5) {
                self.probe();
            }
        }
        self.outcome()
    }

    fn begin(&mut self, slot: usize) {
        let at = self.now().at;
        let speaker = &mut self.speakers[slot];
        speaker.speaks = true;
        speaker.announcer.hurry(&mut self.rng, at);
    }

    /// Seconds in which the announcements of all who speak are fetched from a neighbour.
    fn catalogue_takes(&self) -> u64 {
        let known = self.speakers.iter().filter(|speaker| speaker.speaks);
        2 + (known.count() * MESSAGE) as u64 / limits::FETCH_RATE as u64
    }

    /// A newcomer knows who its neighbour knows once it has its catalogue.
    fn learn(&mut self) {
        for slot in 0..self.speakers.len() {
            if self.speakers[slot]
                .learns_at
                .is_none_or(|at| at > self.second)
            {
                continue;
            }
            self.speakers[slot].learns_at = None;
            let from = loop {
                let from = self.rng.random_range(0..self.speakers.len());
                if self.speakers[from].speaks {
                    break from;
                }
            };
            let mut heard = self.speakers[from].heard.clone();
            heard[from / 64] |= 1 << (from % 64);
            let speaker = &mut self.speakers[slot];
            for (mine, theirs) in speaker.heard.iter_mut().zip(heard) {
                *mine |= theirs;
            }
            speaker.heard[slot / 64] &= !(1 << (slot % 64));
            speaker.heard_count = speaker
                .heard
                .iter()
                .map(|bits| bits.count_ones() as usize)
                .sum();
        }
    }

    /// Each peer's paths change once a minute.
    fn change(&mut self) {
        let now = self.now();
        let phase = (self.second % 60) as usize;
        let mut lonely = None;
        for slot in (phase..self.speakers.len()).step_by(60) {
            let new: Vec<PathHash> = (0..CHANGES_A_MINUTE).map(|_| self.rng.random()).collect();
            let speaker = &mut self.speakers[slot];
            speaker.paths.drain(..CHANGES_A_MINUTE);
            speaker.paths.extend(&new);
            speaker.offer(now.at);
            if speaker.speaks {
                lonely = Some((new[0], speaker.key.public()));
            }
        }
        let end = (self.setting.hours * 3600.0) as u64;
        if !self.second.is_multiple_of(30) || self.second < 1200 || self.second + LOOKED_FOR > end {
            return;
        }
        if let Some((path, holder)) = lonely {
            self.watch(path, vec![holder], false);
        }
        let path: PathHash = self.rng.random();
        let several = (self.speakers.len() / 100).max(3).min(self.speakers.len());
        let mut holders = BTreeSet::new();
        while holders.len() < several {
            let slot = self.rng.random_range(0..self.speakers.len());
            let speaker = &mut self.speakers[slot];
            speaker.paths.push_back(path);
            speaker.offer(now.at);
            holders.insert(speaker.key.public());
        }
        self.watch(path, holders.into_iter().collect(), true);
    }

    fn watch(&mut self, path: PathHash, holders: Vec<EndpointId>, shared: bool) {
        self.probes.push(Probe {
            path,
            holders,
            at: Duration::from_secs(self.second),
            found: vec![None; self.observers.len()],
            shared,
        });
    }

    fn churn(&mut self) {
        let share = self.setting.churn * self.speakers.len() as f64 / 3600.0;
        let mut leaving = share as usize + usize::from(self.rng.random_bool(share.fract()));
        if self.second < 1200 {
            leaving = 0;
        }
        for _ in 0..leaving {
            let slot = self.rng.random_range(0..self.speakers.len());
            let now = self.now();
            // Who leaves without a goodbye is remembered by the others: its slot counts as heard.
            if self.rng.random_bool(0.5) {
                let speaker = &mut self.speakers[slot];
                let goodbye = speaker.announcer.leave(now);
                let bytes = goodbye.seal(&speaker.key, &TOPIC).unwrap();
                self.deliver(slot, &bytes);
                self.forget(slot);
            }
            let new = self.speaker(now.at);
            let old = std::mem::replace(&mut self.speakers[slot], new);
            self.slots.remove(&old.key.public());
            self.slots.insert(self.speakers[slot].key.public(), slot);
            // A newcomer knows the others from a neighbour's catalogue at once.
            let speaker = &mut self.speakers[slot];
            speaker.heard = old.heard;
            speaker.heard_count = old.heard_count;
            self.begin(slot);
        }
    }

    fn forget(&mut self, slot: usize) {
        for speaker in &mut self.speakers {
            let bit = 1 << (slot % 64);
            if speaker.heard[slot / 64] & bit != 0 {
                speaker.heard[slot / 64] &= !bit;
                speaker.heard_count -= 1;
            }
        }
    }

    fn speak(&mut self) {
        let now = self.now();
        for slot in 0..self.speakers.len() {
            let speaker = &mut self.speakers[slot];
            if !speaker.speaks {
                continue;
            }
            if let Some(paths) = speaker.announcer.build(now.at) {
                let blob = InventoryBlob {
                    blob_hash: *blake3::hash(&paths.concat()).as_bytes(),
                    size: FILTER,
                    count: paths.len() as u64,
                };
                speaker.announcer.built(&paths, Some(blob), now);
                speaker.base = paths;
            }
            let authors = speaker.heard_count + 1;
            let due = speaker
                .announcer
                .due(authors, authors - 1, &mut self.rng, now);
            if let Some(announcement) = due {
                let bytes = announcement.seal(&speaker.key, &TOPIC).unwrap();
                speaker.announcer.sent(bytes.len());
                self.deliver(slot, &bytes);
            }
        }
    }

    /// Everyone hears it; one message in a hundred is lost on the way to a peer.
    fn deliver(&mut self, slot: usize, bytes: &Bytes) {
        for (number, speaker) in self.speakers.iter_mut().enumerate() {
            if number != slot && speaker.speaks && !self.rng.random_bool(0.01) {
                let bit = 1 << (slot % 64);
                if speaker.heard[slot / 64] & bit == 0 {
                    speaker.heard[slot / 64] |= bit;
                    speaker.heard_count += 1;
                }
            }
        }
        let from = self.speakers[slot].key.public();
        self.deliver_to_observers(None, from, bytes);
    }

    fn deliver_to_observers(&mut self, author: Option<usize>, from: EndpointId, bytes: &Bytes) {
        let now = self.now();
        for number in 0..self.observers.len() {
            let observer = &mut self.observers[number];
            if !observer.joined || Some(number) == author || self.rng.random_bool(0.01) {
                continue;
            }
            *observer.announced.last_mut().unwrap() += pacing::cost(bytes.len());
            let message = Event::Message {
                bytes: bytes.clone(),
                from,
                hops: 3,
            };
            let actions = observer.engine.handle(message, now);
            self.perform(number, actions);
        }
    }

    fn observe(&mut self, seconds: u64) {
        let now = self.now();
        let living = self
            .speakers
            .iter()
            .filter(|speaker| speaker.speaks)
            .count();
        for number in 0..self.observers.len() {
            let is_late = self.observers.len() > 1 && number + 1 == self.observers.len();
            let joins = if is_late {
                seconds / 2
            } else {
                1 + number as u64
            };
            let observer = &mut self.observers[number];
            if self.second < joins {
                continue;
            }
            observer.announced.push(0.0);
            observer.fetched.push(0.0);
            if self.second == joins {
                observer.joined = true;
                let paths = observer.paths.clone();
                observer.engine.handle(Event::Offered(paths, true), now);
                let neighbour = self.speakers[number % self.speakers.len()].key.public();
                let actions = observer.engine.handle(Event::NeighbourUp(neighbour), now);
                self.perform(number, actions);
            }
            let observer = &mut self.observers[number];
            let actions = observer.engine.handle(Event::Tick, now);
            self.perform(number, actions);
            let observer = &mut self.observers[number];
            if is_late
                && observer.complete.is_none()
                && observer.engine.index.len() * 100 >= living * 99
            {
                observer.complete = Some(Duration::from_secs(self.second - joins));
            }
        }
    }

    fn perform(&mut self, number: usize, actions: Vec<Action>) {
        let now = self.now();
        for action in actions {
            let event = match action {
                Action::Broadcast(bytes) => {
                    let from = self.speakers[0].key.public();
                    self.deliver_to_observers(Some(number), from, &bytes);
                    continue;
                }
                Action::Build(paths) => {
                    let observer = &mut self.observers[number];
                    observer.base = paths.clone();
                    Event::Built(
                        paths.clone(),
                        Some(InventoryBlob {
                            blob_hash: *blake3::hash(&paths.concat()).as_bytes(),
                            size: FILTER,
                            count: paths.len() as u64,
                        }),
                    )
                }
                Action::Fetch(wanted, _) => {
                    *self.observers[number].fetched.last_mut().unwrap() +=
                        f64::from(wanted.blob.size);
                    let base = match self.slots.get(&wanted.author) {
                        Some(slot) => self.speakers[*slot].base.clone(),
                        None => Offered::from([]),
                    };
                    let is_it = *blake3::hash(&base.concat()).as_bytes() == wanted.blob.blob_hash;
                    let inventory =
                        is_it.then(|| Inventory::build(base.iter().copied(), 1).unwrap());
                    Event::Fetched(wanted, inventory)
                }
                Action::AskPage(from, start) => {
                    let (entries, next) = self.observers[0].engine.index.page(&start, now.at);
                    let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
                    *self.observers[number].fetched.last_mut().unwrap() += bytes as f64;
                    Event::Page(from, Some(Page { entries, next }))
                }
                Action::Join(_)
                | Action::Met(_)
                | Action::Left(_)
                | Action::Forget(_)
                | Action::Cut(..) => continue,
            };
            let actions = self.observers[number].engine.handle(event, now);
            self.perform(number, actions);
        }
    }

    /// Looks which watched paths an observer can find by now.
    fn probe(&mut self) {
        let now = self.now().at;
        let second = Duration::from_secs(self.second);
        let late = self.observers.len().saturating_sub(1).max(1);
        for probe in &mut self.probes {
            if second > probe.at + Duration::from_secs(LOOKED_FOR) {
                continue;
            }
            for (observer, found) in self.observers[..late].iter().zip(&mut probe.found) {
                let index = &observer.engine.index;
                let has =
                    |id: &EndpointId| index.standing(id, &probe.path, now) == Standing::MayHave;
                if found.is_none() && probe.holders.iter().any(has) {
                    *found = Some(second - probe.at);
                }
            }
        }
    }

    fn outcome(self) -> Outcome {
        let late = self.observers.len().saturating_sub(1).max(1);
        let regular = &self.observers[..late];
        let mean = |pick: &dyn Fn(&Observer) -> f64| {
            regular.iter().map(pick).sum::<f64>() / regular.len() as f64
        };
        let rate = |bytes: &[f64]| bytes.iter().sum::<f64>() / bytes.len() as f64;
        let worst = |bytes: &[f64]| bytes[600..].chunks(600).map(rate).fold(0.0, f64::max);
        let unfound = |shared: bool| {
            let of_kind = self.probes.iter().filter(|probe| probe.shared == shared);
            let all: Vec<_> = of_kind.flat_map(|probe| &probe.found[..late]).collect();
            let mut found: Vec<Duration> = all.iter().filter_map(|found| **found).collect();
            found.sort_unstable();
            let never = 1.0 - found.len() as f64 / all.len().max(1) as f64;
            (found, never)
        };
        let (alone, alone_never) = unfound(false);
        let (shared, shared_never) = unfound(true);
        let living: Vec<_> = self
            .speakers
            .iter()
            .filter(|speaker| speaker.speaks)
            .collect();
        let known = |observer: &Observer| {
            let known = living
                .iter()
                .filter(|speaker| observer.engine.index.contains(&speaker.key.public()));
            known.count() as f64 / living.len() as f64
        };
        Outcome {
            announcements: mean(&|observer| rate(&observer.announced)),
            announcements_worst: mean(&|observer| worst(&observer.announced)),
            fetches: mean(&|observer| rate(&observer.fetched)),
            fetches_worst: mean(&|observer| worst(&observer.fetched)),
            known: mean(&known),
            filters: regular[0].engine.index.held(),
            memory: regular[0].engine.index.memory(),
            alone,
            alone_never,
            shared,
            shared_never,
            newcomer: self.observers.last().and_then(|observer| observer.complete),
        }
    }
}
