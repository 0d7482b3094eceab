//! When a tracker that failed is tried again.

use std::time::Duration;

use rand::Rng;

use super::limits;

/// The failures of one tracker in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure and returns how long to wait: from a second doubling to a minute, between
    /// half of that and all of it, so that many machines don't come back at once. A tracker may ask
    /// for longer.
    pub(super) fn fails(&mut self, asked_for: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let doubled = limits::BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.min(limits::BACKOFF_MOST).mul_f64(share(rng));
        let asked_for = asked_for.unwrap_or_default().min(limits::RETRY_AFTER_MOST);
        pause.max(asked_for)
    }

    pub(super) fn succeeds(&mut self) {
        self.failures = 0;
    }
}

/// From a half to one.
fn share(rng: &mut impl Rng) -> f64 {
    0.5 + f64::from(rng.next_u32()) / f64::from(u32::MAX) / 2.0
}

/// Spreads what many machines do at the same interval: between nine tenths of it and all of it.
pub(super) fn spread(interval: Duration, rng: &mut impl Rng) -> Duration {
    interval.mul_f64(0.8 + share(rng) / 5.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn pauses_double_to_a_minute_and_never_fall_together() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(9);
        let mut backoff = Backoff::default();
        for most in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let pause = backoff.fails(None, &mut rng).as_secs_f64();
            assert!(pause <= f64::from(most) && pause >= f64::from(most) / 2.0);
        }
        backoff.succeeds();
        assert!(backoff.fails(None, &mut rng) <= Duration::from_secs(1));
        let others: Vec<Duration> = (0..8)
            .map(|_| Backoff::default().fails(None, &mut rng))
            .collect();
        assert!(others.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_tracker_may_ask_for_a_longer_pause_but_not_for_an_endless_one() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(9);
        let mut backoff = Backoff::default();
        let asked = Some(Duration::from_secs(100));
        assert_eq!(backoff.fails(asked, &mut rng), Duration::from_secs(100));
        let endless = Some(Duration::from_secs(1_000_000));
        assert_eq!(backoff.fails(endless, &mut rng), limits::RETRY_AFTER_MOST);
    }

    #[test]
    fn an_interval_is_spread_over_a_tenth_of_it() {
        let mut rng = rand::rngs::ChaCha8Rng::seed_from_u64(9);
        for _ in 0..100 {
            let spread = spread(Duration::from_secs(100), &mut rng).as_secs_f64();
            assert!((90.0..=100.0).contains(&spread), "{spread}");
        }
    }
}
