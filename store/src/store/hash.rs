//! Hashing the NAR of a path, and keeping the result.

use std::{io, sync::Arc};

use tempfile::NamedTempFile;

use super::Inner;
use crate::{
    BlobHash, HashError, StoreError,
    hashing::{self, Progress, Tap},
    index::{Change, PathRecord, Place},
    limits,
    nar::{Layout, LayoutError},
    nix::{NarHash, PathInfo, StorePathHash},
    outboard::{self, OutboardSink},
    source::ByteSource,
};

/// The hashes of one NAR, not kept yet.
pub(crate) struct HashedNar {
    pub nar_hash: NarHash,
    blob_hash: BlobHash,
    outboard: NewOutboard,
}

enum NewOutboard {
    Memory(Vec<u8>),
    File(NamedTempFile),
}

impl Inner {
    /// Hashes a NAR and keeps the result, if it is the NAR that Nix registered. Blocks.
    pub(crate) fn hash_nar(
        &self,
        path_hash: StorePathHash,
        progress: Progress<'_>,
    ) -> Result<BlobHash, HashError> {
        let database = |error| HashError::Store(StoreError::Database(error));
        let info = self
            .database
            .path_info(path_hash)
            .map_err(database)?
            .ok_or(HashError::NotFound { path_hash })?;
        if let Some(record) = self.index.path(path_hash)?
            && record.nar_hash() == info.nar_hash
        {
            return Ok(record.blob());
        }
        let failed = |source: io::Error| HashError::Read {
            store_path: info.store_path.to_string(),
            source: Arc::new(source),
        };
        if let Some(reason) = self.jobs.known_wrong(&info, self) {
            return Err(mismatch(&info, reason));
        }
        let layout = match self.layout(&info) {
            Ok(layout) => layout,
            Err(LayoutError::Read(error)) => return Err(failed(error)),
            Err(error @ LayoutError::Size { .. }) => {
                let reason = error.to_string();
                self.remember_mismatch(&info, &reason);
                return Err(mismatch(&info, reason));
            }
        };
        let hashed = self.hash_layout(&layout, &info, progress, None);
        let hashed = hashed.map_err(|error| {
            // The files are not those of the layout any more.
            self.layouts().remove(path_hash);
            failed(error)
        })?;
        if hashed.nar_hash != info.nar_hash {
            let reason = format!("its NAR is {}, not {}", hashed.nar_hash, info.nar_hash);
            self.remember_mismatch(&info, &reason);
            return Err(mismatch(&info, reason));
        }
        Ok(self.record(&info, hashed)?)
    }

    /// Hashes what a layout gives. Blocks.
    pub(crate) fn hash_layout(
        &self,
        layout: &Arc<Layout>,
        info: &PathInfo,
        progress: Progress<'_>,
        tap: Option<Tap<'_>>,
    ) -> io::Result<HashedNar> {
        let outboard_size = outboard::tree(info.nar_size).outboard_size();
        let (file, sink) = if outboard_size <= limits::MAX_OUTBOARD_IN_MEMORY {
            (None, OutboardSink::Memory(vec![0; outboard_size as usize]))
        } else {
            let file = self.files.temporary().map_err(io::Error::other)?;
            let sink = OutboardSink::File(file.as_file().try_clone()?);
            (Some(file), sink)
        };
        let mut cursor = ByteSource::ByReference(layout.clone()).cursor();
        let hashed = hashing::hash(&mut cursor, info.nar_size, sink, progress, tap)?;
        Ok(HashedNar {
            nar_hash: hashed.nar_hash,
            blob_hash: BlobHash::from(hashed.blob_hash),
            outboard: match (hashed.outboard, file) {
                (_, Some(file)) => NewOutboard::File(file),
                (OutboardSink::Memory(bytes), None) => NewOutboard::Memory(bytes),
                (OutboardSink::File(_), None) => return Err(io::ErrorKind::NotFound.into()),
            },
        })
    }

    /// Keeps the hashes of a NAR that is what Nix registered. Blocks.
    pub(crate) fn record(
        &self,
        info: &PathInfo,
        hashed: HashedNar,
    ) -> Result<BlobHash, StoreError> {
        let blob = hashed.blob_hash;
        let inline = match hashed.outboard {
            NewOutboard::Memory(bytes) if bytes.len() as u64 <= limits::MAX_INLINE_OUTBOARD => {
                Some(bytes).filter(|bytes| !bytes.is_empty())
            }
            NewOutboard::Memory(bytes) => {
                let file = self.files.temporary()?;
                io::Write::write_all(&mut file.as_file(), &bytes)
                    .map_err(|error| crate::files::write_error(file.path(), error))?;
                self.files.keep_outboard(file, blob)?;
                None
            }
            NewOutboard::File(file) => {
                self.files.keep_outboard(file, blob)?;
                None
            }
        };
        self.index.write_blocking(Change::PutBlob {
            blob,
            path: Some(Box::new(PathRecord::new(info, blob))),
            size: info.nar_size,
            place: Place::ByReference,
            outboard: inline.map(Into::into),
            data: None,
            used_at: 0,
        })?;
        Ok(blob)
    }

    /// Remembers that the files of a path are not what Nix registered.
    pub(crate) fn remember_mismatch(&self, info: &PathInfo, reason: &str) {
        tracing::warn!(path = %info.path_hash(), "not what Nix registered: not offered");
        tracing::debug!(path = %info.store_path, reason, "what is wrong with it");
        self.layouts().remove(info.path_hash());
        self.jobs.remember_wrong(info, self, reason);
    }
}

fn mismatch(info: &PathInfo, reason: String) -> HashError {
    HashError::Mismatch {
        store_path: info.store_path.to_string(),
        reason,
    }
}
