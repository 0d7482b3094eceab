//! Which numbers of path hashes somebody uses.

use std::collections::HashMap;

use crate::tracker::id_set::IdSet;

/// Numbers in a page.
const PAGE: u32 = 256;

/// A bit for each number, in pages: most sets have many numbers of one page after each other.
#[derive(Default)]
pub(super) struct Used {
    pages: HashMap<u32, [u64; PAGE as usize / 64]>,
}

impl Used {
    /// Notes that all numbers of a set are used.
    pub(super) fn add(&mut self, set: &IdSet) {
        let mut numbers = set.iter().peekable();
        while let Some(first) = numbers.peek().copied() {
            let bits = self.pages.entry(first / PAGE).or_default();
            while let Some(number) = numbers.next_if(|number| number / PAGE == first / PAGE) {
                bits[(number % PAGE / 64) as usize] |= 1 << (number % 64);
            }
        }
    }

    /// Says whether a number is used.
    pub(super) fn contains(&self, number: u32) -> bool {
        self.pages
            .get(&(number / PAGE))
            .is_some_and(|bits| bits[(number % PAGE / 64) as usize] >> (number % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_added_is_used_and_nothing_else(
            low in proptest::collection::vec(0_u32..5000, 0..100),
            any in proptest::collection::vec(any::<u32>(), 0..100),
        ) {
            let mut used = Used::default();
            used.add(&IdSet::from_unsorted(low.clone()));
            used.add(&IdSet::from_unsorted(any.clone()));
            for number in (0..5000).chain(any.iter().map(|number| number ^ 1)).chain(any.clone()) {
                let is_used = low.contains(&number) || any.contains(&number);
                prop_assert_eq!(used.contains(number), is_used, "{}", number);
            }
        }
    }
}
