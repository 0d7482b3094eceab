//! Bytes in: verified items of a blob whose hash is known, or bytes whose hash is not.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bao_tree::{
    ChunkRanges,
    io::{BaoContentItem, Leaf, Parent, outboard::PreOrderMemOutboard, sync::Outboard as _},
    iter::BaoChunk,
};
use bytes::{Bytes, BytesMut};
use iroh_blobs::{
    BlobFormat, HashAndFormat,
    api::{
        self, TempTag,
        proto::{
            AddProgressItem, ImportBaoMsg, ImportByteStreamMsg, ImportByteStreamUpdate,
            ImportBytesMsg,
        },
    },
};
use irpc::channel::mpsc;

use super::{Context, open_error};
use crate::{BlobHash, Download, OpenBlobError, StoreError, limits};

/// Imports in memory that were cut off: held so that they can be continued.
///
/// The oldest go first where they are too many. Those in files need nobody to hold them.
#[derive(Default)]
pub(super) struct Kept(Mutex<VecDeque<Download>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Download>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, download: Download) {
        self.remove(download.blob_hash());
        let mut kept = self.lock();
        kept.push_back(download);
        let mut bytes: u64 = kept.iter().map(Download::size).sum();
        let mut dropped = Vec::new();
        while bytes > limits::API_KEPT_BYTES {
            let Some(oldest) = kept.pop_front() else {
                break;
            };
            bytes -= oldest.size();
            dropped.push(oldest);
        }
        // Their end takes other locks.
        drop(kept);
    }

    pub(super) fn remove(&self, blob: BlobHash) {
        let mut kept = self.lock();
        let place = kept.iter().position(|other| other.blob_hash() == blob);
        let removed = place.and_then(|place| kept.remove(place));
        drop(kept);
        drop(removed);
    }
}

/// Where the items of an import go.
enum Target {
    Download(Download),
    /// The blob is whole already.
    Nowhere,
}

/// Writes items that the sender's decoder has verified, and keeps the blob once it is whole.
///
/// What is kept is on disk when this is answered. Several may import one blob at once.
pub(super) async fn bao(context: &Context, message: ImportBaoMsg) {
    let ImportBaoMsg { inner, tx, rx, .. } = message;
    let imported = import(context, inner.hash, inner.size.get(), rx).await;
    let _ = tx.send(imported.map_err(api::Error::Io)).await;
}

async fn import(
    context: &Context,
    blob: BlobHash,
    size: u64,
    mut items: mpsc::Receiver<BaoContentItem>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    let (mut parents, mut leaves) = (Vec::new(), Vec::new());
    let mut target = None;
    loop {
        let received = receive(&mut items, &mut batch).await;
        for item in batch.drain(..) {
            match item {
                BaoContentItem::Parent(parent) => parents.push(parent),
                BaoContentItem::Leaf(leaf) => leaves.push(leaf),
            }
        }
        let is_last = !matches!(received, Ok(true));
        // Nothing is made, and no room, before a leaf has proven that the size can be right: it
        // is what the sender was told by somebody.
        if leaves.is_empty() && target.is_none() {
            if is_last {
                return received.map(|_| ());
            }
            if parents.len() > limits::API_MAX_PARENTS_AHEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            continue;
        }
        let to = match target.take() {
            Some(to) => to,
            None => begin(context, blob, size).await?,
        };
        let written = write(context, to, blob, &mut parents, &mut leaves).await?;
        if is_last {
            if let Target::Download(download) = written {
                finish(context, download).await?;
            }
            return received.map(|_| ());
        }
        target = Some(written);
    }
}

/// Receives what there is, and returns whether there may be more. Cancel safe where it is local.
async fn receive(
    items: &mut mpsc::Receiver<BaoContentItem>,
    batch: &mut Vec<BaoContentItem>,
) -> io::Result<bool> {
    match items {
        mpsc::Receiver::Tokio(items) => {
            Ok(items.recv_many(batch, limits::API_IMPORT_BATCH).await > 0)
        }
        items => {
            let item = items.recv().await?;
            batch.extend(item);
            Ok(!batch.is_empty())
        }
    }
}

