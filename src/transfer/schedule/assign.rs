//! Who is asked next, and for which bytes: as many as it has room for, in the reader's order.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use bao_tree::ByteRanges;
use iroh::EndpointId;

use super::{Action, Request, Schedule, length_of, provider::Provider};
use crate::limits;

impl Schedule {
    /// Asks until nobody has room, or nothing is left to ask for.
    pub(super) fn assign(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.open.is_empty() {
            return;
        }
        let mut order: Vec<EndpointId> = self.providers.keys().copied().collect();
        let rate = |id: &EndpointId| self.providers.get(id).map_or(0.0, Provider::expected_rate);
        order.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        loop {
            let before = actions.len();
            for id in &order {
                if let Some(range) = self.next_range(*id, now) {
                    self.ask(*id, range, false, now, actions);
                }
            }
            if actions.len() == before {
                return;
            }
        }
    }

    /// The next bytes to ask `id` for, if it has room for more.
    pub(super) fn next_range(&self, id: EndpointId, now: Instant) -> Option<Range<u64>> {
        let provider = self.providers.get(&id)?;
        if !self.may_be_asked(provider, now) {
            return None;
        }
        let capacity = provider.capacity(self.providers.len());
        let (streams, queued) = self.under_way(id);
        if streams >= capacity.streams || queued >= capacity.bytes {
            return None;
        }
        let candidates = self.candidates(provider, now);
        let start = candidates.boundaries().first().copied()?;
        if start >= self.ceiling() {
            return None;
        }
        let piece_end = candidates.boundaries().get(1).copied();
        let end = start.saturating_add(self.range_length(capacity.range));
        let end = end.min(piece_end.unwrap_or(self.size)).min(self.size);
        // Ranges start and end with chunk groups, so that none is sent twice.
        let aligned = end / limits::CHUNK_GROUP * limits::CHUNK_GROUP;
        let end = if aligned > start && end < self.size {
            aligned
        } else {
            end
        };
        Some(start..end)
    }

    /// Towards the end ranges grow shorter, so that all providers end at the same time.
    fn range_length(&self, length: u64) -> u64 {
        if self.providers.len() < 2 {
            return length;
        }
        let open = length_of(&self.open, self.size);
        let share = open / (2 * self.providers.len() as u64);
        let share = share.next_multiple_of(limits::CHUNK_GROUP);
        length.min(share.max(limits::SHORTEST_RANGE))
    }

    pub(super) fn may_be_asked(&self, provider: &Provider, now: Instant) -> bool {
        if provider.is_resting(now) {
            return false;
        }
        // The last source of anything is never left for slowness alone.
        !provider.slow
            || !self.providers.values().any(|other| {
                let holds = other.holds.as_ref();
                let has_some = holds.is_none_or(|holds| !self.open.is_disjoint(holds));
                !other.slow && !other.is_resting(now) && has_some
            })
    }

    /// Requests under way with `id`, and the bytes that they still owe.
    pub(super) fn under_way(&self, id: EndpointId) -> (usize, u64) {
        let of = self
            .requests
            .values()
            .filter(|r| r.provider == id && r.is_active());
        of.fold((0, 0), |(n, bytes), r| (n + 1, bytes + r.remaining()))
    }

    pub(super) fn ask(
        &mut self,
        provider: EndpointId,
        range: Range<u64>,
        hedge: bool,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let request = self.next_request;
        self.next_request += 1;
        self.open -= ByteRanges::from(range.clone());
        self.requests.insert(
            request,
            Request {
                provider,
                start: range.start,
                end: range.end,
                limit: range.end,
                hedge,
                delivered: range.start,
                asked_at: now,
                silent: Duration::ZERO,
            },
        );
        actions.push(Action::Ask {
            request,
            provider,
            range,
            hedge,
        });
    }
}
