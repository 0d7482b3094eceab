//! What is held of a blob, now and whenever that changes.

use std::sync::Arc;

use bao_tree::ChunkRanges;

use crate::{
    BlobHash, OpenBlobError,
    observers::Observer,
    store::{Inner, Store},
};

/// Follows what is held of one blob, which need not be there yet.
#[derive(Debug)]
pub struct HeldWatch {
    store: Arc<Inner>,
    blob: BlobHash,
    observer: Observer,
    last: Option<ChunkRanges>,
}

impl Store {
    /// Starts to follow what is held of a blob.
    #[must_use]
    pub fn watch_held(&self, blob: BlobHash) -> HeldWatch {
        HeldWatch {
            // Before the first look, so that nothing is missed.
            observer: self.0.observers.observe(blob),
            store: self.0.clone(),
            blob,
            last: None,
        }
    }
}

impl HeldWatch {
    /// Waits for a change, and returns the blob's size in bytes and the chunks held: all of them
    /// as [`ChunkRanges::all`], none and size 0 of a blob that is not there.
    ///
    /// The first call returns at once. `None` where that can't be told any more. Cancel safe.
    pub async fn next(&mut self) -> Option<(u64, ChunkRanges)> {
        loop {
            if self.last.is_some() {
                self.observer.changed().await;
            }
            let (store, blob) = (self.store.clone(), self.blob);
            let looked = self.store.run_blocking(move || store.held(blob)).await;
            let (size, held) = looked
                .inspect_err(|error| tracing::error!(%error, "a blob cannot be looked up"))
                .ok()?
                .inspect_err(|error| tracing::error!(%error, "a blob cannot be looked up"))
                .ok()?;
            if self.last.as_ref() != Some(&held) {
                self.last = Some(held.clone());
                return Some((size, held));
            }
        }
    }
}

impl Inner {
    /// The size of a blob and the chunks that are held of it, in files or in memory.
    fn held(self: &Arc<Self>, blob: BlobHash) -> Result<(u64, ChunkRanges), OpenBlobError> {
        if blob == BlobHash::EMPTY {
            return Ok((0, ChunkRanges::all()));
        }
        match self.open_blob(blob) {
            Ok(opened) => Ok((opened.size(), opened.held())),
            Err(OpenBlobError::NotFound) => {
                let live = self.downloads.live(blob).filter(|live| !live.has_ended());
                let progress = live.map(|live| live.progress());
                let progress = progress.filter(|(held, _)| !held.is_empty());
                Ok(progress.map_or((0, ChunkRanges::empty()), |(held, size)| (size, held)))
            }
            Err(error) => Err(error),
        }
    }
}
