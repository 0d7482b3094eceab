//! Opening blobs, dropping those that are gone or wrong, and handing over to Nix's store.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{Inner, NarState, Store, blocking};
use crate::{
    Blob, BlobHash, NarReader, OpenBlobError, ReadError, StoreError,
    blob::BlobInner,
    files::write_error,
    index::{BlobRecord, Change, PathRecord, Place},
    limits,
    nar::{Layout, LayoutError},
    nix::{PathInfo, StorePathHash},
    outboard::{self, Outboard},
    source::ByteSource,
    space::unix_now,
};

impl Store {
    /// Returns a path whose NAR is this blob.
    ///
    /// Where several paths have the same bytes, one of them; [`Store::paths_of_blob`] tells all.
    pub async fn path_of_blob(&self, blob: BlobHash) -> Option<StorePathHash> {
        self.paths_of_blob(blob).await.first().copied()
    }

    /// Returns all known paths whose NAR is this blob: store paths with equal contents share one.
    pub async fn paths_of_blob(&self, blob: BlobHash) -> Vec<StorePathHash> {
        let paths = blocking(&self.0, move |inner| inner.paths_of_blob(blob)).await;
        paths.unwrap_or_else(|error| {
            tracing::error!(%error, "a blob cannot be looked up");
            Vec::new()
        })
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`OpenBlobError::NotFound`] if it is not held, or its files are gone: it is dropped then.
    pub async fn open_blob(&self, blob: BlobHash) -> Result<Blob, OpenBlobError> {
        blocking(&self.0, move |inner| inner.open_blob(blob)).await
    }

