//! The peers this machine knows, a kept connection to each for lookups, those that blobs come over, and
//! what became of asking them.
//!
//! Configuration and tickets call [`Peers::add`]; the local network, where anybody can claim to be
//! anybody, calls [`Peers::add_found`], the swarm and trackers, of whose peers only some are kept
//! connected, [`Peers::meet`], and these take back what they added. A peer is connected to in the
//! background and again with back-off, so that a dead one costs a lookup nothing.

mod connect_failure;
mod connections;
mod found;
mod peer;
mod report;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, Watcher as _, address_lookup::MemoryLookup,
    endpoint::Connection,
};
use lru::LruCache;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span};

pub(super) use connect_failure::ConnectFailure;
use connect_failure::{failure, is_refused};
pub(super) use peer::Link;
pub use peer::Peer;

use super::{
    lookup_client::{self, Wanted},
    open::OpenConnections,
    reputation,
    score::{Fault, Score},
};
use crate::{
    config::WireCompression,
    limits,
    metrics::Metrics,
    report::{PeerReport, PeersReport},
    swarm::SwarmId,
};

/// Connections kept to one provider: two carry range streams better than one on a fast path.
const BLOB_CONNECTIONS: usize = 2;

/// Endpoints that are no peers, of which it is known how much was sent to them.
const REQUESTERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// All known peers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    known: MemoryLookup,
    found: MemoryLookup,
    reach: Reach,
    open: OpenConnections,
    connect_timeout: Duration,
    wire_compression: WireCompression,
    swarm_id: SwarmId,
    decoders: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    peers: Mutex<HashMap<EndpointId, Arc<Peer>>>,
    /// What is known of peers that are not known yet, from former processes.
    remembered: Mutex<HashMap<EndpointId, Score>>,
    /// Bytes sent to those that are no peers of this machine: they ask, and are not asked.
    requesters: Mutex<LruCache<EndpointId, u64>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How peers are spoken with.
#[derive(Debug)]
pub struct Options {
    /// How far away they may be.
    pub reach: Reach,
    /// How long connecting to one may take.
    pub connect_timeout: Duration,
    /// When the wire is compressed.
    pub wire_compression: WireCompression,
    /// The swarm that they and this machine are of.
    pub swarm_id: SwarmId,
}

/// How far away peers may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere.
    Anywhere,
    /// On the local network: no other address is dialled.
    LocalNetwork,
}

