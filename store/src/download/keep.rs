//! How a download becomes durable: while it runs, when it is whole, and when it is left.

use std::{
    io,
    sync::{Arc, PoisonError, Weak, atomic::Ordering},
};

use bao_tree::ChunkRanges;
use tokio::{sync::Notify, task::spawn_blocking, time::timeout};

use super::Inflight;
use crate::{
    Blob, OpenBlobError, StoreError,
    downloads::Resting,
    files::write_error,
    index::{Change, PartialRecord, PathRecord, Place},
    inline::InlineBlob,
    limits,
    space::unix_now,
};

impl Inflight {
    /// Makes what is there survive a power cut, and tells the index. Blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        let (Some(data), Some(outboard)) = (self.data.file(), self.outboard.file()) else {
            return Ok(());
        };
        self.unsynced.store(0, Ordering::Relaxed);
        let held = self.have().clone();
        data.sync_data()?;
        outboard.sync_data()?;
        self.store.files.sync_blobs_dir()?;
        if !self.ended.load(Ordering::Acquire) {
            let record = PartialRecord::new(self.info(), self.blob, &held, unix_now());
            self.store.index.write(Change::PutPartial {
                blob: self.blob,
                partial: Box::new(record),
            });
        }
        Ok(())
    }

    fn is_verified(&self) -> bool {
        match self.info() {
            Some(_) => matches!(*self.verdict.borrow(), Some(Ok(()))),
            None => *self.watermark.borrow() == self.tree.size(),
        }
    }

    pub(super) fn commit(&self) -> Result<Blob, StoreError> {
        let (store, blob_hash) = (&self.store, self.blob);
        let opened = || {
            store.open_blob(blob_hash).map_err(|error| match error {
                OpenBlobError::Store(error) => error,
                error => StoreError::Index {
                    reason: error.to_string(),
                },
            })
        };
        if !self.is_verified() {
            return Err(StoreError::NotVerified { blob_hash });
        }
        let keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Acquire) {
            // Committed before, by another clone.
            return opened();
        }
        self.keep()?;
        // Not before: until then it is read, and joined, as a download.
        self.ended.store(true, Ordering::Release);
        drop(keeping);
        store.observers.tell(blob_hash);
        // Nix may have imported the path from elsewhere meanwhile.
        if let Some(info) = self.info() {
            store.adopt_if_imported(blob_hash, info)?;
        }
        opened()
    }

    fn keep(&self) -> Result<(), StoreError> {
        let (store, blob, size) = (&self.store, self.blob, self.tree.size());
        let memory = (self.data.freeze(), self.outboard.freeze());
        let outboard_size = self.tree.outboard_size();
        let (place, data, outboard) = match memory {
            (Some(data), Some(outboard)) => {
                if let Some(info) = self.info()
                    && store.database.source().is_some()
                {
                    let held = InlineBlob {
                        info: info.clone(),
                        data,
                        outboard,
                    };
                    store.inline().insert(blob, held);
                    return Ok(());
                }
                store.make_room(blob, size + outboard_size)?;
                if size <= limits::MAX_INDEX_BLOB {
                    (Place::Index, Some(data), Some(outboard))
                } else {
                    store.files.write_blob(blob, &data)?;
                    (Place::File, None, Some(outboard))
                }
            }
            _ => {
                self.sync()
                    .map_err(|error| write_error(store.files.blobs_dir(), error))?;
                let outboard = if outboard_size <= limits::MAX_INLINE_OUTBOARD {
                    let read = self.outboard.read(0..outboard_size);
                    Some(read.map_err(|error| write_error(store.files.blobs_dir(), error))?)
                } else {
                    None
                };
                (Place::File, None, outboard)
            }
        };
        let has_outboard = outboard.is_some();
        store.index.write_blocking(Change::PutBlob {
            blob,
            path: self
                .info()
                .map(|info| Box::new(PathRecord::new(info, blob))),
            size,
            place,
            outboard: outboard.filter(|outboard| !outboard.is_empty()),
            data,
            used_at: unix_now(),
        })?;
        if has_outboard && place == Place::File {
            store.files.remove_partial_outboard(blob, size);
        }
        Ok(())
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        let rests = self.is_in_file() && !*self.ended.get_mut();
        let resting = rests.then(|| Resting {
            size: self.tree.size(),
            held: Some(self.have().clone()),
            info: self.info().cloned(),
        });
        let unsynced = *self.unsynced.get_mut();
        if let (Some(resting), true) = (&resting, unsynced > 0)
            && let (Some(data), Some(outboard)) = (self.data.file(), self.outboard.file())
        {
            let (store, blob) = (self.store.clone(), self.blob);
            let held = resting.held.clone().unwrap_or_else(ChunkRanges::empty);
            let record = PartialRecord::new(resting.info.as_ref(), blob, &held, unix_now());
            self.store.spawn_blocking(move || {
                if data
                    .sync_data()
                    .and_then(|()| outboard.sync_data())
                    .is_err()
                {
                    return;
                }
                // Somebody may have given it up, or be at it again.
                if store.downloads.resting(blob).is_some() {
                    let partial = Box::new(record);
                    store.index.write(Change::PutPartial { blob, partial });
                }
            });
        }
        let this: *const Self = self;
        self.store.downloads.end(self.blob, this, resting);
        self.store.observers.tell(self.blob);
    }
}

/// Checkpoints a download in files each second, and whenever much was written.
pub(super) async fn keep_checkpoints(inflight: Weak<Inflight>, due: Arc<Notify>) {
    loop {
        // Woken or not, it is time.
        let _woken = timeout(limits::CHECKPOINT_INTERVAL, due.notified()).await;
        let Some(download) = inflight.upgrade() else {
            return;
        };
        if download.has_ended() {
            return;
        }
        if download.unsynced.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let synced = spawn_blocking(move || download.sync());
        if let Ok(Err(error)) = synced.await {
            tracing::warn!(%error, "a download cannot be synced");
        }
    }
}
