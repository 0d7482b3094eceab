//! A NAR on its way from peers: written in any order, read in order, checked as a whole.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{Leaf, Parent},
};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{
    Blob, BlobHash, OpenBlobError, StoreError, VerifyError,
    index::{Change, PathRecord},
    inline::InlineBlob,
    limits,
    nix::{NarHash, PathInfo},
    outboard::{self, PAIR, join_pair},
    store::{Inner, Store},
};

mod area;

use area::Area;

/// A download; clones share it.
///
/// Up to 4 MiB it is held in memory, above in temporary files, which go when the last clone does.
/// Many may write and many may read at once.
#[derive(Debug, Clone)]
pub struct Download(Arc<Inflight>);

#[derive(Debug)]
struct Inflight {
    store: Arc<Inner>,
    info: PathInfo,
    blob: BlobHash,
    tree: BaoTree,
    data: Area,
    outboard: Area,
    have: Mutex<ChunkRanges>,
    watermark: watch::Sender<u64>,
    verdict: watch::Sender<Option<Result<(), VerifyError>>>,
}

impl Store {
    /// Starts to receive the NAR of `info`, which somebody claims to be `blob`.
    ///
    /// # Errors
    /// [`StoreError::Write`] if no temporary file can be made.
    pub async fn begin_download(
        &self,
        info: PathInfo,
        blob: BlobHash,
    ) -> Result<Download, StoreError> {
        let tree = outboard::tree(info.nar_size);
        let files = &self.0.files;
        let inflight = Arc::new(Inflight {
            store: self.0.clone(),
            data: Area::new(files, info.nar_size, limits::MAX_INLINE_BLOB)?,
            outboard: Area::new(files, tree.outboard_size(), limits::MAX_INLINE_OUTBOARD)?,
            info,
            blob,
            tree,
            have: Mutex::new(ChunkRanges::empty()),
            watermark: watch::Sender::new(0),
            verdict: watch::Sender::new(None),
        });
        let arrived = inflight.watermark.subscribe();
        self.0
            .runtime()
            .spawn(follow(Arc::downgrade(&inflight), arrived));
        Ok(Download(inflight))
    }
}

impl Download {
    /// Length of the NAR in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.info.nar_size
    }

    /// The blob hash that is claimed for it.
    #[must_use]
    pub fn blob_hash(&self) -> BlobHash {
        self.0.blob
    }

    /// What is signed of the path.
    #[must_use]
    pub fn info(&self) -> &PathInfo {
        &self.0.info
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
        for parent in parents {
            // Nodes inside a chunk group are not stored.
            let Some(index) = inflight.tree.pre_order_offset(parent.node) else {
                continue;
            };
            let at = index
                .checked_mul(PAIR as u64)
                .ok_or(io::ErrorKind::InvalidInput)?;
            let pair = join_pair(parent.pair.0.as_bytes(), parent.pair.1.as_bytes());
            inflight.outboard.write(at, &[&pair])?;
        }
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
        let mut have = inflight.have();
        *have |= written;
        let arrived = inflight.contiguous(&have);
        inflight.watermark.send_if_modified(|watermark| {
            let grew = arrived > *watermark;
            *watermark = arrived.max(*watermark);
            grew
        });
        Ok(())
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

    /// Waits until SHA-256 of the whole is known.
    ///
    /// The bytes are hashed behind the watermark, as they arrive, so this ends soon after the
    /// last of them. Cancel safe.
    ///
    /// # Errors
    /// [`VerifyError::Mismatch`] if it is not the NAR hash: whoever claimed the blob hash lied.
    pub async fn verify(&self) -> Result<(), VerifyError> {
        let mut verdict = self.0.verdict.subscribe();
        let known = verdict.wait_for(Option::is_some).await;
        match known.map(|verdict| verdict.clone()) {
            Ok(Some(verdict)) => verdict,
            Ok(None) | Err(_) => Err(VerifyError::Discarded),
        }
    }

    /// Keeps a verified download: in memory until Nix imports it, or as a file.
    ///
    /// A file is synced, renamed, its directory synced and the index committed when this returns.
    ///
    /// # Errors
    /// [`StoreError::NotVerified`] unless [`Download::verify`] said yes.
    pub async fn commit(&self) -> Result<Blob, StoreError> {
        let inflight = self.0.clone();
        let committed = spawn_blocking(move || inflight.commit());
        committed.await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Gives the download up and removes its temporary files.
    pub async fn discard(&self) {
        self.0.verdict.send_if_modified(|verdict| {
            let undecided = verdict.is_none();
            verdict.get_or_insert(Err(VerifyError::Discarded));
            undecided
        });
        let inflight = self.0.clone();
        let _removed = spawn_blocking(move || {
            inflight.data.clear();
            inflight.outboard.clear();
        })
        .await;
    }
}

impl Inflight {
    fn have(&self) -> MutexGuard<'_, ChunkRanges> {
        self.have.lock().unwrap_or_else(PoisonError::into_inner)
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
            [ChunkNum(0)] => self.tree.size(),
            [ChunkNum(0), end, ..] => end.to_bytes().min(self.tree.size()),
            _ => 0,
        }
    }

    fn commit(&self) -> Result<Blob, StoreError> {
        let blob_hash = self.blob;
        if !matches!(*self.verdict.borrow(), Some(Ok(()))) {
            return Err(StoreError::NotVerified { blob_hash });
        }
        let opened = |store: &Arc<Inner>| {
            store.open_blob(blob_hash).map_err(|error| match error {
                OpenBlobError::Store(error) => error,
                error => StoreError::Index {
                    reason: error.to_string(),
                },
            })
        };
        let (Some(data), Some(outboard)) = (self.data.take(), self.outboard.take()) else {
            // Committed before, by another clone.
            return opened(&self.store);
        };
        let (data, outboard) = match (data, outboard) {
            (area::Taken::Memory(data), area::Taken::Memory(outboard))
                if self.store.database.source().is_some() =>
            {
                let held = InlineBlob {
                    info: self.info.clone(),
                    data,
                    outboard,
                };
                self.store.inline().insert(blob_hash, held);
                // Nix may have imported the path from elsewhere meanwhile.
                self.store.adopt_imported()?;
                return opened(&self.store);
            }
            taken => taken,
        };
        let files = &self.store.files;
        let outboard = match outboard {
            area::Taken::Memory(bytes) => Some(bytes).filter(|bytes| !bytes.is_empty()),
            area::Taken::File(file) => {
                files.keep_outboard(file, blob_hash)?;
                None
            }
        };
        files.keep_blob(data.into_file(files)?, blob_hash)?;
        self.store.index.write_blocking(Change::PutBlob {
            path_hash: self.info.path_hash(),
            path: Box::new(PathRecord::new(&self.info, blob_hash)),
            size: self.info.nar_size,
            file: true,
            outboard,
        })?;
        self.store.adopt_imported()?;
        opened(&self.store)
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
                    let expected = download.info.nar_hash;
                    let actual = NarHash::from_bytes(hasher.finalize_reset().into());
                    if actual == expected {
                        Ok(())
                    } else {
                        Err(VerifyError::Mismatch { expected, actual })
                    }
                }
                Ok(()) => continue,
            };
            download.verdict.send_if_modified(|known| {
                let undecided = known.is_none();
                known.get_or_insert(verdict);
                undecided
            });
            return;
        }
        drop(download);
        if arrived.changed().await.is_err() {
            return;
        }
    }
}
