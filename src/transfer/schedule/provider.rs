//! What is known of one provider while a transfer runs: what it holds, how fast it is.

use std::time::{Duration, Instant};

use bao_tree::ByteRanges;

use crate::limits;

/// Time over which a rate forgets: long enough for a token bucket's bursts, short enough to see
/// a link that changed.
const RATE_MEMORY: Duration = Duration::from_secs(1);

/// A rate is sampled no more often than this.
const RATE_SAMPLE: Duration = Duration::from_millis(100);

/// Measures how many bytes a second a provider delivers while it is asked for some.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter {
    bytes: u64,
    since: Option<Instant>,
    rate: Option<f64>,
}

impl Meter {
    /// Starts from what was measured earlier.
    pub(super) fn starting_at(rate: Option<f64>) -> Self {
        Self {
            rate: rate.filter(|rate| rate.is_finite() && *rate > 0.0),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Takes a sample, if there was time for one; `busy`: something is asked of the provider.
    pub(super) fn sample(&mut self, busy: bool, now: Instant) {
        let Some(since) = self.since else {
            self.since = busy.then_some(now);
            return;
        };
        let span = now.saturating_duration_since(since);
        if span < RATE_SAMPLE {
            return;
        }
        let seconds = span.as_secs_f64();
        let seen = self.bytes as f64 / seconds;
        self.rate = match self.rate {
            Some(rate) => {
                let weight = 1.0 - (-seconds / RATE_MEMORY.as_secs_f64()).exp();
                Some(rate + (seen - rate) * weight)
            }
            // Nothing yet says more of the latency than of the rate.
            None => (self.bytes > 0).then_some(seen),
        };
        self.bytes = 0;
        self.since = busy.then_some(now);
    }

    /// Takes a whole request as the first measure, where there is none: a fast path is known
    /// as one long before the first sample.
    pub(super) fn first(&mut self, bytes: u64, took: Duration) {
        if self.rate.is_none() && bytes >= limits::SHORTEST_RANGE {
            self.rate = Some(bytes as f64 / took.as_secs_f64().max(0.001));
        }
    }

    /// Bytes a second, where anything is known.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }
}

/// One provider of the blob.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    /// What it holds; `None`: all.
    pub(super) holds: Option<ByteRanges>,
    pub(super) meter: Meter,
    pub(super) latency: Duration,
    pub(super) joined_at: Instant,
    /// Slower than is of use while another source is there.
    pub(super) slow: bool,
    /// Requests that it turned away in a row.
    pub(super) refusals: u32,
    /// How long it was waited for in vain by requests that others took over since.
    pub(super) silence: Duration,
    /// Parts in a row that it said it held, and did not give.
    pub(super) absences: u32,
    /// Not asked before this, after it turned a request away.
    pub(super) rests_until: Option<Instant>,
    /// At most so many requests at once, after it turned some away.
    pub(super) streams_cap: usize,
    /// It fetches the blob itself and did not get what was its to get first.
    pub(super) lags: bool,
}

/// How much may be asked of a provider, and in what pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Bytes under way.
    pub(super) bytes: u64,
    /// Requests under way.
    pub(super) streams: usize,
    /// Bytes of one request.
    pub(super) range: u64,
}

impl Provider {
    pub(super) fn new(
        holds: Option<ByteRanges>,
        rate: Option<f64>,
        latency: Duration,
        now: Instant,
    ) -> Self {
        Self {
            holds,
            meter: Meter::starting_at(rate),
            latency,
            joined_at: now,
            slow: false,
            refusals: 0,
            silence: Duration::ZERO,
            absences: 0,
            rests_until: None,
            streams_cap: usize::MAX,
            lags: false,
        }
    }

    /// Whether it has the whole blob.
    pub(super) fn is_whole(&self) -> bool {
        self.holds.is_none()
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    /// Bytes a second, as measured or, before that, as is worth a try.
    pub(super) fn expected_rate(&self) -> f64 {
        self.meter.rate().unwrap_or(limits::UNKNOWN_RATE).max(1.0)
    }

    /// How long `bytes` take that are asked for now, behind `queued` bytes.
    pub(super) fn expected(&self, bytes: u64, queued: u64) -> Duration {
        let seconds = bytes.saturating_add(queued) as f64 / self.expected_rate();
        self.latency + Duration::from_secs_f64(seconds.min(1e6))
    }

    /// What is asked of it at once: a second of its rate, or four round trips where that is more,
    /// in as few pieces as keep its path full.
    pub(super) fn capacity(&self, providers: usize) -> Capacity {
        let window = limits::RANGE_TIME.max(self.latency * 4).as_secs_f64();
        let bytes = match self.meter.rate() {
            Some(rate) => (rate * window).min(1e12) as u64,
            None => limits::UNKNOWN_BYTES,
        }
        .max(limits::SHORTEST_RANGE);
        // One stream carries a window a round trip, so a long path takes more of them.
        let providers = providers.max(1);
        let (most, all) = if self.latency >= limits::LONG_PATH {
            (limits::STREAMS_LONG_PATH, limits::STREAMS_LONG_PATH * 4)
        } else {
            (limits::STREAMS, limits::STREAMS * 2)
        };
        let share = (all / providers).clamp(1, most);
        let pieces = usize::try_from(bytes / limits::SHORTEST_RANGE).unwrap_or(usize::MAX);
        let streams = pieces.clamp(1, share.min(self.streams_cap));
        // What is under way is followed in memory, whoever sends it.
        let together = limits::UNDER_WAY / (streams * providers) as u64;
        let range = (bytes / streams as u64).min(together);
        let range = range.clamp(limits::SHORTEST_RANGE, limits::SEGMENT);
        Capacity {
            bytes,
            streams,
            range: range.next_multiple_of(limits::CHUNK_GROUP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(rate: Option<f64>, latency: u64) -> Provider {
        Provider::new(None, rate, Duration::from_millis(latency), Instant::now())
    }

    #[test]
    fn a_slow_provider_gets_one_short_range_and_a_fast_one_long_ranges() {
        let slow = provider(Some(20_000.0), 20).capacity(1);
        assert_eq!((slow.streams, slow.range), (1, limits::SHORTEST_RANGE));
        let fast = provider(Some(500e6), 0).capacity(1);
        assert_eq!(
            (fast.streams, fast.range),
            (limits::STREAMS, limits::SEGMENT)
        );
    }

    #[test]
    fn a_long_path_is_filled_with_more_streams() {
        let near = provider(Some(50e6), 1).capacity(1).streams;
        let far = provider(Some(50e6), 50).capacity(1).streams;
        assert!(far > near, "{far} and {near}");
    }

    #[test]
    fn the_rate_follows_what_arrives() {
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.sample(true, start);
        for tick in 1..=50u32 {
            meter.add(1_000_000);
            meter.sample(true, start + Duration::from_millis(100) * tick);
        }
        let rate = meter.rate().unwrap();
        assert!((rate - 1e7).abs() < 1e5, "{rate}");
        for tick in 51..=100u32 {
            meter.add(100_000);
            meter.sample(true, start + Duration::from_millis(100) * tick);
        }
        let rate = meter.rate().unwrap();
        assert!((rate - 1e6).abs() < 1e5, "{rate}");
    }
}
