//! The swarm as the daemon has it: peers that gossip finds, and what this machine tells it.
//!
//! A swarm may have thousands of peers, and a kept connection to each would cost more than it is
//! worth. So the first ones met are kept connected, and others when they may have a path that is
//! asked for; beyond a bound, those found longest ago go.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    address_lookup::MemoryLookup,
    endpoint::{TransportAddrInfo, TransportAddrUsage},
};
use peerix_gossip::{Change, Links, Options, PathHash, Standing};
use peerix_store::nix::StorePathHash;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    limits,
    peer::peers::{Peer, Peers},
    state_dir::StateDir,
};

pub mod id;
mod inventories;
mod memory;

pub use id::{SwarmId, SwarmSecret};
use inventories::Inventories;
use memory::Memory;

/// Reserved numbers that are left when more are reserved.
const RESERVE_LEFT: u64 = limits::SWARM_SEQUENCES_RESERVED / 4;

/// This machine in its swarm. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Swarm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gossip: peerix_gossip::Swarm,
    /// Peers that only the swarm found, the earliest first.
    found: Mutex<VecDeque<EndpointId>>,
    /// What was announced, and whether that was all.
    announced: Mutex<(Vec<PathHash>, bool)>,
    /// One announcement is made at a time: each builds on the one before.
    announcing: tokio::sync::Mutex<()>,
    /// What is written down.
    memory: Mutex<Memory>,
    endpoint: Endpoint,
    state_dir: Arc<StateDir>,
}

impl Swarm {
    /// Takes part in the swarm `id` from `endpoint`, to which `links` were given as hooks.
    ///
    /// The receiver is for [`Swarm::follow`].
    pub fn start(
        id: &SwarmId,
        endpoint: &Endpoint,
        links: Links,
        state_dir: Arc<StateDir>,
    ) -> (Self, mpsc::Receiver<Change>) {
        let memory = Memory::read(&state_dir);
        // Anybody may say anything in a swarm: it displaces no address that is known from elsewhere.
        let known = MemoryLookup::with_provenance("swarm");
        if let Ok(lookups) = endpoint.address_lookup() {
            lookups.add(known.clone());
        }
        let options = Options {
            name: id.name().to_owned(),
            systems: vec![system()],
            last_sequence: memory.last_sequence,
            index_memory: peerix_gossip::limits::INDEX_MEMORY,
            known,
        };
        let fetch = Arc::new(Inventories::new(endpoint.clone(), id));
        let (gossip, changes) =
            peerix_gossip::Swarm::start(endpoint.clone(), links, options, fetch);
        let swarm = Self(Arc::new(Inner {
            gossip,
            found: Mutex::default(),
            announced: Mutex::default(),
            announcing: Default::default(),
            memory: Mutex::new(memory.clone()),
            endpoint: endpoint.clone(),
            state_dir,
        }));
        // Before a number is used, it is reserved.
        swarm.remember(Vec::new());
        swarm.0.gossip.join(memory.peers);
        (swarm, changes)
    }

    /// What runs it: protocols to be served, and counters.
    pub fn gossip(&self) -> &peerix_gossip::Swarm {
        &self.0.gossip
    }

    /// What `/status` says of it.
    pub fn describe(&self) -> Value {
        let gossip = &self.0.gossip;
        json!({
            "peers": gossip.len(),
            "neighbours": gossip.neighbours().len(),
            "inventories": gossip.held(),
            "announced": self.announced(),
            "restarts": gossip.restarts(),
        })
    }

    /// How many paths the swarm was told of.
    pub fn announced(&self) -> usize {
        lock(&self.0.announced).0.len()
    }

