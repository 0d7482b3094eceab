//! Sorted sets of small numbers in about a byte each.
//!
//! 20,000 of 200,000 paths lie 10 apart on average, so gaps between neighbours fit in one byte of
//! LEB128. The same form is kept in memory and in the database.

use std::fmt;

/// A set of numbers, kept as the gaps between them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IdSet {
    gaps: Box<[u8]>,
    /// One more than the last number, so that a higher one is added without reading the others.
    end: u64,
}

impl IdSet {
    /// Makes the set of `ids`, in any order and with any repetitions.
    #[must_use]
    pub fn from_unsorted(mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self::from_sorted(ids)
    }

    /// Makes the set of `ids`, which rise.
    pub(super) fn from_sorted(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut rising = Rising::default();
        for id in ids {
            rising.push(id);
        }
        rising.take()
    }

    /// Reads what [`IdSet::as_bytes`] wrote; nothing where it is damaged.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let mut rest = bytes.as_slice();
        let mut end = 0;
        while !rest.is_empty() {
            let id = u32::try_from(end + u64::from(pop(&mut rest)?)).ok()?;
            end = u64::from(id) + 1;
        }
        Some(Self {
            gaps: bytes.into_boxed_slice(),
            end,
        })
    }

    /// Returns the form that is kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.gaps
    }

    /// Counts the numbers; reads all of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gaps.iter().filter(|byte| *byte & 0x80 == 0).count()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Iterates over the numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut rest = &*self.gaps;
        let mut next = 0_u32;
        std::iter::from_fn(move || {
            let id = next.saturating_add(pop(&mut rest)?);
            next = id.saturating_add(1);
            Some(id)
        })
    }

    /// Adds a number.
    pub fn insert(&mut self, id: u32) {
        if let Some(gap) = u64::from(id).checked_sub(self.end) {
            let mut bytes = std::mem::take(&mut self.gaps).into_vec();
            bytes.reserve_exact(1);
            push(&mut bytes, gap as u32);
            self.gaps = bytes.into_boxed_slice();
            self.end = u64::from(id) + 1;
            return;
        }
        let Some(found) = self.seek(id) else {
            return;
        };
        if found.id != id {
            self.splice(
                found.first,
                &[id - found.next, found.id - id - 1],
                found.last,
            );
        }
    }

    /// Takes a number out.
    pub fn remove(&mut self, id: u32) {
        let Some(found) = self.seek(id).filter(|found| found.id == id) else {
            return;
        };
        let mut rest = &self.gaps[self.gaps.len() - found.last..];
        match pop(&mut rest) {
            // The gap after it begins where the one before it did.
            Some(gap) => {
                let last = rest.len();
                self.splice(found.first, &[id - found.next + 1 + gap], last);
            }
            None => {
                self.splice(found.first, &[], 0);
                self.end = u64::from(found.next);
            }
        }
    }

    /// Finds the first number that is not below `id`.
    fn seek(&self, id: u32) -> Option<Place> {
        let mut rest = &*self.gaps;
        let mut next = 0_u32;
        loop {
            let first = self.gaps.len() - rest.len();
            let here = next.saturating_add(pop(&mut rest)?);
            if here >= id {
                return Some(Place {
                    first,
                    last: rest.len(),
                    next,
                    id: here,
                });
            }
            next = here.saturating_add(1);
        }
    }

    /// Puts `gaps` between the first bytes and the last ones.
    fn splice(&mut self, first: usize, gaps: &[u32], last: usize) {
        let mut bytes = Vec::with_capacity(first + 5 * gaps.len() + last);
        bytes.extend_from_slice(&self.gaps[..first]);
        for gap in gaps {
            push(&mut bytes, *gap);
        }
        bytes.extend_from_slice(&self.gaps[self.gaps.len() - last..]);
        self.gaps = bytes.into_boxed_slice();
    }

    /// Returns the set with `added` in it and `removed` out of it; both rise, and what is in both
    /// is in.
    pub(super) fn changed(&self, added: &[u32], removed: &[u32]) -> Self {
        let kept = self.iter().filter(|id| removed.binary_search(id).is_err());
        Self::from_sorted(Merge {
            left: kept.peekable(),
            right: added.iter().copied().peekable(),
        })
    }

    /// Returns what is in `self` and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Vec<u32> {
        let mut others = other.iter().peekable();
        self.iter()
            .filter(|id| {
                while others.next_if(|other| other < id).is_some() {}
                others.peek() != Some(id)
            })
            .collect()
    }
}

