//! What the index's records hold.

use std::time::{Duration, SystemTime};

use bao_tree::{ChunkNum, ChunkRanges};
use serde::{Deserialize, Serialize};

use crate::{
    BlobHash,
    nix::{NarHash, PathInfo, StorePath, StorePathHash},
};

/// A store path whose blob hash is known: what Nix recorded of it, and the blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathRecord {
    base_name: String,
    nar_hash: [u8; 32],
    nar_size: u64,
    references: Vec<String>,
    deriver: Option<String>,
    signatures: Vec<String>,
    content_address: Option<String>,
    registration_time: i64,
    blob: [u8; 32],
}

impl PathRecord {
    pub(crate) fn new(info: &PathInfo, blob: BlobHash) -> Self {
        Self {
            base_name: info.store_path.to_basename(),
            nar_hash: *info.nar_hash.as_bytes(),
            nar_size: info.nar_size,
            references: info.references.iter().map(StorePath::to_basename).collect(),
            deriver: info.deriver.as_ref().map(StorePath::to_basename),
            signatures: info.signatures.clone(),
            content_address: info.content_address.clone(),
            registration_time: info.registration_time,
            blob: *blob.as_bytes(),
        }
    }

    pub(crate) fn blob(&self) -> BlobHash {
        BlobHash::from_bytes(self.blob)
    }

    pub(crate) fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// The hash in the path's name; `None` if the name is none.
    pub(crate) fn path_hash(&self) -> Option<StorePathHash> {
        let store_path = StorePath::from_basename(self.base_name.as_bytes()).ok()?;
        Some(StorePathHash::from(&store_path))
    }

    pub(crate) fn nar_hash(&self) -> NarHash {
        NarHash::from_bytes(self.nar_hash)
    }

    /// The info as it was recorded; `None` if a name in it is none.
    pub(crate) fn info(&self) -> Option<PathInfo> {
        let store_path = |name: &String| StorePath::from_basename(name.as_bytes()).ok();
        Some(PathInfo {
            store_path: store_path(&self.base_name)?,
            nar_hash: self.nar_hash(),
            nar_size: self.nar_size,
            references: self
                .references
                .iter()
                .map(store_path)
                .collect::<Option<_>>()?,
            deriver: self.deriver.as_ref().and_then(store_path),
            signatures: self.signatures.clone(),
            content_address: self.content_address.clone(),
            registration_time: self.registration_time,
        })
    }
}

/// Which of the four kinds of source a complete blob has; the fourth is memory.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// The live files of a store path.
    ByReference,
    /// One data file.
    File,
    /// The index itself.
    Index,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    /// Length in bytes.
    pub size: u64,
    /// Where they are read from.
    pub place: Place,
    /// When it was last used, in seconds of Unix time; kept for what takes space of its own.
    pub used_at: u64,
    /// The store paths with these bytes: several where only names differ.
    paths: Vec<[u8; 20]>,
}

impl BlobRecord {
    pub(crate) fn new(size: u64, place: Place, used_at: u64) -> Self {
        Self {
            size,
            place,
            used_at,
            paths: Vec::new(),
        }
    }

    /// Whether it takes space of its own, beside Nix's store.
    pub(crate) fn is_downloaded(&self) -> bool {
        self.place != Place::ByReference
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = StorePathHash> + '_ {
        self.paths.iter().copied().map(StorePathHash::from_bytes)
    }

    pub(crate) fn add_path(&mut self, path_hash: StorePathHash) {
        if !self.paths.contains(path_hash.as_bytes()) {
            self.paths.push(*path_hash.as_bytes());
        }
    }

    pub(crate) fn remove_path(&mut self, path_hash: StorePathHash) {
        self.paths.retain(|path| path != path_hash.as_bytes());
    }
}

/// A download that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialRecord {
    /// What it is meant to be, where that is known.
    path: Option<PathRecord>,
    /// Boundaries of the chunk ranges that are held, synced before this was written.
    held: Vec<u64>,
    /// When it was last used, in seconds of Unix time.
    pub used_at: u64,
}

impl PartialRecord {
    pub(crate) fn new(
        info: Option<&PathInfo>,
        blob: BlobHash,
        held: &ChunkRanges,
        used_at: u64,
    ) -> Self {
        Self {
            path: info.map(|info| PathRecord::new(info, blob)),
            held: held.boundaries().iter().map(|chunk| chunk.0).collect(),
            used_at,
        }
    }

    pub(crate) fn info(&self) -> Option<PathInfo> {
        self.path.as_ref().and_then(PathRecord::info)
    }

    /// The chunks held; none if what was written is no set of ranges.
    pub(crate) fn held(&self) -> ChunkRanges {
        let boundaries = self.held.iter().copied().map(ChunkNum).collect();
        ChunkRanges::new(boundaries).unwrap_or_else(ChunkRanges::empty)
    }
}

/// A path that a person shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareRecord {
    base_name: String,
    shared_at: u64,
    closure: Vec<[u8; 20]>,
}

impl ShareRecord {
    pub(crate) fn new(root: &StorePath, shared_at: SystemTime, closure: &[StorePathHash]) -> Self {
        let since = shared_at.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            base_name: root.to_basename(),
            shared_at: since.unwrap_or_default().as_secs(),
            closure: closure
                .iter()
                .map(|path_hash| *path_hash.as_bytes())
                .collect(),
        }
    }

    pub(crate) fn root(&self) -> Option<StorePath> {
        StorePath::from_basename(self.base_name.as_bytes()).ok()
    }

    pub(crate) fn shared_at(&self) -> SystemTime {
        let since = Duration::from_secs(self.shared_at);
        SystemTime::UNIX_EPOCH
            .checked_add(since)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub(crate) fn closure(&self) -> Vec<StorePathHash> {
        self.closure
            .iter()
            .copied()
            .map(StorePathHash::from_bytes)
            .collect()
    }
}
