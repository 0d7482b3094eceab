//! A blob on its way from peers: written in any order, read in order, checked as a whole.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{Leaf, Parent},
};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    Blob, BlobHash, OpenBlobError, StoreError, VerifyError, bao,
    downloads::{OpenPartial, Resting},
    files::write_error,
    index::{Change, PartialRecord, PathRecord, Place},
    inline::InlineBlob,
    limits,
    nix::{NarHash, PathInfo},
    outboard::{self, PAIR, join_pair},
    space::unix_now,
    store::{Inner, Store},
};

mod area;

use area::Area;

/// A download; clones share it.
///
/// Up to 4 MiB it is held in memory, above in files, which another download of the same blob
/// continues: after the last clone went, after a restart, after a crash. Many may write and many
/// may read at once.
#[derive(Debug, Clone)]
pub struct Download(Arc<Inflight>);

#[derive(Debug)]
pub(crate) struct Inflight {
    store: Arc<Inner>,
    blob: BlobHash,
    tree: BaoTree,
    /// What it is meant to be; a blob that is fetched by its hash alone is meant to be nothing.
    info: OnceLock<PathInfo>,
    data: Area,
    outboard: Area,
    have: Mutex<ChunkRanges>,
    watermark: watch::Sender<u64>,
    verdict: watch::Sender<Option<Result<(), VerifyError>>>,
    /// Bytes in files that were written since the last checkpoint.
    unsynced: AtomicU64,
    checkpoint: Arc<Notify>,
    /// Kept or given up: nothing rests of it.
    ended: AtomicBool,
    /// Held by whoever keeps it.
    keeping: Mutex<()>,
}

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
            super::store::blocking(inner, move |inner| inner.refuse_if_held(blob, known)).await?;
        }
        let (inflight, is_new) = if size <= limits::MAX_INLINE_BLOB {
            inner.join_or_start(blob, size)?
        } else {
            super::store::blocking(inner, move |inner| {
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
                .spawn(follow(Arc::downgrade(&inflight), arrived));
        }
        if is_new && inflight.is_in_file() {
            inner.runtime().spawn(keep_checkpoints(
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
        let mut nar_hash = None;
        for path_hash in record.paths() {
            nar_hash = self.index.path(path_hash)?.map(|path| path.nar_hash());
        }
        if let Some(info) = info.filter(|info| nar_hash == Some(info.nar_hash)) {
            self.index.write_blocking(Change::PutBlob {
                blob,
                path: Some(Box::new(PathRecord::new(&info, blob))),
                size: record.size,
                place: record.place,
                outboard: None,
                data: None,
                used_at: unix_now(),
            })?;
        }
        Err(StoreError::AlreadyHeld { blob_hash: blob })
    }

    fn join_or_start(
        self: &Arc<Self>,
        blob: BlobHash,
        size: u64,
    ) -> Result<(Arc<Inflight>, bool), StoreError> {
        self.downloads.join_or_start(blob, |resting| {
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

impl Download {
    /// Length of the blob in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.tree.size()
    }

    /// The blob hash that is claimed for it.
    #[must_use]
    pub fn blob_hash(&self) -> BlobHash {
        self.0.blob
    }

    /// Writes hash pairs and leaves that the caller's decoder has verified against the blob hash.
    ///
    /// Writing the same again changes nothing. **Blocks**: for a blocking thread.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what lies outside of the blob; what the disk says; and
    /// [`io::ErrorKind::NotFound`] after [`Download::discard`].
    pub fn write(&self, parents: &[Parent], leaves: &[Leaf]) -> io::Result<()> {
        let inflight = &*self.0;
        inflight.write_parents(parents)?;
        let mut written = ChunkRanges::empty();
        let mut rest = leaves;
        while let Some(first) = rest.first() {
            let mut end = first.offset;
            let run = rest
                .iter()
                .take_while(|leaf| {
                    let adjacent = leaf.offset == end;
                    end = end.saturating_add(leaf.data.len() as u64);
                    adjacent
                })
                .count();
            let (together, others) = rest.split_at(run);
            rest = others;
            written |= inflight.write_run(first.offset, together)?;
        }
        inflight.add(&written);
        if inflight.is_in_file() {
            let bytes = leaves.iter().map(|leaf| leaf.data.len() as u64).sum();
            let before = inflight.unsynced.fetch_add(bytes, Ordering::Relaxed);
            if before + bytes >= limits::CHECKPOINT_BYTES {
                inflight.checkpoint.notify_one();
            }
        }
        Ok(())
    }

    /// Returns the chunks that are there.
    #[must_use]
    pub fn held(&self) -> ChunkRanges {
        self.0.have().clone()
    }

    /// Returns the chunks that have not been written yet.
    #[must_use]
    pub fn missing(&self) -> ChunkRanges {
        let all = ChunkRanges::from(ChunkNum(0)..self.0.tree.chunks());
        &all - &*self.0.have()
    }

    /// Returns how many bytes from the start are there without a gap.
    #[must_use]
    pub fn watermark(&self) -> watch::Receiver<u64> {
        self.0.watermark.subscribe()
    }

    /// Reads what lies below the watermark. **Blocks**.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] above the watermark.
    pub fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start > range.end || range.end > *self.0.watermark.borrow() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.0.data.read(range)
    }

    /// Waits until SHA-256 of the whole is known; of a blob that is no known NAR, until it is whole.
    ///
    /// The bytes are hashed behind the watermark, as they arrive, so this ends soon after the
    /// last of them. Cancel safe.
    ///
    /// # Errors
    /// [`VerifyError::Mismatch`] if it is not the NAR hash: whoever claimed the blob hash lied.
    pub async fn verify(&self) -> Result<(), VerifyError> {
        if self.0.info().is_none() {
            let size = self.size();
            let mut watermark = self.watermark();
            return match watermark.wait_for(|arrived| *arrived == size).await {
                Ok(_) if !self.0.ended.load(Ordering::Acquire) => Ok(()),
                _ => Err(VerifyError::Discarded),
            };
        }
        let mut verdict = self.0.verdict.subscribe();
        let known = verdict.wait_for(Option::is_some).await;
        match known.map(|verdict| verdict.clone()) {
            Ok(Some(verdict)) => verdict,
            Ok(None) | Err(_) => Err(VerifyError::Discarded),
        }
    }

    /// Keeps a verified download: in memory until Nix imports it, else durably.
    ///
    /// What is kept durably is synced, and the index committed, when this returns.
    ///
    /// # Errors
    /// [`StoreError::NotVerified`] unless [`Download::verify`] said yes.
    pub async fn commit(&self) -> Result<Blob, StoreError> {
        let inflight = self.0.clone();
        let committed = spawn_blocking(move || inflight.commit());
        committed.await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Gives the download up and removes what there is of it.
    pub async fn discard(&self) {
        let inflight = self.0.clone();
        inflight.ended.store(true, Ordering::Release);
        inflight.set_verdict(Err(VerifyError::Discarded));
        let _removed = spawn_blocking(move || {
            let is_file = inflight.is_in_file();
            inflight.data.clear();
            inflight.outboard.clear();
            if is_file {
                let (store, blob) = (&inflight.store, inflight.blob);
                store.index.write(Change::RemovePartial { blob });
                store.files.remove_blob(blob, inflight.tree.size());
                store.space.remove(blob);
            }
        })
        .await;
    }
}

impl Inflight {
    fn have(&self) -> MutexGuard<'_, ChunkRanges> {
        self.have.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunks that are there, and the length of the blob in bytes.
    pub(crate) fn progress(&self) -> (ChunkRanges, u64) {
        (self.have().clone(), self.tree.size())
    }

    pub(crate) fn info(&self) -> Option<&PathInfo> {
        self.info.get()
    }

    /// Whether it was kept or given up.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn is_in_file(&self) -> bool {
        self.tree.size() > limits::MAX_INLINE_BLOB
    }

    /// What is there so far, for other readers; `None` while it is in memory.
    pub(crate) fn open_partial(&self) -> Option<OpenPartial> {
        let held = self.have().clone();
        if held.is_empty() {
            return None;
        }
        Some(OpenPartial {
            size: self.tree.size(),
            held,
            info: self.info().cloned(),
            data: self.data.file()?,
            outboard: self.outboard.file()?,
        })
    }

    fn add(&self, chunks: &ChunkRanges) {
        let mut have = self.have();
        *have |= chunks.clone();
        let arrived = self.contiguous(&have);
        drop(have);
        self.watermark.send_if_modified(|watermark| {
            let grew = arrived > *watermark;
            *watermark = arrived.max(*watermark);
            grew
        });
        self.store.observers.tell(self.blob);
    }

    fn set_verdict(&self, verdict: Result<(), VerifyError>) {
        self.verdict.send_if_modified(|known| {
            let undecided = known.is_none();
            known.get_or_insert(verdict);
            undecided
        });
    }

    /// Whether a data file is no longer what was written to it.
    async fn is_rotten(self: &Arc<Self>) -> bool {
        let inflight = self.clone();
        let checked = spawn_blocking(move || {
            let (data, outboard) = (inflight.data.file()?, inflight.outboard.file()?);
            let (root, size) = (inflight.blob, inflight.tree.size());
            let stop = || inflight.store.is_stopping();
            let held = bao::held(root.as_bytes(), size, &data, &outboard, &stop)?;
            Some(inflight.contiguous(&held) != size)
        });
        checked.await.ok().flatten().unwrap_or(false)
    }

    /// Makes what is there survive a power cut, and tells the index. Blocks.
    fn sync(&self) -> io::Result<()> {
        let (Some(data), Some(outboard)) = (self.data.file(), self.outboard.file()) else {
            return Ok(());
        };
        self.unsynced.store(0, Ordering::Relaxed);
        let held = self.have().clone();
        data.sync_data()?;
        outboard.sync_data()?;
        self.store.files.sync_blobs_dir()?;
        if !self.ended.load(Ordering::Acquire) {
            let record = PartialRecord::new(self.info(), self.blob, &held, unix_now());
            self.store.index.write(Change::PutPartial {
                blob: self.blob,
                partial: Box::new(record),
            });
        }
        Ok(())
    }

    /// Writes hash pairs, those that lie side by side at once: a subtree's do.
    fn write_parents(&self, parents: &[Parent]) -> io::Result<()> {
        let mut run = Vec::with_capacity(parents.len() * PAIR);
        let mut run_start = 0;
        for parent in parents {
            // Nodes inside a chunk group are not stored.
            let Some(index) = self.tree.pre_order_offset(parent.node) else {
                continue;
            };
            let at = index
                .checked_mul(PAIR as u64)
                .ok_or(io::ErrorKind::InvalidInput)?;
            if run_start + run.len() as u64 != at {
                self.outboard.write(run_start, &[&run])?;
                run.clear();
            }
            if run.is_empty() {
                run_start = at;
            }
            let pair = join_pair(parent.pair.0.as_bytes(), parent.pair.1.as_bytes());
            run.extend_from_slice(&pair);
        }
        self.outboard.write(run_start, &[&run])
    }

    fn write_run(&self, start: u64, leaves: &[Leaf]) -> io::Result<ChunkRanges> {
        let len: u64 = leaves.iter().map(|leaf| leaf.data.len() as u64).sum();
        let end = start
            .checked_add(len)
            .filter(|&end| end <= self.tree.size())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let slices: Vec<&[u8]> = leaves.iter().map(|leaf| &leaf.data[..]).collect();
        self.data.write(start, &slices)?;
        // Only whole chunks count, and the end of the blob.
        let first = ChunkNum::chunks(start);
        let last = if end == self.tree.size() {
            ChunkNum::chunks(end)
        } else {
            ChunkNum::full_chunks(end)
        };
        if first < last {
            Ok(ChunkRanges::from(first..last))
        } else {
            Ok(ChunkRanges::empty())
        }
    }

    /// Bytes from the start without a gap.
    fn contiguous(&self, have: &ChunkRanges) -> u64 {
        match have.boundaries() {
            [] if self.tree.size() == 0 => 0,
            [ChunkNum(0)] => self.tree.size(),
            [ChunkNum(0), end, ..] => end.to_bytes().min(self.tree.size()),
            _ => 0,
        }
    }

    fn is_verified(&self) -> bool {
        match self.info() {
            Some(_) => matches!(*self.verdict.borrow(), Some(Ok(()))),
            None => *self.watermark.borrow() == self.tree.size(),
        }
    }

    fn commit(&self) -> Result<Blob, StoreError> {
        let (store, blob_hash) = (&self.store, self.blob);
        let opened = || {
            store.open_blob(blob_hash).map_err(|error| match error {
                OpenBlobError::Store(error) => error,
                error => StoreError::Index {
                    reason: error.to_string(),
                },
            })
        };
        if !self.is_verified() {
            return Err(StoreError::NotVerified { blob_hash });
        }
        let keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Acquire) {
            // Committed before, by another clone.
            return opened();
        }
        self.keep()?;
        // Not before: until then it is read, and joined, as a download.
        self.ended.store(true, Ordering::Release);
        drop(keeping);
        store.observers.tell(blob_hash);
        // Nix may have imported the path from elsewhere meanwhile.
        if let Some(info) = self.info() {
            store.adopt_if_imported(blob_hash, info)?;
        }
        opened()
    }

    fn keep(&self) -> Result<(), StoreError> {
        let (store, blob, size) = (&self.store, self.blob, self.tree.size());
        let memory = (self.data.freeze(), self.outboard.freeze());
        let outboard_size = self.tree.outboard_size();
        let (place, data, outboard) = match memory {
            (Some(data), Some(outboard)) => {
                if let Some(info) = self.info()
                    && store.database.source().is_some()
                {
                    let held = InlineBlob {
                        info: info.clone(),
                        data,
                        outboard,
                    };
                    store.inline().insert(blob, held);
                    return Ok(());
                }
                store.make_room(blob, size + outboard_size)?;
                if size <= limits::MAX_INDEX_BLOB {
                    (Place::Index, Some(data), Some(outboard))
                } else {
                    store.files.write_blob(blob, &data)?;
                    (Place::File, None, Some(outboard))
                }
            }
            _ => {
                self.sync()
                    .map_err(|error| write_error(store.files.blobs_dir(), error))?;
                let outboard = if outboard_size <= limits::MAX_INLINE_OUTBOARD {
                    let read = self.outboard.read(0..outboard_size);
                    Some(read.map_err(|error| write_error(store.files.blobs_dir(), error))?)
                } else {
                    None
                };
                (Place::File, None, outboard)
            }
        };
        let has_outboard = outboard.is_some();
        store.index.write_blocking(Change::PutBlob {
            blob,
            path: self
                .info()
                .map(|info| Box::new(PathRecord::new(info, blob))),
            size,
            place,
            outboard: outboard.filter(|outboard| !outboard.is_empty()),
            data,
            used_at: unix_now(),
        })?;
        if has_outboard && place == Place::File {
            store.files.remove_partial_outboard(blob, size);
        }
        Ok(())
    }

    /// Adds what arrived between two offsets to the hash. Blocks.
    fn hash(&self, hasher: &mut Sha256, mut from: u64, to: u64) -> io::Result<()> {
        while from < to {
            let end = to.min(from + limits::DOWNLOAD_HASH_STEP);
            hasher.update(self.data.read(from..end)?);
            from = end;
        }
        Ok(())
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        let rests = self.is_in_file() && !*self.ended.get_mut();
        let resting = rests.then(|| Resting {
            size: self.tree.size(),
            held: Some(self.have().clone()),
            info: self.info().cloned(),
        });
        let unsynced = *self.unsynced.get_mut();
        if let (Some(resting), true) = (&resting, unsynced > 0)
            && let (Some(data), Some(outboard)) = (self.data.file(), self.outboard.file())
        {
            let (store, blob) = (self.store.clone(), self.blob);
            let held = resting.held.clone().unwrap_or_else(ChunkRanges::empty);
            let record = PartialRecord::new(resting.info.as_ref(), blob, &held, unix_now());
            self.store.spawn_blocking(move || {
                if data
                    .sync_data()
                    .and_then(|()| outboard.sync_data())
                    .is_err()
                {
                    return;
                }
                // Somebody may have given it up, or be at it again.
                if store.downloads.resting(blob).is_some() {
                    let partial = Box::new(record);
                    store.index.write(Change::PutPartial { blob, partial });
                }
            });
        }
        let this: *const Self = self;
        self.store.downloads.end(self.blob, this, resting);
        self.store.observers.tell(self.blob);
    }
}

/// Checkpoints a download in files each second, and whenever much was written.
async fn keep_checkpoints(inflight: Weak<Inflight>, due: Arc<Notify>) {
    loop {
        // Woken or not, it is time.
        let _woken = timeout(limits::CHECKPOINT_INTERVAL, due.notified()).await;
        let Some(download) = inflight.upgrade() else {
            return;
        };
        if download.has_ended() {
            return;
        }
        if download.unsynced.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let synced = spawn_blocking(move || download.sync());
        if let Ok(Err(error)) = synced.await {
            tracing::warn!(%error, "a download cannot be synced");
        }
    }
}

/// Hashes a download as it arrives, until it is whole, discarded or dropped.
async fn follow(inflight: Weak<Inflight>, mut arrived: watch::Receiver<u64>) {
    let mut hasher = Sha256::new();
    let mut hashed = 0;
    loop {
        let to = *arrived.borrow_and_update();
        let Some(download) = inflight.upgrade() else {
            return;
        };
        let size = download.tree.size();
        if to - hashed >= limits::DOWNLOAD_HASH_STEP || to == size {
            let step = spawn_blocking(move || {
                let outcome = download.hash(&mut hasher, hashed, to);
                (outcome, hasher, download)
            });
            let Ok((outcome, updated, download)) = step.await else {
                return;
            };
            hasher = updated;
            hashed = to;
            let verdict = match outcome {
                Err(error) => Err(VerifyError::Io(Arc::new(error))),
                Ok(()) if hashed == size => {
                    let Some(expected) = download.info().map(|info| info.nar_hash) else {
                        return;
                    };
                    let actual = NarHash::from_bytes(hasher.finalize_reset().into());
                    if actual == expected {
                        Ok(())
                    } else if download.is_rotten().await {
                        Err(VerifyError::Io(Arc::new(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "the disk gave other bytes than it was given",
                        ))))
                    } else {
                        Err(VerifyError::Mismatch { expected, actual })
                    }
                }
                Ok(()) => continue,
            };
            download.set_verdict(verdict);
            return;
        }
        drop(download);
        if arrived.changed().await.is_err() {
            return;
        }
    }
}
