//! What is held of a blob, now and from now on.

use std::sync::Arc;

use iroh_blobs::api::{
    blobs::{Bitfield, BlobStatus},
    proto::{BlobStatusMsg, ObserveMsg},
};

use super::Context;
use crate::{BlobHash, OpenBlobError, store::Inner};

/// Sends what is held of a blob, and again whenever that changes, until the client goes.
///
/// What a download holds in memory counts, though only downloads in files are read before they
/// are whole.
pub(super) async fn observe(context: &Context, message: ObserveMsg) {
    let ObserveMsg { inner, tx, .. } = message;
    // Before the first look, so that nothing is missed.
    let mut observer = context.inner().observers.observe(inner.hash);
    let mut last = None;
    loop {
        let Some(held) = held(context, inner.hash).await else {
            return;
        };
        if last.as_ref() != Some(&held) {
            if tx.send(held.clone()).await.is_err() {
                return;
            }
            last = Some(held);
        }
        tokio::select! {
            biased;
            () = tx.closed() => return,
            () = observer.changed() => {}
        }
    }
}

/// Tells whether a blob is held, and how long it is as far as that is proven.
pub(super) async fn status(context: &Context, message: BlobStatusMsg) {
    let BlobStatusMsg { inner, tx, .. } = message;
    let Some(held) = held(context, inner.hash).await else {
        return;
    };
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

/// The chunks that are held of a blob; `None` if that can't be told.
async fn held(context: &Context, blob: BlobHash) -> Option<Bitfield> {
    let inner = context.inner().clone();
    let looked = context.inner().run_blocking(move || inner.held(blob)).await;
    let held = looked.inspect_err(|error| tracing::error!(%error, "a blob cannot be looked up"));
    held.ok()?
        .inspect_err(|error| tracing::error!(%error, "a blob cannot be looked up"))
        .ok()
}

impl Inner {
    fn held(self: &Arc<Self>, blob: BlobHash) -> Result<Bitfield, OpenBlobError> {
        if blob == BlobHash::EMPTY {
            return Ok(Bitfield::complete(0));
        }
        match self.open_blob(blob) {
            Ok(opened) if opened.is_whole() => Ok(Bitfield::complete(opened.size())),
            Ok(opened) => Ok(Bitfield::new(opened.held(), opened.size())),
            Err(OpenBlobError::NotFound) => {
                let live = self.downloads.live(blob).filter(|live| !live.has_ended());
                let progress = live.map(|live| live.progress());
                let (held, size) = progress.filter(|(held, _)| !held.is_empty()).unzip();
                Ok(held.map_or_else(Bitfield::empty, |held| {
                    Bitfield::new(held, size.unwrap_or_default())
                }))
            }
            Err(error) => Err(error),
        }
    }
}
