//! Both roles of the older program's UDP broadcast: it asks the local network who has a path.
//!
//! Requests go to the broadcast address of every private IPv4 network, on the port of the HTTP
//! server, and whoever has the path answers with its own HTTP port. Silence means no.
//! [`datagram`] is the format and [`rules`] decides; this is the actor with the sockets.

pub mod datagram;
pub mod rules;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use futures_util::future::BoxFuture;
use peerix_store::nix::StorePathHash;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{
    datagram::Datagram,
    rules::{Action, Asking, Rules},
};
use super::{
    limits,
    networks::{LocalNetwork, Networks},
};
use crate::metrics::{DroppedLabels, Metrics};

/// Datagrams that wait to be looked at; what comes faster is lost, as UDP may be.
const HEARD_QUEUE: usize = 256;

/// Questions that wait to be sent.
const QUESTION_QUEUE: usize = 64;

/// How often what is over is forgotten.
const TIDY_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Says whether a path of the own store may be told of.
pub trait Holdings: Send + Sync + 'static {
    /// Whether this machine has the path and offers it.
    fn offers(&self, path_hash: StorePathHash) -> BoxFuture<'_, bool>;
}

/// Asks the local network. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Questions(mpsc::Sender<Question>);

#[derive(Debug)]
struct Question {
    path_hash: StorePathHash,
    reply: oneshot::Sender<Answers>,
}

/// The answers to one question as they come, and how long to wait for the first.
#[derive(Debug)]
pub struct Answers {
    /// Where the HTTP servers are of those who have the path.
    pub holders: mpsc::Receiver<SocketAddr>,
    /// How long the first may take.
    pub wait: std::time::Duration,
}

impl Questions {
    /// Asks who has a path; `None` where nobody is to be expected to answer.
    pub async fn ask(&self, path_hash: StorePathHash) -> Option<Answers> {
        let (reply, answers) = oneshot::channel();
        self.0.try_send(Question { path_hash, reply }).ok()?;
        answers.await.ok()
    }
}

struct Incoming {
    network: u32,
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// The socket of one network.
struct Joined {
    interface: String,
    socket: Arc<UdpSocket>,
    task: JoinHandle<()>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Actor {
    port: u16,
    holdings: Arc<dyn Holdings>,
    metrics: Arc<Metrics>,
    rules: Rules,
    joined: HashMap<u32, Joined>,
    heard: mpsc::Sender<Incoming>,
    open: HashMap<u32, mpsc::Sender<SocketAddr>>,
    answering: Arc<Semaphore>,
}

/// Answers and asks on `port`, that of the HTTP server, until `stop` is cancelled.
pub fn start(
    port: u16,
    holdings: Arc<dyn Holdings>,
    metrics: Arc<Metrics>,
    networks: Networks,
    stop: CancellationToken,
) -> (Questions, impl Future<Output = ()> + Send) {
    let (questions, asked) = mpsc::channel(QUESTION_QUEUE);
    let (heard, incoming) = mpsc::channel(HEARD_QUEUE);
    let actor = Actor {
        port,
        holdings,
        metrics,
        rules: Rules::new(port, Instant::now()),
        joined: HashMap::new(),
        heard,
        open: HashMap::new(),
        answering: Arc::new(Semaphore::new(limits::ANSWERS_AT_ONCE)),
    };
    (
        Questions(questions),
        actor.run(asked, incoming, networks, stop),
    )
}

impl Actor {
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Question>,
        mut incoming: mpsc::Receiver<Incoming>,
        mut networks: Networks,
        stop: CancellationToken,
    ) {
        self.join(networks.seen());
        let mut tidy = tokio::time::interval(TIDY_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = networks.changed() => self.join(networks.seen()),
                Some(question) = asked.recv() => self.ask(question, Instant::now()),
                Some(datagram) = incoming.recv() => self.take(&datagram, Instant::now()),
                _ = tidy.tick() => self.tidy(Instant::now()),
            }
        }
    }

