//! What is done with each datagram, and whether a question is worth its wait.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};
use ipnet::Ipv4Net;
use peerix_store::nix::StorePathHash;

use super::datagram::{Datagram, Malformed};
use crate::lan::{limits, networks::LocalNetwork};

/// What follows from a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer if the path is offered.
    Answer {
        /// To whom.
        to: SocketAddr,
        /// The request's id.
        id: u32,
        /// The path.
        path_hash: StorePathHash,
    },
    /// The question `id` has an answer.
    Found {
        /// The question's id.
        id: u32,
        /// Where the answering host's HTTP server is.
        http: SocketAddr,
    },
    /// Nothing; counted under this name.
    Drop(&'static str),
}

/// How a question is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Send it and wait this long at most.
    Wait(Duration),
    /// Send it; whoever answers will be waited for next time.
    DontWait,
    /// Nobody ever answers: don't send it.
    Skip,
}

/// The state of both roles. A value of rules: it knows no sockets and no clock.
pub struct Rules {
    /// The port of both ends, and of our HTTP server.
    port: u16,
    networks: Arc<Vec<LocalNetwork>>,
    questions: HashMap<u32, Question>,
    clock: SetClock,
    each: RateLimiter<Ipv4Addr, HashMapStateStore<Ipv4Addr>, SetClock>,
    all: RateLimiter<NotKeyed, InMemoryState, SetClock>,
    heard_at: Option<Instant>,
    /// Mean and deviation of how long answers took.
    usual: Option<(Duration, Duration)>,
    /// Questions since the last answer, or since the first ever.
    silent: u32,
    sent_at: Option<Instant>,
}

struct Question {
    path_hash: StorePathHash,
    /// The networks that it was sent to.
    asked: Vec<Ipv4Net>,
    answers: usize,
    sent_at: Instant,
    late_after: Instant,
}

