//! How hard a provider compresses for one peer: by how fast the link drains beside the encoder.
//!
//! A thread that encodes an answer either works or waits for the link to take what it made. Where
//! it mostly waits and the link is slower than [`limits::WIRE_FAST`], compressing costs nothing
//! but spare processor time and makes the link carry more. Where it hardly waits, compressing is
//! what holds the peer up, and the level falls, to raw at the end.

use std::time::{Duration, Instant};

use crate::limits;

/// Levels from the least to the most; step 0 is raw. Above 9 little is won for much heat.
const LADDER: [i32; 4] = [1, 3, 6, 9];

/// The step that a link begins with which is known to be slow: level 3.
const FIRST_STEP: usize = 2;

/// The share of a thread's time from which on the link is what it waits for.
const WAITED_FOR: f64 = 0.5;

/// The share below which the link hardly is.
const WAITED_FOR_LITTLE: f64 = 0.15;

/// What is known of a link before anything was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// Round trip, where it is known.
    pub rtt: Option<Duration>,
    /// The upload limit that holds for it, in bytes a second.
    pub limit: Option<u64>,
}

/// What one thread did for one frame.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Time not spent waiting for the link.
    pub worked: Duration,
    /// The part of it that went into compressing.
    pub compressing: Duration,
    /// The part of it in which the thread was ready to run and had no processor.
    pub starved: Duration,
    /// Time spent waiting for the link.
    pub waited: Duration,
    /// Bytes before compression.
    pub nar_bytes: u64,
    /// Bytes after it.
    pub wire_bytes: u64,
}

impl Sample {
    fn add(&mut self, other: Self) {
        self.worked += other.worked;
        self.compressing += other.compressing;
        self.starved += other.starved;
        self.waited += other.waited;
        self.nar_bytes += other.nar_bytes;
        self.wire_bytes += other.wire_bytes;
    }
}

/// The step to take after an interval `elapsed` in which all streams to a peer did `seen`.
///
/// `link` is what the link carries in bytes a second, where that is known: as long as more than
/// that gets through, compressing pays whatever else holds the threads up.
pub fn next_step(step: usize, seen: &Sample, elapsed: Duration, link: Option<f64>) -> usize {
    let share = |part: Duration, whole: Duration| {
        part.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE)
    };
    let waiting = share(seen.waited, seen.waited + seen.worked);
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let rate = seen.wire_bytes as f64 / seconds;
    let pays = link.is_some_and(|link| seen.nar_bytes as f64 / seconds >= link);
    let processors = share(seen.compressing, elapsed);
    let is_starved = share(seen.starved, seen.worked) > 0.25;
    let fast = limits::WIRE_FAST as f64;
    if rate >= fast || (is_starved && rate >= fast / 4.0) {
        return 0;
    }
    match step {
        0 if waiting >= WAITED_FOR => FIRST_STEP,
        0 => 0,
        1 if waiting < WAITED_FOR_LITTLE && pays => 1,
        _ if waiting < WAITED_FOR_LITTLE => step - 1,
        _ if processors > 0.6 || is_starved => (step - 1).max(1),
        _ if waiting > 0.6 && processors < 0.15 => (step + 1).min(LADDER.len()),
        _ => step,
    }
}

/// The step to begin with on a link of which only this is known.
pub fn first_step(link: Link) -> usize {
    let is_far = link.rtt.is_some_and(|rtt| rtt >= limits::WIRE_FAR);
    let is_limited = link.limit.is_some_and(|limit| limit < limits::WIRE_FAST);
    match is_far || is_limited {
        true => FIRST_STEP,
        false => 0,
    }
}

/// What was measured of the link to one peer, over all its streams.
#[derive(Debug)]
pub struct Pace {
    step: usize,
    streams: u32,
    since: Option<Instant>,
    seen: Sample,
    /// Bytes a second that the link carries: its limit, then what passed while it was waited for.
    link: Option<f64>,
    /// Bytes before compression that one stream carries in a second.
    drain: Option<f64>,
    /// Raw until then, since compressing held the link up.
    raw_until: Option<Instant>,
    raw_for: Duration,
}

