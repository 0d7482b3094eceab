//! Whole swarms on a virtual clock: nodes with uplinks, one or more of which fetch a blob.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bao_tree::ByteRanges;
use iroh::EndpointId;

use super::{Action, Event, Outcome, RequestId, Schedule, length_of};
use crate::{limits, peer::score::Fault};

const STEP: Duration = Duration::from_millis(10);
const GROUP: u64 = limits::CHUNK_GROUP;

struct Node {
    id: EndpointId,
    /// Bytes a second that it sends in all.
    uplink: f64,
    latency: Duration,
    /// Sends nothing from then on, though it stays connected.
    silent_from: Option<Duration>,
    have: ByteRanges,
    schedule: Option<Schedule>,
    known: BTreeSet<usize>,
    looks: Vec<Instant>,
    done_at: Option<Duration>,
    sent: u64,
    dropped: Vec<(EndpointId, Fault)>,
}

struct Asked {
    by: usize,
    request: RequestId,
    of: usize,
    at: f64,
    delivered: u64,
    end: u64,
    begins: Instant,
    silent: Duration,
}

/// A swarm of nodes around one blob.
pub(super) struct World {
    size: u64,
    nodes: Vec<Node>,
    asked: Vec<Asked>,
    start: Instant,
    now: Instant,
}

impl World {
    pub(super) fn new(size: u64) -> Self {
        let now = Instant::now();
        Self {
            size,
            nodes: Vec::new(),
            asked: Vec::new(),
            start: now,
            now,
        }
    }

    fn add(&mut self, uplink: f64, latency: u64, have: ByteRanges) -> usize {
        let number = u8::try_from(self.nodes.len() + 1).unwrap();
        self.nodes.push(Node {
            id: iroh::SecretKey::from_bytes(&[number; 32]).public(),
            uplink,
            latency: Duration::from_millis(latency),
            silent_from: None,
            have,
            schedule: None,
            known: BTreeSet::new(),
            looks: Vec::new(),
            done_at: None,
            sent: 0,
            dropped: Vec::new(),
        });
        self.nodes.len() - 1
    }

    /// A node that has the blob and sends `uplink` bytes a second.
    pub(super) fn source(&mut self, uplink: f64, latency: u64) -> usize {
        self.add(uplink, latency, ByteRanges::from(0..self.size))
    }

    /// A node that has the bytes `have` left of an earlier download.
    pub(super) fn part(&mut self, uplink: f64, have: ByteRanges) -> usize {
        self.add(uplink, 1, have)
    }

    /// A node that fetches the blob and knows the sources.
    pub(super) fn fetcher(&mut self, uplink: f64) -> usize {
        let node = self.add(uplink, 1, ByteRanges::empty());
        let missing = ByteRanges::from(0..self.size);
        self.nodes[node].schedule = Some(Schedule::new(
            self.nodes[node].id,
            self.size,
            missing,
            self.now,
        ));
        for other in 0..node {
            if self.is_whole(other) {
                self.meet(node, other);
            }
        }
        node
    }

    pub(super) fn silence(&mut self, node: usize, from: Duration) {
        self.nodes[node].silent_from = Some(from);
    }

    fn is_whole(&self, node: usize) -> bool {
        self.nodes[node].have == ByteRanges::from(0..self.size)
    }

    fn meet(&mut self, node: usize, other: usize) {
        let whole = self.is_whole(other);
        self.nodes[node].known.insert(other);
        let event = Event::Joined {
            id: self.nodes[other].id,
            whole,
            rate: None,
            latency: self.nodes[other].latency,
        };
        self.tell(node, event);
    }

