//! Which NARs are held, and in which state.

use super::{Inner, Store, blocking};
use crate::{
    BlobHash, StoreError,
    index::Place,
    nix::{PathInfo, StorePathHash},
};

/// A NAR that this machine holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalNar {
    /// What is registered of its path.
    pub info: PathInfo,
    /// Whether its blob hash is known.
    pub state: NarState,
    /// Where its bytes are.
    pub source: Source,
}

/// Whether the blob hash of a NAR is known.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NarState {
    /// Nobody has asked for it yet.
    Unhashed,
    /// It is being computed, or waits for its turn.
    Hashing {
        /// Bytes hashed.
        done: u64,
        /// Bytes of the NAR.
        total: u64,
    },
    /// It is known, and SHA-256 of the same bytes was the NAR hash.
    Ready(BlobHash),
}

/// Where the bytes of a NAR are.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// In Nix's store.
    ByReference,
    /// In a data file.
    File,
    /// In memory or in the index.
    Inline,
    /// A part of it in a data file.
    Partial,
}

/// What a store holds.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Paths whose blob hash is in the index.
    pub hashed: u64,
    /// Blobs read from Nix's store.
    pub by_reference: u64,
    /// Blobs in data files.
    pub files: u64,
    /// Blobs in the index.
    pub in_index: u64,
    /// Downloads that are not whole and that nobody works on.
    pub partial: u64,
    /// Bytes that downloaded blobs may take.
    pub quota_bytes: u64,
    /// Blobs in memory.
    pub inline: u64,
    /// Bytes of the blobs in memory.
    pub inline_bytes: u64,
    /// Bytes of data files on disk.
    pub blob_bytes: u64,
    /// Bytes of outboard files on disk, those in the index not counted.
    pub outboard_bytes: u64,
    /// Bytes of the index on disk.
    pub index_bytes: u64,
    /// Shares.
    pub shares: u64,
}

impl Store {
    /// Returns the NAR of a path, if it is held: valid in Nix's store, or as a blob.
    ///
    /// A path whose files are known not to give the NAR that Nix registered is not held.
    ///
    /// # Errors
    /// [`StoreError`] if the database or the index can't be read.
    pub async fn nar(&self, path_hash: StorePathHash) -> Result<Option<LocalNar>, StoreError> {
        Ok(self.nars(vec![path_hash]).await?.pop().flatten())
    }

    /// Returns the NAR of each path, in the order asked.
    ///
    /// # Errors
    /// As [`Store::nar`].
    pub async fn nars(
        &self,
        path_hashes: Vec<StorePathHash>,
    ) -> Result<Vec<Option<LocalNar>>, StoreError> {
        blocking(&self.0, move |inner| inner.nars(&path_hashes)).await
    }

    /// Returns the NAR of a path of which a part is held, with its blob hash as
    /// [`NarState::Ready`]; [`Blob::held`](crate::Blob::held) tells which part.
    pub async fn partial_nar(&self, path_hash: StorePathHash) -> Option<LocalNar> {
        let partial = blocking(&self.0, move |inner| {
            Ok::<_, StoreError>(inner.partial_of_path(path_hash))
        });
        let (blob, info) = partial.await.ok().flatten()?;
        Some(LocalNar {
            info,
            state: NarState::Ready(blob),
            source: Source::Partial,
        })
    }

    /// Returns the NAR of a path that is on its way, even if nothing of it has come yet, as
    /// [`Store::partial_nar`] does; asks neither disk nor index.
    #[must_use]
    pub fn coming_nar(&self, path_hash: StorePathHash) -> Option<LocalNar> {
        let downloads = &self.0.downloads;
        let blob = downloads.of_path(path_hash)?;
        Some(LocalNar {
            info: downloads.info_of(blob)?,
            state: NarState::Ready(blob),
            source: Source::Partial,
        })
    }

    /// Returns what a blob that is on its way is meant to be.
    #[must_use]
    pub fn coming_blob(&self, blob: BlobHash) -> Option<PathInfo> {
        self.0.downloads.info_of(blob)
    }

    /// Counts what is held.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be read.
    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        blocking(&self.0, |inner| inner.stats()).await
    }
}

impl Inner {
    pub(crate) fn local_nar(
        &self,
        path_hash: StorePathHash,
    ) -> Result<Option<LocalNar>, StoreError> {
        Ok(self.nars(&[path_hash])?.pop().flatten())
    }

    fn nars(&self, path_hashes: &[StorePathHash]) -> Result<Vec<Option<LocalNar>>, StoreError> {
        let infos = self.database.path_infos(path_hashes)?;
        let records = self.index.paths(path_hashes)?;
        path_hashes
            .iter()
            .zip(infos.into_iter().zip(records))
            .map(|(&path_hash, (info, record))| {
                let Some(info) = info else {
                    let held = self.blob_only(path_hash)?;
                    return Ok(held.map(|(info, blob, source)| LocalNar {
                        info,
                        state: NarState::Ready(blob),
                        source,
                    }));
                };
                let known = record
                    .filter(|record| record.nar_hash() == info.nar_hash)
                    .map(|record| record.blob());
                let inline = || {
                    let (blob, held) = self.inline().of_path(path_hash)?;
                    (held.nar_hash == info.nar_hash).then_some(blob)
                };
                let state = match known.or_else(inline) {
                    Some(blob) => NarState::Ready(blob),
                    None if self.jobs.is_known_wrong(&info, self) => return Ok(None),
                    None => self.jobs.state(path_hash),
                };
                Ok(Some(LocalNar {
                    info,
                    state,
                    source: Source::ByReference,
                }))
            })
            .collect()
    }

    /// The blob of a path that Nix's store does not have.
    pub(crate) fn blob_only(
        &self,
        path_hash: StorePathHash,
    ) -> Result<Option<(PathInfo, BlobHash, Source)>, StoreError> {
        if let Some((blob, info)) = self.inline().of_path(path_hash) {
            return Ok(Some((info, blob, Source::Inline)));
        }
        let Some(record) = self.index.path(path_hash)? else {
            return Ok(None);
        };
        let blob = record.blob();
        let source = match self.index.blob(blob)?.map(|(held, _)| held.place) {
            Some(Place::File) => Source::File,
            Some(Place::Index) => Source::Inline,
            Some(Place::ByReference) | None => return Ok(None),
        };
        Ok(record.info().map(|info| (info, blob, source)))
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        let (hashed, blobs) = self.index.counts()?;
        let (mut files, mut in_index) = (0, 0);
        self.index.for_each_blob(|_, record| match record.place {
            Place::File => files += 1,
            Place::Index => in_index += 1,
            Place::ByReference => {}
        })?;
        let (inline, inline_bytes) = self.inline().counts();
        let (outboard_bytes, blob_bytes) = self.files.bytes();
        Ok(StoreStats {
            hashed,
            by_reference: blobs.saturating_sub(files + in_index),
            files,
            in_index,
            partial: self.downloads.all_resting().len() as u64,
            quota_bytes: self.space.quota(),
            inline,
            inline_bytes,
            blob_bytes,
            outboard_bytes,
            index_bytes: self.index.bytes(),
            shares: self.index.shares()?.len() as u64,
        })
    }
}