async fn begin(context: &Context, blob: BlobHash, size: u64) -> io::Result<Target> {
    match context.store.open_blob(blob).await {
        Ok(held) if held.is_whole() && held.size() == size => return Ok(Target::Nowhere),
        Ok(held) if held.is_whole() => {
            let error = StoreError::SizeConflict { blob_hash: blob };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(_) | Err(OpenBlobError::NotFound) => {}
        Err(error) => return Err(open_error(error)),
    }
    match context.store.begin_import(blob, size).await {
        Ok(download) => Ok(Target::Download(download)),
        Err(StoreError::AlreadyHeld { .. }) => Ok(Target::Nowhere),
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn write(
    context: &Context,
    to: Target,
    blob: BlobHash,
    parents: &mut Vec<Parent>,
    leaves: &mut Vec<Leaf>,
) -> io::Result<Target> {
    let (parents, leaves) = (std::mem::take(parents), std::mem::take(leaves));
    let Target::Download(download) = to else {
        return Ok(Target::Nowhere);
    };
    let step = move || {
        let written = download.write(&parents, &leaves);
        (download, written)
    };
    let (download, written) = context.inner().run_blocking(step).await?;
    match written {
        Ok(()) => Ok(Target::Download(download)),
        // Another import of it may have come to its end meanwhile.
        Err(_) if is_whole(context, blob).await => Ok(Target::Nowhere),
        Err(error) => Err(error),
    }
}

async fn is_whole(context: &Context, blob: BlobHash) -> bool {
    let opened = context.store.open_blob(blob).await;
    opened.is_ok_and(|opened| opened.is_whole())
}

/// Keeps what is whole, and what can't be continued unless it is held.
async fn finish(context: &Context, download: Download) -> io::Result<()> {
    let blob = download.blob_hash();
    if !download.missing().is_empty() {
        if download.size() <= limits::MAX_INLINE_BLOB {
            context.kept.put(download);
        }
        return Ok(());
    }
    context.kept.remove(blob);
    let kept = loop {
        if let Err(error) = download.verify().await {
            break Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        match download.commit().await {
            Ok(_) => break Ok(()),
            // Somebody has just said which NAR it is meant to be.
            Err(StoreError::NotVerified { .. }) => {}
            Err(error) => break Err(io::Error::other(error)),
        }
    };
    match kept {
        // Another import of it may have come to its end first.
        Err(_) if is_whole(context, blob).await => Ok(()),
        kept => kept,
    }
}

/// Takes a blob's bytes.
pub(super) async fn bytes(context: &Context, message: ImportBytesMsg) {
    let ImportBytesMsg { inner, tx, .. } = message;
    add(context, inner.data, inner.format, &tx).await;
}

/// Takes a blob's bytes as they come.
pub(super) async fn byte_stream(context: &Context, message: ImportByteStreamMsg) {
    let ImportByteStreamMsg { inner, tx, rx, .. } = message;
    match gather(rx, &tx).await {
        Ok(data) => add(context, data, inner.format, &tx).await,
        Err(error) => {
            let _ = tx.send(AddProgressItem::Error(error)).await;
        }
    }
}

async fn gather(
    mut pieces: mpsc::Receiver<ImportByteStreamUpdate>,
    tx: &mpsc::Sender<AddProgressItem>,
) -> io::Result<Bytes> {
    let mut data = BytesMut::new();
    loop {
        match pieces.recv().await? {
            Some(ImportByteStreamUpdate::Bytes(piece)) => {
                check_length(data.len().saturating_add(piece.len()))?;
                data.extend_from_slice(&piece);
                tx.send(AddProgressItem::CopyProgress(data.len() as u64))
                    .await?;
            }
            Some(ImportByteStreamUpdate::Done) => return Ok(data.freeze()),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn add(
    context: &Context,
    data: Bytes,
    format: BlobFormat,
    tx: &mpsc::Sender<AddProgressItem>,
) {
    let last = match try_add(context, data, tx).await {
        Ok(hash) => AddProgressItem::Done(TempTag::new(HashAndFormat { hash, format }, None)),
        Err(error) => AddProgressItem::Error(error),
    };
    let _ = tx.send(last).await;
}

async fn try_add(
    context: &Context,
    data: Bytes,
    tx: &mpsc::Sender<AddProgressItem>,
) -> io::Result<BlobHash> {
    let size = data.len() as u64;
    check_length(data.len())?;
    tx.send(AddProgressItem::Size(size)).await?;
    tx.send(AddProgressItem::CopyDone).await?;
    if data.is_empty() {
        return Ok(BlobHash::EMPTY);
    }
    let hashed = context.inner().run_blocking(move || items(&data)).await?;
    let (blob, mut parents, mut leaves) = hashed?;
    let to = begin(context, blob, size).await?;
    let written = write(context, to, blob, &mut parents, &mut leaves).await?;
    if let Target::Download(download) = written {
        finish(context, download).await?;
    }
    Ok(blob)
}

fn check_length(len: usize) -> io::Result<()> {
    if len as u64 <= limits::API_MAX_BYTES {
        return Ok(());
    }
    let reason = format!(
        "blobs of more than {} bytes are imported by their hash",
        limits::API_MAX_BYTES
    );
    Err(io::Error::new(io::ErrorKind::FileTooLarge, reason))
}

/// What a decoder would give for all of a blob. Blocks.
fn items(data: &Bytes) -> io::Result<(BlobHash, Vec<Parent>, Vec<Leaf>)> {
    let outboard = PreOrderMemOutboard::create(data, limits::CHUNK_GROUP);
    let (mut parents, mut leaves) = (Vec::new(), Vec::new());
    let all = ChunkRanges::all();
    for chunk in outboard.tree.ranges_pre_order_chunks_iter_ref(&all, 0) {
        match chunk {
            BaoChunk::Parent { node, .. } => {
                let pair = outboard.load(node)?.ok_or(io::ErrorKind::InvalidData)?;
                parents.push(Parent { node, pair });
            }
            BaoChunk::Leaf {
                start_chunk, size, ..
            } => {
                let offset = start_chunk.to_bytes();
                let start = offset as usize;
                leaves.push(Leaf {
                    offset,
                    data: data.slice(start..start + size),
                });
            }
        }
    }
    Ok((outboard.root.into(), parents, leaves))
}
