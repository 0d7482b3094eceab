//! Which bytes of one blob to ask of whom: a core without I/O.
//!
//! The reader needs the bytes in order, so the first ones that nobody was asked for go first, to
//! the fastest provider that has room. How much is under way with each follows from its measured
//! rate and latency ([`provider`]): each range then takes about as long as the others, whoever
//! sends it. What a provider does not deliver is given to the next; a range that another is
//! expected to deliver sooner is taken over ([`balance`]). Where others fetch the same blob at
//! the same time, each gets another part of it from the source, and the rest from each other
//! ([`swarm`]).
//!
//! [`Schedule::handle`] takes what happened and tells what to do; sockets and clocks are the
//! caller's.

mod assign;
mod balance;
mod fellows;
mod provider;
mod swarm;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use bao_tree::ByteRanges;
use iroh::EndpointId;

use self::provider::Provider;
use crate::{limits, peer::score::Fault};

/// Names a request within its transfer.
pub type RequestId = u64;

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A provider is there, or is known to hold all now.
    Joined {
        /// Who.
        id: EndpointId,
        /// Whether it has all of the blob; else what it holds is told by [`Event::Holds`].
        whole: bool,
        /// Bytes a second that it gave lately, where that is known.
        rate: Option<f64>,
        /// How long an answer of it usually takes.
        latency: Duration,
    },
    /// A provider holds these bytes too.
    Holds {
        /// Who.
        id: EndpointId,
        /// Which.
        ranges: ByteRanges,
    },
    /// A provider has gone, through no fault of its own.
    Left {
        /// Who.
        id: EndpointId,
    },
    /// How far a request is.
    Progress {
        /// Which.
        request: RequestId,
        /// End of what was delivered.
        delivered: u64,
        /// How long it has been waiting for the provider.
        silent: Duration,
    },
    /// A request is over.
    Ended {
        /// Which.
        request: RequestId,
        /// End of what was delivered.
        delivered: u64,
        /// What went wrong, where not all of it was delivered.
        fault: Option<Fault>,
    },
    /// The fastest reader is here.
    Read {
        /// Its offset in bytes.
        offset: u64,
    },
    /// A look for providers is over; those found have joined.
    Looked,
    /// Time has passed: at least every [`limits::SCHEDULE_TICK`] while requests are under way.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask a provider for a range.
    Ask {
        /// The request's name from now on.
        request: RequestId,
        /// Of whom.
        provider: EndpointId,
        /// Which bytes.
        range: Range<u64>,
        /// Somebody else was asked for them too.
        hedge: bool,
    },
    /// End a request there: what lies behind was given to another.
    Cut {
        /// Which.
        request: RequestId,
        /// Its new end.
        end: u64,
    },
    /// Ask all peers who has the blob, then say [`Event::Looked`].
    Look,
    /// A provider is of no use any more, and why.
    Drop {
        /// Who.
        provider: EndpointId,
        /// What it did.
        fault: Fault,
    },
}

/// Where the transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// More is to come.
    Running,
    /// Every byte is here.
    Complete,
    /// Nobody is left who has what is missing.
    Failed,
}

#[derive(Debug, Clone)]
struct Request {
    provider: EndpointId,
    start: u64,
    /// Where it is to end; a cut lowers it.
    end: u64,
    /// Where it was to end: what comes before it is cut counts up to there.
    limit: u64,
    hedge: bool,
    delivered: u64,
    asked_at: Instant,
    silent: Duration,
}

impl Request {
    fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.delivered)
    }

    /// Whether anything is still wanted of it; else only its end is waited for.
    fn is_active(&self) -> bool {
        self.remaining() > 0
    }
}

#[derive(Debug)]
struct Looks {
    due: Instant,
    done: u32,
    under_way: bool,
    /// The last one found nobody, when nobody was left.
    in_vain: bool,
    /// Since when nobody is left.
    nobody_since: Option<Instant>,
}

/// The schedule of one transfer.
#[derive(Debug)]
pub struct Schedule {
    me: EndpointId,
    size: u64,
    /// What has not arrived.
    missing: ByteRanges,
    /// What has not arrived and nobody was asked for.
    open: ByteRanges,
    providers: BTreeMap<EndpointId, Provider>,
    requests: BTreeMap<RequestId, Request>,
    next_request: RequestId,
    read_to: u64,
    /// The first missing byte, and since when it is that.
    head: (u64, Instant),
    arrived_at: Instant,
    /// When this machine was last found to have slept, and was last found awake.
    woken_at: Instant,
    ticked_at: Instant,
    looks: Looks,
    /// What is to be got from the source first, while others fetch the blob too.
    share: Option<ByteRanges>,
    /// With whom it is shared.
    fellows: Vec<EndpointId>,
    /// Whether anything may be asked of a second provider too.
    may_hedge: bool,
}

