//! A blob on its way from peers: written in any order, read in order, checked as a whole.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{Leaf, Parent},
};
use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
};

use crate::{
    Blob, BlobHash, StoreError, VerifyError,
    downloads::OpenPartial,
    index::Change,
    limits,
    nix::PathInfo,
    outboard::{PAIR, join_pair},
    store::Inner,
};

mod area;
mod begin;
mod follow;
mod incoming;
mod keep;
mod recent;

pub(crate) use recent::RecentBytes;

use area::Area;
pub use incoming::IncomingNar;
use recent::Recent;

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
    /// What lately came of one in files.
    recent: Recent,
    /// How far it was hashed, and read by whoever reads it first.
    hashed: AtomicU64,
    read: AtomicU64,
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
        if inflight.is_in_file() {
            for leaf in leaves {
                inflight.recent.put(leaf.offset, &leaf.data);
            }
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

    /// Returns the first bytes of `range`, if they lie in memory. Never blocks.
    ///
    /// What lies above the watermark is not returned.
    #[must_use]
    pub fn recent(&self, range: Range<u64>) -> Option<Bytes> {
        if range.is_empty() || range.end > *self.0.watermark.borrow() {
            return None;
        }
        let bytes = self.0.recent.get(range.start)?;
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Some(bytes.slice(..bytes.len().min(wanted)))
    }

    /// Notes that whoever reads first has read so far: what lies before needn't stay in memory.
    pub fn has_read_to(&self, offset: u64) {
        self.0.read.fetch_max(offset, Ordering::AcqRel);
        self.0.pass();
    }

    /// Reads what lies below the watermark. **Blocks**.
    ///
    /// What is not in memory any more is read from the file, as the hash of the whole was if it
    /// came before this process began: a file that rots is told by SHA-256 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] above the watermark, and what the disk says.
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
            let mut verdict = self.0.verdict.subscribe();
            return tokio::select! {
                biased;
                given_up = verdict.wait_for(Option::is_some) => match given_up {
                    Ok(verdict) => verdict.clone().unwrap_or(Err(VerifyError::Discarded)),
                    Err(_) => Err(VerifyError::Discarded),
                },
                whole = watermark.wait_for(|arrived| *arrived == size) => {
                    whole.map(drop).map_err(|_| VerifyError::Discarded)
                }
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

    /// Lets go of what everybody who follows has passed.
    fn pass(&self) {
        let read = self.read.load(Ordering::Acquire);
        let hashed = self.hashed.load(Ordering::Acquire);
        self.recent.pass(read.min(hashed));
    }

    fn set_verdict(&self, verdict: Result<(), VerifyError>) {
        self.verdict.send_if_modified(|known| {
            let undecided = known.is_none();
            known.get_or_insert(verdict);
            undecided
        });
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
}