    /// Opens the NAR of a path for a reader that wants it now, hashed or not.
    ///
    /// # Errors
    /// [`OpenBlobError::NotFound`] if the NAR is not held or known to be wrong.
    pub async fn open_nar(&self, path_hash: StorePathHash) -> Result<NarReader, OpenBlobError> {
        let store = self.clone();
        blocking(&self.0, move |inner| {
            let nar = inner.local_nar(path_hash)?.ok_or(OpenBlobError::NotFound)?;
            if let NarState::Ready(blob) = nar.state {
                match inner.open_blob(blob) {
                    Ok(blob) => return Ok(NarReader::hashed(blob, &nar.info)),
                    // The blob is gone, but Nix may still have the path.
                    Err(OpenBlobError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            let valid = inner
                .database
                .path_info(path_hash)
                .map_err(StoreError::from)?;
            let info = valid.ok_or(OpenBlobError::NotFound)?;
            let layout = inner.layout(&info).map_err(|error| {
                tracing::warn!(path = %path_hash, "cannot be read");
                tracing::debug!(path = %info.store_path, %error, "why it cannot be read");
                OpenBlobError::NotFound
            })?;
            Ok(NarReader::unhashed(store, info, layout))
        })
        .await
    }

    /// Drops a blob and its files. Nothing happens to Nix's store.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be written.
    pub async fn forget_blob(&self, blob: BlobHash) -> Result<(), StoreError> {
        blocking(&self.0, move |inner| {
            inner.inline().remove(blob);
            inner.drop_partial(blob);
            inner.remove_blob(blob)
        })
        .await
    }
}

impl Inner {
    fn paths_of_blob(&self, blob: BlobHash) -> Result<Vec<StorePathHash>, StoreError> {
        let mut paths = match self.index.blob(blob)? {
            Some((record, _)) => record.paths().collect(),
            None => Vec::new(),
        };
        if let Some(held) = self.inline().get(blob)
            && !paths.contains(&held.info.path_hash())
        {
            paths.push(held.info.path_hash());
        }
        if paths.is_empty() {
            let partial = self.open_partial(blob).and_then(|partial| partial.info);
            paths.extend(partial.map(|info| info.path_hash()));
        }
        Ok(paths)
    }

    pub(crate) fn open_blob(self: &Arc<Self>, hash: BlobHash) -> Result<Blob, OpenBlobError> {
        let open = |size, path_hash, source, outboard, held| {
            Blob::new(BlobInner {
                hash,
                size,
                path_hash,
                source,
                outboard,
                held,
                store: Arc::downgrade(self),
            })
        };
        if let Some(inline) = self.inline().get(hash) {
            return Ok(open(
                inline.data.len() as u64,
                Some(inline.info.path_hash()),
                ByteSource::Memory(inline.data),
                Outboard::Memory(inline.outboard),
                None,
            ));
        }
        let Some((record, outboard)) = self.index.blob(hash)? else {
            let partial = self.open_partial(hash).ok_or(OpenBlobError::NotFound)?;
            return Ok(open(
                partial.size,
                partial.info.map(|info| info.path_hash()),
                ByteSource::File(partial.data),
                Outboard::File(partial.outboard),
                Some(partial.held),
            ));
        };
        let outboard = match self.open_outboard(hash, record.size, outboard) {
            Ok(outboard) => outboard,
            Err(error) => {
                tracing::warn!(%error, blob = %hash.fmt_short(), "an outboard is gone");
                self.drop_blob(hash);
                return Err(OpenBlobError::NotFound);
            }
        };
        let (path_hash, source) = match record.place {
            Place::ByReference => match self.layout_of_blob(hash, &record)? {
                Some((path_hash, layout)) => (Some(path_hash), ByteSource::ByReference(layout)),
                None => return Err(OpenBlobError::NotFound),
            },
            Place::File => match self.files.open_blob(hash, record.size) {
                Ok(file) => (record.paths().next(), ByteSource::File(file)),
                Err(error) => {
                    tracing::warn!(%error, blob = %hash.fmt_short(), "a blob is gone");
                    self.drop_blob(hash);
                    return Err(OpenBlobError::NotFound);
                }
            },
            Place::Index => match self.index.data(hash)? {
                Some(data) => (record.paths().next(), ByteSource::Memory(data)),
                None => return Err(OpenBlobError::NotFound),
            },
        };
        if record.is_downloaded() {
            self.note_use(hash);
        }
        Ok(open(record.size, path_hash, source, outboard, None))
    }

    /// The first path of a blob by reference that is still there.
    fn layout_of_blob(
        &self,
        hash: BlobHash,
        record: &BlobRecord,
    ) -> Result<Option<(StorePathHash, Arc<Layout>)>, StoreError> {
        for path_hash in record.paths() {
            let Some(valid) = self.database.path_info(path_hash)? else {
                // Deleted by Nix, or there is no database just now: not for us to tell apart.
                continue;
            };
            let recorded = self.index.path(path_hash)?;
            if recorded.is_none_or(|recorded| recorded.nar_hash() != valid.nar_hash) {
                continue;
            }
            match self.layout(&valid) {
                Ok(layout) => return Ok(Some((path_hash, layout))),
                Err(error) => {
                    tracing::warn!(path = %path_hash, "no longer what was hashed");
                    tracing::debug!(path = %valid.store_path, %error, "why it is not");
                    self.remove_path(path_hash, hash);
                }
            }
        }
        Ok(None)
    }

    fn open_outboard(
        &self,
        hash: BlobHash,
        size: u64,
        inline: Option<Bytes>,
    ) -> io::Result<Outboard> {
        let outboard_size = outboard::tree(size).outboard_size();
        match inline {
            _ if outboard_size == 0 => Ok(Outboard::Memory(Bytes::new())),
            Some(bytes) if bytes.len() as u64 == outboard_size => Ok(Outboard::Memory(bytes)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => {
                let file = self.files.open_outboard(hash, size, outboard_size)?;
                Ok(Outboard::File(file))
            }
        }
    }

    /// The layout of a path that is valid in Nix's store.
    pub(crate) fn layout(&self, info: &PathInfo) -> Result<Arc<Layout>, LayoutError> {
        let path_hash = info.path_hash();
        let cached = self.layouts().get(path_hash, info.nar_hash);
        if let Some(layout) = cached {
            // Nix deletes the whole path first, by a rename.
            std::fs::symlink_metadata(layout.root())?;
            return Ok(layout);
        }
        let root = self.physical_path(&info.store_path);
        let layout = Arc::new(Layout::build(&root, info.nar_size)?);
        self.layouts()
            .insert(path_hash, info.nar_hash, layout.clone());
        Ok(layout)
    }

    /// Drops what turned out to be gone or wrong while it was read.
    pub(crate) fn demote(
        &self,
        blob: BlobHash,
        path_hash: Option<StorePathHash>,
        source: &ByteSource,
        error: &ReadError,
    ) {
        let path = path_hash.map(tracing::field::display);
        // What names files is for those who ask for it.
        tracing::warn!(blob = %blob.fmt_short(), path, "dropped");
        tracing::debug!(blob = %blob.fmt_short(), %error, "why it was dropped");
        match (source, path_hash) {
            (ByteSource::Memory(_), _) => {
                if !self.inline().remove(blob) {
                    self.drop_blob(blob);
                }
            }
            (ByteSource::ByReference(_), Some(path_hash)) => {
                self.layouts().remove(path_hash);
                self.remove_path(path_hash, blob);
            }
            (ByteSource::File(_) | ByteSource::ByReference(_), _) => self.drop_blob(blob),
        }
    }

    pub(crate) fn remove_path(&self, path_hash: StorePathHash, blob: BlobHash) {
        match self
            .index
            .write_blocking(Change::RemovePath { path_hash, blob })
        {
            Ok(true) => self.files.remove_outboard(blob),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "a blob cannot be dropped"),
        }
    }

    fn drop_blob(&self, blob: BlobHash) {
        if let Err(error) = self.remove_blob(blob) {
            tracing::error!(%error, "a blob cannot be dropped");
        }
    }

    /// Removes a whole blob from the index, then its files.
    pub(crate) fn remove_blob(&self, blob: BlobHash) -> Result<(), StoreError> {
        let Some((record, _)) = self.index.blob(blob)? else {
            return Ok(());
        };
        self.index.write_blocking(Change::RemoveBlob { blob })?;
        if record.place == Place::File {
            self.files.remove_blob(blob, record.size);
        }
        self.files.remove_outboard(blob);
        self.space.remove(blob);
        self.observers.tell(blob);
        Ok(())
    }

    fn note_use(&self, blob: BlobHash) {
        if let Some(used_at) = self.space.used(blob) {
            let blobs = vec![(blob, used_at)];
            self.index.write(Change::Used { blobs });
        }
    }

    /// Makes room for `bytes` of a downloaded blob, and sets them aside for it. Blocks.
    ///
    /// What was not used for longest goes first; what is shared, and what is being received,
    /// stays, and what is shared does not count.
    pub(crate) fn make_room(&self, blob: BlobHash, bytes: u64) -> Result<(), StoreError> {
        let free = self.files.free_bytes();
        let free = free.map_err(|error| write_error(self.files.blobs_dir(), error))?;
        let quota = self.space.quota();
        // Most often there is room, whatever is pinned.
        if self.space.bytes_without(blob).saturating_add(bytes) <= quota && bytes <= free {
            self.space.put(blob, bytes, unix_now());
            return Ok(());
        }
        let others = self.space.oldest_first().into_iter();
        let mut others: Vec<_> = others
            .filter(|(other, _)| *other != blob && !self.is_pinned(*other))
            .collect();
        let taken: u64 = others.iter().map(|(_, bytes)| bytes).sum();
        let over_quota = taken.saturating_add(bytes).saturating_sub(quota);
        let to_free = over_quota.max(bytes.saturating_sub(free));
        others.retain(|(other, _)| {
            !self.downloads.is_live(*other) && !self.space.is_reserved(*other)
        });
        let removable: u64 = others.iter().map(|(_, bytes)| bytes).sum();
        // Nothing is removed for what will not fit.
        if removable < to_free {
            return Err(StoreError::NoSpace {
                bytes,
                reason: if over_quota > removable {
                    format!("of the quota of {quota}, {taken} are in use")
                } else {
                    format!("the disk has {free} to spare")
                },
            });
        }
        // A little more than needed, so that not every blob to come looks for room again.
        let to_free = if to_free > 0 {
            to_free.saturating_add(quota / limits::ROOM_AHEAD)
        } else {
            0
        };
        let mut freed = 0;
        for (other, other_bytes) in others {
            if freed >= to_free {
                break;
            }
            tracing::debug!(blob = %other.fmt_short(), "removed to make room");
            self.drop_partial(other);
            self.remove_blob(other)?;
            freed += other_bytes;
        }
        self.space.put(blob, bytes, unix_now());
        Ok(())
    }

    fn is_pinned(&self, blob: BlobHash) -> bool {
        let record = self.index.blob(blob).ok().flatten();
        record.is_some_and(|(record, _)| record.paths().any(|path| self.is_shared(path)))
    }

    /// The blobs in data files, each with what is known of its paths.
    pub(crate) fn file_infos(&self) -> Result<Vec<(BlobHash, PathInfo)>, StoreError> {
        let mut in_files = Vec::new();
        for (blob, _) in self.space.oldest_first() {
            if let Some((record, _)) = self.index.blob(blob)?
                && record.is_downloaded()
            {
                in_files.extend(record.paths().map(|path_hash| (blob, path_hash)));
            }
        }
        let path_hashes: Vec<_> = in_files.iter().map(|&(_, path_hash)| path_hash).collect();
        let records = self.index.paths(&path_hashes)?;
        Ok(in_files
            .into_iter()
            .zip(records)
            .filter_map(|((blob, _), record)| Some((blob, record?.info()?)))
            .collect())
    }

    /// Reads downloaded blobs from Nix's store from now on, where Nix has imported their path.
    pub(crate) fn adopt_imported(&self) -> Result<(), StoreError> {
        if self.database.source().is_none() {
            return Ok(());
        }
        for (blob, info) in self.file_infos()? {
            self.adopt_file(blob, &info)?;
        }
        for (blob, resting) in self.downloads.all_resting() {
            if let Some(info) = resting.info
                && self.is_imported(&info)?
            {
                self.drop_partial(blob);
            }
        }
        let held = self.inline().infos();
        for (blob, info) in held {
            self.adopt_inline(blob, &info)?;
        }
        Ok(())
    }

    /// As [`Inner::adopt_imported`], for one blob that was just kept.
    pub(crate) fn adopt_if_imported(
        &self,
        blob: BlobHash,
        info: &PathInfo,
    ) -> Result<(), StoreError> {
        if self.database.source().is_none() {
            return Ok(());
        }
        self.adopt_inline(blob, info)?;
        if self.space.has(blob) {
            self.adopt_file(blob, info)?;
        }
        Ok(())
    }

    fn adopt_file(&self, blob: BlobHash, info: &PathInfo) -> Result<(), StoreError> {
        if self.is_imported(info)? {
            // The outboard is where it is looked for before the data goes.
            self.files.adopt_outboard(blob, info.nar_size)?;
            self.index.write_blocking(Change::ByReference { blob })?;
            self.files.remove_blob(blob, info.nar_size);
            self.space.remove(blob);
        }
        Ok(())
    }

    fn adopt_inline(&self, blob: BlobHash, info: &PathInfo) -> Result<(), StoreError> {
        if !self.is_imported(info)? {
            return Ok(());
        }
        let Some(held) = self.inline().get(blob) else {
            return Ok(());
        };
        self.index.write_blocking(Change::PutBlob {
            blob,
            path: Some(Box::new(PathRecord::new(info, blob))),
            size: held.data.len() as u64,
            place: Place::ByReference,
            data: None,
            used_at: unix_now(),
            outboard: Some(held.outboard).filter(|outboard| {
                (1..=limits::MAX_INLINE_OUTBOARD).contains(&(outboard.len() as u64))
            }),
        })?;
        self.inline().remove(blob);
        Ok(())
    }

    fn is_imported(&self, info: &PathInfo) -> Result<bool, StoreError> {
        let valid = self.database.path_info(info.path_hash())?;
        Ok(valid.is_some_and(|valid| {
            valid.nar_hash == info.nar_hash && valid.nar_size == info.nar_size
        }))
    }
}
