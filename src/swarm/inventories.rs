//! Inventories as blobs: fetched over iroh-blobs' own protocol, each bounded by its announced size.

use std::{sync::Arc, time::Duration};

use bao_tree::io::BaoContentItem;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use iroh::{Endpoint, EndpointId};
use iroh_blobs::{
    get::fsm::{self, BlobContentNext, ConnectedNext},
    protocol::GetRequest,
};
use peerix_gossip::{Fetch, announcement::InventoryBlob};
use tokio::time::timeout;

use super::SwarmId;

/// What one peer may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gets inventories from peers.
#[derive(Debug)]
pub(super) struct Inventories {
    endpoint: Endpoint,
    /// The protocol that they are fetched over.
    alpn: Arc<[u8]>,
}

impl Inventories {
    pub(super) fn new(endpoint: Endpoint, swarm: &SwarmId) -> Self {
        let alpn = swarm.alpn(iroh_blobs::ALPN).into();
        Self { endpoint, alpn }
    }
}

impl Fetch for Inventories {
    fn fetch(
        &self,
        blob: InventoryBlob,
        from: Vec<EndpointId>,
    ) -> BoxFuture<'static, Option<Bytes>> {
        let (endpoint, alpn) = (self.endpoint.clone(), self.alpn.clone());
        Box::pin(async move {
            for id in from {
                if let Ok(Some(bytes)) = timeout(PATIENCE, get(&endpoint, &alpn, id, blob)).await {
                    return Some(bytes);
                }
            }
            None
        })
    }
}

async fn get(
    endpoint: &Endpoint,
    alpn: &[u8],
    from: EndpointId,
    blob: InventoryBlob,
) -> Option<Bytes> {
    let connection = endpoint.connect(from, alpn).await.ok()?;
    let request = GetRequest::blob(blob.blob_hash);
    let connected = fsm::start(connection, request, Default::default());
    let ConnectedNext::StartRoot(root) = connected.next().await.ok()?.next().await.ok()? else {
        return None;
    };
    let (mut content, size) = root.next().next().await.ok()?;
    // Verified or not, more than was announced is not taken.
    if size != u64::from(blob.size) {
        return None;
    }
    let mut bytes = BytesMut::new();
    loop {
        match content.next().await {
            BlobContentNext::More((next, item)) => {
                if let BaoContentItem::Leaf(leaf) = item.ok()? {
                    bytes.extend_from_slice(&leaf.data);
                }
                content = next;
            }
            BlobContentNext::Done(_) => return Some(bytes.freeze()),
        }
    }
}
