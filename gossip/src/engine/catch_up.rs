//! Asking neighbours for what they know: page by page, and another one after the first.

use std::time::Instant;

use iroh::EndpointId;
use rand::{Rng, seq::IndexedRandom};

use super::Page;
use crate::{announcement::Unverified, limits};

/// Pages in a row that don't come before another neighbour is asked after a rest.
const FAILURES: u32 = 3;

/// The state of asking neighbours for what they know.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    wanted: bool,
    cursor: [u8; 32],
    /// Who is asked in this round, page by page.
    asked: Option<EndpointId>,
    /// Who was asked in the round before, where this one only looks what was hidden.
    before: Option<EndpointId>,
    pages: usize,
    /// One of them had several pages.
    is_long: bool,
    under_way: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
}

impl CatchUp {
    /// Something may have been missed.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// `id` knows what was said elsewhere, and is asked unless another one is.
    pub(super) fn prefer(&mut self, id: EndpointId) {
        self.asked.get_or_insert(id);
    }

    /// Says whom of `neighbours` to ask for which page, where one is due.
    pub(super) fn due(
        &mut self,
        neighbours: &[EndpointId],
        rng: &mut impl Rng,
        now: Instant,
    ) -> Option<(EndpointId, [u8; 32])> {
        let silent =
            |since: Instant| now.saturating_duration_since(since) > limits::CATALOGUE_TIMEOUT * 2;
        if self.under_way.is_some_and(silent) {
            self.under_way = None;
        }
        let rested = self.not_before.is_none_or(|at| at <= now);
        if !self.wanted || !rested || self.under_way.is_some() || neighbours.is_empty() {
            return None;
        }
        let others: Vec<EndpointId> = neighbours
            .iter()
            .copied()
            .filter(|id| Some(*id) != self.before)
            .collect();
        let asked = self.asked.filter(|id| others.contains(id));
        if asked.is_none() {
            // Another one's order need not be that of who is gone.
            self.cursor = [0; 32];
        }
        let Some(id) = asked.or_else(|| others.choose(rng).copied()) else {
            self.rest(now, false);
            return None;
        };
        self.asked = Some(id);
        self.under_way = Some(now);
        Some((id, self.cursor))
    }

    /// An answer came, with or without a page; whether one was waited for.
    pub(super) fn is_answered(&mut self) -> bool {
        self.under_way.take().is_some()
    }

    /// The page that was asked for did not come.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures += 1;
        self.asked = None;
        if self.failures >= FAILURES {
            self.rest(now, true);
        }
    }

    /// The page that was asked for came, while there were so many neighbours.
    pub(super) fn took(&mut self, page: &Page, neighbours: usize, now: Instant) {
        self.pages += 1;
        self.is_long |= self.pages > 1;
        // Where pages don't go forward, or over what they did not hold, their neighbour plays with us.
        let is_last_entry = |next: &[u8; 32]| {
            let mut authors = page.entries.iter().filter_map(|entry| {
                let unverified = Unverified::read(&entry.bytes).ok()?;
                Some(*unverified.claims().author.as_bytes())
            });
            authors.any(|author| author == *next)
        };
        let next = page.next.filter(|next| *next > self.cursor);
        match next.filter(is_last_entry) {
            Some(next) if self.pages < limits::CATALOGUE_PAGES => self.cursor = next,
            _ if self.before.is_none() && neighbours > 1 => {
                // One alone may hide whom it likes: another one is asked too.
                *self = Self {
                    wanted: true,
                    before: self.asked,
                    is_long: self.is_long,
                    ..Self::default()
                };
            }
            _ => self.rest(now, false),
        }
    }

    /// Ends a round of asking; whether there is another after it.
    fn rest(&mut self, now: Instant, again: bool) {
        let wait = if self.is_long || again {
            limits::CATCH_UP_INTERVAL
        } else {
            limits::CATCH_UP_SOON
        };
        *self = Self {
            wanted: again,
            not_before: Some(now + wait),
            ..Self::default()
        };
    }
}
