//! Members of a swarm that do what they should not: one that runs stock gossip, one that writes its
//! own bytes, and one that reads catalogues.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, SecretKey,
    address_lookup::MemoryLookup,
    endpoint::{Connection, RecvStream, SendStream},
    protocol::Router,
};
use iroh_gossip::{
    api::{GossipReceiver, GossipSender},
    net::Gossip,
    proto::TopicId,
};
use peerix_gossip::{
    Changes, Page, PathHash, Tag,
    announcement::{Announcement, Content, Offer, Topic},
    catalogue_alpn, topic,
};
use tokio::task::JoinHandle;

use super::loopback::loopback;

/// A path hash that stands for a number.
pub fn path(number: u32) -> PathHash {
    let mut path = [0; 20];
    path[..4].copy_from_slice(&number.to_be_bytes());
    path
}

/// Stock gossip without any guard.
pub struct Peer {
    key: SecretKey,
    topic: Topic,
    sender: GossipSender,
    _receiver: GossipReceiver,
    router: Router,
}

impl Peer {
    /// Starts one that is a neighbour of these.
    pub async fn start(name: &str, known: &[&EndpointAddr]) -> Self {
        let lookup = MemoryLookup::new();
        for addr in known {
            lookup.add_endpoint_info((*addr).clone());
        }
        let endpoint = loopback().address_lookup(lookup).bind().await;
        let endpoint = endpoint.expect("a free port");
        let alpn = peerix_gossip::gossip_alpn(name);
        let gossip = Gossip::builder().alpn(&alpn).spawn(endpoint.clone());
        let router = Router::builder(endpoint.clone())
            .accept(alpn, gossip.clone())
            .spawn();
        let ids = known.iter().map(|addr| addr.id).collect();
        let id = TopicId::from_bytes(topic(name));
        let joined = gossip.subscribe_and_join(id, ids).await;
        let (sender, receiver) = joined.expect("a neighbour").split();
        Self {
            key: endpoint.secret_key().clone(),
            topic: topic(name),
            sender,
            _receiver: receiver,
            router,
        }
    }

    pub fn id(&self) -> EndpointId {
        self.key.public()
    }

    /// Ends it, within three seconds.
    pub async fn stop(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(3), self.router.shutdown()).await;
    }

    /// A valid announcement that offers one path.
    pub fn announcement(&self, sequence: u64, number: u32) -> Bytes {
        let offer = offer(self.id(), sequence, number);
        sealed(&offer, &self.key, &self.topic)
    }

    /// An announcement that another did not make.
    pub fn in_the_name_of(&self, other: EndpointId, sequence: u64) -> Bytes {
        sealed(&offer(other, sequence, 7), &self.key, &self.topic)
    }

    pub async fn broadcast(&self, bytes: impl Into<Bytes>) {
        self.sender.broadcast(bytes.into()).await.expect("gossip");
    }

    /// Valid announcements of its own, so many a second, until it is stopped.
    pub fn flood(&self, a_second: u64) -> Flood {
        let (key, topic, sender) = (self.key.clone(), self.topic, self.sender.clone());
        let said = Arc::new(AtomicU64::new(0));
        let counted = said.clone();
        let start = Instant::now();
        let task = tokio::spawn(async move {
            for number in 0.. {
                let offer = offer(key.public(), 1000 + number, 7);
                if sender
                    .broadcast(sealed(&offer, &key, &topic))
                    .await
                    .is_err()
                {
                    return;
                }
                counted.store(number + 1, Ordering::Relaxed);
                let due = start + Duration::from_secs_f64((number + 1) as f64 / a_second as f64);
                tokio::time::sleep_until(due.into()).await;
            }
        });
        Flood { task, start, said }
    }

    /// Large messages of nobody, as fast as they go.
    pub fn shout(&self) -> JoinHandle<()> {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            for number in 0u64.. {
                let mut bytes = vec![0xff; 3500];
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                if sender.broadcast(bytes.into()).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// Messages that are under way.
pub struct Flood {
    task: JoinHandle<()>,
    start: Instant,
    said: Arc<AtomicU64>,
}

impl Flood {
    /// How many were said so far.
    pub fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }

    /// Ends it, and tells how many were said a second.
    pub fn stop(self) -> f64 {
        self.task.abort();
        self.said() as f64 / self.start.elapsed().as_secs_f64()
    }
}

fn sealed(announcement: &Announcement, key: &SecretKey, topic: &Topic) -> Bytes {
    announcement.seal(key, topic).expect("a small one")
}

fn offer(author: EndpointId, sequence: u64, number: u32) -> Announcement {
    Announcement {
        author,
        sequence,
        lifetime: 600,
        heard: 1,
        content: Content::Offer(Box::new(Offer {
            relay: None,
            direct: Vec::new(),
            systems: Vec::new(),
            inventory: None,
            inventory_sequence: 0,
            complete: true,
            since: 0,
            changes: Changes::gather([(Tag::of(&path(number)), true)]),
        })),
    }
}

/// The goodbye of somebody who was never there.
pub fn goodbye(name: &str, seed: u32) -> Bytes {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&seed.to_le_bytes());
    let key = SecretKey::from_bytes(&key);
    let leave = Announcement {
        author: key.public(),
        sequence: 1,
        lifetime: 600,
        heard: 1,
        content: Content::Leave,
    };
    sealed(&leave, &key, &topic(name))
}

