//! Reading everything again, and letting go of it.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{Inner, Store, blocking};
use crate::{
    BlobHash, OpenBlobError, ReadError, StoreError,
    index::Change,
    nix::{StorePath, StorePathHash},
};

/// How far [`Store::verify`] has come.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Blobs read.
    pub blobs_done: u64,
    /// Blobs in all.
    pub blobs_total: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Blobs whose every byte was right.
    pub right: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Blobs that were dropped from the index, and why; what is in Nix's store stays there.
    pub dropped: Vec<Dropped>,
}

/// A blob that is no longer offered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// The blob.
    pub blob: BlobHash,
    /// A path whose NAR it was, where one is known.
    pub path: Option<StorePath>,
    /// What was wrong.
    pub reason: String,
}

impl Store {
    /// Reads everything that the index claims and drops what is gone or wrong.
    ///
    /// `progress` hears of each blob. Runs on a blocking thread, and stops with the store.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be read or written.
    pub async fn verify(
        &self,
        mut progress: impl FnMut(VerifyProgress) + Send + 'static,
    ) -> Result<VerifyReport, StoreError> {
        let inner = self.0.clone();
        let verified = spawn_blocking(move || inner.verify(&mut progress));
        verified.await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Forgets the hashes of a path and removes what was downloaded of it; Nix's store stays.
    ///
    /// Returns whether anything was known. A path that is shared is not forgotten: whoever asks
    /// looks at [`Store::is_shared`] first.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be written.
    pub async fn forget_path(&self, path_hash: StorePathHash) -> Result<bool, StoreError> {
        blocking(&self.0, move |inner| inner.forget_path(path_hash)).await
    }
}

impl Inner {
    fn verify(
        self: &Arc<Self>,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<VerifyReport, StoreError> {
        let mut blobs = Vec::new();
        let mut so_far = VerifyProgress::default();
        self.index.for_each_blob(|blob, record| {
            so_far.blobs_total += 1;
            so_far.bytes_total = so_far.bytes_total.saturating_add(record.size);
            blobs.push((blob, record.size, record.paths().next()));
        })?;
        let mut report = VerifyReport::default();
        for (blob, size, path_hash) in blobs {
            progress(so_far);
            if self.is_stopping() {
                return Err(StoreError::ShuttingDown);
            }
            // Before the record goes with the blob.
            let path = path_hash.and_then(|path_hash| self.index.path(path_hash).ok()?);
            let path = path.and_then(|record| Some(record.info()?.store_path));
            match self.verify_blob(blob, size)? {
                None => {
                    report.right += 1;
                    report.bytes = report.bytes.saturating_add(size);
                }
                Some(reason) => {
                    self.remove_blob(blob)?;
                    report.dropped.push(Dropped { blob, path, reason });
                }
            }
            so_far.blobs_done += 1;
            so_far.bytes_done = so_far.bytes_done.saturating_add(size);
        }
        progress(so_far);
        Ok(report)
    }

    /// Reads one blob to its end; returns what is wrong with it.
    fn verify_blob(
        self: &Arc<Self>,
        blob: BlobHash,
        size: u64,
    ) -> Result<Option<String>, StoreError> {
        let opened = match self.open_blob(blob) {
            Ok(opened) => opened,
            Err(OpenBlobError::Store(error)) => return Err(error),
            Err(_) => return Ok(Some("its files are gone".into())),
        };
        let read = opened.read_verified(0..size, &mut |_| {
            if self.is_stopping() {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            Ok(())
        });
        match read {
            Ok(()) => Ok(None),
            Err(ReadError::Output(_)) => Err(StoreError::ShuttingDown),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    fn forget_path(&self, path_hash: StorePathHash) -> Result<bool, StoreError> {
        let mut known = false;
        let inline = self.inline().of_path(path_hash);
        if let Some((blob, _)) = inline {
            known |= self.inline().remove(blob);
        }
        if let Some((blob, _)) = self.partial_of_path(path_hash) {
            known = true;
            self.drop_partial(blob);
        }
        if let Some(record) = self.index.path(path_hash)? {
            known = true;
            let blob = record.blob();
            let size = record.nar_size();
            if self
                .index
                .write_blocking(Change::RemovePath { path_hash, blob })?
            {
                self.files.remove_blob(blob, size);
                self.files.remove_outboard(blob);
                self.space.remove(blob);
            }
        }
        self.layouts().remove(path_hash);
        Ok(known)
    }
}
