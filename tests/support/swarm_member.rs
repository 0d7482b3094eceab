//! Members of the public swarm that say what is not true: real endpoints on the real gossip.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bao_tree::{
    BlockSize,
    io::{outboard::PreOrderMemOutboard, sync::encode_ranges},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use iroh::{
    EndpointAddr, EndpointId, SecretKey,
    address_lookup::MemoryLookup,
    endpoint::{Connection, RecvStream, SendStream},
    protocol::{AcceptError, ProtocolHandler, Router},
};
use iroh_blobs::protocol::Request as BlobRequest;
use peerix::{
    limits,
    peer::lookup::{self, Answer, Request},
};
use peerix_gossip::{
    Action, Config, Engine, Event, Fetch, Inventory, Links, Now, Options, PathHash, Swarm,
    announcement::InventoryBlob, blob_of, topic,
};

use super::{
    gossip_hostile,
    hostile::{path_hash, runtime},
    loopback::loopback,
};

const SWARM: &str = "public";

/// The hash by which the swarm knows a store path.
pub fn swarm_hash(store_path: &str) -> PathHash {
    *path_hash(store_path).as_bytes()
}

/// A member that claims paths, keeps to the swarm's rules otherwise, and has none of them.
pub struct Claimant {
    asked: Arc<AtomicU64>,
    router: Router,
    swarm: Swarm,
    runtime: tokio::runtime::Runtime,
}

impl Claimant {
    /// Starts one that joins through the peer at `known`.
    pub fn start(known: EndpointAddr, claims: Vec<PathHash>) -> Claimant {
        let runtime = runtime();
        let asked = Arc::new(AtomicU64::new(0));
        let counting = asked.clone();
        let (swarm, router) = runtime.block_on(async move {
            let lookup = MemoryLookup::new();
            let links = Links::new(SWARM);
            let endpoint = loopback()
                .address_lookup(lookup.clone())
                .hooks(links.clone());
            let endpoint = endpoint.bind().await.expect("a free port");
            let options = Options {
                name: SWARM.to_owned(),
                systems: vec!["x86_64-linux".to_owned()],
                last_sequence: 0,
                index_memory: 1 << 20,
                known: lookup,
            };
            let (swarm, _changes) =
                Swarm::start(endpoint.clone(), links, options, Arc::new(Incurious));
            let (gossip_name, gossip) = swarm.gossip_protocol();
            let (catalogue_name, catalogue) = swarm.catalogue_protocol();
            let router = Router::builder(endpoint)
                .accept(gossip_name, gossip)
                .accept(catalogue_name, catalogue)
                .accept(lookup::ALPN, HasNothing(counting))
                .accept(iroh_blobs::ALPN, OwnInventories(swarm.clone()))
                .spawn();
            let mut claims = claims;
            claims.sort_unstable();
            swarm.offer(claims.into(), true).await;
            swarm.join(vec![known]);
            (swarm, router)
        });
        Claimant {
            asked,
            router,
            swarm,
            runtime,
        }
    }

    /// How many paths it was asked for in vain.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        let (router, swarm) = (self.router.clone(), self.swarm.clone());
        self.runtime.block_on(async move {
            swarm.shutdown().await;
            let _ = tokio::time::timeout(Duration::from_secs(3), router.shutdown()).await;
        });
    }
}

/// Wants nobody's inventory.
#[derive(Debug)]
struct Incurious;

impl Fetch for Incurious {
    fn fetch(&self, _: InventoryBlob, _: Vec<EndpointId>) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async { None })
    }
}

/// Answers every lookup, and has nothing.
#[derive(Clone, Debug)]
struct HasNothing(Arc<AtomicU64>);

