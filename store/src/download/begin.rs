//! How a download starts, or goes on where another one ended.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64},
};

use bao_tree::ChunkRanges;
use tokio::sync::watch;

use super::{Download, Inflight, area::Area, follow, keep, recent::Recent};
use crate::{
    BlobHash, StoreError,
    files::write_error,
    index::{Change, PathRecord},
    limits,
    nix::PathInfo,
    outboard,
    space::unix_now,
    store::{Inner, Store, blocking},
};

impl Store {
    /// Starts or continues to receive the NAR of `info`, which somebody claims to be `blob`.
    ///
    /// A download of the same blob under way is joined. What rests of an earlier one is there at
    /// once, or after as long as it takes to read it where the last stop was not a clean one.
    ///
    /// # Errors
    /// [`StoreError::Write`] if its files can't be made, [`StoreError::NoSpace`] where quota or
    /// disk leave no room, [`StoreError::SizeConflict`] if the same blob is being received at
    /// another size.
    pub async fn begin_download(
        &self,
        info: PathInfo,
        blob: BlobHash,
    ) -> Result<Download, StoreError> {
        self.begin(blob, info.nar_size, Some(info)).await
    }

    /// Starts or continues to receive a blob that is no known NAR.
    ///
    /// It is whole once every chunk has arrived.
    ///
    /// # Errors
    /// As [`Store::begin_download`].
    pub async fn begin_import(&self, blob: BlobHash, size: u64) -> Result<Download, StoreError> {
        self.begin(blob, size, None).await
    }

    async fn begin(
        &self,
        blob: BlobHash,
        size: u64,
        info: Option<PathInfo>,
    ) -> Result<Download, StoreError> {
        let inner = &self.0;
        if size > limits::MAX_INLINE_BLOB || inner.space.has(blob) {
            let known = info.clone();
            blocking(inner, move |inner| inner.refuse_if_held(blob, known)).await?;
        }
        let (inflight, is_new) = if size <= limits::MAX_INLINE_BLOB {
            inner.join_or_start(blob, size)?
        } else {
            blocking(inner, move |inner| {
                if !inner.downloads.is_live(blob) {
                    inner.check_resting(blob);
                    inner.make_room(blob, size + outboard::tree(size).outboard_size())?;
                }
                inner.join_or_start(blob, size)
            })
            .await?
        };
        if inflight.tree.size() != size {
            return Err(StoreError::SizeConflict { blob_hash: blob });
        }
        let mut set = false;
        if let Some(info) = info {
            inflight.info.get_or_init(|| {
                set = true;
                info
            });
        }
        if set {
            let arrived = inflight.watermark.subscribe();
            inner
                .runtime()
                .spawn(follow::follow(Arc::downgrade(&inflight), arrived));
        }
        if is_new && inflight.is_in_file() {
            inner.runtime().spawn(keep::keep_checkpoints(
                Arc::downgrade(&inflight),
                inflight.checkpoint.clone(),
            ));
        }
        Ok(Download(inflight))
    }
}

impl Inner {
    /// A blob that is held is not fetched over its own file; where it is the NAR of another path
    /// with the same bytes, it is this one's too from now on.
    fn refuse_if_held(&self, blob: BlobHash, info: Option<PathInfo>) -> Result<(), StoreError> {
        let Some((record, _)) = self.index.blob(blob)? else {
            return Ok(());
        };
        if !record.is_downloaded() {
            return Ok(());
        }
        if let Some(info) = info {
            self.add_path(blob, &info)?;
        }
        Err(StoreError::AlreadyHeld { blob_hash: blob })
    }

    /// Notes that a downloaded blob is the NAR of a path too, if it is. Blocks.
    pub(super) fn add_path(&self, blob: BlobHash, info: &PathInfo) -> Result<(), StoreError> {
        let Some((record, _)) = self.index.blob(blob)? else {
            return Ok(());
        };
        if !record.is_downloaded() || record.paths().any(|path| path == info.path_hash()) {
            return Ok(());
        }
        let mut nar_hash = None;
        for path_hash in record.paths() {
            nar_hash = self.index.path(path_hash)?.map(|path| path.nar_hash());
        }
        if nar_hash == Some(info.nar_hash) {
            self.index.write_blocking(Change::PutBlob {
                blob,
                path: Some(Box::new(PathRecord::new(info, blob))),
                size: record.size,
                place: record.place,
                outboard: None,
                data: None,
                used_at: unix_now(),
            })?;
        }
        Ok(())
    }

    fn join_or_start(
        self: &Arc<Self>,
        blob: BlobHash,
        size: u64,
    ) -> Result<(Arc<Inflight>, bool), StoreError> {
        self.downloads.join_or_start(blob, |resting| {
            // Kept since it was looked for: a download that ended is in the index before.
            let held = self.index.blob(blob)?;
            if held.is_some_and(|(record, _)| record.is_downloaded()) {
                return Err(StoreError::AlreadyHeld { blob_hash: blob });
            }
            let tree = outboard::tree(size);
            let (data, outboard, have) = if size <= limits::MAX_INLINE_BLOB {
                (
                    Area::in_memory(size),
                    Area::in_memory(tree.outboard_size()),
                    ChunkRanges::empty(),
                )
            } else {
                // A blob has one size: another one was somebody's lie.
                if let Some(other) = resting.as_ref().filter(|resting| resting.size != size) {
                    self.files.remove_blob(blob, other.size);
                }
                let resting = resting.filter(|resting| resting.size == size);
                let opened = self.files.open_partial(blob, size, tree.outboard_size());
                let (data, outboard) =
                    opened.map_err(|error| write_error(self.files.blobs_dir(), error))?;
                (
                    Area::in_file(data, size),
                    Area::in_file(outboard, tree.outboard_size()),
                    resting
                        .and_then(|resting| resting.held)
                        .unwrap_or_else(ChunkRanges::empty),
                )
            };
            let inflight = Inflight {
                store: self.clone(),
                blob,
                tree,
                info: OnceLock::new(),
                data,
                outboard,
                recent: Recent::new(self.recent.clone()),
                hashed: AtomicU64::new(0),
                read: AtomicU64::new(0),
                have: Mutex::new(ChunkRanges::empty()),
                watermark: watch::Sender::new(0),
                verdict: watch::Sender::new(None),
                unsynced: AtomicU64::new(0),
                checkpoint: Arc::default(),
                ended: AtomicBool::new(false),
                keeping: Mutex::default(),
            };
            inflight.add(&have);
            Ok(Arc::new(inflight))
        })
    }
}
