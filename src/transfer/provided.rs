//! What one provider gives to one transfer, counted as it comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::metrics::Metrics;
use crate::report::{ProviderReport, Source};

/// The time that a rate is measured over at least.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts the bytes of one provider, here and in all metrics that they belong to.
#[derive(Debug)]
pub struct Provided {
    name: String,
    bytes: AtomicU64,
    /// How they come, and the counter of what comes that way.
    way: Mutex<Option<(Source, Counter)>>,
    total: Counter,
    rate: Mutex<Rate>,
}

impl Provided {
    /// Nothing so far, from `name`; `total` counts all that comes.
    #[must_use]
    pub fn new(name: String, total: Counter) -> Self {
        Self {
            name,
            bytes: AtomicU64::new(0),
            way: Mutex::new(None),
            total,
            rate: Mutex::new(Rate::new(Instant::now())),
        }
    }

    /// Who gives them.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says how the bytes come from now on.
    pub fn comes_from(&self, source: Source, metrics: &Metrics) {
        let counter = metrics.substitution.bytes[source].clone();
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        *way = Some((source, counter));
    }

    /// Counts bytes that came.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.inc_by(bytes);
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = way.as_ref() {
            counter.inc_by(bytes);
        }
    }

    /// Bytes that came.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What it gave, and how fast.
    #[must_use]
    pub fn report(&self) -> ProviderReport {
        let bytes = self.bytes();
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        ProviderReport {
            name: self.name.clone(),
            source: way.as_ref().map(|(source, _)| *source),
            bytes,
            rate: rate.at(bytes, Instant::now()),
        }
    }
}

/// Bytes a second, for whoever looks as often as they like.
#[derive(Debug)]
pub struct Rate {
    since: Instant,
    bytes: u64,
    latest: Option<f64>,
}

impl Rate {
    /// Nothing was counted up to `now`.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            latest: None,
        }
    }

    /// `bytes` were counted up to `now`, who knows when: none a second until a second has passed.
    #[must_use]
    pub const fn after(bytes: u64, now: Instant) -> Self {
        Self {
            since: now,
            bytes,
            latest: Some(0.0),
        }
    }

    /// The rate while `bytes` have come in all: over a second, or over less at the very start.
    pub fn at(&mut self, bytes: u64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.since);
        let measured = bytes.saturating_sub(self.bytes) as f64 / passed.as_secs_f64().max(0.001);
        if passed < WINDOW {
            return self.latest.unwrap_or(measured);
        }
        *self = Self {
            since: now,
            bytes,
            latest: Some(measured),
        };
        measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second_however_often_one_looks() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rate = Rate::new(start);
        assert!((rate.at(500, at(500)) - 1000.0).abs() < 1e-6);
        assert!((rate.at(2000, at(1000)) - 2000.0).abs() < 1e-6);
        assert!((rate.at(2000, at(1500)) - 2000.0).abs() < 1e-6);
        assert!(rate.at(2000, at(2500)) < 1e-6);
    }

    #[test]
    fn what_came_before_the_first_look_is_in_no_rate() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rate = Rate::after(1_000_000, start);
        assert!(rate.at(1_000_000, at(0)) < 1e-6);
        assert!(rate.at(1_000_500, at(500)) < 1e-6);
        assert!((rate.at(1_001_000, at(1000)) - 1000.0).abs() < 1e-6);
    }

    #[test]
    fn bytes_count_for_the_way_they_came() {
        let metrics = Metrics::new();
        let provided = Provided::new("peer".into(), metrics.bytes_received.clone());
        provided.comes_from(Source::Relayed, &metrics);
        provided.add(10);
        provided.comes_from(Source::Direct, &metrics);
        provided.add(5);
        let bytes = &metrics.substitution.bytes;
        assert_eq!((bytes.relayed.get(), bytes.direct.get()), (10, 5));
        assert_eq!((metrics.bytes_received.get(), provided.bytes()), (15, 15));
    }
}
