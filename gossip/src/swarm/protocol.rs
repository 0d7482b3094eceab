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

/// How many pages who was given lately, and what is under way for whom.
#[derive(Debug, Default)]
struct Readers {
    given: HashMap<EndpointId, (Instant, usize)>,
    under_way: HashMap<EndpointId, usize>,
}

impl Readers {
    /// Whether `reader` may have another page now.
    fn may_read(&mut self, reader: EndpointId, now: Instant) -> bool {
        let is_recent =
            |since: Instant| now.saturating_duration_since(since) < limits::CATCH_UP_INTERVAL;
        if self.given.len() >= limits::PAGE_READERS {
            self.given.retain(|_, (since, _)| is_recent(*since));
        }
        if self.given.len() >= limits::PAGE_READERS && !self.given.contains_key(&reader) {
            return false;
        }
        let (since, pages) = self.given.entry(reader).or_insert((now, 0));
        if !is_recent(*since) {
            (*since, *pages) = (now, 0);
        }
        *pages += 1;
        *pages <= limits::CATALOGUE_PAGES
    }
}

/// One of the requests that a reader may have under way, given back when this goes.
struct Turn {
    readers: Arc<Mutex<Readers>>,
    reader: EndpointId,
}

impl Turn {
    fn take(readers: &Arc<Mutex<Readers>>, reader: EndpointId) -> Option<Self> {
        let mut state = lock(readers);
        let under_way = state.under_way.entry(reader).or_default();
        if *under_way >= limits::PAGES_OF_A_READER {
            return None;
        }
        *under_way += 1;
        drop(state);
        Some(Self {
            readers: readers.clone(),
            reader,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = lock(&self.readers);
        if let Some(under_way) = state.under_way.get_mut(&self.reader) {
            *under_way -= 1;
            if *under_way == 0 {
                state.under_way.remove(&self.reader);
            }
        }
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
        let reader = connection.remote_id();
        let _turn = Turn::take(&self.readers, reader)?;
        let request = self.requests.clone().try_acquire_owned().ok()?;
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let start = receive.read_to_end(32).await.ok()?;
        let start = <[u8; 32]>::try_from(start).ok()?;
        drop(request);
        // Whoever asks when all places are taken asks another neighbour.
        let _place = self.pages.try_acquire().ok()?;
        let now = Instant::now();
        if !lock(&self.readers).may_read(reader, now) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(number: u16) -> EndpointId {
        let mut key = [1; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        iroh::SecretKey::from_bytes(&key).public()
    }

    #[test]
    fn a_reader_has_a_catalogue_s_pages_in_each_interval_and_no_more_readers_are_counted_than_told()
    {
        let (mut readers, now) = (Readers::default(), Instant::now());
        let pages = (0..1000).filter(|_| readers.may_read(id(0), now)).count();
        assert_eq!(pages, limits::CATALOGUE_PAGES);
        assert!(readers.may_read(id(1), now), "the others notice nothing");
        let later = now + limits::CATCH_UP_INTERVAL;
        assert!(!readers.may_read(id(0), later - Duration::from_millis(1)));
        assert!(readers.may_read(id(0), later));
        let served = (2..3000).filter(|number| readers.may_read(id(*number), later));
        assert!(served.count() < limits::PAGE_READERS);
        assert!(readers.given.len() <= limits::PAGE_READERS);
        assert!(readers.may_read(id(5000), later + limits::CATCH_UP_INTERVAL));
    }

    #[test]
    fn a_reader_has_few_requests_under_way_and_gets_them_back() {
        let readers = Arc::default();
        let held: Vec<Turn> = std::iter::from_fn(|| Turn::take(&readers, id(0))).collect();
        assert_eq!(held.len(), limits::PAGES_OF_A_READER);
        assert!(Turn::take(&readers, id(1)).is_some());
        drop(held);
        assert!(Turn::take(&readers, id(0)).is_some());
        assert!(lock(&readers).under_way.is_empty());
    }
}
