//! A peer in a swarm: the rules of [`Engine`] run on iroh-gossip.
//!
//! iroh-gossip is contained: it runs in tasks of its own that are watched and started again when
//! they stop moving (`swarm/run.rs`), its connections are counted and cut when they flood
//! (`swarm/links.rs`), and what a peer sends it reaches the router as an error at most
//! (`swarm/protocol.rs`).

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Instant,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use iroh::{Endpoint, EndpointAddr, EndpointId, address_lookup::MemoryLookup};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug_span};

use crate::{
    announcement::{BlobHash, InventoryBlob, Topic},
    announcer::Offered,
    clock::Now,
    engine::{Config, Engine, Event},
    index::{Counters, Standing},
    inventory::PathHash,
    limits,
};

mod links;
mod protocol;
mod run;

pub use links::Links;
pub use protocol::{CatalogueProtocol, GossipProtocol};

/// Gets blobs for the swarm, from peers.
pub trait Fetch: Send + Sync + fmt::Debug + 'static {
    /// The verified bytes of a blob of `blob.size` bytes, from the first of `from` that gives it.
    fn fetch(
        &self,
        blob: InventoryBlob,
        from: Vec<EndpointId>,
    ) -> BoxFuture<'static, Option<Bytes>>;
}

/// What a swarm tells of its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A peer is there, or is reached elsewhere now.
    Met(EndpointAddr),
    /// A peer left, or was not heard for its time.
    Left(EndpointId),
}

/// What a swarm needs of its machine.
#[derive(Debug)]
pub struct Options {
    /// The swarm's name: its topic and protocols are made of it.
    pub name: String,
    /// The systems of this machine, as Nix names them.
    pub systems: Vec<String>,
    /// The number of the last announcement of an earlier run, 0 where it is not known.
    pub last_sequence: u64,
    /// Bytes that what is known of the others may take, filters included.
    pub index_memory: usize,
    /// Where addresses of peers are put for the endpoint to find, and taken away again: the swarm's
    /// alone, so that what it hears displaces nothing that is known from elsewhere.
    pub known: MemoryLookup,
}

/// A running peer of a swarm. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Swarm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    topic: Topic,
    gossip_alpn: Vec<u8>,
    catalogue_alpn: Vec<u8>,
    known: MemoryLookup,
    links: Links,
    fetch: Arc<dyn Fetch>,
    engine: Mutex<Engine>,
    /// Our own inventories as they are announced, the newest last.
    own: Mutex<VecDeque<(BlobHash, Bytes)>>,
    gossip: RwLock<Option<Gossip>>,
    /// Who is being connected to, to be made a neighbour.
    dialling: Mutex<HashSet<EndpointId>>,
    inbox: mpsc::Sender<Event>,
    changes: mpsc::Sender<Change>,
    restarts: std::sync::atomic::AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The topic of the swarm `name`.
pub fn topic(name: &str) -> Topic {
    blake3::derive_key("peerix swarm topic 1", name.as_bytes())
}

/// The name in the swarm `name` of the protocol that is called `alpn` in the public one.
pub fn alpn_in(name: &str, alpn: &[u8]) -> Vec<u8> {
    match name {
        "public" => alpn.to_vec(),
        name => [alpn, b"/", name.as_bytes()].concat(),
    }
}

/// The protocol of the swarm `name` that iroh-gossip speaks; the stock one for `public`.
pub fn gossip_alpn(name: &str) -> Vec<u8> {
    alpn_in(name, GOSSIP_ALPN)
}

/// The protocol by which newcomers of the swarm `name` ask for what is known.
pub fn catalogue_alpn(name: &str) -> Vec<u8> {
    alpn_in(name, b"peerix/catalogue/1")
}

impl Swarm {
    /// Starts a peer of a swarm on `endpoint`, whose builder was given `links` as hooks and whose
    /// router must be given [`Swarm::gossip_protocol`] and [`Swarm::catalogue_protocol`].
    ///
    /// The receiver is told of peers; what it does not take in time is dropped.
    pub fn start(
        endpoint: Endpoint,
        links: Links,
        options: Options,
        fetch: Arc<dyn Fetch>,
    ) -> (Self, mpsc::Receiver<Change>) {
        let topic = topic(&options.name);
        let config = Config {
            secret_key: endpoint.secret_key().clone(),
            topic,
            systems: options.systems,
            last_sequence: options.last_sequence,
            index_memory: options.index_memory,
            seed: rand::random(),
        };
        let (inbox, events) = mpsc::channel(limits::QUEUE);
        let (changes, changed) = mpsc::channel(limits::QUEUE);
        let swarm = Self(Arc::new(Inner {
            topic,
            gossip_alpn: gossip_alpn(&options.name),
            catalogue_alpn: catalogue_alpn(&options.name),
            known: options.known,
            links,
            fetch,
            engine: Mutex::new(Engine::new(config, Now::system())),
            own: Mutex::default(),
            gossip: RwLock::new(None),
            dialling: Mutex::default(),
            inbox,
            changes,
            restarts: Default::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            endpoint,
        }));
        let span = debug_span!("swarm", name = %options.name);
        swarm
            .0
            .tasks
            .spawn(run::run(swarm.clone(), events).instrument(span));
        (swarm, changed)
    }

    /// The name of the gossip protocol, and who speaks it.
    pub fn gossip_protocol(&self) -> (Vec<u8>, GossipProtocol) {
        (
            self.0.gossip_alpn.clone(),
            GossipProtocol::new(self.clone()),
        )
    }

    /// The name of the catalogue's protocol, and who speaks it.
    pub fn catalogue_protocol(&self) -> (Vec<u8>, CatalogueProtocol) {
        (
            self.0.catalogue_alpn.clone(),
            CatalogueProtocol::new(self.clone()),
        )
    }

