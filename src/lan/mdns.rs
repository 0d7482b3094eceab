//! Finds peerix peers on the local networks through multicast DNS.
//!
//! The wire format is that of iroh's own mDNS address lookup under the service name `peerix`, so
//! that programs which use that crate find this machine and are found. The sockets are our own:
//! the crate sends IPv4 over the default route alone, which a network without the internet has
//! not, and IPv6 only where there is no IPv4; it keeps whatever anybody announces, and lets anybody
//! write warnings into the log. [`wire`] is the format, [`rules`] says when to ask and to answer.

pub mod rules;
mod socket;
pub mod wire;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::{
    rules::{Action, Rules},
    socket::MulticastSocket,
    wire::{Announcement, Message},
};
use super::{
    found::{Found, Heard},
    limits,
    networks::{LocalNetwork, Networks},
};
use crate::{metrics::Metrics, peer::peers::Peers, swarm::Swarm};

/// Messages that wait to be looked at; a network that sends more loses some.
const HEARD_QUEUE: usize = 256;

/// How often those are looked for that went without a word.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);

struct Incoming {
    network: u32,
    source: IpAddr,
    bytes: Vec<u8>,
}

/// One network that is taken part on.
struct Joined {
    network: LocalNetwork,
    sockets: Vec<Arc<MulticastSocket>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Actor {
    endpoint: Endpoint,
    /// The swarm that this machine is of, as others are told of it.
    swarm_name: String,
    swarm: Option<Swarm>,
    peers: Peers,
    metrics: Arc<Metrics>,
    joined: HashMap<u32, Joined>,
    rules: Rules,
    found: Found,
    heard: mpsc::Sender<Incoming>,
}

/// Announces this endpoint and takes up whoever announces itself in the same swarm, which is named
/// as others are told of it, until `stop` is cancelled. The swarm is joined through them, where this
/// machine takes part.
pub async fn run(
    endpoint: Endpoint,
    (swarm_name, swarm): (String, Option<Swarm>),
    peers: Peers,
    metrics: Arc<Metrics>,
    mut networks: Networks,
    stop: CancellationToken,
) {
    let (heard, mut incoming) = mpsc::channel(HEARD_QUEUE);
    let mut actor = Actor {
        endpoint,
        swarm_name,
        swarm,
        peers,
        metrics,
        joined: HashMap::new(),
        rules: Rules::default(),
        found: Found::default(),
        heard,
    };
    actor.join(&networks.seen());
    let mut expiry = tokio::time::interval(EXPIRE_INTERVAL);
    loop {
        let due = actor.rules.next();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = networks.changed() => {
                actor.join(&networks.seen());
                actor.peers.network_changed();
            }
            () = at(due) => actor.act(Instant::now()),
            Some(message) = incoming.recv() => actor.take(message, Instant::now()),
            _ = expiry.tick() => actor.expire(Instant::now()),
        }
    }
    for joined in actor.joined.values() {
        actor.announce(joined, true);
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

impl Actor {
    /// Takes part on exactly these networks; one whose addresses changed starts afresh.
    fn join(&mut self, networks: &[LocalNetwork]) {
        self.joined
            .retain(|_, joined| networks.contains(&joined.network));
        let now = Instant::now();
        for network in networks {
            if self.joined.contains_key(&network.index) {
                continue;
            }
            let sockets = socket::open(network);
            if sockets.is_empty() {
                continue;
            }
            let tasks = sockets
                .iter()
                .map(|socket| {
                    tokio::spawn(listen(socket.clone(), network.index, self.heard.clone()))
                })
                .collect();
            debug!(interface = network.name, "taking part in mDNS");
            self.rules.joined(network.index, now);
            let joined = Joined {
                network: network.clone(),
                sockets,
                tasks,
            };
            self.joined.insert(network.index, joined);
        }
        self.rules
            .keep_only(|index| self.joined.contains_key(&index));
    }

    fn act(&mut self, now: Instant) {
        for action in self.rules.due(now, rand::random()) {
            match action {
                Action::Ask(index) => {
                    if let Some(joined) = self.joined.get(&index) {
                        send(joined, &wire::query());
                    }
                }
                Action::Announce(index) => {
                    if let Some(joined) = self.joined.get(&index) {
                        self.announce(joined, false);
                    }
                }
            }
        }
    }

    fn announce(&self, joined: &Joined, goodbye: bool) {
        let addrs = own_addrs(&joined.network, &self.endpoint.bound_sockets());
        if let Some(message) =
            wire::announcement(self.endpoint.id(), &self.swarm_name, &addrs, goodbye)
        {
            send(joined, &message);
        }
    }

    fn take(&mut self, incoming: Incoming, now: Instant) {
        let Some(joined) = self.joined.get(&incoming.network) else {
            return;
        };
        // A message that was routed here is no neighbour's.
        if joined.network.is_own(incoming.source) || !joined.network.contains(incoming.source) {
            return;
        }
        match wire::parse(&incoming.bytes) {
            Some(Message::Query) => {
                self.rules.asked(incoming.network, now, rand::random());
            }
            Some(Message::Announcements(announcements)) => {
                let network = joined.network.clone();
                for announcement in announcements {
                    self.heard(&network, incoming.source, announcement, now);
                }
            }
            None => {}
        }
    }

    fn heard(
        &mut self,
        network: &LocalNetwork,
        source: IpAddr,
        announcement: Announcement,
        now: Instant,
    ) {
        let Announcement {
            id,
            mut addrs,
            goodbye,
            swarm,
        } = announcement;
        if id == self.endpoint.id() || swarm != self.swarm_name {
            return;
        }
        let peers = &self.peers;
        let is_connected = |id: EndpointId| peers.is_connected(id);
        if goodbye {
            if self.found.left(id, is_connected) {
                self.forget(id);
            }
            return;
        }
        addrs.retain(|addr| network.is_dialable(addr.ip()));
        match self.found.heard(id, source, addrs, now, is_connected) {
            Heard::Known { addrs, instead_of } => {
                if let Some(old) = instead_of {
                    self.forget(old);
                }
                debug!(peer = %id.fmt_short(), ?addrs, "found on the local network");
                let addrs = addrs.into_iter().map(TransportAddr::Ip).collect();
                self.peers.add_found(EndpointAddr { id, addrs });
                if let Some(swarm) = &self.swarm {
                    // Its addresses are with those that were found: they change.
                    swarm.gossip().join(vec![EndpointAddr::new(id)]);
                }
                self.update_gauge();
            }
            Heard::Refused => {
                self.metrics.lan_peers_refused.inc();
            }
            Heard::Nothing => {}
        }
    }

    fn expire(&mut self, now: Instant) {
        let peers = self.peers.clone();
        for id in self.found.expire(now, |id| peers.is_connected(id)) {
            self.forget(id);
        }
    }

    fn forget(&self, id: EndpointId) {
        debug!(peer = %id.fmt_short(), "gone from the local network");
        self.peers.forget_found(id);
        self.update_gauge();
    }

    fn update_gauge(&self) {
        let count = i64::try_from(self.found.len()).unwrap_or(i64::MAX);
        self.metrics.lan_peers.set(count);
    }
}

fn send(joined: &Joined, message: &[u8]) {
    for socket in &joined.sockets {
        socket.send(message);
    }
}

async fn listen(socket: Arc<MulticastSocket>, network: u32, heard: mpsc::Sender<Incoming>) {
    let mut buffer = [0; limits::MDNS_MESSAGE];
    loop {
        let Some((length, source)) = socket.receive(&mut buffer).await else {
            return;
        };
        // Most mDNS messages are of other services: those cost no place in the queue.
        let bytes = buffer.get(..length).unwrap_or_default();
        if wire::may_be_ours(bytes) {
            let bytes = bytes.to_vec();
            // A full queue loses some: announcements are repeated.
            let _ = heard.try_send(Incoming {
                network,
                source,
                bytes,
            });
        }
    }
}

/// The addresses under which this machine's endpoint is reached on `network`.
fn own_addrs(network: &LocalNetwork, bound: &[SocketAddr]) -> Vec<SocketAddr> {
    let v4 = network.v4.iter().map(|net| IpAddr::V4(net.addr()));
    let v6 = network.v6.iter().map(|net| IpAddr::V6(net.addr()));
    let own: Vec<IpAddr> = v4.chain(v6.filter(|ip| network.is_dialable(*ip))).collect();
    let of = |socket: &SocketAddr| {
        let (ip, port) = (socket.ip(), socket.port());
        let here = own.iter().filter(move |own| {
            own.is_ipv4() == ip.is_ipv4() && (ip.is_unspecified() || **own == ip)
        });
        here.map(move |own| SocketAddr::new(*own, port))
            .collect::<Vec<_>>()
    };
    bound
        .iter()
        .flat_map(of)
        .take(limits::ADDRESSES_PER_PEER)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_is_what_the_sockets_listen_on_in_that_network_and_nothing_else() {
        let network = LocalNetwork {
            name: "eth0".into(),
            index: 2,
            v4: vec!["192.168.1.5/24".parse().unwrap()],
            v6: vec!["fd00::5/64".parse().unwrap(), "fe80::5/64".parse().unwrap()],
        };
        let of = |bound: &[&str]| {
            let bound: Vec<SocketAddr> = bound.iter().map(|addr| addr.parse().unwrap()).collect();
            let addrs = own_addrs(&network, &bound);
            addrs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            of(&["0.0.0.0:1", "[::]:2"]),
            ["192.168.1.5:1", "[fd00::5]:2"]
        );
        assert_eq!(of(&["192.168.1.5:3"]), ["192.168.1.5:3"]);
        assert!(of(&["127.0.0.1:4", "10.0.0.1:5"]).is_empty());
    }
}
