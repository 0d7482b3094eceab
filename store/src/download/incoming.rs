//! A NAR that comes from its start to its end, and whose blob hash nobody has told.
//!
//! What arrives is believed by nobody until SHA-256 of the whole is right: it is served to no peer,
//! and nothing of it is left after a restart.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bao_tree::{BaoTree, ChunkNum, ChunkRanges};
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempPath};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
};

use super::{Inflight, area::Area, recent::Recent};
use crate::{
    BlobHash, StoreError, VerifyError,
    files::write_error,
    limits,
    nix::{NarHash, PathInfo},
    outboard::{self, OutboardBuilder, OutboardSink},
    space::unix_now,
    store::{Inner, Store, blocking},
};

/// A NAR on its way in, from its first byte on; clones share it.
///
/// Up to 4 MiB it is held in memory, above in temporary files. One writes, many read below the
/// watermark. Whatever is not committed is gone when the last clone is.
#[derive(Debug, Clone)]
pub struct IncomingNar(Arc<Incoming>);

#[derive(Debug)]
struct Incoming {
    store: Arc<Inner>,
    info: PathInfo,
    /// Stands for it where space is counted, as long as it has no blob hash.
    reservation: BlobHash,
    tree: BaoTree,
    data: Area,
    pass: Mutex<Pass>,
    watermark: watch::Sender<u64>,
    verified: OnceLock<BlobHash>,
}

/// What the one who writes moves on.
#[derive(Debug)]
struct Pass {
    /// `None` once the end was reached.
    hashing: Option<(Sha256, OutboardBuilder)>,
    /// The start of a chunk group whose rest has not arrived.
    rest: BytesMut,
    arrived: u64,
    /// Data and outboard, where they are files.
    paths: Option<(TempPath, TempPath)>,
    outboard: Option<OutboardSink>,
}

impl Store {
    /// Starts to receive the NAR of `info` from its first byte on.
    ///
    /// # Errors
    /// [`StoreError::Write`] if its files can't be made, [`StoreError::NoSpace`] where quota or
    /// disk leave no room.
    pub async fn begin_nar(&self, info: PathInfo) -> Result<IncomingNar, StoreError> {
        blocking(&self.0, move |inner| Incoming::begin(inner, info)).await
    }
}

impl IncomingNar {
    /// Length of the NAR in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.tree.size()
    }

    /// Returns how many bytes have arrived.
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

    /// Takes the next bytes. **Blocks**.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for more bytes than the NAR has, of which none is taken;
    /// and what the disk says.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    /// Tells whether what arrived is the NAR, and which blob that is.
    ///
    /// # Errors
    /// [`VerifyError::Mismatch`] if SHA-256 is not the NAR hash, [`VerifyError::Io`] if bytes are
    /// missing.
    pub async fn verify(&self) -> Result<BlobHash, VerifyError> {
        let incoming = self.0.clone();
        let verified = spawn_blocking(move || incoming.verify());
        verified.await.unwrap_or(Err(VerifyError::Discarded))
    }

    /// Keeps a verified NAR as the blob that it is, as [`Download::commit`] does.
    ///
    /// A download of the same blob under way becomes whole by it. What is kept durably is synced,
    /// and the index committed, when this returns.
    ///
    /// [`Download::commit`]: crate::Download::commit
    ///
    /// # Errors
    /// [`StoreError::NotVerified`] unless [`IncomingNar::verify`] said yes.
    pub async fn commit(&self) -> Result<BlobHash, StoreError> {
        let incoming = self.0.clone();
        let committed = spawn_blocking(move || incoming.commit());
        committed.await.unwrap_or(Err(StoreError::ShuttingDown))
    }
}