/// A set that is made from its lowest number to its highest.
#[derive(Debug, Default)]
pub(super) struct Rising {
    gaps: Vec<u8>,
    end: u64,
}

impl Rising {
    /// Adds a number that is higher than all before.
    pub(super) fn push(&mut self, id: u32) {
        push(&mut self.gaps, (u64::from(id) - self.end) as u32);
        self.end = u64::from(id) + 1;
    }

    /// Returns whether nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Returns the set, in no more memory than it needs, and begins another one in the same room.
    pub(super) fn take(&mut self) -> IdSet {
        let set = IdSet {
            gaps: self.gaps.as_slice().into(),
            end: self.end,
        };
        self.gaps.clear();
        self.end = 0;
        set
    }
}

/// Where a number is in a set.
struct Place {
    /// How many bytes are before its gap, and how many are after it.
    first: usize,
    last: usize,
    /// One more than the number before it.
    next: u32,
    id: u32,
}

impl fmt::Debug for IdSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

/// Two rising sequences as one, without repetitions.
struct Merge<L: Iterator<Item = u32>, R: Iterator<Item = u32>> {
    left: std::iter::Peekable<L>,
    right: std::iter::Peekable<R>,
}

impl<L: Iterator<Item = u32>, R: Iterator<Item = u32>> Iterator for Merge<L, R> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match (self.left.peek(), self.right.peek()) {
            (Some(left), Some(right)) if left == right => {
                self.left.next();
                self.right.next()
            }
            (Some(left), Some(right)) if left > right => self.right.next(),
            (Some(_), _) => self.left.next(),
            (None, _) => self.right.next(),
        }
    }
}

fn push(bytes: &mut Vec<u8>, mut gap: u32) {
    while gap >= 0x80 {
        bytes.push((gap & 0x7f) as u8 | 0x80);
        gap >>= 7;
    }
    bytes.push(gap as u8);
}

fn pop(bytes: &mut &[u8]) -> Option<u32> {
    let (&byte, rest) = bytes.split_first()?;
    // Nearly all are this short, and nearly all of the time goes here.
    if byte < 0x80 {
        *bytes = rest;
        return Some(u32::from(byte));
    }
    pop_long(bytes)
}

fn pop_long(bytes: &mut &[u8]) -> Option<u32> {
    let mut gap = 0_u32;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u32::from(byte & 0x7f);
        // The fifth byte has room for four bits.
        gap |= part
            .checked_shl(shift)
            .filter(|shifted| shifted >> shift == part)?;
        if byte & 0x80 == 0 {
            return Some(gap);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_that_a_btree_says(
            first in proptest::collection::btree_set(any::<u32>(), 0..200),
            second in proptest::collection::btree_set(0_u32..500, 0..200),
        ) {
            let set = IdSet::from_unsorted(first.iter().rev().copied().collect());
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), first.clone());
            prop_assert_eq!(set.len(), first.len());
            prop_assert_eq!(IdSet::from_bytes(set.as_bytes().to_vec()), Some(set.clone()));

            let added: Vec<u32> = second.iter().copied().collect();
            let removed: Vec<u32> = first.iter().copied().step_by(2).collect();
            let mut expected: BTreeSet<u32> = &first - &removed.iter().copied().collect();
            expected.extend(&added);
            let changed = set.changed(&added, &removed);
            prop_assert_eq!(changed.iter().collect::<BTreeSet<_>>(), expected.clone());
            let mut grown = set.clone();
            for id in &second {
                grown.insert(*id);
            }
            prop_assert_eq!(&grown, &set.changed(&added, &[]));
            let mut shrunk = grown;
            for id in removed.iter().chain(&added) {
                shrunk.remove(*id);
            }
            let gone: BTreeSet<u32> = removed.iter().chain(&added).copied().collect();
            prop_assert_eq!(shrunk, IdSet::from_sorted(first.difference(&gone).copied()));
            let gone: BTreeSet<u32> = set.without(&changed).into_iter().collect();
            prop_assert_eq!(gone, &first - &expected);
        }

        #[test]
        fn damaged_bytes_are_no_set(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(set) = IdSet::from_bytes(bytes) {
                let ids: Vec<u32> = set.iter().collect();
                prop_assert!(ids.is_sorted_by(|a, b| a < b));
            }
        }
    }

    #[test]
    fn twenty_thousand_of_two_hundred_thousand_take_a_byte_each() {
        let set = IdSet::from_sorted((0..20_000).map(|n| n * 10));
        assert_eq!(set.as_bytes().len(), 20_000);
    }
}