impl Rules {
    /// Makes the rules of a host whose HTTP server listens on `port`.
    pub fn new(port: u16, now: Instant) -> Self {
        let a_second = |count| Quota::per_second(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        let clock = SetClock::new(now);
        Self {
            port,
            networks: Arc::default(),
            questions: HashMap::new(),
            each: RateLimiter::new(
                a_second(limits::ANSWERS_PER_ADDRESS),
                HashMapStateStore::default(),
                clock.clone(),
            ),
            all: RateLimiter::direct_with_clock(
                a_second(limits::REQUESTS_PER_SECOND),
                clock.clone(),
            ),
            clock,
            heard_at: None,
            usual: None,
            silent: 0,
            sent_at: None,
        }
    }

    /// The networks are these from now on. Who answered on others may be gone.
    pub fn networks(&mut self, networks: Arc<Vec<LocalNetwork>>) {
        if self.networks != networks {
            self.usual = None;
            self.networks = networks;
            self.silent = 0;
        }
    }

    /// Takes a datagram.
    pub fn handle(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Action {
        let SocketAddr::V4(from) = from else {
            return Action::Drop("address");
        };
        let ip = IpAddr::V4(*from.ip());
        if self.networks.iter().any(|network| network.is_own(ip)) {
            return Action::Drop("own");
        }
        if !self.networks.iter().any(|network| network.contains(ip)) {
            return Action::Drop("address");
        }
        match Datagram::parse(bytes) {
            Ok(Datagram::Request { id, path_hash }) => {
                self.clock.set(now);
                if self.all.check().is_err() || self.each.check_key(from.ip()).is_err() {
                    return Action::Drop("rate");
                }
                Action::Answer {
                    to: from.into(),
                    id,
                    path_hash,
                }
            }
            Ok(Datagram::Response {
                id,
                http_port,
                path_hash,
            }) => self.answered(id, SocketAddr::V4(from), http_port, path_hash, now),
            Err(malformed) => Action::Drop(Malformed::as_str(malformed)),
        }
    }

    fn answered(
        &mut self,
        id: u32,
        from: SocketAddr,
        http_port: u16,
        path_hash: StorePathHash,
        now: Instant,
    ) -> Action {
        let IpAddr::V4(ip) = from.ip() else {
            return Action::Drop("address");
        };
        let Some(question) = self.questions.get_mut(&id) else {
            return Action::Drop("unasked");
        };
        let was_asked = from.port() == self.port
            && question.path_hash == path_hash
            && question.asked.iter().any(|net| net.contains(&ip));
        if !was_asked {
            return Action::Drop("unasked");
        }
        if question.answers >= limits::ANSWERS_HEARD {
            return Action::Drop("surplus");
        }
        question.answers += 1;
        let took = now.saturating_duration_since(question.sent_at);
        self.usual = Some(match self.usual {
            None => (took, took / 2),
            Some((mean, deviation)) => {
                let off = mean.abs_diff(took);
                ((mean * 7 + took) / 8, (deviation * 3 + off) / 4)
            }
        });
        self.heard_at = Some(now);
        self.silent = 0;
        Action::Found {
            id,
            http: SocketAddr::new(from.ip(), http_port),
        }
    }

    /// Says whether and how a question is asked now, and counts it.
    ///
    /// While nobody ever answered, only the first few wait: a miss must not pay for a network
    /// without older peers. Later ones go out seldom and are not waited for.
    pub fn asking(&mut self, now: Instant) -> Asking {
        let is_heard = self
            .heard_at
            .is_some_and(|at| now.saturating_duration_since(at) < limits::HEARD_AGE);
        let can_be_asked = self.networks.iter().any(|network| !network.v4.is_empty());
        if !can_be_asked || self.questions.len() >= limits::QUESTIONS {
            return Asking::Skip;
        }
        if is_heard || self.silent < limits::SILENT_QUESTIONS {
            self.silent = self.silent.saturating_add(1);
            self.sent_at = Some(now);
            return Asking::Wait(self.wait());
        }
        let is_due = self
            .sent_at
            .is_none_or(|at| now.saturating_duration_since(at) >= limits::SILENT_INTERVAL);
        if !is_due {
            return Asking::Skip;
        }
        self.sent_at = Some(now);
        Asking::DontWait
    }

    /// How long answers usually take at most. Late ones count, so that it grows again.
    fn wait(&self) -> Duration {
        let usual = self.usual.map(|(mean, deviation)| mean + deviation * 4);
        usual.map_or(limits::ANSWER_WAIT, |usual| {
            usual.clamp(limits::ANSWER_WAIT_LEAST, limits::ANSWER_WAIT)
        })
    }

    /// Notes a question under a random `id`; returns the datagram and where it goes.
    pub fn ask(
        &mut self,
        id: u32,
        path_hash: StorePathHash,
        now: Instant,
    ) -> (Vec<u8>, Vec<(u32, SocketAddr)>) {
        let mut asked = Vec::new();
        let mut targets = Vec::new();
        for network in self.networks.iter() {
            for net in network.v4.iter().filter(|net| net.prefix_len() < 31) {
                asked.push(*net);
                targets.push((
                    network.index,
                    SocketAddr::from((net.broadcast(), self.port)),
                ));
            }
        }
        let question = Question {
            path_hash,
            asked,
            answers: 0,
            sent_at: now,
            late_after: now + limits::SILENT_INTERVAL,
        };
        self.questions.insert(id, question);
        (Datagram::Request { id, path_hash }.encode(), targets)
    }

    /// Forgets what is too late to be answered, and who sent nothing lately.
    pub fn tidy(&mut self, now: Instant) {
        self.questions
            .retain(|_, question| question.late_after > now);
        self.clock.set(now);
        self.each.retain_recent();
        self.each.shrink_to_fit();
    }

    /// Whether the question `id` is open.
    pub fn is_open(&self, id: u32) -> bool {
        self.questions.contains_key(&id)
    }

    /// Addresses whose requests are counted, and open questions.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.each.len(), self.questions.len())
    }
}

/// A clock that the caller of the rules sets.
#[derive(Clone, Debug)]
struct SetClock {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl SetClock {
    fn new(start: Instant) -> Self {
        Self {
            start,
            nanos: Arc::default(),
        }
    }

    fn set(&self, now: Instant) {
        let since = now.saturating_duration_since(self.start);
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_max(nanos, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