impl Incoming {
    fn begin(store: &Arc<Inner>, info: PathInfo) -> Result<IncomingNar, StoreError> {
        let tree = outboard::tree(info.nar_size);
        let (size, outboard_size) = (tree.size(), tree.outboard_size());
        let reservation = reservation(&info);
        let (data, sink, paths) = if size <= limits::MAX_INLINE_BLOB {
            let sink = OutboardSink::Memory(vec![0; outboard_size as usize]);
            (Area::in_memory(size), sink, None)
        } else {
            store.make_room(reservation, size + outboard_size)?;
            store.space.reserve(reservation);
            let files = || {
                let (data, data_path) = sized(store.files.temporary()?, size)?;
                let (outboard, outboard_path) = sized(store.files.temporary()?, outboard_size)?;
                Ok((data, outboard, (data_path, outboard_path)))
            };
            let (data, outboard, paths) = files().inspect_err(|_: &StoreError| {
                store.space.remove(reservation);
            })?;
            (
                Area::in_file(data, size),
                OutboardSink::File(outboard),
                Some(paths),
            )
        };
        let pass = Pass {
            hashing: Some((Sha256::new(), OutboardBuilder::new(size, sink))),
            rest: BytesMut::new(),
            arrived: 0,
            paths,
            outboard: None,
        };
        Ok(IncomingNar(Arc::new(Self {
            store: store.clone(),
            info,
            reservation,
            tree,
            data,
            pass: Mutex::new(pass),
            watermark: watch::Sender::new(0),
            verified: OnceLock::new(),
        })))
    }

    fn pass(&self) -> MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut pass = self.pass();
        let end = pass
            .arrived
            .checked_add(bytes.len() as u64)
            .filter(|end| *end <= self.tree.size())
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.data.write(pass.arrived, &[bytes])?;
        pass.hash(bytes, end == self.tree.size())?;
        pass.arrived = end;
        drop(pass);
        self.watermark.send_replace(end);
        Ok(())
    }

    fn verify(&self) -> Result<BlobHash, VerifyError> {
        if let Some(verified) = self.verified.get() {
            return Ok(*verified);
        }
        let failed = |error: io::Error| VerifyError::Io(Arc::new(error));
        let mut pass = self.pass();
        if pass.arrived != self.tree.size() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let (sha256, builder) = pass.hashing.take().ok_or(VerifyError::Discarded)?;
        let expected = self.info.nar_hash;
        let actual = NarHash::from_bytes(sha256.finalize().into());
        if actual != expected {
            return Err(VerifyError::Mismatch { expected, actual });
        }
        let (blob, sink) = builder.finish().map_err(failed)?;
        pass.outboard = Some(sink);
        Ok(*self.verified.get_or_init(|| blob.into()))
    }

    fn commit(&self) -> Result<BlobHash, StoreError> {
        let blob = *self.verified.get().ok_or(StoreError::NotVerified {
            blob_hash: self.reservation,
        })?;
        let Some(sink) = self.pass().outboard.take() else {
            // Another clone did it, or is about to.
            return Ok(blob);
        };
        let started = self.store.downloads.join_or_start(blob, |resting| {
            let held = self.store.index.blob(blob)?;
            if held.is_some_and(|(record, _)| record.is_downloaded()) {
                return Err(StoreError::AlreadyHeld { blob_hash: blob });
            }
            if let Some(other) = resting.filter(|resting| resting.size != self.tree.size()) {
                self.store.files.remove_blob(blob, other.size);
            }
            Ok(Arc::new(self.become_download(blob, &sink)?))
        });
        match started {
            Ok((download, true)) => {
                if download.is_in_file() {
                    let bytes = self.tree.size() + self.tree.outboard_size();
                    self.store.space.put(blob, bytes, unix_now());
                }
                download.commit()?;
            }
            Ok((download, false)) => {
                let filled = self.fill(&download, &sink);
                filled.map_err(|error| write_error(self.store.files.blobs_dir(), error))?;
                download.commit()?;
                self.store.add_path(blob, &self.info)?;
            }
            Err(StoreError::AlreadyHeld { .. }) => self.store.add_path(blob, &self.info)?,
            Err(error) => return Err(error),
        }
        Ok(blob)
    }

    /// A download that is whole and verified. Its files get their names, which is all that is done
    /// under the lock of all downloads.
    fn become_download(&self, blob: BlobHash, sink: &OutboardSink) -> Result<Inflight, StoreError> {
        let size = self.tree.size();
        let failed = |error| write_error(self.store.files.blobs_dir(), error);
        let (data, outboard) = match sink {
            OutboardSink::Memory(outboard) => {
                let data = self.data.freeze().unwrap_or_default();
                (Area::kept(data), Area::kept(outboard.clone().into()))
            }
            OutboardSink::File(outboard) => {
                let paths = self.pass().paths.take();
                let (data_path, outboard_path) = paths.ok_or(StoreError::ShuttingDown)?;
                self.store
                    .files
                    .adopt_download(data_path, outboard_path, blob, size)
                    .map_err(failed)?;
                let outboard = outboard.try_clone().map_err(failed)?;
                (
                    self.data.share(),
                    Area::in_file(outboard, self.tree.outboard_size()),
                )
            }
        };
        let all = ChunkRanges::from(ChunkNum(0)..self.tree.chunks());
        Ok(Inflight {
            store: self.store.clone(),
            blob,
            tree: self.tree,
            info: OnceLock::from(self.info.clone()),
            data,
            outboard,
            recent: Recent::new(self.store.recent.clone()),
            hashed: AtomicU64::new(size),
            read: AtomicU64::new(size),
            have: Mutex::new(all),
            watermark: watch::Sender::new(size),
            verdict: watch::Sender::new(Some(Ok(()))),
            unsynced: AtomicU64::new(size),
            checkpoint: Arc::<Notify>::default(),
            ended: AtomicBool::new(false),
            keeping: Mutex::default(),
        })
    }

    /// Writes what a download of the same blob lacks.
    fn fill(&self, download: &Inflight, sink: &OutboardSink) -> io::Result<()> {
        if download.tree != self.tree {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let step = limits::DOWNLOAD_HASH_STEP;
        for (start, end) in steps(0..self.tree.outboard_size(), step) {
            download.outboard.write(start, &[&sink.read(start..end)?])?;
        }
        let all = ChunkRanges::from(ChunkNum(0)..self.tree.chunks());
        let missing = &all - &*download.have();
        let mut bounds = missing.boundaries().iter();
        while let Some(start) = bounds.next() {
            let end = bounds.next().map_or(u64::MAX, |end| end.to_bytes());
            let range = start.to_bytes()..end.min(self.tree.size());
            for (start, end) in steps(range, step) {
                download
                    .data
                    .write(start, &[&self.data.read(start..end)?])?;
            }
        }
        download.info.get_or_init(|| self.info.clone());
        // SHA-256 of the same bytes was right.
        download.set_verdict(Ok(()));
        download.add(&all);
        download.unsynced.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.store.space.remove(self.reservation);
    }
}