    fn tell(&mut self, node: usize, event: Event) {
        let now = self.now;
        let Some(schedule) = &mut self.nodes[node].schedule else {
            return;
        };
        for action in schedule.handle(event, now) {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Ask {
                request,
                provider,
                range,
                ..
            } => {
                let of = self.nodes.iter().position(|n| n.id == provider).unwrap();
                let latency = self.nodes[of].latency;
                self.asked.push(Asked {
                    by: node,
                    request,
                    of,
                    at: range.start as f64,
                    delivered: range.start,
                    end: range.end,
                    begins: self.now + latency,
                    silent: Duration::ZERO,
                });
            }
            Action::Cut { request, end } => {
                for asked in &mut self.asked {
                    if asked.by == node && asked.request == request {
                        asked.end = asked.end.min(end);
                    }
                }
                self.asked.retain(|a| a.end > a.delivered);
            }
            Action::Look => {
                let at = self.now + Duration::from_millis(20);
                self.nodes[node].looks.push(at);
            }
            Action::Drop { provider, fault } => {
                let of = self.nodes.iter().position(|n| n.id == provider).unwrap();
                self.nodes[node].known.remove(&of);
                self.nodes[node].dropped.push((provider, fault));
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn send(&mut self) {
        let elapsed = self.elapsed();
        for of in 0..self.nodes.len() {
            if self.nodes[of].silent_from.is_some_and(|at| elapsed >= at) {
                for asked in self.asked.iter_mut().filter(|a| a.of == of) {
                    asked.silent += STEP;
                }
                continue;
            }
            let now = self.now;
            let mut active: Vec<&mut Asked> = self
                .asked
                .iter_mut()
                .filter(|a| a.of == of && a.begins <= now)
                .collect();
            let share = self.nodes[of].uplink * STEP.as_secs_f64() / active.len().max(1) as f64;
            let mut sent = 0.0;
            for asked in &mut active {
                let to = (asked.at + share).min(asked.end as f64);
                sent += to - asked.at;
                asked.at = to;
                asked.silent = Duration::ZERO;
                let whole = to as u64 / GROUP * GROUP;
                let arrived = if to as u64 >= asked.end {
                    asked.end
                } else {
                    whole
                };
                asked.delivered = asked.delivered.max(arrived);
            }
            self.nodes[of].sent += sent as u64;
        }
        for asked in &self.asked {
            // What is cut off in the middle of a group is not kept.
            let from = self.asked_from(asked);
            self.nodes[asked.by].have |= ByteRanges::from(from..asked.delivered.max(from));
        }
    }

    fn asked_from(&self, asked: &Asked) -> u64 {
        let schedule = self.nodes[asked.by].schedule.as_ref();
        let request = schedule.and_then(|s| s.requests.get(&asked.request));
        request.map_or(asked.delivered, |request| request.start)
    }

    fn step(&mut self) {
        self.now += STEP;
        self.send();
        let ended: Vec<(usize, RequestId, u64)> = self
            .asked
            .iter()
            .filter(|a| a.delivered >= a.end)
            .map(|a| (a.by, a.request, a.delivered))
            .collect();
        self.asked.retain(|a| a.delivered < a.end);
        for (by, request, delivered) in ended {
            self.tell(
                by,
                Event::Ended {
                    request,
                    delivered,
                    fault: None,
                },
            );
        }
        let ticks = self.elapsed().as_millis() as u64;
        if ticks.is_multiple_of(50) {
            let progress: Vec<(usize, Event)> = self
                .asked
                .iter()
                .map(|a| {
                    (
                        a.by,
                        Event::Progress {
                            request: a.request,
                            delivered: a.delivered,
                            silent: a.silent,
                        },
                    )
                })
                .collect();
            for (node, event) in progress {
                self.tell(node, event);
            }
            for node in 0..self.nodes.len() {
                self.tell(node, Event::Tick);
            }
        }
        for node in 0..self.nodes.len() {
            if ticks.is_multiple_of(250) {
                self.update_fellows(node);
            }
            let now = self.now;
            let due = self.nodes[node].looks.iter().any(|at| *at <= now);
            if due {
                self.nodes[node].looks.retain(|at| *at > now);
                for other in 0..self.nodes.len() {
                    let holds = !self.nodes[other].have.is_empty();
                    let live = self.nodes[other].schedule.is_some() || holds;
                    let silent = self.nodes[other]
                        .silent_from
                        .is_some_and(|at| self.elapsed() >= at);
                    if other != node && live && !silent {
                        self.meet(node, other);
                    }
                }
                self.tell(node, Event::Looked);
            }
            let elapsed = self.elapsed();
            let node = &mut self.nodes[node];
            if let Some(schedule) = &node.schedule
                && node.done_at.is_none()
                && schedule.outcome(now) == Outcome::Complete
            {
                node.done_at = Some(elapsed);
            }
        }
    }

    fn update_fellows(&mut self, node: usize) {
        for other in self.nodes[node].known.clone() {
            let ranges = self.nodes[other].have.clone();
            let id = self.nodes[other].id;
            self.tell(node, Event::Holds { id, ranges });
        }
    }

    /// Runs until all fetchers are done; panics where that takes longer than `limit`.
    pub(super) fn run(&mut self, limit: Duration) -> Duration {
        while self
            .nodes
            .iter()
            .any(|n| n.schedule.is_some() && n.done_at.is_none())
        {
            self.step();
            if self.elapsed() > limit {
                let left: Vec<(u64, usize)> = self
                    .nodes
                    .iter()
                    .filter_map(|n| n.schedule.as_ref())
                    .map(|s| (length_of(&s.missing, s.size), s.requests.len()))
                    .collect();
                panic!("not done after {limit:?}: {left:?}");
            }
        }
        let done = self.nodes.iter().filter_map(|n| n.done_at).max();
        done.unwrap_or_default()
    }
}

const MB: f64 = 1e6;

fn seconds_from(sources: &[f64], size: u64) -> f64 {
    let mut world = World::new(size);
    for rate in sources {
        world.source(*rate, 1);
    }
    world.fetcher(0.0);
    world.run(Duration::from_secs(600)).as_secs_f64()
}

#[test]
fn k_equal_providers_are_nearly_k_times_as_fast_as_one() {
    let size = 500_000_000;
    let one = seconds_from(&[10.0 * MB], size);
    for k in [2, 4, 8] {
        let many = seconds_from(&vec![10.0 * MB; k], size);
        let gain = one / many / k as f64;
        assert!(gain > 0.95, "{k} providers: {gain:.3} of {k} times one");
    }
}

#[test]
fn one_provider_at_a_tenth_of_the_speed_does_not_hold_up_the_others() {
    let size = 500_000_000;
    let others = seconds_from(&[10.0 * MB; 3], size);
    let with_slow = seconds_from(&[10.0 * MB, 10.0 * MB, 10.0 * MB, 1.0 * MB], size);
    assert!(with_slow <= others * 1.02, "{with_slow} and {others}");
}

#[test]
fn a_crawling_provider_is_replaced() {
    let size = 200_000_000;
    let alone = seconds_from(&[10.0 * MB], size);
    let with_crawler = seconds_from(&[10.0 * MB, 1024.0], size);
    assert!(with_crawler < alone * 1.05, "{with_crawler} and {alone}");
}

#[test]
fn a_provider_that_falls_silent_is_left_and_the_rest_carry_on() {
    let size = 500_000_000;
    let others = seconds_from(&[10.0 * MB; 3], size);
    let mut world = World::new(size);
    for _ in 0..3 {
        world.source(10.0 * MB, 1);
    }
    let silent = world.source(10.0 * MB, 1);
    world.silence(silent, Duration::from_secs(6));
    let fetcher = world.fetcher(0.0);
    let took = world.run(Duration::from_secs(600)).as_secs_f64();
    assert!(took < others * 1.05, "{took} and {others}");
    let dropped = &world.nodes[fetcher].dropped;
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert_eq!(dropped[0].1, Fault::Silent);
}

#[test]
fn little_is_fetched_twice_when_providers_differ() {
    let size = 300_000_000;
    let mut world = World::new(size);
    for rate in [1.0, 3.0, 9.0, 27.0] {
        world.source(rate * MB, 20);
    }
    world.fetcher(0.0);
    world.run(Duration::from_secs(600));
    let sent: u64 = world.nodes.iter().map(|n| n.sent).sum();
    assert!(sent < size + size / 50, "{sent}");
}

#[test]
fn a_flash_crowd_is_served_at_little_more_than_one_copy_of_the_source() {
    let size = 64_000_000;
    let uplink = 4.0 * MB;
    let mut world = World::new(size);
    let source = world.source(uplink, 2);
    for _ in 0..8 {
        world.fetcher(uplink);
    }
    let last = world.run(Duration::from_secs(600)).as_secs_f64();
    let bound = size as f64 / uplink;
    let sent = world.nodes[source].sent as f64 / size as f64;
    assert!(last < bound * 1.4, "{last} s of a bound of {bound} s");
    assert!(sent < 1.1, "the source sent {sent} copies");
}

#[test]
fn a_slow_fellow_that_holds_most_of_it_does_not_hold_it_back() {
    let size = 100_000_000;
    let alone = seconds_from(&[10.0 * MB], size);
    let mut world = World::new(size);
    world.source(10.0 * MB, 1);
    world.part(0.1 * MB, ByteRanges::from(0..60_000_000));
    world.fetcher(0.0);
    let took = world.run(Duration::from_secs(600)).as_secs_f64();
    assert!(took < alone * 1.3, "{took} and {alone}");
}

#[test]
fn a_fast_fellow_that_holds_most_of_it_helps() {
    let size = 100_000_000;
    let alone = seconds_from(&[2.0 * MB], size);
    let mut world = World::new(size);
    world.source(2.0 * MB, 1);
    world.part(20.0 * MB, ByteRanges::from(0..60_000_000));
    world.fetcher(0.0);
    let took = world.run(Duration::from_secs(600)).as_secs_f64();
    assert!(took < alone * 0.55, "{took} and {alone}");
}

#[test]
fn fellows_with_unlike_uplinks_all_finish() {
    let size = 64_000_000;
    let mut world = World::new(size);
    let source = world.source(4.0 * MB, 2);
    for uplink in [0.2, 1.0, 4.0, 8.0] {
        world.fetcher(uplink * MB);
    }
    let last = world.run(Duration::from_secs(600)).as_secs_f64();
    let copies = world.nodes[source].sent as f64 / size as f64;
    assert!(
        last < 64.0,
        "{last} s, {copies} copies: no better than each alone"
    );
}

#[test]
fn a_fellow_that_falls_silent_does_not_stop_the_crowd() {
    let size = 64_000_000;
    let uplink = 4.0 * MB;
    let mut world = World::new(size);
    world.source(uplink, 2);
    for _ in 0..4 {
        world.fetcher(uplink);
    }
    let gone = world.fetcher(uplink);
    world.silence(gone, Duration::from_secs(3));
    world.run(Duration::from_secs(120));
}
