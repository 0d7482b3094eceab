//! Which wire a requester takes: the raw one, or frames that may be compressed.
//!
//! A frame that goes raw costs nothing, so a peer of which nothing is known is asked for frames,
//! and its provider compresses as soon as the link is slow. Where the link is measured to be fast,
//! or frames did not make anything smaller, iroh-blobs' own wire is taken, for a while.

use std::time::{Duration, Instant};

use crate::{config::WireCompression, limits};

/// A way for blobs to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// iroh-blobs' own ALPN.
    Raw,
    /// [`super::ALPN`].
    Framed,
}

/// What was measured of one peer.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Bytes a second on the wire while anything was under way, smoothed.
    rate: Option<f64>,
    /// It does not speak the framed wire; asked again then.
    refused_until: Option<Instant>,
    /// Frames were not worth it; tried again then.
    idle_until: Option<Instant>,
    /// How often in a row they were not.
    idle_times: u32,
    /// What came in frames since that was last judged: before and after decompression.
    framed_wire: u64,
    framed_nar: u64,
    streams: u32,
    since: Option<Instant>,
    window: u64,
}

/// The wire to ask a peer over, of which `record` is known.
pub fn choose(setting: WireCompression, record: &Record, now: Instant) -> Wire {
    let is_over = |until: Option<Instant>| until.is_none_or(|until| until <= now);
    if !is_over(record.refused_until) {
        return Wire::Raw;
    }
    match setting {
        WireCompression::Off => Wire::Raw,
        WireCompression::Level(_) => Wire::Framed,
        WireCompression::Auto => {
            let is_fast = record
                .rate
                .is_some_and(|rate| rate >= limits::WIRE_FAST as f64);
            match is_fast || !is_over(record.idle_until) {
                true => Wire::Raw,
                false => Wire::Framed,
            }
        }
    }
}

impl Record {
    /// Notes that the peer has no framed wire.
    pub fn refused(&mut self, now: Instant) {
        self.refused_until = now.checked_add(limits::WIRE_REFUSED_FOR);
    }

    /// Notes that an answer begins to come.
    pub fn begin(&mut self, now: Instant) {
        if self.streams == 0 {
            self.since = Some(now);
            self.window = 0;
        }
        self.streams += 1;
    }

    /// Notes bytes of an answer, before and after decompression.
    pub fn received(&mut self, wire: Wire, wire_bytes: u64, nar_bytes: u64, now: Instant) {
        self.window += wire_bytes;
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= limits::WIRE_INTERVAL {
            self.measure(elapsed);
            self.since = Some(now);
        }
        if wire == Wire::Framed {
            self.framed_wire += wire_bytes;
            self.framed_nar += nar_bytes;
            if self.framed_nar >= limits::WIRE_JUDGED {
                // A twentieth less is the least that is worth a thought.
                if self.framed_wire.saturating_mul(20) > self.framed_nar.saturating_mul(19) {
                    let doubled = limits::WIRE_IDLE_FOR * (1 << self.idle_times.min(6));
                    self.idle_until = now.checked_add(doubled.min(limits::WIRE_IDLE_FOR_MOST));
                    self.idle_times = self.idle_times.saturating_add(1);
                } else {
                    self.idle_times = 0;
                }
                (self.framed_wire, self.framed_nar) = (0, 0);
            }
        }
    }

    /// Notes that an answer ended.
    pub fn end(&mut self, now: Instant) {
        self.streams = self.streams.saturating_sub(1);
        if self.streams == 0
            && let Some(since) = self.since.take()
        {
            let elapsed = now.saturating_duration_since(since);
            // A short burst says more of the round trip than of the rate.
            if elapsed >= limits::WIRE_INTERVAL / 4 && self.window >= limits::WIRE_FRAME as u64 {
                self.measure(elapsed);
            }
        }
    }

    fn measure(&mut self, elapsed: Duration) {
        let rate = self.window as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        self.window = 0;
        self.rate = Some(match self.rate {
            None => rate,
            Some(before) => before * 0.7 + rate * 0.3,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after ten seconds at `rate`, frames making it `ratio` times smaller.
    fn after(wire: Wire, rate: u64, ratio: u64, start: Instant) -> (Record, Instant) {
        let mut record = Record::default();
        record.begin(start);
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_millis(100);
            record.received(wire, rate / 10, rate * ratio / 10, now);
        }
        record.end(now);
        (record, now)
    }

    #[test]
    fn a_peer_of_whom_nothing_is_known_is_asked_for_frames_unless_switched_off() {
        let (record, now) = (Record::default(), Instant::now());
        let choice = |setting| choose(setting, &record, now);
        assert_eq!(choice(WireCompression::Auto), Wire::Framed);
        assert_eq!(choice(WireCompression::Level(7)), Wire::Framed);
        assert_eq!(choice(WireCompression::Off), Wire::Raw);
    }

    #[test]
    fn a_fast_link_is_left_raw_unless_a_level_was_set() {
        let (record, now) = after(Wire::Raw, 300_000_000, 1, Instant::now());
        assert_eq!(choose(WireCompression::Auto, &record, now), Wire::Raw);
        assert_eq!(
            choose(WireCompression::Level(1), &record, now),
            Wire::Framed
        );
        let (record, now) = after(Wire::Raw, 12_500_000, 1, Instant::now());
        assert_eq!(choose(WireCompression::Auto, &record, now), Wire::Framed);
    }

    #[test]
    fn frames_that_made_nothing_smaller_are_not_asked_for_for_a_while() {
        let (record, now) = after(Wire::Framed, 2_000_000, 1, Instant::now());
        assert_eq!(choose(WireCompression::Auto, &record, now), Wire::Raw);
        let later = now + limits::WIRE_IDLE_FOR_MOST;
        assert_eq!(choose(WireCompression::Auto, &record, later), Wire::Framed);
        let (record, now) = after(Wire::Framed, 2_000_000, 3, Instant::now());
        assert_eq!(choose(WireCompression::Auto, &record, now), Wire::Framed);
    }

    #[test]
    fn a_peer_without_frames_is_asked_raw_until_it_may_have_learnt_them() {
        let (mut record, now) = (Record::default(), Instant::now());
        record.refused(now);
        for setting in [WireCompression::Auto, WireCompression::Level(3)] {
            assert_eq!(choose(setting, &record, now), Wire::Raw);
            let later = now + limits::WIRE_REFUSED_FOR;
            assert_eq!(choose(setting, &record, later), Wire::Framed);
        }
    }

    #[test]
    fn the_time_in_which_nothing_was_asked_for_does_not_count() {
        let start = Instant::now();
        let mut record = Record::default();
        let mut now = start;
        for _ in 0..5 {
            record.begin(now);
            for _ in 0..10 {
                now += Duration::from_millis(100);
                record.received(Wire::Raw, 20_000_000, 20_000_000, now);
            }
            record.end(now);
            now += Duration::from_secs(60);
        }
        assert_eq!(choose(WireCompression::Auto, &record, now), Wire::Raw);
    }
}
