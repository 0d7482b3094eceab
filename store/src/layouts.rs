//! Layouts of the paths read lately, so that a range does not walk a tree.

use std::sync::Arc;

use lru::LruCache;

use crate::{
    nar::Layout,
    nix::{NarHash, StorePathHash},
};

/// Layouts used last, up to a bound of bytes; the last one is kept whatever its size.
#[derive(Debug)]
pub(crate) struct LayoutCache {
    layouts: LruCache<StorePathHash, (NarHash, Arc<Layout>)>,
    bytes: usize,
    max_bytes: usize,
}

impl LayoutCache {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            layouts: LruCache::unbounded(),
            bytes: 0,
            max_bytes,
        }
    }

    /// A path's layout is right as long as its NAR hash is.
    pub(crate) fn get(
        &mut self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
    ) -> Option<Arc<Layout>> {
        let (cached_hash, layout) = self.layouts.get(&path_hash)?;
        (*cached_hash == nar_hash).then(|| layout.clone())
    }

    pub(crate) fn insert(
        &mut self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        layout: Arc<Layout>,
    ) {
        self.remove(path_hash);
        self.bytes += layout.memory();
        self.layouts.put(path_hash, (nar_hash, layout));
        while self.bytes > self.max_bytes && self.layouts.len() > 1 {
            if let Some((_, (_, layout))) = self.layouts.pop_lru() {
                self.bytes -= layout.memory();
            }
        }
    }

    pub(crate) fn remove(&mut self, path_hash: StorePathHash) {
        if let Some((_, layout)) = self.layouts.pop(&path_hash) {
            self.bytes -= layout.memory();
        }
    }
}
