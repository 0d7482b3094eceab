//! Reputation of one peer: what orders candidates and how long a failing one is left alone.
//!
//! Weights and back-off are those that users of the older program know: 0.6 for the share of
//! successes, 0.2 for latency, 0.2 for recency; 1 s doubling to 60 s.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

pub use crate::metrics::Fault;

/// Whether only a liar can cause this fault.
pub fn is_lie(fault: Fault) -> bool {
    matches!(fault, Fault::BadData | Fault::WrongNar)
}

/// The record of one peer, in memory.
#[derive(Debug, Clone, Default)]
pub struct Score {
    consecutive_failures: u32,
    /// Requests that ended either way.
    pub total_requests: u64,
    /// Requests that gave what was asked for.
    pub successful_requests: u64,
    /// NAR bytes received from it.
    pub bytes_received: u64,
    /// Bytes a second that it gave in the last transfer.
    pub rate: Option<f64>,
    /// NAR bytes sent to it.
    pub bytes_sent: u64,
    /// Lies told; each one doubles what a lie costs.
    pub lies: u32,
    latency_total: Duration,
    latency_samples: u64,
    smoothed: Option<(Duration, Duration)>,
    last_seen: Option<Instant>,
    backed_off_until: Option<Instant>,
}

/// A record as it is kept over restarts: times are those of the wall clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedScore {
    consecutive_failures: u32,
    total_requests: u64,
    successful_requests: u64,
    bytes_received: u64,
    bytes_sent: u64,
    lies: u32,
    latency_total: Duration,
    latency_samples: u64,
    smoothed: Option<(Duration, Duration)>,
    /// How long before it was saved the peer last answered.
    silent_for: Option<Duration>,
    /// How much longer it was to be left alone then.
    backed_off_for: Option<Duration>,
    /// When it was saved, in seconds since 1970.
    saved_at: u64,
}

/// The longest back-off that there is: a clock that jumps makes none longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(600 * 64);

const MAX_BACKOFF: Duration = Duration::from_secs(60);
const LIE_BACKOFF: Duration = Duration::from_secs(600);

impl Score {
    /// Takes down what is kept over restarts.
    pub fn save(&self, now: Instant, clock: SystemTime) -> SavedScore {
        let since = clock.duration_since(SystemTime::UNIX_EPOCH);
        SavedScore {
            consecutive_failures: self.consecutive_failures,
            total_requests: self.total_requests,
            successful_requests: self.successful_requests,
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            lies: self.lies,
            latency_total: self.latency_total,
            latency_samples: self.latency_samples,
            smoothed: self.smoothed,
            silent_for: self
                .last_seen
                .map(|seen| now.saturating_duration_since(seen)),
            backed_off_for: self
                .backed_off_until
                .and_then(|until| until.checked_duration_since(now)),
            saved_at: since.unwrap_or_default().as_secs(),
        }
    }

    /// Goes on where a former process left off.
    ///
    /// A clock that went back since makes no time pass.
    pub fn restore(saved: &SavedScore, now: Instant, clock: SystemTime) -> Self {
        let since = clock.duration_since(SystemTime::UNIX_EPOCH);
        let passed = since
            .unwrap_or_default()
            .as_secs()
            .saturating_sub(saved.saved_at);
        let passed = Duration::from_secs(passed);
        let left = saved
            .backed_off_for
            .map(|left| left.min(LONGEST_BACKOFF).saturating_sub(passed));
        Self {
            consecutive_failures: saved.consecutive_failures,
            total_requests: saved.total_requests,
            successful_requests: saved.successful_requests.min(saved.total_requests),
            bytes_received: saved.bytes_received,
            rate: None,
            bytes_sent: saved.bytes_sent,
            lies: saved.lies,
            latency_total: saved.latency_total,
            latency_samples: saved.latency_samples,
            smoothed: saved.smoothed,
            // Before this machine was started there is no instant: it counts as long ago then.
            last_seen: saved.silent_for.map(|silent| {
                now.checked_sub(silent.saturating_add(passed))
                    .unwrap_or(now)
            }),
            backed_off_until: left.and_then(|left| now.checked_add(left)),
        }
    }