impl Pass {
    /// Hashes whole chunk groups, and keeps what is left of the last one.
    fn hash(&mut self, bytes: &[u8], is_end: bool) -> io::Result<()> {
        let (sha256, outboard) = self.hashing.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        sha256.update(bytes);
        let group = limits::CHUNK_GROUP_BYTES as usize;
        let mut bytes = bytes;
        if !self.rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(group - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if self.rest.len() == group || (is_end && bytes.is_empty()) {
                outboard.update(&self.rest)?;
                self.rest.clear();
            }
        }
        let whole = if is_end {
            bytes.len()
        } else {
            bytes.len() / group * group
        };
        let (groups, rest) = bytes.split_at(whole);
        outboard.update(groups)?;
        self.rest.extend_from_slice(rest);
        Ok(())
    }
}

/// A name under which the space of one incoming NAR is counted: no blob has it.
fn reservation(info: &PathInfo) -> BlobHash {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("peerix incoming {next} {}", info.path_hash());
    blake3::hash(name.as_bytes()).into()
}

/// Gives a temporary file its full length; what has not arrived takes no space.
fn sized(file: NamedTempFile, size: u64) -> Result<(File, TempPath), StoreError> {
    let (file, path) = file.into_parts();
    file.set_len(size)
        .map_err(|error| write_error(&path, error))?;
    Ok((file, path))
}

fn steps(range: Range<u64>, step: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let next = (start, range.end.min(start.saturating_add(step)));
        start = next.1;
        (next.0 < next.1).then_some(next)
    })
}
