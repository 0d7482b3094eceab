//! The last pieces of a download that lies in files, kept in memory for those who follow it.
//!
//! Whoever hashes a download and whoever hands it on read each byte soon after it came: out of
//! here they neither wait for a disk nor copy. What is not here is in the file.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::limits;

/// Bytes that all downloads of a store keep in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentBytes(Arc<AtomicUsize>);

impl RecentBytes {
    fn take(&self, bytes: usize) -> bool {
        let within = |used: usize| {
            let used = used.checked_add(bytes)?;
            (used <= limits::RECENT_ALL).then_some(used)
        };
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, within);
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The recent pieces of one download, by offset.
#[derive(Debug)]
pub(super) struct Recent {
    budget: RecentBytes,
    pieces: Mutex<Pieces>,
}

#[derive(Debug, Default)]
struct Pieces {
    by_offset: BTreeMap<u64, Bytes>,
    bytes: usize,
    /// Nothing below is asked for again.
    passed: u64,
}

impl Recent {
    pub(super) fn new(budget: RecentBytes) -> Self {
        Self {
            budget,
            pieces: Mutex::default(),
        }
    }

    /// Keeps a piece, where there is room, at the expense of the ones before it.
    pub(super) fn put(&self, offset: u64, piece: &Bytes) {
        let mut pieces = self.lock();
        if offset < pieces.passed || pieces.by_offset.contains_key(&offset) {
            return;
        }
        while pieces.bytes + piece.len() > limits::RECENT_EACH {
            let Some((&first, _)) = pieces.by_offset.first_key_value() else {
                return;
            };
            if first > offset {
                return;
            }
            self.drop_piece(&mut pieces, first);
        }
        if self.budget.take(piece.len()) {
            pieces.bytes += piece.len();
            pieces.by_offset.insert(offset, piece.clone());
        }
    }

    /// The bytes from `offset` to the end of the piece that holds it.
    pub(super) fn get(&self, offset: u64) -> Option<Bytes> {
        let pieces = self.lock();
        let (start, piece) = pieces.by_offset.range(..=offset).next_back()?;
        let skipped = usize::try_from(offset - start).ok()?;
        (skipped < piece.len()).then(|| piece.slice(skipped..))
    }

    /// Where the first piece at or after `offset` begins.
    pub(super) fn next_after(&self, offset: u64) -> Option<u64> {
        let pieces = self.lock();
        pieces.by_offset.range(offset..).next().map(|(at, _)| *at)
    }

    /// Lets go of all that ends at or before `offset`.
    pub(super) fn pass(&self, offset: u64) {
        let mut pieces = self.lock();
        pieces.passed = pieces.passed.max(offset);
        while let Some((&first, piece)) = pieces.by_offset.first_key_value()
            && first + piece.len() as u64 <= offset
        {
            self.drop_piece(&mut pieces, first);
        }
    }

    fn drop_piece(&self, pieces: &mut Pieces, offset: u64) {
        if let Some(piece) = pieces.by_offset.remove(&offset) {
            pieces.bytes -= piece.len();
            self.budget.give_back(piece.len());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        self.budget.give_back(self.lock().bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(byte: u8, len: usize) -> Bytes {
        vec![byte; len].into()
    }

    #[test]
    fn pieces_are_found_by_any_offset_in_them_and_go_once_passed() {
        let recent = Recent::new(RecentBytes::default());
        recent.put(100, &piece(1, 50));
        recent.put(150, &piece(2, 50));
        assert_eq!(recent.get(120).unwrap(), piece(1, 30));
        assert_eq!(recent.get(200), None);
        assert_eq!(recent.next_after(101), Some(150));
        recent.pass(160);
        assert_eq!(recent.get(120), None);
        assert_eq!(recent.get(160).unwrap(), piece(2, 40));
        recent.put(10, &piece(3, 10));
        assert_eq!(recent.get(10), None);
    }

    #[test]
    fn memory_stays_within_both_budgets_and_is_given_back() {
        let budget = RecentBytes::default();
        let size = 1024 * 1024;
        let downloads: Vec<Recent> = (0..4).map(|_| Recent::new(budget.clone())).collect();
        for recent in &downloads {
            for n in 0..2 * limits::RECENT_EACH / size {
                recent.put((n * size) as u64, &piece(0, size));
                assert!(recent.lock().bytes <= limits::RECENT_EACH);
            }
        }
        assert!(budget.0.load(Ordering::Relaxed) <= limits::RECENT_ALL);
        drop(downloads);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