impl Schedule {
    /// Plans to fetch the bytes `missing` of a blob of `size` bytes for `me`.
    pub fn new(me: EndpointId, size: u64, missing: ByteRanges, now: Instant) -> Self {
        let missing = &missing & &ByteRanges::from(0..size);
        let head = missing.boundaries().first().copied().unwrap_or(size);
        Self {
            me,
            size,
            open: missing.clone(),
            missing,
            providers: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            read_to: 0,
            head: (head, now),
            arrived_at: now,
            looks: Looks {
                due: now + limits::LOOK_FIRST,
                done: 0,
                under_way: false,
                in_vain: false,
                nobody_since: None,
            },
            woken_at: now,
            ticked_at: now,
            share: None,
            fellows: Vec::new(),
            may_hedge: true,
        }
    }

    /// Takes what happened and tells what to do about it, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Joined {
                id,
                whole,
                rate,
                latency,
            } => self.join(id, whole, rate, latency, now, &mut actions),
            Event::Holds { id, ranges } => {
                let all = ByteRanges::from(0..self.size);
                if let Some(provider) = self.providers.get_mut(&id)
                    && let Some(holds) = &mut provider.holds
                {
                    let more = &*holds | &(&ranges & &all);
                    // What is in more pieces than anybody fetches is not worth the work.
                    if more.boundaries().len() <= limits::PIECES_HELD {
                        *holds = more;
                    }
                }
            }
            Event::Left { id } => self.remove(id, &mut actions),
            Event::Progress {
                request,
                delivered,
                silent,
            } => {
                self.arrived(request, delivered, now);
                if let Some(request) = self.requests.get_mut(&request) {
                    request.silent = silent;
                }
                return actions;
            }
            Event::Ended {
                request,
                delivered,
                fault,
            } => self.end(request, delivered, fault, now, &mut actions),
            Event::Read { offset } => self.read_to = self.read_to.max(offset),
            Event::Looked => {
                self.looks.under_way = false;
                self.looks.in_vain = self.providers.is_empty();
                if self.looks.in_vain {
                    self.looks.due = now + limits::LOOK_AGAIN;
                }
            }
            Event::Tick => self.tick(now, &mut actions),
        }
        self.assign(now, &mut actions);
        self.look(now, &mut actions);
        actions
    }

    /// Where the transfer stands.
    pub fn outcome(&self, now: Instant) -> Outcome {
        if self.missing.is_empty() {
            return Outcome::Complete;
        }
        let unasked = !self.is_busy() && !self.is_paused();
        let patience = if self.has_arrived() {
            limits::LOOK_PATIENCE
        } else {
            Duration::ZERO
        };
        let alone = self.looks.nobody_since;
        let waited = alone.is_some_and(|since| now.saturating_duration_since(since) >= patience);
        let nobody = waited && self.looks.in_vain && !self.looks.under_way;
        let stuck = now.saturating_duration_since(self.arrived_at) > limits::STALL;
        // One that turned us away is asked again, until it is left.
        let stuck = stuck
            && !self
                .providers
                .values()
                .any(|provider| provider.is_resting(now));
        if unasked && (nobody || stuck) {
            return Outcome::Failed;
        }
        Outcome::Running
    }

    /// Whether time passing changes anything.
    pub fn wants_ticks(&self) -> bool {
        self.is_busy() || (!self.missing.is_empty() && !self.is_paused())
    }

    /// The providers that are asked, or may be, with their measured bytes a second.
    pub fn rates(&self) -> impl Iterator<Item = (EndpointId, f64)> {
        let known = |(id, provider): (&EndpointId, &Provider)| Some((*id, provider.meter.rate()?));
        self.providers.iter().filter_map(known)
    }

    fn is_busy(&self) -> bool {
        self.requests.values().any(Request::is_active)
    }

    /// The reader is too far behind for anything to be asked.
    fn is_paused(&self) -> bool {
        let open = self.open.boundaries().first();
        open.is_some_and(|start| *start >= self.ceiling())
    }

    /// Whether a reader may have had a part, which nobody else can go on from.
    fn has_arrived(&self) -> bool {
        self.size > limits::CHECKED_FIRST && length_of(&self.missing, self.size) < self.size
    }

    fn ceiling(&self) -> u64 {
        self.read_to.saturating_add(limits::READ_AHEAD)
    }

    fn join(
        &mut self,
        id: EndpointId,
        whole: bool,
        rate: Option<f64>,
        latency: Duration,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let provider = self.providers.entry(id).or_insert_with(|| {
            let holds = (!whole).then(ByteRanges::empty);
            Provider::new(holds, rate, latency, now)
        });
        if whole {
            provider.holds = None;
        }
        self.looks.in_vain = false;
        self.reshare(actions);
    }

    /// Takes a provider out; what was asked of it is open again.
    fn remove(&mut self, id: EndpointId, actions: &mut Vec<Action>) {
        if self.providers.remove(&id).is_none() {
            return;
        }
        for request in self.requests_of(id) {
            self.cut(request, 0, actions);
        }
        // Who was slow beside others may be the last.
        for provider in self.providers.values_mut() {
            provider.slow = false;
        }
        self.reshare(actions);
    }

    fn drop_provider(&mut self, id: EndpointId, fault: Fault, actions: &mut Vec<Action>) {
        self.remove(id, actions);
        actions.push(Action::Drop {
            provider: id,
            fault,
        });
    }

    fn requests_of(&self, id: EndpointId) -> Vec<RequestId> {
        let of = self
            .requests
            .iter()
            .filter(|(_, r)| r.provider == id && r.is_active());
        of.map(|(request, _)| *request).collect()
    }

    /// Notes what a request has delivered by now.
    fn arrived(&mut self, request: RequestId, delivered: u64, now: Instant) {
        let Some(request) = self.requests.get_mut(&request) else {
            return;
        };
        let delivered = delivered.min(request.limit);
        if delivered <= request.delivered {
            return;
        }
        let arrived = ByteRanges::from(request.delivered..delivered);
        self.missing -= arrived.clone();
        // After a cut some may come that was open again.
        self.open -= arrived;
        if let Some(provider) = self.providers.get_mut(&request.provider) {
            provider.meter.add(delivered - request.delivered);
            provider.refusals = 0;
            provider.absences = 0;
            provider.silence = Duration::ZERO;
        }
        request.delivered = delivered;
        self.arrived_at = now;
        let head = self.missing.boundaries().first().copied();
        let head = head.unwrap_or(self.size);
        if head != self.head.0 {
            self.head = (head, now);
        }
    }

    fn end(
        &mut self,
        id: RequestId,
        delivered: u64,
        fault: Option<Fault>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.arrived(id, delivered, now);
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        self.reopen(request.delivered..request.end);
        self.drop_duplicates(actions);
        let Some(provider) = self.providers.get_mut(&request.provider) else {
            return;
        };
        let took = now.saturating_duration_since(request.asked_at);
        match fault {
            None => {
                let bytes = request.delivered - request.start;
                provider.meter.first(bytes, took);
                // To ask twice was too dear; it will be so a moment later.
                if request.hedge && bytes == 0 {
                    self.may_hedge = false;
                }
            }
            // It turned away what was asked at once: that counts as one.
            Some(Fault::Refused) if provider.is_resting(now) => {}
            // It has too much to do: it is asked for less, and later.
            Some(Fault::Refused) if provider.refusals < limits::REFUSALS => {
                provider.refusals += 1;
                provider.streams_cap = (self.requests.len() / 2).max(1);
                let rest = limits::REFUSED_REST * 2u32.pow(provider.refusals.min(4));
                provider.rests_until = Some(now + rest);
            }
            // A part that it does not hold any more, or not yet.
            Some(Fault::Absent) if !provider.is_whole() && provider.absences < limits::ABSENCES => {
                provider.absences += 1;
                if let Some(holds) = &mut provider.holds {
                    *holds -= ByteRanges::from(request.delivered..request.end);
                }
            }
            Some(fault) => self.drop_provider(request.provider, fault, actions),
        }
    }

    /// Makes bytes open again that did not arrive, unless somebody else was asked for them.
    fn reopen(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut bytes = &ByteRanges::from(range) & &self.missing;
        for other in self.requests.values().filter(|r| r.remaining() > 0) {
            bytes -= ByteRanges::from(other.delivered..other.end);
        }
        self.open |= bytes;
    }

    /// Ends a request at `end`, or where it is if that is further; the rest is open again.
    fn cut(&mut self, id: RequestId, end: u64, actions: &mut Vec<Action>) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let end = end.max(request.delivered);
        if end >= request.end {
            return;
        }
        let rest = end..request.end;
        request.end = end;
        actions.push(Action::Cut { request: id, end });
        self.reopen(rest);
    }

    /// Ends requests whose bytes all came from somebody else meanwhile.
    fn drop_duplicates(&mut self, actions: &mut Vec<Action>) {
        let needless: Vec<RequestId> = self
            .requests
            .iter()
            .filter(|(_, r)| {
                r.remaining() > 0
                    && self
                        .missing
                        .is_disjoint(&ByteRanges::from(r.delivered..r.end))
            })
            .map(|(id, _)| *id)
            .collect();
        for request in needless {
            self.cut(request, 0, actions);
        }
    }

    /// Looks for providers: at once where none is left, else now and then.
    fn look(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let looks = &mut self.looks;
        if !self.providers.is_empty() {
            looks.nobody_since = None;
        }
        if looks.under_way || self.missing.is_empty() {
            return;
        }
        let none_left = self.providers.is_empty() && (!looks.in_vain || now >= looks.due);
        if none_left {
            looks.nobody_since.get_or_insert(now);
        }
        let worth_it = length_of(&self.missing, self.size) > limits::SEGMENT;
        if none_left || (now >= looks.due && worth_it) {
            looks.under_way = true;
            looks.done += 1;
            let wait = limits::LOOK_FIRST * 3u32.pow(looks.done.min(4));
            looks.due = now + wait.min(limits::LOOK_LATER);
            actions.push(Action::Look);
        }
    }
}

/// How many bytes of a blob of `size` bytes are in `ranges`.
fn length_of(ranges: &ByteRanges, size: u64) -> u64 {
    let bounds = ranges.boundaries().chunks(2);
    bounds
        .map(|pair| pair.get(1).copied().unwrap_or(size).saturating_sub(pair[0]))
        .sum()
}
