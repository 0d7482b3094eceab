//! Small downloaded NARs, in memory until Nix has imported them.

use std::collections::HashMap;

use bytes::Bytes;
use lru::LruCache;

use crate::{
    BlobHash,
    nix::{PathInfo, StorePathHash},
};

/// A NAR in memory.
#[derive(Debug, Clone)]
pub(crate) struct InlineBlob {
    pub info: PathInfo,
    pub data: Bytes,
    pub outboard: Bytes,
}

/// The NARs used last, up to a bound of bytes.
#[derive(Debug)]
pub(crate) struct InlineCache {
    blobs: LruCache<BlobHash, InlineBlob>,
    by_path: HashMap<StorePathHash, BlobHash>,
    bytes: u64,
    max_bytes: u64,
}

impl InlineCache {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self {
            blobs: LruCache::unbounded(),
            by_path: HashMap::new(),
            bytes: 0,
            max_bytes,
        }
    }

    pub(crate) fn insert(&mut self, hash: BlobHash, blob: InlineBlob) {
        self.remove(hash);
        self.bytes += weight(&blob);
        self.by_path.insert(blob.info.path_hash(), hash);
        self.blobs.put(hash, blob);
        while self.bytes > self.max_bytes && self.blobs.len() > 1 {
            let Some((&oldest, _)) = self.blobs.peek_lru() else {
                break;
            };
            self.remove(oldest);
        }
    }

    pub(crate) fn get(&mut self, hash: BlobHash) -> Option<InlineBlob> {
        self.blobs.get(&hash).cloned()
    }

    pub(crate) fn of_path(&self, path_hash: StorePathHash) -> Option<(BlobHash, PathInfo)> {
        let hash = *self.by_path.get(&path_hash)?;
        Some((hash, self.blobs.peek(&hash)?.info.clone()))
    }

    pub(crate) fn remove(&mut self, hash: BlobHash) -> bool {
        let Some(blob) = self.blobs.pop(&hash) else {
            return false;
        };
        self.bytes -= weight(&blob);
        let path_hash = blob.info.path_hash();
        if self.by_path.get(&path_hash) == Some(&hash) {
            self.by_path.remove(&path_hash);
        }
        true
    }

    pub(crate) fn infos(&self) -> Vec<(BlobHash, PathInfo)> {
        let blobs = self.blobs.iter();
        blobs
            .map(|(hash, blob)| (*hash, blob.info.clone()))
            .collect()
    }

    /// Blobs held, and their bytes.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.blobs.len() as u64, self.bytes)
    }
}

fn weight(blob: &InlineBlob) -> u64 {
    (blob.data.len() + blob.outboard.len()) as u64
}
