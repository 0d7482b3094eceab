//! The two protocols of a swarm. Each connection runs in a task of its own: a panic there would end
//! iroh's router.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use iroh::{
    EndpointId,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{Swarm, lock};
use crate::{engine::Page, limits};

/// Hands connections to the gossip that runs now.
#[derive(Debug, Clone)]
pub struct GossipProtocol {
    swarm: Swarm,
}

impl GossipProtocol {
    pub(super) fn new(swarm: Swarm) -> Self {
        Self { swarm }
    }
}

impl ProtocolHandler for GossipProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Some(gossip) = self.swarm.gossip() else {
            return Ok(());
        };
        let hand_over = async move {
            // Gossip that does not move takes no connection: this one is dropped then.
            let _ = timeout(limits::STALL, gossip.handle_connection(connection)).await;
        };
        let _ = tokio::spawn(hand_over).await;
        Ok(())
    }
}

/// Tells newcomers what is known.
#[derive(Debug, Clone)]
pub struct CatalogueProtocol {
    swarm: Swarm,
    requests: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    readers: Arc<Mutex<Readers>>,
}

/// How many pages who was given lately.
#[derive(Debug, Default)]
pub(super) struct Readers(HashMap<EndpointId, (Instant, usize)>);

impl Readers {
    /// Whether `reader` may have another page now.
    pub(super) fn may_read(&mut self, reader: EndpointId, now: Instant) -> bool {
        let is_recent =
            |since: Instant| now.saturating_duration_since(since) < limits::CATCH_UP_INTERVAL;
        if self.0.len() >= limits::PAGE_READERS {
            self.0.retain(|_, (since, _)| is_recent(*since));
        }
        if self.0.len() >= limits::PAGE_READERS && !self.0.contains_key(&reader) {
            return false;
        }
        let (since, pages) = self.0.entry(reader).or_insert((now, 0));
        if !is_recent(*since) {
            (*since, *pages) = (now, 0);
        }
        *pages += 1;
        *pages <= limits::CATALOGUE_PAGES
    }
}

impl CatalogueProtocol {
    pub(super) fn new(swarm: Swarm) -> Self {
        Self {
            swarm,
            requests: Arc::new(Semaphore::new(limits::PAGE_REQUESTS_AT_ONCE)),
            pages: Arc::new(Semaphore::new(limits::PAGES_AT_ONCE)),
            readers: Arc::default(),
        }
    }

    async fn serve(self, connection: Connection) -> Option<()> {
        let request = self.requests.clone().try_acquire_owned().ok()?;
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let start = receive.read_to_end(32).await.ok()?;
        let start = <[u8; 32]>::try_from(start).ok()?;
        drop(request);
        // Whoever asks when all places are taken asks another neighbour.
        let _place = self.pages.try_acquire().ok()?;
        let now = Instant::now();
        if !lock(&self.readers).may_read(connection.remote_id(), now) {
            return None;
        }
        let page = self.swarm.engine().page(&start, now);
        let bytes = postcard::to_stdvec(&page).ok()?;
        send.write_all(&bytes).await.ok()?;
        send.finish().ok()?;
        connection.closed().await;
        Some(())
    }
}

impl ProtocolHandler for CatalogueProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let serve = self.clone().serve(connection);
        let _ = tokio::spawn(timeout(limits::CATALOGUE_TIMEOUT, serve)).await;
        Ok(())
    }
}

impl Swarm {
    /// Asks a neighbour for the page after `start`.
    pub(super) async fn ask_page(&self, from: EndpointId, start: [u8; 32]) -> Option<Page> {
        let ask = async {
            let connecting = self.0.endpoint.connect(from, &self.0.catalogue_alpn);
            let connection = connecting.await.ok()?;
            let (mut send, mut receive) = connection.open_bi().await.ok()?;
            send.write_all(&start).await.ok()?;
            send.finish().ok()?;
            let most = limits::CATALOGUE_PAGE + 2 * limits::MAX_ANNOUNCEMENT;
            let bytes = receive.read_to_end(most).await.ok()?;
            connection.close(0u32.into(), b"");
            postcard::from_bytes(&bytes).ok()
        };
        timeout(limits::CATALOGUE_TIMEOUT, ask).await.ok().flatten()
    }
}