/// Writes iroh-gossip's frames by hand: a length and postcard, after a header with the topic.
pub struct Raw {
    endpoint: Endpoint,
    _connection: Connection,
    stream: tokio::sync::Mutex<SendStream>,
}

impl Raw {
    pub async fn connect(name: &str, to: &EndpointAddr) -> Self {
        Self::try_connect(name, to).await.expect("a stream")
    }

    /// Nothing where its connection is closed at once, as while gossip is started again.
    pub async fn try_connect(name: &str, to: &EndpointAddr) -> Option<Self> {
        let endpoint = loopback().bind().await.expect("a free port");
        let alpn = peerix_gossip::gossip_alpn(name);
        let connection = endpoint.connect(to.clone(), &alpn).await.ok()?;
        let mut stream = connection.open_uni().await.ok()?;
        stream.write_all(&frame(&topic(name))).await.ok()?;
        Some(Self {
            endpoint,
            _connection: connection,
            stream: stream.into(),
        })
    }

    pub fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    async fn write(&self, message: &[u8]) -> bool {
        let mut stream = self.stream.lock().await;
        stream.write_all(&frame(message)).await.is_ok()
    }

    /// `Message::Gossip(Gossip::Gossip { id, content, scope: Swarm(hops) })`; whether it was taken.
    pub async fn gossip(&self, content: &[u8], hops: u16) -> bool {
        let body = (*blake3::hash(content).as_bytes(), content, (0u8, hops));
        let mut bytes = vec![1, 0];
        bytes.extend(postcard::to_stdvec(&body).expect("plain data"));
        self.write(&bytes).await
    }

    /// `Message::Gossip(Gossip::IHave(notices))`, a hundred in each message; how many were taken.
    pub async fn false_notices(&self, count: u64) -> u64 {
        let seed = *self.id().as_bytes();
        for first in (0..count).step_by(100) {
            let notice = |number: u64| {
                let id = blake3::keyed_hash(&seed, &number.to_le_bytes());
                (*id.as_bytes(), 0u16)
            };
            let notices: Vec<_> = (first..first + 100).map(notice).collect();
            let mut bytes = vec![1, 3];
            bytes.extend(postcard::to_stdvec(&notices).expect("plain data"));
            if !self.write(&bytes).await {
                return first;
            }
        }
        count
    }

    /// `Message::Swarm(Join(None))`: makes it a neighbour. Nothing of what comes is read.
    pub async fn join(&self) {
        assert!(self.write(&[0, 0, 0]).await);
    }
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut framed = (bytes.len() as u32).to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    framed
}

/// Reads the catalogues of others.
pub struct Reader {
    endpoint: Endpoint,
    alpn: Vec<u8>,
    of: EndpointAddr,
}

impl Reader {
    pub async fn start(name: &str, of: &EndpointAddr) -> Self {
        Self {
            endpoint: loopback().bind().await.expect("a free port"),
            alpn: catalogue_alpn(name),
            of: of.clone(),
        }
    }

    /// The first page; nothing where it is refused.
    pub async fn page(&self) -> Option<Page> {
        let mut asked = self.ask().await?;
        let bytes = asked.receive.read_to_end(1 << 20).await.ok()?;
        postcard::from_bytes(&bytes).ok()
    }

    /// Asks for it; nothing of the answer is read.
    pub async fn ask(&self) -> Option<Asked> {
        let connection = self.endpoint.connect(self.of.clone(), &self.alpn).await;
        let connection = connection.ok()?;
        let (mut send, receive) = connection.open_bi().await.ok()?;
        send.write_all(&[0; 32]).await.ok()?;
        send.finish().ok()?;
        Some(Asked {
            receive,
            _send: send,
            _connection: connection,
        })
    }
}

/// A question for a page that was not hung up.
pub struct Asked {
    receive: RecvStream,
    _send: SendStream,
    _connection: Connection,
}
