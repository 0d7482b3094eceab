//! What a person shared.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::SystemTime,
};

use super::{Inner, Store, blocking};
use crate::{
    StoreError,
    index::{Change, ShareRecord},
    nix::{StorePath, StorePathHash},
};

/// A path that a person shared, with the closure they meant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// The path.
    pub store_path: StorePath,
    /// When, to the second.
    pub shared_at: SystemTime,
    /// Everything shared with it, itself included.
    pub closure: Vec<StorePathHash>,
}

impl Store {
    /// Keeps that a person shared `root` and with it `closure`; a former share of it is replaced.
    ///
    /// On disk when it returns.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be written.
    pub async fn add_share(
        &self,
        root: StorePath,
        closure: Vec<StorePathHash>,
    ) -> Result<(), StoreError> {
        blocking(&self.0, move |inner| {
            let share = ShareRecord::new(&root, SystemTime::now(), &closure);
            let root = StorePathHash::from(&root);
            inner
                .index
                .write_blocking(Change::PutShare { root, share })?;
            inner.reload_shares()
        })
        .await
    }

    /// Takes a share back; returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be written.
    pub async fn remove_share(&self, root: StorePathHash) -> Result<bool, StoreError> {
        blocking(&self.0, move |inner| {
            let removed = inner.index.write_blocking(Change::RemoveShare { root })?;
            inner.reload_shares()?;
            Ok(removed)
        })
        .await
    }

    /// Lists all shares.
    ///
    /// # Errors
    /// [`StoreError`] if the index can't be read.
    pub async fn shares(&self) -> Result<Vec<Share>, StoreError> {
        blocking(&self.0, |inner| {
            let shares = inner.index.shares()?.into_iter();
            Ok(shares
                .filter_map(|share| {
                    Some(Share {
                        store_path: share.root()?,
                        shared_at: share.shared_at(),
                        closure: share.closure(),
                    })
                })
                .collect())
        })
        .await
    }

    /// Tells whether a path is part of any share. From memory.
    #[must_use]
    pub fn is_shared(&self, path_hash: StorePathHash) -> bool {
        self.0.is_shared(path_hash)
    }
}

impl Store {
    /// Tells in how many shares a path is. From memory.
    #[must_use]
    pub fn share_count(&self, path_hash: StorePathHash) -> usize {
        let shared = self.0.shared.read().unwrap_or_else(PoisonError::into_inner);
        shared.get(&path_hash).copied().unwrap_or_default()
    }
}

impl Inner {
    pub(super) fn is_shared(&self, path_hash: StorePathHash) -> bool {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        shared.contains_key(&path_hash)
    }

    fn reload_shares(&self) -> Result<(), StoreError> {
        // Read under the lock: of two changes at once the later one is what stays.
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        *shared = count(&self.index.shares()?);
        Ok(())
    }
}

/// Counts in how many shares each path is.
pub(super) fn count(shares: &[ShareRecord]) -> HashMap<StorePathHash, usize> {
    let mut counts = HashMap::new();
    for share in shares {
        let mut members: HashSet<_> = share.closure().into_iter().collect();
        members.extend(share.root().as_ref().map(StorePathHash::from));
        for member in members {
            *counts.entry(member).or_default() += 1;
        }
    }
    counts
}
