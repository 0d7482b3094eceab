//! What takes space beside Nix's store, and its bound.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::{BlobHash, limits};

/// The blobs in files or in the index, whole or not, with their sizes and last uses.
#[derive(Debug)]
pub(crate) struct Space {
    quota: u64,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_blob: HashMap<BlobHash, Entry>,
    /// Sum over all of them.
    bytes: u64,
}

/// Times are in seconds of Unix time.
#[derive(Debug, Copy, Clone)]
struct Entry {
    bytes: u64,
    used_at: u64,
    /// The last use that the index knows of.
    recorded_at: u64,
}

/// The last use of what is being written.
const RESERVED: u64 = u64::MAX;

impl Space {
    pub(crate) fn new(quota: u64) -> Self {
        Self {
            quota,
            entries: Mutex::default(),
        }
    }

    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, blob: BlobHash, bytes: u64, used_at: u64) {
        let entry = Entry {
            bytes,
            used_at,
            recorded_at: used_at,
        };
        let mut entries = self.entries();
        entries.bytes += bytes;
        if let Some(before) = entries.by_blob.insert(blob, entry) {
            entries.bytes -= before.bytes;
        }
    }

    pub(crate) fn has(&self, blob: BlobHash) -> bool {
        self.entries().by_blob.contains_key(&blob)
    }

    /// Counts an entry, and removes it for nothing else.
    pub(crate) fn reserve(&self, blob: BlobHash) {
        if let Some(entry) = self.entries().by_blob.get_mut(&blob) {
            entry.used_at = RESERVED;
        }
    }

    pub(crate) fn is_reserved(&self, blob: BlobHash) -> bool {
        let entries = self.entries();
        let entry = entries.by_blob.get(&blob);
        entry.is_some_and(|entry| entry.used_at == RESERVED)
    }

    pub(crate) fn remove(&self, blob: BlobHash) {
        let mut entries = self.entries();
        if let Some(entry) = entries.by_blob.remove(&blob) {
            entries.bytes -= entry.bytes;
        }
    }

    /// Bytes of all blobs but `blob`.
    pub(crate) fn bytes_without(&self, blob: BlobHash) -> u64 {
        let entries = self.entries();
        let own = entries.by_blob.get(&blob).map_or(0, |entry| entry.bytes);
        entries.bytes - own
    }

    /// Notes a use; returns its time if the index should hear of it.
    pub(crate) fn used(&self, blob: BlobHash) -> Option<u64> {
        let mut entries = self.entries();
        let entry = entries.by_blob.get_mut(&blob)?;
        let now = unix_now();
        entry.used_at = now;
        if now.saturating_sub(entry.recorded_at) < limits::USED_GRANULARITY.as_secs() {
            return None;
        }
        entry.recorded_at = now;
        Some(now)
    }

    /// All blobs, the one that was not used for longest first, with their bytes.
    pub(crate) fn oldest_first(&self) -> Vec<(BlobHash, u64)> {
        let mut entries: Vec<_> = self
            .entries()
            .by_blob
            .iter()
            .map(|(blob, entry)| (*blob, *entry))
            .collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.used_at);
        let entries = entries.into_iter();
        entries.map(|(blob, entry)| (blob, entry.bytes)).collect()
    }
}

/// The clock, in seconds of Unix time.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
