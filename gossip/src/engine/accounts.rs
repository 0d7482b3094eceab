//! What those may deliver that is of no use who hand us messages.
//!
//! Neighbours or not: gossip takes messages from whoever is connected. An account outlives the
//! connection, so that connecting anew pays no debt.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use iroh::EndpointId;
use lru::LruCache;

use crate::{limits, pacing::Allowance};

/// Messages beyond its rate in a row after which who wrote them itself is cut.
const FLOOD: f64 = 200.0;

/// How many of them are forgiven a second.
const FORGIVEN: f64 = 1.0;

/// The accounts of those who delivered something lately.
#[derive(Debug)]
pub(super) struct Accounts(LruCache<EndpointId, Account>);

#[derive(Debug)]
struct Account {
    /// Messages beyond its rate that it may still write.
    floods: Allowance,
    /// What it may still deliver that is of no use, in bytes.
    waste: Allowance,
    /// How often in a row it was cut for what it may only have handed on.
    cuts: u32,
    /// When the last of these cuts is over.
    cut_until: Option<Instant>,
}

impl Account {
    /// How long it is refused that used up what it may deliver, others' writings among it.
    fn cut(&mut self, now: Instant) -> Duration {
        let is_new = self
            .cut_until
            .is_none_or(|until| now.saturating_duration_since(until) > limits::BAN);
        self.cuts = if is_new {
            0
        } else {
            self.cuts.saturating_add(1)
        };
        let time = (limits::CUT_LEAST * (1 << self.cuts.min(7))).min(limits::BAN);
        self.cut_until = Some(now + time);
        let debt = self.waste.left(now);
        self.waste.take(debt - limits::WASTE_BURST_AGAIN, now);
        time
    }
}

impl Accounts {
    pub(super) fn new() -> Self {
        let most = NonZeroUsize::new(limits::ACCOUNTS).unwrap_or(NonZeroUsize::MIN);
        Self(LruCache::new(most))
    }

    /// Notes that `from` delivered what is of no use; how long to refuse it if it did so for too long.
    ///
    /// It may only have handed on what others wrote. Who is nearer to the writer is charged more, so
    /// that the writer's own neighbours cut it off first, and the others are spared the rest. Some of
    /// it is on its way by then, and where much was, who handed it on is cut too: for seconds, unless
    /// it goes on.
    pub(super) fn wastes(
        &mut self,
        from: EndpointId,
        size: usize,
        hops: u16,
        now: Instant,
    ) -> Option<Duration> {
        // A count is the writer's to begin with, and one past the largest is none: who sends what
        // came too far to be true is its writer.
        let share = match hops {
            0..=limits::HOPS_MOST => 1.0 / (2.0 + f64::from(hops)),
            _ => 1.0,
        };
        let cost = (size + limits::MESSAGE_OVERHEAD) as f64 * share;
        let account = self.of(from, now);
        // What came before the cut may still wait in a queue.
        if account.cut_until.is_some_and(|until| now < until) {
            return None;
        }
        if !is_used_up(&mut account.waste, cost, now) {
            return None;
        }
        let handed_on = (1..=limits::HOPS_MOST).contains(&hops);
        Some(if handed_on {
            account.cut(now)
        } else {
            limits::BAN
        })
    }

    /// Notes that `from` wrote more than its rate; whether it did so far too often.
    pub(super) fn floods(&mut self, from: EndpointId, now: Instant) -> bool {
        is_used_up(&mut self.of(from, now).floods, 1.0, now)
    }

    fn of(&mut self, id: EndpointId, now: Instant) -> &mut Account {
        self.0.get_or_insert_mut(id, || Account {
            floods: Allowance::new(FORGIVEN, FLOOD, now),
            waste: Allowance::new(limits::WASTE_RATE, limits::WASTE_BURST, now),
            cuts: 0,
            cut_until: None,
        })
    }

    /// Bytes that `id` may still deliver that are of no use.
    #[cfg(test)]
    pub(super) fn left(&mut self, id: EndpointId, now: Instant) -> f64 {
        self.of(id, now).waste.left(now)
    }
}

/// Takes `amount`; whether that was the last that was left.
fn is_used_up(allowance: &mut Allowance, amount: f64, now: Instant) -> bool {
    let was_left = allowance.left(now) >= 0.0;
    allowance.take(amount, now);
    was_left && allowance.left(now) < 0.0
}