impl HasNothing {
    async fn answer(&self, mut send: SendStream, mut receive: RecvStream) {
        let read = lookup::read_frame::<Request>(&mut receive, limits::LOOKUP_MAX_REQUEST);
        let Ok((request, _)) = read.await else {
            return;
        };
        let asked = request.path_hashes.len() as u64;
        self.0.fetch_add(asked, Ordering::Relaxed);
        for _ in 0..asked {
            let answer = lookup::write_frame(&mut send, &Answer::Absent, limits::LOOKUP_MAX_ANSWER);
            if answer.await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

impl ProtocolHandler for HasNothing {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((send, receive)) = connection.accept_bi().await {
            let this = self.clone();
            tokio::spawn(async move { this.answer(send, receive).await });
        }
        Ok(())
    }
}

/// Serves the inventories that it announces, as blobs.
#[derive(Clone, Debug)]
struct OwnInventories(Swarm);

impl ProtocolHandler for OwnInventories {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let Ok((BlobRequest::Get(get), _)) = BlobRequest::read_async(&mut receive).await else {
                continue;
            };
            let (Some(inventory), Some((0, ranges))) = (
                self.0.inventory(get.hash.as_bytes()),
                get.ranges.as_single(),
            ) else {
                continue;
            };
            let outboard = PreOrderMemOutboard::create(&inventory, BlockSize::from_chunk_log(4));
            let mut encoded = (inventory.len() as u64).to_le_bytes().to_vec();
            let is_encoded = encode_ranges(&inventory[..], &outboard, ranges, &mut encoded);
            if is_encoded.is_ok() && send.write_all(&encoded).await.is_ok() {
                let _ = send.finish();
            }
        }
        Ok(())
    }
}

/// A member with stock gossip that writes what it likes into the swarm.
pub struct Forger {
    peer: gossip_hostile::Peer,
    runtime: tokio::runtime::Runtime,
}

impl Forger {
    /// Starts one that is a neighbour of the peer at `known`.
    pub fn start(known: &EndpointAddr) -> Forger {
        let runtime = runtime();
        let peer = runtime.block_on(gossip_hostile::Peer::start(SWARM, &[known]));
        Forger { peer, runtime }
    }

    /// Tells the swarm.
    pub fn broadcast(&self, message: Bytes) {
        self.runtime.block_on(self.peer.broadcast(message));
    }

    /// Tells it valid announcements of its own, so many a second.
    pub fn flood(&self, a_second: u64) -> gossip_hostile::Flood {
        let _inside = self.runtime.enter();
        self.peer.flood(a_second)
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.runtime.block_on(self.peer.stop());
    }
}

/// Says to the gossip at `to`, under a fresh key, a million times that somebody has a message which
/// nobody has; how many of it were taken.
pub fn false_notices(to: &EndpointAddr) -> u64 {
    runtime().block_on(async {
        match gossip_hostile::Raw::try_connect(SWARM, to).await {
            Some(raw) => raw.false_notices(1_000_000).await,
            // Gossip is started again meanwhile.
            None => 0,
        }
    })
}

/// What somebody with a key of its own announces who offers `paths` and is reached nowhere.
pub fn announcement_of(seed: u16, mut paths: Vec<PathHash>) -> Bytes {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&seed.to_le_bytes());
    let secret_key = SecretKey::from_bytes(&key);
    let start = Now::system();
    let config = Config {
        secret_key: secret_key.clone(),
        topic: topic(SWARM),
        systems: vec!["x86_64-linux".to_owned()],
        last_sequence: 0,
        index_memory: 1 << 20,
        seed: seed.into(),
    };
    let mut engine = Engine::new(config, start);
    paths.sort_unstable();
    let nowhere = ([127, 0, 0, 1], 1024 + seed % 1000).into();
    let addr = EndpointAddr::new(secret_key.public()).with_ip_addr(nowhere);
    let neighbour = SecretKey::from_bytes(&[3; 32]).public();
    let mut events = vec![
        Event::NeighbourUp(neighbour),
        Event::ReachedAt(addr),
        Event::Offered(paths.into(), true),
    ];
    for seconds in 0..600 {
        let now = Now {
            at: start.at + Duration::from_secs(seconds),
            unix_ms: start.unix_ms,
        };
        while let Some(event) = events.pop() {
            for action in engine.handle(event, now) {
                match action {
                    Action::Broadcast(bytes) => return bytes,
                    Action::Build(paths) => {
                        let built = Inventory::build(paths.iter().copied(), 1).expect("a filter");
                        let blob = blob_of(&built.to_bytes(), &built);
                        events.push(Event::Built(paths, Some(blob)));
                    }
                    _ => {}
                }
            }
        }
        events.push(Event::Tick);
    }
    panic!("it announces nothing");
}

/// The longest of all but the slowest hundredth of these.
pub fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// How long `work` takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}
