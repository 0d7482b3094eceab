//! When a cache that fails is asked again.

use std::time::{Duration, Instant};

/// The longest a failing cache is left alone.
const MAX: Duration = Duration::from_secs(60);

/// The record of one cache.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
    /// One was let through after a failure, and has not come back.
    probing: bool,
}

impl Backoff {
    /// Whether it is to be left alone.
    pub(super) fn is_failing(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Whether it may be asked now. Of many who ask after a failure, one may try.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        if self.is_failing(now) {
            return false;
        }
        if self.failures > 0 {
            self.until = now.checked_add(self.pause());
            self.probing = true;
        }
        true
    }

    pub(super) fn fails(&mut self, now: Instant) {
        // Requests that were under way together fail together.
        if self.probing || !self.is_failing(now) {
            self.failures = self.failures.saturating_add(1);
            self.until = now.checked_add(self.pause());
            self.probing = false;
        }
    }

    pub(super) fn succeeds(&mut self) {
        *self = Self::default();
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(1 << self.failures.saturating_sub(1).min(6)).min(MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pause_from_a_second_doubling_to_a_minute() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        assert!(backoff.may_ask(now));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            backoff.fails(now);
            let pause = backoff.until.unwrap() - now;
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.succeeds();
        assert!(backoff.may_ask(now) && backoff.may_ask(now));
    }

    #[test]
    fn requests_that_fail_together_count_once_and_one_tries_again() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        for millis in 0..25 {
            backoff.fails(now + Duration::from_millis(millis));
        }
        let later = now + Duration::from_millis(1100);
        assert!(!backoff.may_ask(now + Duration::from_millis(500)));
        assert!(backoff.may_ask(later));
        assert!(!backoff.may_ask(later));
    }
}