    /// Has a socket on exactly these networks.
    fn join(&mut self, networks: Arc<Vec<LocalNetwork>>) {
        // A socket is bound to its interface alone: it stays while addresses change.
        self.joined.retain(|index, joined| {
            let now = networks.iter().find(|network| network.index == *index);
            now.is_some_and(|now| now.name == joined.interface && !now.v4.is_empty())
        });
        for network in networks.iter().filter(|network| !network.v4.is_empty()) {
            if self.joined.contains_key(&network.index) {
                continue;
            }
            match open(&network.name, self.port) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let listening = listen(socket.clone(), network.index, self.heard.clone());
                    let joined = Joined {
                        interface: network.name.clone(),
                        socket,
                        task: tokio::spawn(listening),
                    };
                    self.joined.insert(network.index, joined);
                }
                Err(error) => warn!(
                    %error,
                    interface = network.name,
                    port = self.port,
                    "older peers on this network are neither asked nor answered by UDP"
                ),
            }
        }
        self.rules.networks(networks);
    }

    fn ask(&mut self, question: Question, now: Instant) {
        let asking = self.rules.asking(now);
        let id = rand::random();
        if asking == Asking::Skip || self.rules.is_open(id) {
            return;
        }
        let (datagram, targets) = self.rules.ask(id, question.path_hash, now);
        let mut is_sent = false;
        for (network, target) in targets {
            if let Some(joined) = self.joined.get(&network) {
                is_sent |= send(&joined.socket, &datagram, target);
            }
        }
        if !is_sent {
            return;
        }
        self.metrics.lan_questions.inc();
        let (sender, holders) = mpsc::channel(limits::ANSWERS_HEARD);
        self.open.insert(id, sender);
        if let Asking::Wait(wait) = asking {
            let _ = question.reply.send(Answers { holders, wait });
        }
    }

    fn take(&mut self, incoming: &Incoming, now: Instant) {
        match self.rules.handle(&incoming.bytes, incoming.from, now) {
            Action::Drop(reason) => self.count_dropped(reason),
            Action::Found { id, http } => {
                if let Some(open) = self.open.get(&id) {
                    let _ = open.try_send(http);
                }
            }
            Action::Answer { to, id, path_hash } => {
                let Some(joined) = self.joined.get(&incoming.network) else {
                    return;
                };
                let Ok(place) = self.answering.clone().try_acquire_owned() else {
                    self.count_dropped("busy");
                    return;
                };
                let (holdings, socket) = (self.holdings.clone(), joined.socket.clone());
                let (metrics, http_port) = (self.metrics.clone(), self.port);
                tokio::spawn(async move {
                    if holdings.offers(path_hash).await {
                        let answer = Datagram::Response {
                            id,
                            http_port,
                            path_hash,
                        };
                        if send(&socket, &answer.encode(), to) {
                            metrics.lan_answers.inc();
                        }
                    }
                    drop(place);
                });
            }
        }
    }

    fn tidy(&mut self, now: Instant) {
        self.rules.tidy(now);
        self.open.retain(|id, _| self.rules.is_open(*id));
    }

    fn count_dropped(&self, reason: &'static str) {
        self.metrics
            .lan_dropped
            .get_or_create(&DroppedLabels { reason })
            .inc();
    }
}

/// A socket on one interface alone, so that what comes in over another is not taken for a
/// neighbour's.
fn open(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}

fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) -> bool {
    // Without waiting: a datagram that can't be sent now is lost, as any may be.
    let sent = socket2::SockRef::from(socket).send_to(datagram, &to.into());
    if let Err(error) = &sent {
        debug!(%error, %to, "a datagram was not sent");
    }
    sent.is_ok()
}

async fn listen(socket: Arc<UdpSocket>, network: u32, heard: mpsc::Sender<Incoming>) {
    let mut buffer = [0; limits::DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            // A longer datagram fills the buffer, which no valid one does.
            Ok((length, from)) => {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                let _ = heard.try_send(Incoming {
                    network,
                    from,
                    bytes,
                });
            }
            // What the network says of datagrams that were sent earlier, or an interface that went.
            Err(error) => {
                debug!(%error, "a socket for older peers failed");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
