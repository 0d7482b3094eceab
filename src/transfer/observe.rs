//! Follows what another fetcher of the same blob holds of it, by iroh-blobs' observe.

use std::time::Duration;

use bao_tree::{ByteRanges, ChunkRanges};
use iroh::endpoint::{Connection, RecvStream};
use iroh_blobs::protocol::{ObserveItem, ObserveRequest, Request};
use peerix_store::BlobHash;
use tokio::{sync::mpsc, time::timeout};

use crate::limits;

/// Sends what the provider at the other end holds of the blob to `news`, until one of both ends.
///
/// What it holds is told in full first, then what came since. Nothing of it is believed: what is
/// fetched is verified. A provider that tells nothing in time, or nonsense, is observed no more.
pub async fn observe(
    connection: &Connection,
    blob_hash: BlobHash,
    size: u64,
    news: &mpsc::Sender<ByteRanges>,
) {
    let Some(mut recv) = ask(connection, blob_hash).await else {
        return;
    };
    let mut patience = limits::OBSERVE_FIRST;
    let mut paced = tokio::time::interval(limits::OBSERVE_EVERY / 2);
    paced.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let read = read_item(&mut recv);
        let Ok(Some(item)) = timeout(patience, read).await else {
            return;
        };
        if news.send(groups_of(&item.ranges, size)).await.is_err() {
            return;
        }
        patience = Duration::MAX;
        paced.tick().await;
    }
}

async fn ask(connection: &Connection, blob_hash: BlobHash) -> Option<RecvStream> {
    let (mut send, recv) = connection.open_bi().await.ok()?;
    let request = Request::Observe(ObserveRequest::new(blob_hash));
    let bytes = postcard::to_stdvec(&request).ok()?;
    send.write_all(&bytes).await.ok()?;
    send.finish().ok()?;
    Some(recv)
}

/// Reads one item behind its length, a postcard varint.
async fn read_item(recv: &mut RecvStream) -> Option<ObserveItem> {
    let mut length = 0usize;
    for shift in [0, 7, 14] {
        let mut byte = [0];
        recv.read_exact(&mut byte).await.ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    if length > limits::OBSERVE_MAX_ITEM {
        return None;
    }
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await.ok()?;
    postcard::from_bytes(&bytes).ok()
}

/// The whole chunk groups among `ranges`, as bytes of a blob of `size` bytes.
fn groups_of(ranges: &ChunkRanges, size: u64) -> ByteRanges {
    let mut bytes = ByteRanges::empty();
    for pair in bytes_of(ranges, size).boundaries().chunks(2) {
        let start = pair[0].next_multiple_of(limits::CHUNK_GROUP);
        let end = pair.get(1).copied().unwrap_or(size);
        let end = if end < size {
            end / limits::CHUNK_GROUP * limits::CHUNK_GROUP
        } else {
            size
        };
        if start < end {
            bytes |= ByteRanges::from(start..end);
        }
    }
    bytes
}

/// The bytes of a blob of `size` bytes that `ranges` of chunks cover.
pub(super) fn bytes_of(ranges: &ChunkRanges, size: u64) -> ByteRanges {
    let bounds = ranges.boundaries().iter().map(|chunk| chunk.to_bytes());
    let bounds: Vec<u64> = bounds.map(|at| at.min(size)).collect();
    let mut bytes = ByteRanges::empty();
    for pair in bounds.chunks(2) {
        let end = pair.get(1).copied().unwrap_or(size);
        if pair[0] < end {
            bytes |= ByteRanges::from(pair[0]..end);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use bao_tree::ChunkNum;

    use super::*;

    #[test]
    fn chunk_ranges_become_byte_ranges_within_the_blob() {
        let all = bytes_of(&ChunkRanges::all(), 5000);
        assert_eq!(all, ByteRanges::from(0..5000));
        let some =
            ChunkRanges::from(ChunkNum(16)..ChunkNum(32)) | ChunkRanges::from(ChunkNum(48)..);
        let expected = ByteRanges::from(16_384..32_768) | ByteRanges::from(49_152..60_000);
        assert_eq!(bytes_of(&some, 60_000), expected);
        assert!(bytes_of(&ChunkRanges::empty(), 5000).is_empty());
    }
}
