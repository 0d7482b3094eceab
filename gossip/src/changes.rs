//! Paths that came and went since an inventory was built, four bytes each.

use serde::{Deserialize, Serialize};

use crate::{inventory::PathHash, limits};

/// The first four bytes of a path hash.
///
/// Enough in a list of a thousand: one path in four million looks as if it were in it, while the
/// filter beside it already says so of one in 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag([u8; 4]);

impl Tag {
    /// The tag of a path.
    pub fn of(path_hash: &PathHash) -> Self {
        Self([path_hash[0], path_hash[1], path_hash[2], path_hash[3]])
    }
}

/// Tags of paths that came and of those that went; no tag is in both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    added: Vec<Tag>,
    removed: Vec<Tag>,
}

impl Changes {
    /// Gathers changes, a tag and whether it came, in the order in which they happened.
    pub fn gather(happened: impl IntoIterator<Item = (Tag, bool)>) -> Self {
        let mut last = std::collections::BTreeMap::new();
        last.extend(happened);
        let (added, removed): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, came)| *came);
        let tags = |list: Vec<(Tag, bool)>| list.into_iter().map(|(tag, _)| tag).collect();
        Self {
            added: tags(added),
            removed: tags(removed),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is so after the changes, where it `was` so before.
    pub fn after(&self, tag: Tag, was: impl FnOnce() -> bool) -> bool {
        self.added.binary_search(&tag).is_ok()
            || (self.removed.binary_search(&tag).is_err() && was())
    }

    /// Adds changes that happened later.
    pub fn merge(&mut self, later: &Self) {
        let join = |mine: &mut Vec<Tag>, theirs: &[Tag], undone: &[Tag]| {
            mine.retain(|tag| undone.binary_search(tag).is_err());
            mine.extend_from_slice(theirs);
            mine.sort_unstable();
            mine.dedup();
            mine.shrink_to_fit();
        };
        join(&mut self.added, &later.added, &later.removed);
        join(&mut self.removed, &later.removed, &later.added);
    }

    /// Whether it is as an honest author sends it: few, sorted, none in both.
    pub(crate) fn is_sane(&self) -> bool {
        let sorted = |tags: &[Tag]| tags.windows(2).all(|pair| pair[0] < pair[1]);
        self.len() <= limits::MAX_CHANGES
            && sorted(&self.added)
            && sorted(&self.removed)
            && self
                .added
                .iter()
                .all(|tag| self.removed.binary_search(tag).is_err())
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        (self.added.capacity() + self.removed.capacity()) * size_of::<Tag>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn tag(number: u8) -> Tag {
        Tag([number, 0, 0, 0])
    }

    proptest! {
        #[test]
        fn merged_changes_say_what_the_last_of_them_said(
            first in proptest::collection::vec((0u8..20, any::<bool>()), 0..30),
            second in proptest::collection::vec((0u8..20, any::<bool>()), 0..30),
            before in proptest::collection::hash_set(0u8..20, 0..10),
        ) {
            let steps = |list: &[(u8, bool)]| {
                Changes::gather(list.iter().map(|(number, came)| (tag(*number), *came)))
            };
            let mut changes = steps(&first);
            changes.merge(&steps(&second));
            prop_assert!(changes.is_sane());
            let mut truth: HashSet<u8> = before.clone();
            for (number, came) in first.iter().chain(&second) {
                if *came { truth.insert(*number); } else { truth.remove(number); }
            }
            for number in 0..20 {
                prop_assert_eq!(
                    changes.after(tag(number), || before.contains(&number)),
                    truth.contains(&number)
                );
            }
        }
    }
}
