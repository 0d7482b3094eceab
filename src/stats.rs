//! What people see of the past: who asked for what, what came from where, and when.
//!
//! All of it is bounded and lives in memory behind one lock that is held for microseconds;
//! [`keeping`] writes it down. What is counted for good lies in [`Metrics`](crate::metrics::Metrics)
//! and is taken up from there every ten seconds ([`Stats::sample`]).

pub mod activity;
pub mod history;
pub mod keeping;
mod older;
pub mod top;

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use self::{
    activity::{Activity, Event},
    history::{Bin, History},
    top::Top,
};
use crate::{clock::unix_now, metrics::Miss, report::BySource};

/// Paths of which it is known how often they were asked for, and served.
const TOP_PATHS: usize = 256;

/// Totals over all restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// NAR bytes, by where they came from.
    pub received: BySource<u64>,
    /// NAR bytes sent to peers.
    pub sent: u64,
    /// Narinfo requests of Nix.
    pub requests: u64,
    /// Narinfo requests that the own store answered.
    pub hits_local: u64,
    /// Narinfo requests that a peer answered.
    pub hits_peers: u64,
    /// Narinfo requests that the upstream answered.
    pub hits_upstream: u64,
    /// Narinfo requests that nobody answered, in the order of [`Miss::ALL`].
    pub missed: [u64; Miss::ALL.len()],
    /// NARs received in full.
    pub nars_received: u64,
    /// NARs sent in full.
    pub nars_sent: u64,
}

impl Totals {
    /// Adds what `later` counts beyond `earlier`, which were taken of the same counters.
    fn add_between(&mut self, earlier: &Self, later: &Self) {
        fn add(total: &mut u64, earlier: u64, later: u64) {
            *total = total.saturating_add(later.saturating_sub(earlier));
        }
        for source in crate::report::Source::ALL {
            let (from, to) = (earlier.received[source], later.received[source]);
            add(&mut self.received[source], from, to);
        }
        add(&mut self.sent, earlier.sent, later.sent);
        add(&mut self.requests, earlier.requests, later.requests);
        add(&mut self.hits_local, earlier.hits_local, later.hits_local);
        add(&mut self.hits_peers, earlier.hits_peers, later.hits_peers);
        add(
            &mut self.hits_upstream,
            earlier.hits_upstream,
            later.hits_upstream,
        );
        let missed = earlier.missed.into_iter().zip(later.missed);
        for (total, (from, to)) in self.missed.iter_mut().zip(missed) {
            add(total, from, to);
        }
        add(
            &mut self.nars_received,
            earlier.nars_received,
            later.nars_received,
        );
        add(&mut self.nars_sent, earlier.nars_sent, later.nars_sent);
    }
}

/// What is kept of the past.
#[derive(Debug)]
pub struct Stats(Mutex<State>);

/// As it is written down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// When the totals began, in seconds since 1970.
    since: f64,
    totals: Totals,
    /// What this process's counters said when they were taken up last.
    #[serde(skip)]
    sampled: Totals,
    history: History,
    requested: Top,
    served: Top,
    activity: Activity,
}

impl Default for Stats {
    fn default() -> Self {
        Self(Mutex::new(State {
            since: unix_now(),
            requested: Top::new(TOP_PATHS),
            served: Top::new(TOP_PATHS),
            ..State::default()
        }))
    }
}

impl Stats {
    /// Takes up what this process has counted since the last time; returns the totals.
    ///
    /// `counted` is what its counters say, `now` in seconds since 1970.
    pub fn sample(&self, counted: Totals, now: u64) -> Totals {
        let mut state = self.state();
        let state = &mut *state;
        let mut passed = Totals::default();
        passed.add_between(&state.sampled, &counted);
        state.totals.add_between(&state.sampled, &counted);
        // Who read the counters earlier and comes later takes nothing back.
        let before = state.sampled;
        state.sampled.add_between(&before, &counted);
        state.history.add(
            now,
            Bin {
                received: passed.received,
                sent: passed.sent,
            },
        );
        state.totals
    }

    /// When the last thing that went well did so, in seconds since 1970.
    #[must_use]
    pub fn last_success(&self) -> Option<f64> {
        self.state().activity.last_success()
    }

    /// When the totals began, in seconds since 1970.
    #[must_use]
    pub fn since(&self) -> f64 {
        self.state().since
    }

    /// Notes that a path was asked for, served or fetched.
    pub fn note(&self, event: Event) {
        let mut state = self.state();
        match event.action {
            activity::Action::Check => {
                state.requested.count(&event.hash, &event.name, None);
            }
            activity::Action::Served => {
                let is_new = state.activity.is_new(&event);
                let peer = event.peer_id.as_deref().map(short).map(str::to_owned);
                if is_new {
                    state
                        .served
                        .count(&event.hash, &event.name, peer.as_deref());
                }
            }
            activity::Action::Download => {}
        }
        state.activity.push(event);
    }

    /// The latest events after `after` (their number; 0 for all), at most `limit`, newest first,
    /// and the newest one's number.
    #[must_use]
    pub fn activity(&self, after: u64, limit: usize) -> (Vec<Event>, u64) {
        let state = self.state();
        (state.activity.after(after, limit), state.activity.newest())
    }

    /// The paths that were asked for most, and how many requests there were in all.
    #[must_use]
    pub fn most_requested(&self, limit: usize) -> (Vec<top::Counted>, u64) {
        let state = self.state();
        (state.requested.best(limit), state.requested.total())
    }

    /// The paths that were served most, with the peers that got them, and how many were served.
    #[must_use]
    pub fn most_served(&self, limit: usize) -> (Vec<top::Counted>, u64) {
        let state = self.state();
        (state.served.best(limit), state.served.total())
    }

    /// The traffic of a span up to `now`, in seconds since 1970.
    #[must_use]
    pub fn series(&self, span: history::Span, now: u64) -> history::Series {
        self.state().history.series(span, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first 16 characters of an endpoint id, as lists name it.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lan: u64) -> Totals {
        let mut totals = Totals {
            sent: 2 * lan,
            ..Totals::default()
        };
        totals.received.lan = lan;
        totals
    }

    #[test]
    fn totals_go_on_where_counters_begin_at_zero_again() {
        let stats = Stats::default();
        assert_eq!(stats.sample(counted(100), 1000).received.lan, 100);
        assert_eq!(stats.sample(counted(150), 1010).received.lan, 150);
        // Two looked at once: what the slower one saw is older.
        assert_eq!(stats.sample(counted(120), 1010).received.lan, 150);
        assert_eq!(stats.sample(counted(150), 1010).received.lan, 150);
        let written = stats.to_bytes();

        let next = Stats::default();
        next.restore(&written).unwrap();
        let totals = next.sample(counted(7), 1020);
        assert_eq!((totals.received.lan, totals.sent), (157, 314));
        let series = next.series(history::Span::Hour, 1020);
        assert_eq!(series.received.lan.iter().sum::<u64>(), 157);
    }
}
