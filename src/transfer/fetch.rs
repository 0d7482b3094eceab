//! Fetches ranges of one blob from one provider, each chunk group verified as it arrives.

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bao_tree::{
    BaoTree, BlockSize, ChunkRanges,
    io::{
        BaoContentItem, DecodeError, Leaf, Parent,
        fsm::{ResponseDecoder, ResponseDecoderNext},
    },
};
use bytes::{Bytes, BytesMut};
use iroh::endpoint::ReadError;
use iroh_blobs::protocol::{ChunkRangesExt, ChunkRangesSeq, ERR_LIMIT, GetRequest};
use iroh_io::AsyncStreamReader;
use peerix_store::BlobHash;
use tokio::sync::mpsc;

use super::flow::Flow;
use crate::peer::{
    blobs::{BlobConnection, Incoming},
    score::Fault,
};

/// 16 KiB chunk groups, as iroh-blobs has them.
const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

/// Leaves handed over at once when a stream is in full flow: 256 KiB.
const FULL_BATCH: usize = 16;

/// No verified leaf waits longer than this for its batch to fill.
const BATCH_AGE: Duration = Duration::from_millis(20);

/// Verified parts of a blob, ready to be stored.
#[derive(Debug, Default)]
pub struct Batch {
    /// Inner nodes of the tree.
    pub parents: Vec<Parent>,
    /// Chunk groups, in order.
    pub leaves: Vec<Leaf>,
}

/// Fetches `range` of `blob_hash`, `size` bytes long, and sends verified batches to `sink`.
///
/// It waits for as long as the provider keeps silent: whoever cuts the flow ends it. `flow` tells
/// how far it is, and where it is to end if that changes meanwhile. The size a
/// provider reports must be `size`, and nothing may follow the last byte. A closed sink ends the
/// fetch without a fault. Cancel safe: what was sent to the sink stays valid.
///
/// # Errors
/// What the provider did, where not all of the range was delivered.
pub async fn fetch(
    connection: BlobConnection,
    blob_hash: BlobHash,
    size: u64,
    range: Range<u64>,
    flow: &Arc<Flow>,
    sink: &mpsc::Sender<Batch>,
) -> Result<(), Fault> {
    let ranges = ChunkRanges::bytes(range);
    let request = GetRequest::new(blob_hash, ChunkRangesSeq::from_ranges([ranges.clone()]));
    let recv = connection.get(request).await?;
    let mut reader = Reader {
        recv,
        buffer: BytesMut::new(),
        flow: flow.clone(),
    };
    let reported = reader.read::<8>().await.map_err(|e| read_fault(&e))?;
    if u64::from_le_bytes(reported) != size {
        return Err(Fault::BadData);
    }
    let tree = BaoTree::new(size, BLOCK_SIZE);
    decode(reader, blob_hash, tree, ranges, flow, sink).await
}

async fn decode(
    reader: Reader,
    blob_hash: BlobHash,
    tree: BaoTree,
    ranges: ChunkRanges,
    flow: &Flow,
    sink: &mpsc::Sender<Batch>,
) -> Result<(), Fault> {
    let mut decoder = ResponseDecoder::new(blob_hash.into(), ranges, tree, reader);
    let mut batch = Batch::default();
    let mut full = 1;
    let mut flushed_at = Instant::now();
    loop {
        let next = tokio::select! {
            biased;
            next = decoder.next() => next,
            // What is verified by now is not fetched again.
            () = flow.ended.cancelled() => {
                flush(&mut batch, flow, sink).await;
                return Ok(());
            }
        };
        match next {
            ResponseDecoderNext::More((next, item)) => {
                decoder = next;
                match item.map_err(|error| decode_fault(&error)) {
                    Ok(BaoContentItem::Parent(parent)) => batch.parents.push(parent),
                    Ok(BaoContentItem::Leaf(leaf)) => batch.leaves.push(leaf),
                    Err(fault) => {
                        flush(&mut batch, flow, sink).await;
                        return Err(fault);
                    }
                }
            }
            ResponseDecoderNext::Done(mut reader) => {
                flush(&mut batch, flow, sink).await;
                return reader.expect_end().await;
            }
        }
        // The first chunk group leaves at once; batches grow while the stream keeps up.
        if batch.leaves.len() >= full
            || (!batch.leaves.is_empty() && flushed_at.elapsed() > BATCH_AGE)
        {
            full = (full * 2).min(FULL_BATCH);
            flushed_at = Instant::now();
            if !flush(&mut batch, flow, sink).await || flow.is_past_end() {
                return Ok(());
            }
        }
    }
}

async fn flush(batch: &mut Batch, flow: &Flow, sink: &mpsc::Sender<Batch>) -> bool {
    let batch = std::mem::take(batch);
    let end = batch
        .leaves
        .last()
        .map(|leaf| leaf.offset + leaf.data.len() as u64);
    if sink.send(batch).await.is_err() {
        return false;
    }
    if let Some(end) = end {
        flow.deliver(end);
    }
    true
}

/// Buffers a stream, so that a chunk group is one slice of what arrived.
struct Reader {
    recv: Incoming,
    buffer: BytesMut,
    flow: Arc<Flow>,
}

impl Reader {
    const BUFFER: usize = 256 * 1024;

    async fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.buffer.len() < wanted {
            if self.buffer.capacity() < wanted {
                self.buffer.reserve(Self::BUFFER);
            }
            let more = self.recv.read_buf(&mut self.buffer);
            // A part of a frame that came is a sign of life too.
            self.flow.waits();
            let more = more.await?;
            self.flow.waits_no_more();
            if !more {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Checks that the provider finished the stream and sent nothing more.
    async fn expect_end(&mut self) -> Result<(), Fault> {
        match self.fill(1).await {
            Ok(()) => Err(Fault::BadData),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(read_fault(&error)),
        }
    }
}

impl AsyncStreamReader for Reader {
    async fn read_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        self.fill(len).await?;
        Ok(self.buffer.split_to(len).freeze())
    }

    async fn read<const L: usize>(&mut self) -> io::Result<[u8; L]> {
        self.fill(L).await?;
        let mut bytes = [0; L];
        bytes.copy_from_slice(&self.buffer.split_to(L));
        Ok(bytes)
    }
}

fn decode_fault(error: &DecodeError) -> Fault {
    match error {
        DecodeError::ParentHashMismatch(_) | DecodeError::LeafHashMismatch(_) => Fault::BadData,
        DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_) => Fault::Absent,
        DecodeError::Io(error) => read_fault(error),
    }
}

fn read_fault(error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Fault::Absent;
    }
    if error.kind() == io::ErrorKind::InvalidData {
        return Fault::BadData;
    }
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<ReadError>());
    match inner {
        Some(ReadError::Reset(code)) if *code == ERR_LIMIT => Fault::Refused,
        Some(ReadError::Reset(_)) => Fault::Absent,
        _ => Fault::Disconnected,
    }
}
