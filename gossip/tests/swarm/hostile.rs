//! Peers that do what they should not: one that runs stock gossip, and one that writes its own bytes.

use std::time::Duration;

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointId, SecretKey,
    address_lookup::MemoryLookup,
    endpoint::{Connection, SendStream},
    protocol::Router,
};
use iroh_gossip::{
    api::{GossipReceiver, GossipSender},
    net::Gossip,
    proto::TopicId,
};
use peerix_gossip::{
    Changes, Tag,
    announcement::{Announcement, Content, Offer, Topic},
    topic,
};
use tokio::task::JoinHandle;

use super::machine::{Machine, endpoint, path};

/// Stock gossip without any guard.
pub struct Peer {
    key: SecretKey,
    topic: Topic,
    sender: GossipSender,
    _receiver: GossipReceiver,
    _router: Router,
}

#[derive(Debug)]
struct NoHooks;

impl iroh::endpoint::EndpointHooks for NoHooks {}

impl Peer {
    pub async fn start(name: &str, known: &[&Machine]) -> Self {
        let lookup = MemoryLookup::new();
        for machine in known {
            lookup.add_endpoint_info(machine.addr.clone());
        }
        let endpoint = endpoint(&lookup, None, NoHooks).await;
        let alpn = peerix_gossip::gossip_alpn(name);
        let gossip = Gossip::builder().alpn(&alpn).spawn(endpoint.clone());
        let router = Router::builder(endpoint.clone())
            .accept(alpn, gossip.clone())
            .spawn();
        let ids = known.iter().map(|machine| machine.id()).collect();
        let id = TopicId::from_bytes(topic(name));
        let joined = gossip.subscribe_and_join(id, ids).await.unwrap();
        let (sender, receiver) = joined.split();
        Self {
            key: endpoint.secret_key().clone(),
            topic: topic(name),
            sender,
            _receiver: receiver,
            _router: router,
        }
    }

    pub fn id(&self) -> EndpointId {
        self.key.public()
    }

    /// A valid announcement that offers one path.
    pub fn announcement(&self, sequence: u64, number: u32) -> Bytes {
        offer(self.id(), sequence, number)
            .seal(&self.key, &self.topic)
            .unwrap()
    }

    /// An announcement that another did not make.
    pub fn in_the_name_of(&self, other: EndpointId, sequence: u64) -> Vec<u8> {
        offer(other, sequence, 7)
            .seal(&self.key, &self.topic)
            .unwrap()
            .to_vec()
    }

    pub async fn broadcast(&self, bytes: Vec<u8>) {
        self.sender.broadcast(bytes.into()).await.unwrap();
    }

    /// Valid announcements as fast as they go.
    pub fn flood(&self, time: Duration) -> JoinHandle<()> {
        let (key, topic, sender) = (self.key.clone(), self.topic, self.sender.clone());
        let flood = async move {
            for sequence in 1000.. {
                let bytes = offer(key.public(), sequence, 7).seal(&key, &topic).unwrap();
                if sender.broadcast(bytes).await.is_err() {
                    return;
                }
                if sequence % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(time, flood).await;
        })
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

/// Writes iroh-gossip's frames by hand: a length and postcard, after a header with the topic.
pub struct Raw {
    endpoint: Endpoint,
    connection: Connection,
    stream: tokio::sync::Mutex<SendStream>,
}

impl Raw {
    pub async fn connect(name: &str, machine: &Machine) -> Self {
        let endpoint = endpoint(&MemoryLookup::new(), None, NoHooks).await;
        let alpn = peerix_gossip::gossip_alpn(name);
        let connection = endpoint.connect(machine.addr.clone(), &alpn).await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&frame(&topic(name))).await.unwrap();
        Self {
            endpoint,
            connection,
            stream: stream.into(),
        }
    }

    pub fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    async fn write(&self, message: &[u8]) -> bool {
        self.stream
            .lock()
            .await
            .write_all(&frame(message))
            .await
            .is_ok()
    }

    /// `Message::Gossip(Gossip::Gossip { id, content, scope: Swarm(hops) })`.
    pub async fn gossip(&self, content: &[u8], hops: u16) {
        let body = (*blake3::hash(content).as_bytes(), content, (0u8, hops));
        let mut bytes = vec![1, 0];
        bytes.extend(postcard::to_stdvec(&body).unwrap());
        assert!(self.write(&bytes).await);
    }

    /// `Message::Gossip(Gossip::IHave(notices))`, a hundred in each message.
    pub async fn false_notices(&self, count: u64) {
        for first in (0..count).step_by(100) {
            let notice = |number: u64| (*blake3::hash(&number.to_le_bytes()).as_bytes(), 0u16);
            let notices: Vec<_> = (first..first + 100).map(notice).collect();
            let mut bytes = vec![1, 3];
            bytes.extend(postcard::to_stdvec(&notices).unwrap());
            if !self.write(&bytes).await {
                return;
            }
        }
    }

    /// `Message::Swarm(Join(None))`, and not a byte is read.
    pub async fn join_and_stop_reading(&self) {
        assert!(self.write(&[0, 0, 0]).await);
        let _ = self.connection.stable_id();
    }
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut framed = (bytes.len() as u32).to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    framed
}