    /// Says goodbye and stops; what the next start needs is written down.
    pub async fn shutdown(&self) {
        let peers = self.met().await;
        self.0.gossip.shutdown().await;
        let inner = self.0.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut memory = lock(&inner.memory);
            memory.meet(peers);
            memory.last_sequence = inner.gossip.last_sequence();
            memory.write(&inner.state_dir);
        });
        let _ = writing.await;
    }

    /// Who was met: authors, the most useful first, and neighbours that have announced nothing yet.
    async fn met(&self) -> Vec<EndpointAddr> {
        let mut met = self.0.gossip.peers(limits::SWARM_PEERS_REMEMBERED);
        for id in self.0.gossip.neighbours() {
            if met.iter().any(|addr| addr.id == id) {
                continue;
            }
            if let Some(remote) = self.0.endpoint.remote_info(id).await {
                let used =
                    |addr: &TransportAddrInfo| matches!(addr.usage(), TransportAddrUsage::Active);
                let addrs = remote.into_addrs().filter(used);
                met.push(EndpointAddr::from_parts(
                    id,
                    addrs.map(TransportAddrInfo::into_addr),
                ));
            }
        }
        met
    }

    /// Writes down who was met, and reserves numbers where few of those reserved are left.
    fn remember(&self, met: Vec<EndpointAddr>) {
        let mut memory = lock(&self.0.memory);
        let used = self.0.gossip.last_sequence();
        let is_short = memory.last_sequence < used.saturating_add(RESERVE_LEFT);
        if met.is_empty() && !is_short {
            return;
        }
        if is_short {
            memory.last_sequence = used.saturating_add(limits::SWARM_SEQUENCES_RESERVED);
        }
        memory.meet(met);
        memory.write(&self.0.state_dir);
    }

    /// Keeps some of the peers of the swarm connected until `stop`.
    pub async fn follow(
        self,
        peers: Peers,
        mut changes: mpsc::Receiver<Change>,
        stop: CancellationToken,
    ) {
        let mut remember = tokio::time::interval(limits::SWARM_REMEMBER_LOOK);
        let mut written_at = None;
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                _ = remember.tick() => {
                    let is_due = written_at
                        .is_none_or(|at: Instant| at.elapsed() >= limits::SWARM_REMEMBER_EVERY);
                    let met = match is_due {
                        true => self.met().await,
                        false => Vec::new(),
                    };
                    if !met.is_empty() {
                        written_at = Some(Instant::now());
                    }
                    let swarm = self.clone();
                    let _ = tokio::task::spawn_blocking(move || swarm.remember(met)).await;
                    continue;
                }
                change = changes.recv() => change,
            };
            let Some(change) = change else { return };
            match change {
                Change::Met(addr) => {
                    let is_full = lock(&self.0.found).len() >= limits::SWARM_PEERS_KEPT;
                    if !is_full || self.give_up_one(&peers) {
                        self.find(&peers, addr.id);
                    }
                }
                Change::Left(id) => {
                    let mut found = lock(&self.0.found);
                    let before = found.len();
                    found.retain(|other| *other != id);
                    if found.len() != before {
                        peers.forget(id);
                    }
                }
            }
        }
    }

    /// The peers to ask for a path, those that may have it first: who is known to lack it is not
    /// asked, except with the token of a private share, which no inventory tells of.
    pub fn candidates(&self, peers: &Peers, path_hash: StorePathHash) -> Vec<Arc<Peer>> {
        let path_hash = path_hash.as_bytes();
        let having = self.0.gossip.may_have(path_hash);
        // Who can't be reached takes nobody's place, however many of them claim to have it.
        let mut counted = 0;
        for id in having.into_iter().take(limits::CLAIMANTS) {
            match peers.get(id) {
                Some(peer) if peer.is_down() => self.0.gossip.unreachable(&id),
                Some(peer) if peer.is_lost() => {}
                Some(_) => counted += 1,
                None => {
                    self.find(peers, id);
                    counted += 1;
                }
            }
            if counted == limits::LOOKUP_PEERS {
                break;
            }
        }
        let askable = peers.askable();
        let ids = askable.iter().map(|peer| peer.id());
        let standings = self.0.gossip.standings(ids, path_hash);
        let mut asked: Vec<(Standing, Arc<Peer>)> = standings
            .into_iter()
            .zip(askable)
            .filter(|(standing, peer)| is_worth_asking(*standing) || peer.has_tokens())
            .collect();
        asked.sort_by_key(|(standing, _)| *standing != Standing::MayHave);
        asked.truncate(limits::LOOKUP_PEERS);
        asked.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Whether an inventory says that somebody has the path.
    pub fn claims(&self, path_hash: StorePathHash) -> bool {
        !self.0.gossip.may_have(path_hash.as_bytes()).is_empty()
    }

    /// Those of `ids` whose inventory is known.
    pub fn known_inventories(&self, ids: &[EndpointId]) -> Vec<EndpointId> {
        // Whether it is known does not depend on the path.
        let standings = self.0.gossip.standings(ids.iter().copied(), &[0; 20]);
        let known = ids
            .iter()
            .zip(standings)
            .filter(|(_, standing)| !matches!(standing, Standing::Unknown | Standing::Doubtful));
        known.map(|(id, _)| *id).collect()
    }

    /// Notes what a peer answered that was asked for a path, then.
    pub fn answered(&self, peer: &Peer, path_hash: StorePathHash, had: bool, asked: Instant) {
        let (id, path_hash) = (peer.id(), path_hash.as_bytes());
        match self.0.gossip.standing(&id, path_hash) {
            _ if had => self.0.gossip.answered(&id, true, asked),
            Standing::MayHave => self.0.gossip.answered(&id, false, asked),
            Standing::Unknown => self.0.gossip.asked_in_vain(&id, asked),
            Standing::Lacks | Standing::Doubtful => {}
        }
        // A fast no is no use.
        if had {
            let score = peer.score(|score| score.value(Instant::now()));
            self.0.gossip.judge_peer(&id, (score as f32).max(0.5));
        }
    }

    /// Tells the swarm what this machine offers from now on; `complete`: and nothing else.
    pub async fn announce(&self, paths: Vec<PathHash>, complete: bool) {
        let _turn = self.0.announcing.lock().await;
        self.tell(paths, complete).await;
    }

    async fn tell(&self, mut paths: Vec<PathHash>, complete: bool) {
        paths.sort_unstable();
        paths.dedup();
        let sample = paths.sample(&mut rand::rng(), peerix_gossip::limits::INTERESTS);
        self.0.gossip.interested_in(sample.copied().collect());
        *lock(&self.0.announced) = (paths.clone(), complete);
        self.0.gossip.offer(paths.into(), complete).await;
    }

    /// Tells the swarm of paths that came.
    pub async fn announce_more(&self, more: impl IntoIterator<Item = PathHash>) {
        let _turn = self.0.announcing.lock().await;
        let (mut paths, complete) = lock(&self.0.announced).clone();
        let before = paths.len();
        paths.extend(more);
        if paths.len() != before {
            self.tell(paths, complete).await;
        }
    }

    /// Keeps a peer of the swarm connected from now on.
    fn find(&self, peers: &Peers, id: EndpointId) {
        if peers.get(id).is_none() && peers.meet(id) {
            self.adopt(peers, id);
        }
    }

    /// Takes over a peer from another way of finding peers, which lets go of it.
    pub fn adopt(&self, peers: &Peers, id: EndpointId) {
        let mut found = lock(&self.0.found);
        found.retain(|other| *other != id);
        found.push_back(id);
        if found.len() > limits::SWARM_PEERS
            && let Some(earliest) = found.pop_front()
        {
            peers.forget(earliest);
        }
    }

    /// Lets go of a peer that is of no use; false where there is none.
    fn give_up_one(&self, peers: &Peers) -> bool {
        let mut found = lock(&self.0.found);
        let is_lost = |id: &EndpointId| peers.get(*id).is_none_or(|peer| peer.is_lost());
        let Some(at) = found.iter().position(is_lost) else {
            return false;
        };
        let lost = found.remove(at);
        drop(found);
        if let Some(id) = lost {
            peers.forget(id);
        }
        true
    }
}

/// Whether a peer of whom this is known is asked for a path.
fn is_worth_asking(standing: Standing) -> bool {
    matches!(standing, Standing::MayHave | Standing::Unknown)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This machine's system, as Nix names it.
pub(crate) fn system() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    };
    let arch = match std::env::consts::ARCH {
        "x86" => "i686",
        arch => arch,
    };
    format!("{arch}-{os}")
}
