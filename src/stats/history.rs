//! Traffic of the last hour, day and month, in bins.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::report::{BySource, Source};

/// What one bin counts, in bytes of NARs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 6]", into = "[u64; 6]")]
pub struct Bin {
    /// What came, and from where.
    pub received: BySource<u64>,
    /// What went to peers.
    pub sent: u64,
}

impl From<[u64; 6]> for Bin {
    fn from([own_store, lan, direct, relayed, upstream, sent]: [u64; 6]) -> Self {
        let received = BySource {
            own_store,
            lan,
            direct,
            relayed,
            upstream,
        };
        Self { received, sent }
    }
}

impl From<Bin> for [u64; 6] {
    fn from(Bin { received: by, sent }: Bin) -> Self {
        [
            by.own_store,
            by.lan,
            by.direct,
            by.relayed,
            by.upstream,
            sent,
        ]
    }
}

impl Bin {
    fn add(&mut self, more: &Self) {
        for source in Source::ALL {
            let bytes = &mut self.received[source];
            *bytes = bytes.saturating_add(more.received[source]);
        }
        self.sent = self.sent.saturating_add(more.sent);
    }
}

/// How far back one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// An hour, in bins of ten seconds.
    Hour,
    /// A day, in bins of five minutes.
    Day,
    /// Thirty days, in bins of an hour.
    Month,
}

impl Span {
    /// Returns the span of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            "month" => Some(Self::Month),
            _ => None,
        }
    }

    /// Seconds that one bin covers.
    #[must_use]
    pub const fn width(self) -> u64 {
        match self {
            Self::Hour => 10,
            Self::Day => 300,
            Self::Month => 3600,
        }
    }

    /// How many bins there are.
    #[must_use]
    pub const fn bins(self) -> usize {
        match self {
            Self::Hour => 360,
            Self::Day => 288,
            Self::Month => 720,
        }
    }
}

/// Bins of one width, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Ring {
    /// The number of the newest bin: the time of its start by its width.
    newest: u64,
    bins: VecDeque<Bin>,
}

impl Ring {
    fn add(&mut self, span: Span, now: u64, bin: &Bin) {
        self.advance(span, now);
        if let Some(last) = self.bins.back_mut() {
            last.add(bin);
        }
    }

    /// Begins the bins up to `now`. A clock that went back adds to the newest.
    fn advance(&mut self, span: Span, now: u64) {
        let number = now / span.width();
        if self.bins.is_empty() {
            self.newest = number;
            self.bins.push_back(Bin::default());
        }
        let gap = number.saturating_sub(self.newest);
        let gap = usize::try_from(gap).unwrap_or(usize::MAX).min(span.bins());
        self.bins.extend(std::iter::repeat_n(Bin::default(), gap));
        self.newest = self.newest.max(number);
        let surplus = self.bins.len().saturating_sub(span.bins());
        self.bins.drain(..surplus);
    }
}

/// Traffic over three spans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    hour: Ring,
    day: Ring,
    month: Ring,
}

/// The bins of a span, in columns, as plots take them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// Seconds that one bin covers.
    pub width: u64,
    /// When the first bin begins, in seconds since 1970.
    pub start: u64,
    /// Bytes that came in each bin.
    pub received: BySource<Vec<u64>>,
    /// Bytes that went to peers in each bin.
    pub sent: Vec<u64>,
}

impl History {
    /// Adds what passed up to `now`, in seconds since 1970.
    pub(super) fn add(&mut self, now: u64, bin: Bin) {
        self.hour.add(Span::Hour, now, &bin);
        self.day.add(Span::Day, now, &bin);
        self.month.add(Span::Month, now, &bin);
    }

    /// A whole span up to `now`; what was not recorded is zero.
    pub(super) fn series(&self, span: Span, now: u64) -> Series {
        let ring = match span {
            Span::Hour => &self.hour,
            Span::Day => &self.day,
            Span::Month => &self.month,
        };
        let mut ring = ring.clone();
        ring.advance(span, now);
        let missing = span.bins() - ring.bins.len();
        let zeros = std::iter::repeat_n(Bin::default(), missing);
        let bins: Vec<Bin> = zeros.chain(ring.bins).collect();
        let first = (ring.newest + 1).saturating_sub(span.bins() as u64);
        Series {
            width: span.width(),
            start: first * span.width(),
            received: BySource::from_fn(|source| {
                bins.iter().map(|bin| bin.received[source]).collect()
            }),
            sent: bins.iter().map(|bin| bin.sent).collect(),
        }
    }

    /// Whether it is as large as it may be at most: what a file says is not believed.
    pub(super) fn is_bounded(&self) -> bool {
        let is_bounded = |ring: &Ring, span: Span| ring.bins.len() <= span.bins();
        is_bounded(&self.hour, Span::Hour)
            && is_bounded(&self.day, Span::Day)
            && is_bounded(&self.month, Span::Month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(bytes: u64) -> Bin {
        Bin {
            sent: bytes,
            ..Bin::default()
        }
    }

    #[test]
    fn bins_add_up_and_the_oldest_go() {
        let mut history = History::default();
        history.add(1_000_000, sent(1));
        history.add(1_000_004, sent(2));
        history.add(1_000_010, sent(4));
        let series = history.series(Span::Hour, 1_000_025);
        assert_eq!(series.sent.len(), 360);
        assert_eq!(series.sent[356..], [0, 3, 4, 0][..], "{:?}", series.sent);
        assert_eq!(series.start, 1_000_020 - 359 * 10);
        assert_eq!(series.received.lan.len(), 360);

        history.add(1_000_010 + 3600, sent(8));
        let series = history.series(Span::Hour, 1_000_010 + 3600);
        assert_eq!(series.sent.iter().sum::<u64>(), 8);
        let series = history.series(Span::Day, 1_000_010 + 3600);
        assert_eq!(series.sent.iter().sum::<u64>(), 15);
    }

    #[test]
    fn a_clock_that_jumps_costs_no_memory_and_loses_nothing_to_come() {
        let mut history = History::default();
        history.add(1_000_000, sent(1));
        history.add(u64::MAX, sent(2));
        history.add(1_000_000, sent(4));
        assert!(history.is_bounded());
        let series = history.series(Span::Hour, 1_000_000);
        assert_eq!(series.sent.last(), Some(&6));
    }
}
