//! What Nix's database says is valid.

use std::collections::HashSet;

use super::{Inner, Store, blocking};
use crate::{
    ClosureError, DatabaseError, PathMarker, StoreError, limits,
    nix::{PathInfo, StorePathHash},
};

impl Store {
    /// Returns what Nix registered of a path; `None` if it is not valid in Nix's store.
    ///
    /// Without a database no path is valid.
    ///
    /// # Errors
    /// [`DatabaseError`] if the database can't be read.
    pub async fn path_info(
        &self,
        path_hash: StorePathHash,
    ) -> Result<Option<PathInfo>, DatabaseError> {
        blocking(&self.0, move |inner| inner.database.path_info(path_hash)).await
    }

    /// Returns what Nix registered of each path, in the order asked.
    ///
    /// # Errors
    /// As [`Store::path_info`].
    pub async fn path_infos(
        &self,
        path_hashes: Vec<StorePathHash>,
    ) -> Result<Vec<Option<PathInfo>>, DatabaseError> {
        blocking(&self.0, move |inner| {
            inner.database.path_infos(&path_hashes)
        })
        .await
    }

    /// Visits all paths that Nix has, then those held only as blobs, until `visit` returns false.
    ///
    /// Returns how many were visited. Runs on a blocking thread, one path in memory at a time.
    ///
    /// # Errors
    /// [`DatabaseError`] if the database can't be read to its end.
    pub async fn for_each_path<F>(&self, mut visit: F) -> Result<u64, DatabaseError>
    where
        F: FnMut(PathInfo) -> bool + Send + 'static,
    {
        blocking(&self.0, move |inner| inner.for_each_path(&mut visit)).await
    }

    /// Returns what tells [`Store::added_since`] which paths are new later.
    ///
    /// `None` where Nix's database is not there, or can't tell.
    pub async fn path_marker(&self) -> Option<PathMarker> {
        let marker = blocking(&self.0, |inner| match inner.database.source() {
            Some(source) => source.marker(),
            None => Ok(None),
        });
        marker.await.unwrap_or_default()
    }

    /// Returns the paths that became valid since `marker`, if nothing else changed.
    ///
    /// `None` where paths went or were signed, or so many came that looking at all is as good.
    pub async fn added_since(&self, marker: PathMarker) -> Option<(Vec<PathInfo>, PathMarker)> {
        let added = blocking(&self.0, move |inner| match inner.database.source() {
            Some(source) => source.added_since(marker),
            None => Ok(None),
        });
        added.await.unwrap_or_default()
    }

    /// Lets go of the hashes of paths that Nix no longer has; returns how many there were.
    ///
    /// # Errors
    /// [`StoreError`] if the database or the index can't be read or written.
    pub async fn remove_stale(&self) -> Result<u64, StoreError> {
        blocking(&self.0, |inner| inner.remove_stale()).await
    }

    /// Returns what is registered of `roots` and of all that they reach, references first.
    ///
    /// Paths held only as blobs count.
    ///
    /// # Errors
    /// [`ClosureError::NotValid`] for the first path that is not there.
    pub async fn closure(&self, roots: Vec<StorePathHash>) -> Result<Vec<PathInfo>, ClosureError> {
        blocking(&self.0, move |inner| inner.closure(roots)).await
    }
}

impl Inner {
    fn for_each_path(&self, visit: &mut dyn FnMut(PathInfo) -> bool) -> Result<u64, DatabaseError> {
        let mut more = true;
        let mut visited = 0;
        if let Some(source) = self.database.source() {
            visited = source.for_each_path(&mut |info| {
                more = visit(info);
                more
            })?;
        }
        for info in self.blob_only_infos()? {
            if !more {
                break;
            }
            visited += 1;
            more = visit(info);
        }
        Ok(visited)
    }

    /// The paths whose NAR is held as a blob and that are not valid in Nix's store.
    fn blob_only_infos(&self) -> Result<Vec<PathInfo>, DatabaseError> {
        let mut infos: Vec<_> = self.inline().infos();
        let in_files = self.file_infos().unwrap_or_else(|error| {
            tracing::error!(%error, "downloaded blobs cannot be listed");
            Vec::new()
        });
        infos.extend(in_files);
        let mut seen = HashSet::new();
        infos.retain(|(_, info)| seen.insert(info.path_hash()));
        let path_hashes: Vec<_> = infos.iter().map(|(_, info)| info.path_hash()).collect();
        let valid = self.database.path_infos(&path_hashes)?;
        let infos = infos.into_iter().zip(valid);
        Ok(infos
            .filter(|(_, valid)| valid.is_none())
            .map(|((_, info), _)| info)
            .collect())
    }

    /// What is known of a path that is valid in Nix's store or held as a blob.
    fn any_info(&self, path_hash: StorePathHash) -> Result<Option<PathInfo>, StoreError> {
        if let Some(info) = self.database.path_info(path_hash)? {
            return Ok(Some(info));
        }
        Ok(self.blob_only(path_hash)?.map(|(info, ..)| info))
    }

    fn remove_stale(&self) -> Result<u64, StoreError> {
        if self.database.source().is_none() {
            return Ok(0);
        }
        let mut by_reference = Vec::new();
        self.index.for_each_blob(|blob, record| {
            if !record.is_downloaded() {
                by_reference.extend(record.paths().map(|path_hash| (path_hash, blob)));
            }
        })?;
        let mut removed = 0;
        for paths in by_reference.chunks(limits::INDEX_LOOKUP) {
            let path_hashes: Vec<_> = paths.iter().map(|&(path_hash, _)| path_hash).collect();
            let valid = self.database.path_infos(&path_hashes)?;
            for (&(path_hash, blob), valid) in paths.iter().zip(valid) {
                // A database that went meanwhile says of nothing that it is valid.
                if valid.is_none() && self.database.source().is_some() {
                    self.remove_path(path_hash, blob);
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn closure(&self, roots: Vec<StorePathHash>) -> Result<Vec<PathInfo>, ClosureError> {
        /// A path to be looked at, or one whose references have all been.
        enum Step {
            Enter(StorePathHash),
            Leave(Box<PathInfo>),
        }
        let mut entered = HashSet::new();
        let mut closure = Vec::new();
        let mut steps: Vec<_> = roots.into_iter().rev().map(Step::Enter).collect();
        while let Some(step) = steps.pop() {
            match step {
                Step::Leave(info) => closure.push(*info),
                Step::Enter(path_hash) => {
                    if !entered.insert(path_hash) {
                        continue;
                    }
                    let info = self
                        .any_info(path_hash)?
                        .ok_or(ClosureError::NotValid { path_hash })?;
                    let references: Vec<_> = info
                        .references
                        .iter()
                        .map(StorePathHash::from)
                        .filter(|reference| !entered.contains(reference))
                        .collect();
                    steps.push(Step::Leave(Box::new(info)));
                    steps.extend(references.into_iter().map(Step::Enter));
                }
            }
        }
        Ok(closure)
    }
}
