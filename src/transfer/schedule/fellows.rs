//! Others that fetch the same blob at the same time, and what is left to them.

use std::time::{Duration, Instant};

use bao_tree::ByteRanges;
use iroh::EndpointId;

use super::{Action, RequestId, Schedule, provider::Provider, swarm};
use crate::limits;

impl Schedule {
    /// Those that hold a part, beside a source, and bring it not much slower than the source does.
    pub(super) fn fellows(&self) -> Vec<EndpointId> {
        let sources = self.providers.values().filter(|p| p.is_whole());
        let Some(fastest) = sources
            .map(|source| source.meter.rate().unwrap_or(0.0))
            .reduce(f64::max)
        else {
            return Vec::new();
        };
        let least = fastest / limits::FELLOW_SHARE;
        let counts = |provider: &Provider| {
            let is_fast = provider.meter.rate().is_none_or(|rate| rate >= least);
            !provider.is_whole() && !provider.lags && !provider.slow && is_fast
        };
        let counted = self.providers.iter().filter(|(_, p)| counts(p));
        counted.map(|(id, _)| *id).collect()
    }

    /// Open bytes that are this provider's to be asked for.
    pub(super) fn candidates(&self, provider: &Provider, now: Instant) -> ByteRanges {
        if let Some(holds) = &provider.holds {
            return &self.open & holds;
        }
        let Some(share) = &self.share else {
            return self.open.clone();
        };
        // What a fellow has is got from it, if it gives that not much slower than the source does.
        // What it is to get first comes soon, unless it lags.
        let mut mine = &self.open & share;
        for (id, fellow) in &self.providers {
            if let Some(holds) = &fellow.holds
                && self.fellows.contains(id)
                && self.may_be_asked(fellow, now)
            {
                mine -= holds.clone();
            }
        }
        if mine.is_empty() && self.is_starved(now) {
            let head = self.head.0;
            let unit = swarm::unit(self.size);
            return &self.open & &ByteRanges::from(head..head.saturating_add(unit));
        }
        mine
    }

    /// The reader's next byte has not moved for longer than a fellow takes to get a unit and to
    /// pass it on, at the rate at which the source serves us.
    pub(super) fn is_starved(&self, now: Instant) -> bool {
        let sources = self.providers.values().filter(|p| p.is_whole());
        let rates = sources.filter_map(|provider| provider.meter.rate());
        let unit = swarm::unit(self.size) as f64;
        let usual = Duration::from_secs_f64(4.0 * unit / rates.fold(unit, f64::max));
        let waited = now.saturating_duration_since(self.head.1);
        waited > limits::FELLOW_PATIENCE + usual
    }

    /// Works out anew who gets what from the source, and ends what is no longer ours to ask.
    pub(super) fn reshare(&mut self, actions: &mut Vec<Action>) {
        self.fellows = self.fellows();
        if self.fellows.is_empty() {
            self.share = None;
            return;
        }
        let share = swarm::share(self.me, &self.fellows, self.size);
        let cuts: Vec<(RequestId, u64)> = self
            .requests
            .iter()
            .filter(|(_, r)| {
                let provider = self.providers.get(&r.provider);
                provider.is_some_and(Provider::is_whole)
            })
            .filter_map(|(id, r)| {
                let rest = ByteRanges::from(r.delivered..r.end);
                let foreign = &rest - &share;
                Some((*id, *foreign.boundaries().first()?))
            })
            .collect();
        self.share = Some(share);
        for (request, end) in cuts {
            self.cut(request, end, actions);
        }
    }

    /// Counts on those no longer who were to get the reader's next bytes first, and did not.
    pub(super) fn leave_lagging(&mut self, now: Instant) {
        if self.share.is_none() || !self.is_starved(now) || !self.open.contains(&self.head.0) {
            return;
        }
        let unit = self.head.0 / swarm::unit(self.size);
        let first = swarm::first(self.me, &self.fellows, unit);
        let Some(lagging) = self.providers.get_mut(&first) else {
            return;
        };
        let holds = lagging.holds.as_ref();
        if holds.is_none_or(|holds| holds.contains(&self.head.0)) {
            return;
        }
        lagging.lags = true;
    }
}