impl Peers {
    /// Makes an empty set of peers that are dialled from `endpoint`.
    pub fn new(
        endpoint: Endpoint,
        known: MemoryLookup,
        open: OpenConnections,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Options {
            reach,
            connect_timeout,
            wire_compression,
            swarm_id,
        } = options;
        let found = MemoryLookup::with_provenance("lan");
        if let Ok(lookups) = endpoint.address_lookup() {
            lookups.add(found.clone());
        }
        Self(Arc::new(Inner {
            endpoint,
            known,
            found,
            reach,
            open,
            connect_timeout: connect_timeout.min(limits::CONNECT_TIMEOUT),
            wire_compression,
            swarm_id,
            decoders: Arc::new(Semaphore::new(limits::WIRE_DECODER_MEMORY / 1024)),
            metrics,
            peers: Mutex::default(),
            remembered: Mutex::default(),
            requesters: Mutex::new(LruCache::new(REQUESTERS)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Adds a peer, or addresses of a known one; returns false for this machine itself.
    pub fn add(&self, mut addr: EndpointAddr) -> bool {
        if self.0.reach == Reach::LocalNetwork {
            addr.addrs.retain(found::stays_local);
        }
        let id = addr.id;
        if !addr.addrs.is_empty() && id != self.0.endpoint.id() {
            self.0.known.add_endpoint_info(addr);
        }
        self.start(id, true)
    }

    fn start(&self, id: EndpointId, kept: bool) -> bool {
        if id == self.0.endpoint.id() || self.0.stop.is_cancelled() {
            return false;
        }
        let mut peers = lock(&self.0.peers);
        if let Some(peer) = peers.get(&id) {
            peer.kept.fetch_or(kept, Ordering::Relaxed);
            peer.other_swarm.fetch_and(!kept, Ordering::Relaxed);
            peer.retry.notify_one();
            return true;
        }
        let (queue, wanted) = mpsc::channel(limits::LOOKUP_QUEUE);
        let peer = Arc::new(Peer {
            id,
            link: watch::Sender::new(Link::First),
            queue,
            silent: AtomicBool::new(false),
            misses: AtomicU32::new(0),
            older: AtomicBool::new(false),
            other_swarm: AtomicBool::new(false),
            score: Mutex::new(self.former_score(id)),
            tokens: Mutex::default(),
            blobs: Default::default(),
            framed: Default::default(),
            wire: Arc::default(),
            retry: Notify::new(),
            streams: Semaphore::new(limits::STREAMS_PER_PEER),
            asked: AtomicUsize::new(0),
            kept: AtomicBool::new(kept),
            is_probed: AtomicBool::new(false),
            gone: self.0.stop.child_token(),
        });
        peers.insert(id, peer.clone());
        let span = debug_span!("peer", id = %id.fmt_short());
        let task = self.clone().keep(peer, wanted).instrument(span);
        self.0.tasks.spawn(task);
        true
    }

    fn former_score(&self, id: EndpointId) -> Score {
        let mut score = lock(&self.0.remembered).remove(&id).unwrap_or_default();
        score.bytes_sent += lock(&self.0.requesters).pop(&id).unwrap_or(0);
        score
    }

    /// Takes up what a former process knew of peers; those that are added from now on have it.
    pub fn remember(&self, scores: Vec<(EndpointId, Score)>) {
        lock(&self.0.remembered).extend(scores);
    }

    /// What is known of all peers, for the next process.
    pub fn scores(&self) -> Vec<(EndpointId, Score)> {
        let remembered = lock(&self.0.remembered).clone();
        let known = lock(&self.0.peers);
        let known = known
            .values()
            .map(|peer| (peer.id, peer.score(|score| score.clone())));
        known.chain(remembered).collect()
    }

    /// Looks for addresses of peers in `lookup` too.
    pub fn look_up_in(&self, lookup: MemoryLookup) {
        if let Ok(lookups) = self.0.endpoint.address_lookup() {
            lookups.add(lookup);
        }
    }

    /// Adds a peer that may be forgotten again, whose addresses the endpoint finds by itself.
    pub fn meet(&self, id: EndpointId) -> bool {
        self.start(id, false)
    }

    /// The same without trying at once to reach one that is known already.
    pub fn meet_again(&self, id: EndpointId) {
        if self.get(id).is_none() {
            self.meet(id);
        }
    }

    /// Forgets such a peer, unless it is known from elsewhere; transfers that it is part of go on
    /// without it.
    pub fn forget(&self, id: EndpointId) {
        if self.0.found.get_endpoint_info(id).is_none() {
            self.let_go(id);
        }
    }

    /// Lets go of a peer that is not to be kept. That it lied stays known.
    fn let_go(&self, id: EndpointId) {
        let mut peers = lock(&self.0.peers);
        let is_kept = |peer: &Arc<Peer>| peer.kept.load(Ordering::Relaxed);
        if peers.get(&id).is_none_or(is_kept) {
            return;
        }
        let peer = peers.remove(&id);
        drop(peers);
        let Some(peer) = peer else { return };
        peer.gone.cancel();
        let score = peer.score(|score| score.clone());
        let mut remembered = lock(&self.0.remembered);
        if score.lies > 0 && remembered.len() < reputation::MAX_PEERS {
            remembered.insert(id, score);
        }
        drop(remembered);
        self.update_gauge();
    }

    /// Keeps the lookup connection of `peer` until the daemon stops.
    async fn keep(self, peer: Arc<Peer>, mut wanted: mpsc::Receiver<Wanted>) {
        let gone = peer.gone.clone();
        let keep = async {
            loop {
                let wait = match self.connect_anew(&peer).await {
                    Ok(connection) => {
                        debug!("connected");
                        peer.silent.store(false, Ordering::Relaxed);
                        peer.older.store(false, Ordering::Relaxed);
                        // Without a secret it may be we who are none of its swarm.
                        if self.0.swarm_id.secret().is_some() {
                            peer.other_swarm.store(false, Ordering::Relaxed);
                        }
                        peer.link.send_replace(Link::Up(connection.clone()));
                        self.update_gauge();
                        lookup_client::serve(&peer, &connection, &mut wanted).await;
                        peer.link.send_replace(Link::Down);
                        self.update_gauge();
                        debug!("connection lost");
                        // Who asks for a secret that this machine has not lets go after a while.
                        if connection.close_reason().is_some_and(|e| is_refused(&e)) {
                            self.is_of_other_swarm(&peer);
                            limits::OLDER_RECHECK
                        } else {
                            Duration::from_millis(200)
                        }
                    }
                    Err(ConnectFailure::OtherProtocols) => {
                        debug!("it does not speak the lookup protocol");
                        peer.older.store(true, Ordering::Relaxed);
                        peer.link.send_replace(Link::Down);
                        limits::OLDER_RECHECK
                    }
                    Err(ConnectFailure::OtherSwarm) => {
                        self.is_of_other_swarm(&peer);
                        limits::OLDER_RECHECK
                    }
                    Err(ConnectFailure::Fault(fault)) => {
                        peer.link.send_replace(Link::Down);
                        self.fault(&peer, fault)
                    }
                };
                // Whoever waits for an answer learns now that none comes.
                while wanted.try_recv().is_ok() {}
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = peer.retry.notified() => {}
                }
            }
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = keep => {}
            () = self.rest(&peer) => {}
        }
        peer.link.send_replace(Link::Down);
    }

    fn is_of_other_swarm(&self, peer: &Peer) {
        let was = peer.other_swarm.swap(true, Ordering::Relaxed);
        peer.link.send_replace(Link::Down);
        // Who was given by hand should be of this swarm; others come and go.
        if !was && peer.kept.load(Ordering::Relaxed) {
            let (peer, swarm) = (peer.id.fmt_short(), &self.0.swarm_id);
            tracing::warn!(%peer, "a peer given by hand is not of {swarm}, or has another secret");
        }
    }

    /// Connects, from the start again where news of its addresses come meanwhile.
    async fn connect_anew(&self, peer: &Peer) -> Result<Connection, ConnectFailure> {
        loop {
            tokio::select! {
                connected = self.connect(peer.id, super::lookup::ALPN) => return connected,
                () = peer.retry.notified() => {}
            }
        }
    }

    /// Makes a connection for one protocol, which is named as in the public swarm.
    pub(super) async fn connect(
        &self,
        id: EndpointId,
        alpn: &[u8],
    ) -> Result<Connection, ConnectFailure> {
        let alpn = self.0.swarm_id.alpn(alpn);
        let connecting = self.0.endpoint.connect(id, &alpn);
        match timeout(self.0.connect_timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                debug!(%error, "cannot connect");
                Err(match failure(&error) {
                    // The older program is in the public swarm alone.
                    ConnectFailure::OtherProtocols if !self.0.swarm_id.is_public() => {
                        ConnectFailure::OtherSwarm
                    }
                    failure => failure,
                })
            }
            Err(_) => Err(ConnectFailure::Fault(Fault::Silent)),
        }
    }

    /// The peer `id`, where it is known.
    pub fn get(&self, id: EndpointId) -> Option<Arc<Peer>> {
        lock(&self.0.peers).get(&id).cloned()
    }

    /// Whether `id` is connected now.
    pub fn is_connected(&self, id: EndpointId) -> bool {
        lock(&self.0.peers)
            .get(&id)
            .is_some_and(|peer| peer.is_up())
    }

    /// The peers worth asking now, best first, at most [`limits::LOOKUP_PEERS`].
    pub fn candidates(&self) -> Vec<Arc<Peer>> {
        let mut best = self.askable();
        best.truncate(limits::LOOKUP_PEERS);
        best
    }

    /// All peers that can be asked now, best first.
    pub fn askable(&self) -> Vec<Arc<Peer>> {
        self.best(Peer::is_askable)
    }

    fn best(&self, is_candidate: impl Fn(&Peer, Instant) -> bool) -> Vec<Arc<Peer>> {
        let now = Instant::now();
        let mut found: Vec<(bool, f64, Arc<Peer>)> = lock(&self.0.peers)
            .values()
            .filter(|peer| is_candidate(peer, now))
            .map(|peer| {
                let score = peer.score(|score| score.value(now));
                (peer.is_hearsay(), score, peer.clone())
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        found.into_iter().map(|(.., peer)| peer).collect()
    }

    /// The peers that speak the older program's protocols alone and are worth asking now, best
    /// first, at most [`limits::LOOKUP_PEERS`].
    pub fn older_candidates(&self) -> Vec<Arc<Peer>> {
        let mut best =
            self.best(|peer, now| peer.is_older() && !peer.score(|score| score.is_backed_off(now)));
        best.truncate(limits::LOOKUP_PEERS);
        best
    }

    /// How long a lookup of these peers may take: what their answers usually take at most.
    pub fn deadline(&self, asked: &[Arc<Peer>]) -> Duration {
        let slowest = asked
            .iter()
            .chain(&self.older_candidates())
            .map(|peer| {
                peer.score(|score| score.usual_latency())
                    .unwrap_or(limits::LOOKUP_DEADLINE_FIRST)
            })
            .max()
            .unwrap_or_default();
        slowest.clamp(limits::LOOKUP_DEADLINE_LEAST, limits::LOOKUP_DEADLINE_FIRST)
    }

    /// Counts a fault of `peer` and returns how long it is left alone.
    pub fn fault(&self, peer: &Peer, fault: Fault) -> Duration {
        self.0.metrics.count_fault(fault);
        debug!(peer = %peer.id.fmt_short(), fault = fault.as_str(), "a peer failed");
        let mut score = lock(&peer.score);
        score.failure(fault, Instant::now())
    }

    /// Counts NAR bytes sent to `id`.
    pub fn sent(&self, id: EndpointId, bytes: u64) {
        if let Some(peer) = self.get(id) {
            lock(&peer.score).bytes_sent += bytes;
            return;
        }
        let mut requesters = lock(&self.0.requesters);
        *requesters.get_or_insert_mut(id, || 0) += bytes;
    }

    /// NAR bytes sent to and received from everybody, peers or not, who got or gave any lately.
    pub fn totals(&self) -> Vec<(EndpointId, u64, u64)> {
        // `start` takes both locks the other way round: this one goes with its statement.
        let requesters: Vec<_> = lock(&self.0.requesters)
            .iter()
            .map(|(id, sent)| (*id, *sent, 0))
            .collect();
        let of = |peer: &Arc<Peer>| {
            let (sent, received) = peer.score(|score| (score.bytes_sent, score.bytes_received));
            (peer.id, sent, received)
        };
        let peers = lock(&self.0.peers);
        let peers = peers.values().map(of);
        let all = peers.chain(requesters);
        all.filter(|(_, sent, received)| *sent > 0 || *received > 0)
            .collect()
    }

    /// How many peers are known, and how many are connected.
    pub fn count(&self) -> (usize, usize) {
        let peers = lock(&self.0.peers);
        let up = peers.values().filter(|peer| peer.is_up()).count();
        (peers.len(), up)
    }

    fn update_gauge(&self) {
        let up = i64::try_from(self.count().1).unwrap_or(i64::MAX);
        self.0.metrics.peers_connected.set(up);
    }

    /// Every peer with its reputation and its path, as `/peers` and `peerix peers` show it.
    pub fn describe(&self) -> PeersReport {
        let now = Instant::now();
        let mut peers = self.all();
        peers.sort_by_key(|peer| peer.id);
        let peers: Vec<PeerReport> = peers.iter().map(|peer| peer.report(now)).collect();
        PeersReport {
            count: peers.len(),
            peers,
        }
    }

    /// All known peers, in no order.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        lock(&self.0.peers).values().cloned().collect()
    }

    /// Waits until `id` is connected or can't be, or until `deadline`.
    pub async fn connected(&self, id: EndpointId, deadline: Instant) {
        let Some(peer) = self.get(id) else { return };
        let mut link = peer.link.subscribe();
        let ended = |link: &Link| matches!(link, Link::Up(_)) || peer.is_of_other_swarm();
        let up = link.wait_for(ended);
        let _ = tokio::time::timeout_at(deadline.into(), up).await;
    }

    /// Stops all tasks, which tell the peers, and waits for them.
    ///
    /// Cancel safe: they end all the same.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// This machine's own id.
    pub fn own_id(&self) -> EndpointId {
        self.0.endpoint.id()
    }

    /// Addresses under which this endpoint can be reached, for tickets.
    pub fn own_addr(&self) -> EndpointAddr {
        self.0.endpoint.watch_addr().get()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
