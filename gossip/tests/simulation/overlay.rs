//! iroh-gossip's own protocol state for each peer, over links with latencies: how far and how fast
//! a message gets, and what it costs.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    time::Duration,
};

use bytes::Bytes;
use iroh_gossip::proto::{
    Command, Config, Event, InEvent, Message, OutEvent, PeerData, Scope, State, Timer, TopicId,
    state::MessageKind,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha12Rng};

type Id = [u8; 32];

const TOPIC: TopicId = TopicId::from_bytes([7; 32]);

/// How long it takes to notice that a peer is gone: QUIC's idle timeout.
const NOTICED_AFTER: Duration = Duration::from_secs(30);

fn id(peer: usize) -> Id {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(peer as u64).to_be_bytes());
    id
}

fn peer(id: &Id) -> usize {
    let mut number = [0; 8];
    number.copy_from_slice(&id[..8]);
    u64::from_be_bytes(number) as usize
}

enum Due {
    Received(usize, Message<Id>),
    Timer(Timer<Id>),
    Lost(usize),
}

/// What became of one message.
pub struct Spread {
    /// Share of the living peers that got it.
    pub reached: f64,
    /// When 99 % of those had it.
    pub most: Duration,
}

pub struct Overlay {
    peers: Vec<Option<State<Id, ChaCha12Rng>>>,
    neighbours: Vec<BTreeSet<usize>>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    due: std::collections::HashMap<u64, Due>,
    serial: u64,
    start: tokio::time::Instant,
    now: Duration,
    rng: ChaCha12Rng,
    got: Vec<Option<Duration>>,
    /// Bytes received by all peers: messages, and what gossip says of itself.
    pub data: usize,
    pub control: usize,
}

impl Overlay {
    /// Lets `count` peers join, each through one that is there.
    pub fn new(count: usize, seed: u64) -> Self {
        let mut overlay = Self {
            peers: Vec::new(),
            neighbours: vec![BTreeSet::new(); count],
            queue: BinaryHeap::new(),
            due: Default::default(),
            serial: 0,
            start: tokio::time::Instant::now(),
            now: Duration::ZERO,
            rng: ChaCha12Rng::seed_from_u64(seed),
            got: vec![None; count],
            data: 0,
            control: 0,
        };
        for number in 0..count {
            let rng = ChaCha12Rng::seed_from_u64(seed ^ (number as u64 + 1));
            let data = PeerData::new(Bytes::from_static(&[0; 64]));
            let state = State::new(id(number), data, Config::default(), rng);
            overlay.peers.push(Some(state));
            let through = (number > 0).then(|| id(overlay.rng.random_range(0..number)));
            let join = Command::Join(through.into_iter().collect());
            overlay.handle(number, InEvent::Command(TOPIC, join));
            let pause = Duration::from_millis(60_000 / count as u64);
            overlay.run(pause);
        }
        overlay.run(Duration::from_secs(60));
        overlay
    }

    /// Kills a share of the peers without a goodbye, and waits until that is noticed.
    pub fn kill(&mut self, share: f64) {
        for number in 0..self.peers.len() {
            if self.rng.random_bool(share) {
                self.peers[number] = None;
                for other in std::mem::take(&mut self.neighbours[number]) {
                    self.push(NOTICED_AFTER, other, Due::Lost(number));
                }
            }
        }
        self.run(NOTICED_AFTER * 2);
    }

    /// Sends a message of `size` bytes from a living peer.
    pub fn broadcast(&mut self, size: usize) -> Spread {
        let from = loop {
            let from = self.rng.random_range(0..self.peers.len());
            if self.peers[from].is_some() {
                break from;
            }
        };
        self.got.fill(None);
        let mut content = vec![0; size];
        self.rng.fill(&mut content[..]);
        let sent = self.now;
        let command = Command::Broadcast(content.into(), Scope::Swarm);
        self.handle(from, InEvent::Command(TOPIC, command));
        self.run(Duration::from_secs(10));
        let living = self.peers.iter().flatten().count() - 1;
        let mut times: Vec<Duration> = self.got.iter().flatten().map(|at| *at - sent).collect();
        times.sort_unstable();
        Spread {
            reached: times.len() as f64 / living as f64,
            most: times
                .get(times.len() * 99 / 100)
                .or(times.last())
                .copied()
                .unwrap_or_default(),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, serial, to))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let Some(due) = self.due.remove(&serial) else {
                continue;
            };
            let event = match due {
                Due::Received(from, message) => {
                    if self.peers[to].is_none() {
                        // Nobody answers there: the sender notices.
                        self.push(Duration::from_secs(5), from, Due::Lost(to));
                        continue;
                    }
                    let size = message.size().unwrap_or_default() + 4;
                    match message.kind() {
                        MessageKind::Data => self.data += size,
                        MessageKind::Control => self.control += size,
                    }
                    InEvent::RecvMessage(id(from), message)
                }
                Due::Timer(timer) => InEvent::TimerExpired(timer),
                Due::Lost(peer) => InEvent::PeerDisconnected(id(peer)),
            };
            self.handle(to, event);
        }
        self.now = end;
    }

    fn handle(&mut self, number: usize, event: InEvent<Id>) {
        let now = self.start + self.now;
        let Some(state) = &mut self.peers[number] else {
            return;
        };
        let out: Vec<_> = state.handle(event, now, None).collect();
        for event in out {
            match event {
                OutEvent::SendMessage(to, message) => {
                    let to = peer(&to);
                    self.push(latency(number, to), to, Due::Received(number, message));
                }
                OutEvent::ScheduleTimer(after, timer) => {
                    self.push(after, number, Due::Timer(timer));
                }
                OutEvent::DisconnectPeer(other) => {
                    let other = peer(&other);
                    self.push(latency(number, other), other, Due::Lost(number));
                }
                OutEvent::EmitEvent(_, Event::NeighborUp(other)) => {
                    self.neighbours[number].insert(peer(&other));
                }
                OutEvent::EmitEvent(_, Event::NeighborDown(other)) => {
                    self.neighbours[number].remove(&peer(&other));
                }
                OutEvent::EmitEvent(_, Event::Received(_)) => {
                    self.got[number].get_or_insert(self.now);
                }
                OutEvent::PeerData(..) => {}
            }
        }
    }

    fn push(&mut self, after: Duration, to: usize, due: Due) {
        self.serial += 1;
        self.due.insert(self.serial, due);
        self.queue
            .push(Reverse((self.now + after, self.serial, to)));
    }
}

/// 5 to 80 ms one way, always the same between two peers.
fn latency(a: usize, b: usize) -> Duration {
    let pair = [a.min(b) as u64, a.max(b) as u64]
        .map(u64::to_le_bytes)
        .concat();
    let hash = blake3::hash(&pair);
    Duration::from_millis(5 + u64::from(hash.as_bytes()[0]) * 75 / 255)
}
