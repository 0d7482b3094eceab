//! A machine of a swarm: an endpoint, a router, and inventories served by a table.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use iroh::{
    EndpointAddr, EndpointId,
    address_lookup::MemoryLookup,
    endpoint::{
        AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks,
        WeakConnectionHandle,
    },
    protocol::Router,
};
use peerix_gossip::{Change, Fetch, Links, Options, Swarm, announcement::InventoryBlob, limits};
use tokio::sync::mpsc;

use super::{hostile::path, loopback::loopback};

pub struct Machine {
    name: String,
    pub swarm: Swarm,
    pub links: Links,
    pub addr: EndpointAddr,
    router: Router,
    wire: Wire,
    fetches: Arc<AtomicUsize>,
    _changes: mpsc::Receiver<Change>,
}

/// A switch in every connection of an endpoint.
#[derive(Clone, Default)]
struct Wire {
    parted: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    connections: Arc<Mutex<Vec<WeakConnectionHandle>>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Wire")
    }
}

impl EndpointHooks for Wire {
    async fn before_connect<'a>(
        &'a self,
        _remote_addr: &'a EndpointAddr,
        _alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        if self.parted.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return BeforeConnectOutcome::Reject;
        }
        BeforeConnectOutcome::Accept
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        if self.parted.load(Ordering::Relaxed) {
            return AfterHandshakeOutcome::Reject {
                error_code: 1u32.into(),
                reason: Vec::new(),
            };
        }
        self.connections
            .lock()
            .unwrap()
            .push(connection.weak_handle());
        AfterHandshakeOutcome::Accept
    }
}

/// Where the inventories of all machines of this process are found.
static SERVED: Mutex<Option<HashMap<EndpointId, Swarm>>> = Mutex::new(None);

#[derive(Debug)]
struct FromTable(Arc<AtomicUsize>);

impl Fetch for FromTable {
    fn fetch(
        &self,
        blob: InventoryBlob,
        from: Vec<EndpointId>,
    ) -> BoxFuture<'static, Option<Bytes>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let served = SERVED.lock().unwrap();
        let bytes = from
            .iter()
            .filter_map(|id| served.as_ref()?.get(id)?.inventory(&blob.blob_hash))
            .next();
        Box::pin(async move { bytes })
    }
}

impl Machine {
    /// Starts a machine that knows some others.
    pub async fn start(name: &str, known: &[&Machine]) -> Self {
        let lookup = MemoryLookup::new();
        let (links, wire) = (Links::new(name), Wire::default());
        let endpoint = loopback()
            .address_lookup(lookup.clone())
            .hooks(wire.clone())
            .hooks(links.clone());
        let endpoint = endpoint.bind().await.unwrap();
        let fetches = Arc::new(AtomicUsize::new(0));
        let options = Options {
            name: name.into(),
            systems: vec!["x86_64-linux".into()],
            last_sequence: 0,
            index_memory: limits::INDEX_MEMORY,
            known: lookup,
        };
        let fetch = Arc::new(FromTable(fetches.clone()));
        let (swarm, changes) = Swarm::start(endpoint.clone(), links.clone(), options, fetch);
        let (gossip_alpn, gossip) = swarm.gossip_protocol();
        let (catalogue_alpn, catalogue) = swarm.catalogue_protocol();
        let router = Router::builder(endpoint.clone())
            .accept(gossip_alpn, gossip)
            .accept(catalogue_alpn, catalogue)
            .spawn();
        let mut served = SERVED.lock().unwrap();
        served
            .get_or_insert_default()
            .insert(endpoint.id(), swarm.clone());
        drop(served);
        swarm.join(known.iter().map(|machine| machine.addr.clone()).collect());
        Self {
            name: name.to_owned(),
            swarm,
            links,
            addr: endpoint.addr(),
            router,
            wire,
            fetches,
            _changes: changes,
        }
    }

    pub fn id(&self) -> EndpointId {
        self.addr.id
    }

    pub async fn offer(&self, numbers: Range<u32>) {
        self.swarm.offer(numbers.map(path).collect(), true).await;
    }

    /// How many filters it fetched.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Cuts all connections and refuses new ones, or no longer.
    pub fn part(&self, parted: bool) {
        self.wire.parted.store(parted, Ordering::Relaxed);
        if parted {
            for connection in self.wire.connections.lock().unwrap().drain(..) {
                if let Some(connection) = connection.upgrade() {
                    connection.close(1u32.into(), b"parted");
                }
            }
        }
    }

    /// Open connections on gossip's protocol with who is no neighbour.
    pub fn other_links(&self) -> usize {
        let neighbours = self.swarm.neighbours();
        let alpn = peerix_gossip::gossip_alpn(&self.name);
        let connections = self.wire.connections.lock().unwrap();
        let open = connections.iter().filter_map(WeakConnectionHandle::upgrade);
        open.filter(|connection| {
            connection.close_reason().is_none()
                && connection.alpn() == alpn
                && !neighbours.contains(&connection.remote_id())
        })
        .count()
    }

    /// How many of its dials failed while it was parted.
    pub fn refused_dials(&self) -> usize {
        self.wire.refused.load(Ordering::Relaxed)
    }

    pub async fn stop(&self) {
        self.swarm.shutdown().await;
        self.router.shutdown().await.unwrap();
    }
}

/// Waits for a condition, far longer than it takes on an idle machine.
pub async fn until(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(90), what, condition).await;
}

pub async fn within(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