impl Pace {
    /// Begins with what is known of the link.
    pub fn new(link: Link) -> Self {
        let limit = link.limit.filter(|limit| *limit < limits::WIRE_FAST);
        let limit = limit.map(|limit| limit as f64);
        Self {
            step: first_step(link),
            streams: 0,
            since: None,
            seen: Sample::default(),
            link: limit,
            drain: limit,
            raw_until: None,
            raw_for: limits::WIRE_RAW_FOR,
        }
    }

    /// Notes that a stream begins.
    pub fn begin(&mut self, now: Instant) {
        if self.streams == 0 {
            // The time in which nobody asked for anything says nothing of the link.
            self.since = Some(now);
            self.seen = Sample::default();
        }
        self.streams += 1;
    }

    /// Notes that a stream ended.
    pub fn end(&mut self) {
        self.streams = self.streams.saturating_sub(1);
    }

    /// The level to compress at, or `None` for raw.
    pub fn level(&self) -> Option<i32> {
        LADDER.get(self.step.checked_sub(1)?).copied()
    }

    /// Bytes to put into the next frame: what a stream carries in a tenth of a second.
    pub fn frame_bytes(&self) -> usize {
        let bytes = self
            .drain
            .map_or(limits::WIRE_FRAME / 2, |drain| (drain / 10.0) as usize);
        bytes.clamp(limits::WIRE_FRAME_LEAST, limits::WIRE_FRAME)
    }

