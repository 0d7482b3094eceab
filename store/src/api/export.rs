//! Bytes out: as bao items, or plain.

use std::io;

use bao_tree::{
    ChunkNum, ChunkRanges,
    io::{EncodeError, Leaf, mixed::EncodedItem},
};
use iroh_blobs::api::{
    self,
    proto::{ExportBaoMsg, ExportRangesItem, ExportRangesMsg},
};
use irpc::channel::mpsc;

use super::{Context, open_error};
use crate::{Blob, BlobHash, ReadError, limits};

/// Sends the bao encoding of some ranges: the size, then items that have been checked, then how
/// it ended.
///
/// A part of a blob gives what it has up to the first chunk group that is missing.
pub(super) async fn bao(context: &Context, message: ExportBaoMsg) {
    let ExportBaoMsg { inner, tx, .. } = message;
    let last = match encode(context, inner.hash, inner.ranges, &tx).await {
        Ok(()) => EncodedItem::Done,
        Err(Ended::ClientGone) => return,
        Err(Ended::Failed(error)) => EncodedItem::Error(error),
    };
    let _ = tx.send(last).await;
}

enum Ended {
    ClientGone,
    Failed(EncodeError),
}

impl From<irpc::channel::SendError> for Ended {
    fn from(_: irpc::channel::SendError) -> Self {
        Self::ClientGone
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

async fn encode(
    context: &Context,
    hash: BlobHash,
    ranges: ChunkRanges,
    tx: &mpsc::Sender<EncodedItem>,
) -> Result<(), Ended> {
    if hash == BlobHash::EMPTY {
        tx.send(EncodedItem::Size(0)).await?;
        return Ok(());
    }
    let blob = context.store.open_blob(hash).await.map_err(open_error)?;
    tx.send(EncodedItem::Size(blob.size())).await?;
    let is_whole = blob.is_whole();
    let mut items = blob.items(ranges);
    loop {
        let step = move || {
            let mut piece = Vec::new();
            let outcome = items.next_piece(&mut piece);
            (items, piece, outcome)
        };
        let (continued, piece, outcome) = context.inner().run_blocking(step).await?;
        items = continued;
        for item in piece {
            tx.send(item).await?;
        }
        if !outcome.map_err(|error| Ended::Failed(encode_error(error, is_whole)))? {
            return Ok(());
        }
    }
}

fn encode_error(error: ReadError, is_whole: bool) -> EncodeError {
    match error {
        // That a part lacks something is no failure of ours.
        ReadError::Missing(_) | ReadError::Mismatch { .. } if !is_whole => not_held().into(),
        ReadError::Mismatch { offset } => {
            EncodeError::LeafHashMismatch(ChunkNum::full_chunks(offset))
        }
        ReadError::Missing(error) => EncodeError::Io(error),
        error => EncodeError::Io(io::Error::other(error)),
    }
}

/// Sends the bytes of some ranges, checked, in pieces of up to 256 KiB: the size first.
pub(super) async fn ranges(context: &Context, message: ExportRangesMsg) {
    let ExportRangesMsg { inner, tx, .. } = message;
    let opened = context.store.open_blob(inner.hash).await;
    let sent = match opened {
        Ok(blob) => read(context, &blob, inner.ranges.boundaries(), &tx).await,
        Err(error) if inner.hash == BlobHash::EMPTY => {
            drop(error);
            let _ = tx.send(ExportRangesItem::Size(0)).await;
            Ok(())
        }
        Err(error) => Err(open_error(error)),
    };
    if let Err(error) = sent {
        let _ = tx
            .send(ExportRangesItem::Error(api::Error::Io(error)))
            .await;
    }
}

/// Reads ranges of bytes; a client that goes ends it.
async fn read(
    context: &Context,
    blob: &Blob,
    boundaries: &[u64],
    tx: &mpsc::Sender<ExportRangesItem>,
) -> io::Result<()> {
    let size = blob.size();
    if tx.send(ExportRangesItem::Size(size)).await.is_err() {
        return Ok(());
    }
    for range in boundaries.chunks(2) {
        let end = range.get(1).map_or(size, |end| size.min(*end));
        let mut start = range.first().map_or(end, |start| size.min(*start));
        while start < end {
            let aligned = (start / STEP + 1) * STEP;
            let piece = start..end.min(aligned);
            start = piece.end;
            let (blob, is_whole) = (blob.clone(), blob.is_whole());
            let step = move || {
                let mut leaves = Vec::new();
                let mut offset = piece.start;
                let read = blob.read_verified(piece, &mut |data| {
                    let len = data.len() as u64;
                    leaves.push(Leaf { offset, data });
                    offset += len;
                    Ok(())
                });
                (leaves, read)
            };
            let (leaves, read) = context.inner().run_blocking(step).await?;
            for leaf in leaves {
                if tx.send(ExportRangesItem::Data(leaf)).await.is_err() {
                    return Ok(());
                }
            }
            read.map_err(|error| match error {
                ReadError::Missing(_) | ReadError::Mismatch { .. } if !is_whole => not_held(),
                error => io::Error::other(error),
            })?;
        }
    }
    Ok(())
}

/// Bytes read in one step.
const STEP: u64 = limits::READ_PIECE as u64;

fn not_held() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "this part of the blob is not held")
}
