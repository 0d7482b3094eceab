//! Rates as pure functions of time.

use std::time::{Duration, Instant};

use crate::limits;

/// An allowance that refills at a rate, holds at most a burst, and may go into debt.
#[derive(Debug, Clone)]
pub struct Allowance {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    /// A full allowance of `burst` that refills by `rate` a second.
    pub fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self {
            rate,
            burst,
            left: burst,
            at: now,
        }
    }

    /// What is left, negative where more was taken than there was.
    pub fn left(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + passed * self.rate).min(self.burst);
        self.left
    }

    /// Takes `amount`, into debt if need be.
    pub fn take(&mut self, amount: f64, now: Instant) {
        self.left(now);
        self.left -= amount;
    }
}

/// Bytes that a peer receives for an announcement of `size` bytes, all that gossip adds included.
pub fn cost(size: usize) -> f64 {
    size as f64 * limits::MESSAGE_COPIES + limits::MESSAGE_OVERHEAD as f64
}

/// How long the next announcement waits after one of `size` bytes, in a swarm of `authors`: all of
/// them together then send [`limits::ANNOUNCEMENT_RATE`].
pub fn wait_after(size: usize, authors: usize) -> Duration {
    let seconds = cost(size) * authors.max(1) as f64 / limits::ANNOUNCEMENT_RATE;
    let most = limits::MOST_LIFETIME / limits::LIFETIME_INTERVALS;
    Duration::from_secs_f64(seconds.min(most.as_secs_f64()))
}

/// How often an author repeats an announcement of `size` bytes that did not change, in a swarm of
/// `authors`.
pub fn interval(size: usize, authors: usize) -> Duration {
    wait_after(size, authors).max(limits::LEAST_INTERVAL)
}

/// How long an announcement of `size` bytes must be believed in a swarm of `authors`, if the next
/// ones may be lost.
pub fn lifetime(size: usize, authors: usize) -> Duration {
    let lifetime = interval(size, authors) * limits::LIFETIME_INTERVALS;
    lifetime.clamp(limits::LEAST_LIFETIME, limits::MOST_LIFETIME)
}

/// How long an announcement of `size` bytes is believed in a swarm of `authors` by now, whose author
/// asked for `asked`.
///
/// A swarm that grew since leaves less room for each: its author waits longer than it thought it
/// would, and is believed as much longer. So nobody has to speak only to stay known.
pub fn believed(asked: Duration, size: usize, authors: usize) -> Duration {
    asked
        .min(longest_lifetime(authors))
        .max(lifetime(size, authors))
}

/// How many changes an announcement of `bare` bytes may carry, in a swarm of `authors`.
pub fn room_for_changes(bare: usize, authors: usize) -> usize {
    let within = limits::CHANGES_WITHIN.as_secs_f64() * limits::ANNOUNCEMENT_RATE;
    let bytes = (within / authors.max(1) as f64 - cost(bare)) / limits::MESSAGE_COPIES;
    let most = limits::MAX_ANNOUNCEMENT.saturating_sub(bare + 16);
    let fitting = (bytes.max(0.0) as usize).min(most) / 4;
    fitting.min(limits::MAX_CHANGES)
}

/// How long an announcement is believed in a swarm of `authors`, whatever its author says: what even
/// the largest one needs that is told at the swarm's rate.
pub fn longest_lifetime(authors: usize) -> Duration {
    lifetime(limits::MAX_ANNOUNCEMENT, authors)
}

/// How many authors there are, by those heard of and by what each of them says it heard of.
///
/// What most say counts, and nobody is believed more than a multiple of those heard of here: even
/// most of them can't make the others silent by a large number.
pub fn swarm_size(heard: usize, hints: &mut [u32]) -> usize {
    if hints.is_empty() {
        return heard + 1;
    }
    let most = (heard + 1).saturating_mul(limits::HINT_MULTIPLE);
    let middle = hints.len() / 2;
    let (_, median, _) = hints.select_nth_unstable(middle);
    (heard + 1).max((*median as usize).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_authors_together_stay_within_the_rate_at_any_number() {
        for authors in [1, 10, 100, 1000, 10_000, 100_000, 300_000] {
            let size = 300;
            let wait = interval(size, authors);
            let rate = authors as f64 * cost(size) / wait.as_secs_f64();
            assert!(
                rate <= limits::ANNOUNCEMENT_RATE + 0.01,
                "{authors}: {rate}"
            );
        }
    }

    #[test]
    fn changes_are_told_as_far_as_the_rate_goes() {
        assert_eq!(room_for_changes(300, 10), limits::MAX_CHANGES);
        assert!((50..limits::MAX_CHANGES).contains(&room_for_changes(300, 1000)));
        assert_eq!(room_for_changes(300, 10_000), 0);
    }

    #[test]
    fn a_few_liars_do_not_change_the_size_of_the_swarm() {
        let mut hints = [100, 101, 99, 100, u32::MAX, u32::MAX, 98];
        assert_eq!(swarm_size(60, &mut hints), 100);
        assert_eq!(swarm_size(7, &mut []), 8);
    }

    #[test]
    fn most_of_a_swarm_being_liars_slows_the_others_by_their_number_alone() {
        for honest in [1, 10, 100] {
            let heard = 2 * honest + 1;
            let mut hints = vec![honest as u32; honest];
            hints.resize(heard, u32::MAX);
            let size = swarm_size(heard, &mut hints);
            assert!(size <= 2 * (heard + 1), "{size}");
            assert!(room_for_changes(300, size) > 0, "changes are told still");
        }
    }

    #[test]
    fn nobody_is_believed_much_longer_than_an_honest_author_asks_for() {
        assert_eq!(longest_lifetime(10), limits::LEAST_LIFETIME);
        for authors in [1000, 10_000] {
            let honest = wait_after(limits::MAX_ANNOUNCEMENT / 2, authors) * 3;
            let longest = longest_lifetime(authors);
            assert!(honest < longest && longest < honest * 3);
        }
    }

    #[test]
    fn who_spoke_in_a_small_swarm_is_believed_until_it_speaks_again_in_a_large_one() {
        for size in [300, limits::MAX_ANNOUNCEMENT] {
            let asked = lifetime(size, 100);
            let latest = interval(size, 10_000).mul_f64(1.25);
            assert!(asked < latest && latest < believed(asked, size, 10_000));
        }
        let absurd = believed(Duration::MAX, 300, 10);
        assert_eq!(absurd, limits::LEAST_LIFETIME);
    }

    #[test]
    fn an_allowance_in_debt_is_paid_off_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10.0, 20.0, start);
        allowance.take(70.0, start);
        assert!(allowance.left(start) < 0.0);
        assert!(allowance.left(start + Duration::from_secs(4)) < 0.0);
        assert!(allowance.left(start + Duration::from_secs(6)) > 0.0);
        assert!(allowance.left(start + Duration::from_secs(600)) <= 20.0);
    }
}