    /// Takes what a thread did for a frame, and decides anew where enough was seen.
    pub fn note(&mut self, sample: Sample, now: Instant) {
        self.seen.add(sample);
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let is_enough = elapsed >= limits::WIRE_INTERVAL
            && (self.seen.wire_bytes >= limits::WIRE_FRAME as u64
                || elapsed >= 4 * limits::WIRE_INTERVAL);
        if !is_enough {
            return;
        }
        let streams = f64::from(self.streams.max(1));
        self.drain = Some(self.seen.nar_bytes as f64 / elapsed.as_secs_f64() / streams);
        let Sample { waited, worked, .. } = self.seen;
        if waited.as_secs_f64() >= WAITED_FOR * (waited + worked).as_secs_f64() {
            self.link = Some(self.seen.wire_bytes as f64 / elapsed.as_secs_f64());
        }
        let next = next_step(self.step, &self.seen, elapsed, self.link);
        if next == 0 && self.step > 0 {
            self.raw_until = now.checked_add(self.raw_for);
            self.raw_for = (self.raw_for * 2).min(limits::WIRE_RAW_FOR_MOST);
        }
        if next == 0 || self.raw_until.is_none_or(|until| until <= now) {
            self.step = next;
        }
        self.since = Some(now);
        self.seen = Sample::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A second of one thread that waits for the link for `waiting` of it.
    fn second(waiting: f64, compressing: f64, wire_bytes: u64) -> Sample {
        Sample {
            worked: SECOND.mul_f64(1.0 - waiting),
            waited: SECOND.mul_f64(waiting),
            compressing: SECOND.mul_f64(compressing),
            wire_bytes,
            nar_bytes: 3 * wire_bytes,
            ..Sample::default()
        }
    }

    #[test]
    fn a_slow_link_that_is_waited_for_is_compressed_for_and_a_fast_one_never() {
        for (rate, waiting, step) in [
            (12_500_000, 0.95, FIRST_STEP),
            (1_000, 0.99, FIRST_STEP),
            (12_500_000, 0.2, 0),
            (118_000_000, 0.99, 0),
            (400_000_000, 0.5, 0),
        ] {
            let seen = second(waiting, 0.0, rate);
            assert_eq!(next_step(0, &seen, SECOND, None), step, "{rate}");
        }
        // A link that turns out to be fast is left alone at whatever level it is.
        let seen = second(0.9, 0.01, 118_000_000);
        assert_eq!(next_step(3, &seen, SECOND, None), 0);
    }

    #[test]
    fn the_level_rises_while_the_link_is_what_is_waited_for() {
        let mut step = FIRST_STEP;
        for _ in 0..8 {
            step = next_step(step, &second(0.95, 0.03, 500_000), SECOND, None);
        }
        assert_eq!(step, LADDER.len());
        // Half a processor is enough for one peer.
        let busy = second(0.7, 0.3, 5_000_000);
        assert_eq!(next_step(2, &busy, SECOND, None), 2);
    }

    #[test]
    fn the_level_falls_where_compressing_holds_the_link_up() {
        let held_up = second(0.05, 0.9, 2_000_000);
        let mut step = LADDER.len();
        for _ in 0..LADDER.len() {
            step = next_step(step, &held_up, SECOND, None);
        }
        assert_eq!(step, 0);
    }

    #[test]
    fn as_long_as_more_gets_through_than_the_link_carries_it_is_not_left_raw() {
        // Half a second's worth of a link of 4 MB/s, three times smaller, on a busy machine.
        let held_up = second(0.05, 0.9, 2_000_000);
        assert_eq!(next_step(1, &held_up, SECOND, Some(4e6)), 1);
        assert_eq!(next_step(3, &held_up, SECOND, Some(4e6)), 2);
        assert_eq!(next_step(1, &held_up, SECOND, Some(8e6)), 0);
    }

    #[test]
    fn without_a_processor_to_spare_the_level_falls_and_only_slow_links_stay_compressed() {
        let starved = |rate| Sample {
            starved: SECOND.mul_f64(0.2),
            ..second(0.5, 0.1, rate)
        };
        assert_eq!(next_step(4, &starved(1_000_000), SECOND, None), 3);
        assert_eq!(next_step(1, &starved(1_000_000), SECOND, None), 1);
        assert_eq!(next_step(3, &starved(30_000_000), SECOND, None), 0);
    }

    #[test]
    fn a_far_or_limited_link_is_compressed_for_from_its_first_byte() {
        let link = |ms, limit| Link {
            rtt: Some(Duration::from_millis(ms)),
            limit,
        };
        assert_eq!(Pace::new(link(0, None)).level(), None);
        assert_eq!(Pace::new(link(40, None)).level(), Some(3));
        assert_eq!(Pace::new(link(0, Some(2_000_000))).level(), Some(3));
        assert_eq!(Pace::new(link(0, Some(500_000_000))).level(), None);
    }

    #[test]
    fn after_compressing_held_the_link_up_it_is_raw_for_a_growing_while() {
        let start = Instant::now();
        let mut pace = Pace::new(Link {
            limit: None,
            rtt: Some(Duration::from_millis(40)),
        });
        pace.begin(start);
        let mut changes = Vec::new();
        let mut now = start;
        for _ in 0..200 {
            now += SECOND;
            // Raw the link is waited for; compressed it never is.
            let sample = match pace.level() {
                None => second(0.9, 0.0, 10_000_000),
                Some(_) => second(0.05, 0.9, 3_000_000),
            };
            let before = pace.level().is_some();
            pace.note(sample, now);
            if before != pace.level().is_some() {
                changes.push(now - start);
            }
        }
        assert!(changes.len() <= 12, "{changes:?}");
    }

    #[test]
    fn frames_are_small_on_a_slow_link() {
        let mut pace = Pace::new(Link::default());
        let start = Instant::now();
        pace.begin(start);
        pace.note(second(0.9, 0.0, 10_000), start + SECOND);
        assert_eq!(pace.frame_bytes(), limits::WIRE_FRAME_LEAST);
        pace.note(second(0.9, 0.0, 100_000_000), start + 2 * SECOND);
        assert_eq!(pace.frame_bytes(), limits::WIRE_FRAME);
    }
}
