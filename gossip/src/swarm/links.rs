//! The gossip connections of this endpoint: counted, cut when they flood, refused for a while then, and
//! ended when nobody needs them.
//!
//! iroh-gossip keeps whatever its neighbours say they have, eight bytes for each byte received, and
//! waits for a neighbour that does not read. It has no means against either; a connection's own
//! counters show the first, and the second ends with the connection.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use iroh::{
    EndpointAddr, EndpointId,
    endpoint::{
        AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks,
        WeakConnectionHandle,
    },
};

use rand::{Rng, seq::SliceRandom};

use crate::{limits, pacing::Allowance};

const REFUSED: u32 = 429;
const OVER: u32 = 0;

/// Watches the gossip connections of an endpoint: to be given to its builder as hooks. Cheap to
/// clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    alpn: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: HashMap<EndpointId, Peer>,
    banned: HashMap<EndpointId, Instant>,
    suspected: HashMap<EndpointId, u32>,
}

/// What a look at all connections shows.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Who sent far more than what was delivered explains.
    pub(super) floods: Vec<EndpointId>,
    /// Bytes that came from all since the last look.
    pub(super) received: u64,
}

struct Peer {
    connections: Vec<Link>,
    /// Bytes that it may have sent for what was delivered, and did not send yet.
    explained: u64,
    /// Bytes held against it that what is delivered late may still explain.
    charged: u64,
    unexplained: Allowance,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            connections: Vec::new(),
            explained: 0,
            charged: 0,
            unexplained: Allowance::new(limits::UNEXPLAINED_RATE, limits::UNEXPLAINED_BURST, now),
        }
    }

    /// Holds against it what it sent beside what was delivered. Between gossip and us lies a queue: of
    /// what came before it was delivered, the charge is taken back.
    fn charge(&mut self, received: u64, delivered: u64, now: Instant) {
        let explained = self.explained.saturating_add(delivered.saturating_mul(2));
        let more = received.saturating_sub(explained);
        let spare = explained.saturating_sub(received);
        let late = spare.min(self.charged);
        self.charged = self.charged - late + more;
        self.explained = (spare - late).min(limits::EXPLAINED_MOST);
        self.unexplained.take(more as f64 - late as f64, now);
    }
}

/// One connection and its counters at the last look.
struct Link {
    connection: WeakConnectionHandle,
    received: u64,
    /// Bytes sent when the peer last said that it read, and how often it had said so.
    sent_at_read: u64,
    reads: u64,
    unread: u64,
    /// Parts of streams sent and received, and since when there are no more of them.
    said: u64,
    silent_since: Instant,
}

impl Link {
    fn close(&self, code: u32, reason: &[u8]) {
        if let Some(connection) = self.connection.upgrade() {
            connection.close(code.into(), reason);
        }
    }

    /// Whether gossip said nothing over it for long.
    fn is_idle(&mut self, now: Instant) -> bool {
        let Some(connection) = self.connection.upgrade() else {
            return false;
        };
        let stats = connection.stats();
        let said = stats.frame_rx.stream + stats.frame_tx.stream;
        if said != self.said {
            (self.said, self.silent_since) = (said, now);
        }
        now.saturating_duration_since(self.silent_since) > limits::LINK_IDLE
    }

    /// Looks at the counters; returns the bytes received since the last look, or `None` when the
    /// connection is gone.
    fn look(&mut self) -> Option<u64> {
        let connection = self.connection.upgrade()?;
        let stats = connection.stats();
        let received = stats.udp_rx.bytes.saturating_sub(self.received);
        self.received = stats.udp_rx.bytes;
        let reads = stats.frame_rx.max_stream_data + stats.frame_rx.max_data;
        if reads != self.reads {
            (self.reads, self.sent_at_read) = (reads, stats.udp_tx.bytes);
        }
        self.unread = stats.udp_tx.bytes.saturating_sub(self.sent_at_read);
        connection.close_reason().is_none().then_some(received)
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Links")
    }
}

impl Links {
    /// Watches the connections of the swarm `name`.
    pub fn new(name: &str) -> Self {
        Self(Arc::new(Inner {
            alpn: super::gossip_alpn(name),
            state: Mutex::default(),
        }))
    }

    /// Cuts a peer off and refuses it for a while.
    pub fn ban(&self, peer: EndpointId, now: Instant) {
        self.cut(peer, limits::BAN, now);
    }

    /// Cuts a peer off and refuses it for so long.
    pub(super) fn cut(&self, peer: EndpointId, time: Duration, now: Instant) {
        let until = now + time;
        let mut state = self.state();
        if state.banned.len() >= limits::BANS {
            state.banned.retain(|_, until| *until > now);
        }
        let is_banned = state.banned.contains_key(&peer);
        if is_banned || state.banned.len() < limits::BANS {
            let known = state.banned.entry(peer).or_insert(until);
            *known = until.max(*known);
        }
        // What it owes stays: connecting anew pays nothing.
        let cut = state.links.get_mut(&peer);
        let cut = cut.map(|peer| std::mem::take(&mut peer.connections));
        drop(state);
        for link in cut.into_iter().flatten() {
            link.close(REFUSED, b"flood");
        }
    }