    /// Notes a request that went well; `latency` where it was a round trip.
    pub fn success(&mut self, latency: Option<Duration>, now: Instant) {
        self.consecutive_failures = self.consecutive_failures.saturating_sub(1);
        self.backed_off_until = None;
        self.total_requests += 1;
        self.successful_requests += 1;
        self.last_seen = Some(now);
        if let Some(latency) = latency {
            self.latency_total += latency;
            self.latency_samples += 1;
            self.smoothed = Some(match self.smoothed {
                None => (latency, latency / 2),
                Some((mean, deviation)) => {
                    let off = mean.abs_diff(latency);
                    ((mean * 7 + latency) / 8, (deviation * 3 + off) / 4)
                }
            });
        }
    }

    /// Notes a request that went badly and returns how long the peer is left alone.
    pub fn failure(&mut self, fault: Fault, now: Instant) -> Duration {
        self.total_requests += 1;
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let doubled = 1u64 << self.consecutive_failures.saturating_sub(1).min(6);
        let mut backoff = Duration::from_secs(doubled).min(MAX_BACKOFF);
        if is_lie(fault) {
            self.lies = self.lies.saturating_add(1);
            backoff = LIE_BACKOFF.saturating_mul(1 << self.lies.min(6));
        }
        self.backed_off_until = now.checked_add(backoff);
        backoff
    }

    /// Whether the peer is to be left alone now.
    pub fn is_backed_off(&self, now: Instant) -> bool {
        self.backed_off_until.is_some_and(|until| until > now)
    }

    /// Share of successes, 0 to 1; 0.5 while nothing is known.
    pub fn success_rate(&self) -> f64 {
        if self.total_requests == 0 {
            return 0.5;
        }
        self.successful_requests as f64 / self.total_requests as f64
    }

    /// Mean latency in milliseconds, 0 while nothing is known.
    pub fn average_latency_ms(&self) -> f64 {
        if self.latency_samples == 0 {
            return 0.0;
        }
        self.latency_total.as_secs_f64() * 1000.0 / self.latency_samples as f64
    }

    /// The score, 0 to 1: higher is asked first. Lies weigh on it for good.
    pub fn value(&self, now: Instant) -> f64 {
        let average = self.average_latency_ms();
        let latency = if average == 0.0 {
            0.1
        } else {
            0.2 * ((1000.0 - average) / 1000.0).clamp(0.0, 1.0)
        };
        let recency = self.last_seen.map_or(1.0, |at| {
            let age = now.saturating_duration_since(at).as_secs_f64();
            ((3600.0 - age) / 3600.0).clamp(0.0, 1.0)
        });
        let score = 0.6 * self.success_rate() + latency + 0.2 * recency;
        score / f64::from(1u32 << (2 * self.lies).min(20))
    }

    /// How long an answer of this peer usually takes at most, where anything is known.
    pub fn usual_latency(&self) -> Option<Duration> {
        self.smoothed.map(|(mean, deviation)| mean + deviation * 4)
    }

    /// When it last answered.
    pub fn last_seen(&self) -> Option<Instant> {
        self.last_seen
    }

    /// Requests that went badly.
    pub fn failed_requests(&self) -> u64 {
        self.total_requests - self.successful_requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_peer_scores_six_tenths() {
        let score = Score::default();
        assert!((score.value(Instant::now()) - 0.6).abs() < 1e-9);
    }

    #[test]
    fn failures_back_off_from_one_second_doubling_to_sixty() {
        let mut score = Score::default();
        let now = Instant::now();
        let waits: Vec<u64> = (0..8)
            .map(|_| score.failure(Fault::Silent, now).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        score.success(None, now);
        assert!(!score.is_backed_off(now));
    }

    #[test]
    fn wrong_bytes_cost_most() {
        let now = Instant::now();
        let mut liar = Score::default();
        let mut slow = Score::default();
        for _ in 0..5 {
            liar.success(Some(Duration::from_millis(1)), now);
        }
        slow.success(Some(Duration::from_millis(900)), now);
        slow.failure(Fault::Silent, now);
        assert!(liar.failure(Fault::BadData, now) > slow.failure(Fault::Silent, now));
        assert!(liar.value(now) < slow.value(now));
    }
}