    /// Notes what this machine offers from now on: sorted, without repetitions; `complete`: and that
    /// it offers nothing else.
    pub async fn offer(&self, offered: Offered, complete: bool) {
        // The rules take all that is in the queue: this waits for no peer.
        let _ = self.0.inbox.send(Event::Offered(offered, complete)).await;
    }

    /// Notes peers to join through, of whom somebody told; the latest of them are remembered.
    pub fn join(&self, peers: Vec<EndpointAddr>) {
        self.join_through(peers, false);
    }

    /// Notes peers to join through that were given by hand: nothing displaces them.
    pub fn join_by_hand(&self, peers: Vec<EndpointAddr>) {
        self.join_through(peers, true);
    }

    fn join_through(&self, peers: Vec<EndpointAddr>, by_hand: bool) {
        let ids = peers.iter().map(|peer| peer.id).collect();
        let seeds = Event::Seeds { ids, by_hand };
        if self.0.inbox.try_send(seeds).is_err() {
            return;
        }
        for peer in peers.into_iter().take(limits::SEEDS) {
            if !peer.addrs.is_empty() {
                self.0.known.add_endpoint_info(peer);
            }
        }
    }

    /// What is known of a peer and a path.
    pub fn standing(&self, peer: &EndpointId, path_hash: &PathHash) -> Standing {
        self.engine()
            .index
            .standing(peer, path_hash, Instant::now())
    }

    /// What is known of several peers and a path.
    pub fn standings(
        &self,
        peers: impl IntoIterator<Item = EndpointId>,
        path_hash: &PathHash,
    ) -> Vec<Standing> {
        let now = Instant::now();
        let engine = self.engine();
        let standing = |id| engine.index.standing(&id, path_hash, now);
        peers.into_iter().map(standing).collect()
    }

    /// The peers that may have a path, the most useful first.
    pub fn may_have(&self, path_hash: &PathHash) -> Vec<EndpointId> {
        self.engine().index.may_have(path_hash, Instant::now())
    }

    /// Notes whether a peer that was said to have a path had it, when it was asked for it.
    pub fn answered(&self, peer: &EndpointId, had: bool, asked: Instant) {
        self.engine()
            .index
            .answered(peer, had, asked, Instant::now());
    }

    /// Notes that a peer lacked a path that it was asked for because its inventory is not known.
    pub fn asked_in_vain(&self, peer: &EndpointId, asked: Instant) {
        let now = Instant::now();
        self.engine().index.asked_in_vain(peer, asked, now);
    }

    /// Notes that a peer could not be connected to: for a while it comes after all others.
    pub fn unreachable(&self, peer: &EndpointId) {
        self.engine().index.unreachable(peer, Instant::now());
    }

    /// Notes how useful the caller finds a peer, 0 to 1.
    pub fn judge_peer(&self, peer: &EndpointId, usefulness: f32) {
        self.engine().index.judge_peer(peer, usefulness);
    }

    /// Notes paths that this machine has or asked for: who has them too is useful.
    pub fn interested_in(&self, paths: Vec<PathHash>) {
        self.engine().interested_in(paths);
    }

    /// Whether `peer` was heard of in this swarm.
    pub fn knows(&self, peer: &EndpointId) -> bool {
        self.engine().index.contains(peer)
    }

    /// The peers heard of.
    pub fn len(&self) -> usize {
        self.engine().index.len()
    }

    /// Whether nobody was heard of.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most useful of the peers heard of, and where they are reached.
    pub fn peers(&self, count: usize) -> Vec<EndpointAddr> {
        let mut peers = self.engine().index.peers();
        peers.truncate(count);
        peers
    }

    /// The filters held.
    pub fn held(&self) -> usize {
        self.engine().index.held()
    }

    /// How many announcements met which end.
    pub fn counters(&self) -> Counters {
        self.engine().index.counters()
    }

    /// The neighbours in the overlay.
    pub fn neighbours(&self) -> Vec<EndpointId> {
        self.engine().neighbours()
    }

    /// How often gossip had to be started again.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The number of our last announcement, to be remembered for the next run.
    pub fn last_sequence(&self) -> u64 {
        self.engine().last_sequence()
    }

    /// The bytes of an inventory, our own or another's that is held: to be served as a blob.
    pub fn inventory(&self, blob_hash: &BlobHash) -> Option<Bytes> {
        let own = lock(&self.0.own);
        if let Some((_, bytes)) = own.iter().find(|(hash, _)| hash == blob_hash) {
            return Some(bytes.clone());
        }
        drop(own);
        let inventory = self.engine().index.inventory(blob_hash)?;
        Some(inventory.to_bytes().into())
    }

    /// Whether [`Swarm::inventory`] has it.
    pub fn has_inventory(&self, blob_hash: &BlobHash) -> bool {
        let is_own = lock(&self.0.own).iter().any(|(hash, _)| hash == blob_hash);
        is_own || self.engine().index.inventory(blob_hash).is_some()
    }

    /// Says goodbye and stops, within two seconds.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if timeout(limits::SHUTDOWN * 2, self.0.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("tasks of the swarm outlive it");
        }
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        lock(&self.0.engine)
    }

    /// iroh-gossip's own counters, while it runs. They begin anew where it is started again.
    pub fn metrics(&self) -> Option<Arc<iroh_gossip::metrics::Metrics>> {
        Some(self.gossip()?.metrics().clone())
    }

    fn gossip(&self) -> Option<Gossip> {
        let gossip = self.0.gossip.read().unwrap_or_else(PoisonError::into_inner);
        gossip.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