    /// Gossip does not move: cuts off who does not seem to read, and where nobody stands out half
    /// of all, so that the one is among them sooner or later.
    pub(super) fn suspect(&self, rng: &mut impl Rng, now: Instant) {
        let mut state = self.state();
        let mut peers: Vec<(u64, EndpointId)> = Vec::new();
        for (id, peer) in &mut state.links {
            for link in &mut peer.connections {
                link.look();
            }
            let unread = peer.connections.iter().map(|link| link.unread).max();
            peers.extend(unread.map(|unread| (unread, *id)));
        }
        let half = peers.len().div_ceil(2);
        peers.shuffle(rng);
        peers.sort_by_key(|(unread, _)| std::cmp::Reverse(*unread));
        let stands_out = peers
            .first()
            .is_some_and(|(unread, _)| *unread > limits::UNREAD);
        if !stands_out {
            peers.shuffle(rng);
        }
        peers.truncate(if stands_out { 1 } else { half });
        if state.suspected.len() >= limits::BANS {
            state.suspected.clear();
        }
        let mut cuts = Vec::new();
        for (_, id) in peers {
            let times = state.suspected.entry(id).or_default();
            *times = times.saturating_add(1);
            cuts.push((id, limits::SUSPICION * (1 << (*times - 1).min(6))));
        }
        drop(state);
        for (id, time) in cuts {
            self.cut(id, time, now);
        }
    }

    /// Ends all connections: who is at their other ends waits for nothing from a gossip that is gone.
    pub(super) fn end(&self) {
        let mut state = self.state();
        let peers = state.links.values_mut();
        let links: Vec<Link> = peers
            .flat_map(|peer| std::mem::take(&mut peer.connections))
            .collect();
        drop(state);
        for link in links {
            link.close(OVER, b"restart");
        }
    }

    /// Whether a peer is refused.
    pub fn is_banned(&self, peer: &EndpointId, now: Instant) -> bool {
        self.state()
            .banned
            .get(peer)
            .is_some_and(|until| now < *until)
    }

    /// Whether a connection of `peer` is open.
    pub(super) fn is_connected(&self, peer: &EndpointId) -> bool {
        let is_open = |link: &Link| {
            let connection = link.connection.upgrade();
            connection.is_some_and(|connection| connection.close_reason().is_none())
        };
        let state = self.state();
        let links = state.links.get(peer);
        links.is_some_and(|peer| peer.connections.iter().any(is_open))
    }

    /// Ends the connections of peers that are no `neighbours` and to which nothing is said any more.
    pub(super) fn rest(&self, neighbours: &[EndpointId], now: Instant) {
        let mut state = self.state();
        let others = state
            .links
            .iter_mut()
            .filter(|(id, _)| !neighbours.contains(id));
        for link in others.flat_map(|(_, peer)| &mut peer.connections) {
            if link.is_idle(now) {
                link.close(OVER, b"idle");
            }
        }
    }

    /// Compares what came over each connection with `delivered`, the bytes that gossip delivered
    /// meanwhile in all.
    ///
    /// A neighbour may send all that the others sent too, sooner or later, so all of it explains what
    /// one sends. Unless `is_all`, more came to gossip than was delivered, or lies in its queues, nobody
    /// knows how much: then nobody is held to it.
    pub(super) fn look(&self, delivered: u64, is_all: bool, now: Instant) -> Looked {
        let mut looked = Looked::default();
        let mut state = self.state();
        state.links.retain(|id, peer| {
            let mut received = 0;
            peer.connections.retain_mut(|link| {
                let new = link.look();
                received += new.unwrap_or(0);
                new.is_some()
            });
            looked.received = looked.received.saturating_add(received);
            if is_all {
                peer.charge(received, delivered, now);
            }
            let left = peer.unexplained.left(now);
            if left < 0.0 && !peer.connections.is_empty() {
                looked.floods.push(*id);
            }
            !peer.connections.is_empty() || left < limits::UNEXPLAINED_BURST
        });
        if state.links.len() > limits::LINKS {
            state.links.retain(|_, peer| !peer.connections.is_empty());
        }
        looked
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, connection: &Connection, now: Instant) {
        let mut state = self.state();
        let peer = state
            .links
            .entry(connection.remote_id())
            .or_insert_with(|| Peer::new(now));
        if peer.connections.len() < limits::LINKS_OF_A_PEER {
            peer.connections.push(Link {
                connection: connection.weak_handle(),
                received: 0,
                sent_at_read: 0,
                reads: 0,
                unread: 0,
                said: 0,
                silent_since: now,
            });
        }
    }
}

impl EndpointHooks for Links {
    async fn before_connect<'a>(
        &'a self,
        remote_addr: &'a EndpointAddr,
        alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        if alpn == self.0.alpn && self.is_banned(&remote_addr.id, Instant::now()) {
            return BeforeConnectOutcome::Reject;
        }
        BeforeConnectOutcome::Accept
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        if connection.alpn() != self.0.alpn {
            return AfterHandshakeOutcome::Accept;
        }
        let now = Instant::now();
        let remote = connection.remote_id();
        let crowded = self
            .state()
            .links
            .get(&remote)
            .is_some_and(|peer| peer.connections.len() >= limits::LINKS_OF_A_PEER);
        if crowded || self.is_banned(&remote, now) {
            return AfterHandshakeOutcome::Reject {
                error_code: REFUSED.into(),
                reason: b"flood".to_vec(),
            };
        }
        self.watch(connection, now);
        AfterHandshakeOutcome::Accept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_delivered_late_explains_what_came_before_it_and_pays_no_debt_for_more() {
        let now = Instant::now();
        let mut peer = Peer::new(now);
        // A queue of two megabytes that fills and empties, again and again.
        for _ in 0..100 {
            peer.charge(2_000_000, 0, now);
            peer.charge(0, 2_000_000, now);
        }
        assert!(peer.unexplained.left(now) >= limits::UNEXPLAINED_BURST);
        // What was explained once is no credit for ever.
        let burst = limits::UNEXPLAINED_BURST as u64;
        peer.charge(burst + limits::EXPLAINED_MOST + 1, 0, now);
        assert!(peer.unexplained.left(now) < 0.0);
    }
}
