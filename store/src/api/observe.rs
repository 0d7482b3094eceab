//! What is held of a blob, now and from now on.

use bao_tree::ChunkRanges;
use iroh_blobs::api::{
    blobs::{Bitfield, BlobStatus},
    proto::{BlobStatusMsg, ObserveMsg},
};

use super::Context;
use crate::store::Store;

/// Sends what is held of a blob, and again whenever that changes, until the client goes.
///
/// What a download holds in memory counts, though only downloads in files are read before they
/// are whole.
pub(super) async fn observe(context: &Context, message: ObserveMsg) {
    let ObserveMsg { inner, tx, .. } = message;
    let mut watch = Store(context.inner().clone()).watch_held(inner.hash);
    loop {
        let next = tokio::select! {
            biased;
            () = tx.closed() => return,
            next = watch.next() => next,
        };
        let Some((size, held)) = next else { return };
        if tx.send(bitfield(size, held)).await.is_err() {
            return;
        }
    }
}

/// Tells whether a blob is held, and how long it is as far as that is proven.
pub(super) async fn status(context: &Context, message: BlobStatusMsg) {
    let BlobStatusMsg { inner, tx, .. } = message;
    let mut watch = Store(context.inner().clone()).watch_held(inner.hash);
    let Some((size, held)) = watch.next().await else {
        return;
    };
    let held = bitfield(size, held);
    let status = if held.is_complete() {
        BlobStatus::Complete { size: held.size() }
    } else if held.is_empty() {
        BlobStatus::NotFound
    } else {
        BlobStatus::Partial {
            size: held.validated_size(),
        }
    };
    let _ = tx.send(status).await;
}

fn bitfield(size: u64, held: ChunkRanges) -> Bitfield {
    if held.is_all() {
        Bitfield::complete(size)
    } else if held.is_empty() {
        Bitfield::empty()
    } else {
        Bitfield::new(held, size)
    }
}
