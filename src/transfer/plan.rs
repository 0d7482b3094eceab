//! Which bytes of a NAR to ask for next: a core without I/O.
//!
//! Ranges are handed out in the order in which the reader needs them. What a provider did not
//! deliver is given back and goes first. A scheduler over several providers takes its ranges
//! from here too.

use std::{collections::BTreeMap, ops::Range};

use crate::limits;

/// The byte ranges of one NAR that nobody has been asked for yet.
#[derive(Debug, Default)]
pub struct Plan {
    open: BTreeMap<u64, u64>,
}

impl Plan {
    /// Plans the given byte ranges.
    pub fn new(missing: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut plan = Self::default();
        for range in missing {
            plan.give_back(range);
        }
        plan
    }

    /// Takes the first range that starts below `ceiling`, at most [`limits::SEGMENT`] long.
    pub fn take(&mut self, ceiling: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.open.first_key_value()?;
        if start >= ceiling {
            return None;
        }
        self.open.remove(&start);
        let cut = start.saturating_add(limits::SEGMENT).min(end);
        if cut < end {
            self.open.insert(cut, end);
        }
        Some(start..cut)
    }

    /// Gives back a range that was not delivered.
    pub fn give_back(&mut self, range: Range<u64>) {
        if range.start < range.end {
            self.open.insert(range.start, range.end);
        }
    }

    /// Whether every range was taken.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_byte_is_delivered_once_whatever_providers_drop(
            size in 1u64..200_000_000,
            drops in proptest::collection::vec(0u64..9_000_000, 0..64),
        ) {
            let mut plan = Plan::new(std::iter::once(0..size));
            let mut drops = drops.into_iter();
            let mut delivered = 0;
            while let Some(range) = plan.take(u64::MAX) {
                let lost = drops.next().unwrap_or(0).min(range.end - range.start);
                delivered += range.end - range.start - lost;
                plan.give_back(range.end - lost..range.end);
            }
            prop_assert!(plan.is_empty());
            prop_assert_eq!(delivered, size);
        }
    }

    #[test]
    fn the_reader_s_next_bytes_go_first() {
        let mut plan = Plan::new(std::iter::once(0..100_000_000));
        let first = plan.take(u64::MAX).unwrap();
        assert_eq!(first, 0..limits::SEGMENT);
        plan.take(u64::MAX).unwrap();
        plan.give_back(5..first.end);
        assert_eq!(plan.take(u64::MAX), Some(5..first.end));
        assert_eq!(
            plan.take(3 * limits::SEGMENT).unwrap().start,
            2 * limits::SEGMENT
        );
        assert_eq!(plan.take(3 * limits::SEGMENT), None);
    }
}
