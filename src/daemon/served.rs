//! What of the own store other hosts are served by the older program's protocols.

use std::{io, net::IpAddr, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use peerix_store::{PathInfo, Store, nix::StorePathHash};

use crate::{
    lan::{broadcast::Holdings, networks::is_private},
    metrics::Metrics,
    offer::OfferPolicy,
    peer::rate::UploadLimits,
    substituter::{Audience, NarBody, OpenNar},
    transfer::body::LocalBody,
};

/// The own store under the sharing policy. Cheap to clone.
#[derive(Clone)]
pub(super) struct Served(Arc<Inner>);

struct Inner {
    store: Store,
    offer: Arc<OfferPolicy>,
    upload: Arc<UploadLimits>,
    metrics: Arc<Metrics>,
}

impl Served {
    pub(super) fn new(
        store: Store,
        offer: Arc<OfferPolicy>,
        upload: Arc<UploadLimits>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            offer,
            upload,
            metrics,
        }))
    }

    /// What the own store has of a path, as far as `audience` may know.
    pub(super) async fn info(
        &self,
        path_hash: StorePathHash,
        audience: Audience,
    ) -> Option<PathInfo> {
        let inner = &self.0;
        let nar = inner.store.nar(path_hash).await.ok().flatten()?;
        let info = inner.offer.told(&inner.store, &nar);
        match audience {
            Audience::ThisMachine => Some(info),
            Audience::Network(_) => {
                let is_offered =
                    inner.upload.check().is_ok() && inner.offer.is_offered(&inner.store, &nar.info);
                is_offered.then_some(info)
            }
        }
    }

    /// Opens the NAR of such a path.
    pub(super) async fn open(
        &self,
        path_hash: StorePathHash,
        audience: Audience,
    ) -> Option<OpenNar> {
        self.info(path_hash, audience).await?;
        let store = &self.0.store;
        let nar = store.nar(path_hash).await.ok().flatten()?;
        let reader = store.open_nar(path_hash).await.ok()?;
        let size = reader.size();
        let body = Box::new(LocalBody {
            kept: store.keep_while_read(&nar),
            reader,
            counted: (audience == Audience::ThisMachine)
                .then(|| self.0.metrics.substitution.bytes.own_store.clone()),
        });
        let body: Box<dyn NarBody> = match audience {
            Audience::ThisMachine => body,
            Audience::Network(host) => Box::new(Upload {
                body,
                host,
                served: self.clone(),
            }),
        };
        Some(OpenNar { size, body })
    }
}

impl Holdings for Served {
    fn offers(&self, path_hash: StorePathHash) -> BoxFuture<'_, bool> {
        let anybody = Audience::Network(IpAddr::from([0; 4]));
        async move { self.info(path_hash, anybody).await.is_some() }.boxed()
    }
}

/// A NAR on its way to another host: it goes within the upload limits, and is counted.
struct Upload {
    body: Box<dyn NarBody>,
    host: IpAddr,
    served: Served,
}

impl NarBody for Upload {
    fn stream(self: Box<Self>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let Self { body, host, served } = *self;
        let is_public = !is_private(host);
        let largest = served.0.upload.piece(is_public);
        let pieces = body.stream(range).flat_map(move |piece| match piece {
            Ok(piece) => stream::iter(split(piece, largest).into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        let paced = pieces.then(move |piece| {
            let served = served.clone();
            async move {
                let piece = piece?;
                let size = piece.len() as u64;
                let may_be_sent = served.0.upload.wait(host, is_public, size).await;
                may_be_sent.map_err(io::Error::other)?;
                served.0.metrics.bytes_sent.inc_by(size);
                Ok(piece)
            }
        });
        paced.boxed()
    }
}

fn split(mut piece: Bytes, largest: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while piece.len() > largest.max(1) {
        pieces.push(piece.split_to(largest.max(1)));
    }
    pieces.push(piece);
    pieces
}
