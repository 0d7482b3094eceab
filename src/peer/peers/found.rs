//! Peers that were found on the local network, and what follows when somebody moves there.

use std::sync::{Arc, atomic::Ordering};

use iroh::{EndpointAddr, EndpointId, TransportAddr};
use peerix_store::nix::StorePathHash;
use tokio::time::timeout;
use tracing::debug;

use super::{Link, Peer, Peers, lock};
use crate::{lan::networks::is_private, limits, peer::lookup::Mode};

impl Peers {
    /// Adds a peer that was found on the local network under these addresses alone, in place of
    /// those that it was found under before.
    pub fn add_found(&self, addr: EndpointAddr) {
        let id = addr.id;
        if id != self.0.endpoint.id() {
            let addrs = addr.addrs.clone();
            self.0.found.set_endpoint_info(addr);
            self.start(id, false);
            if let Some(peer) = self.get(id)
                && peer.address().is_some_and(|at| !addrs.contains(&at))
            {
                self.probe(peer);
            }
        }
    }

    /// Lets go of a peer that was found on the local network, unless it is known from elsewhere.
    pub fn forget_found(&self, id: EndpointId) {
        self.0.found.remove_endpoint_info(id);
        self.let_go(id);
    }

    /// This machine's addresses changed: connections that lead nowhere now are made again.
    pub fn network_changed(&self) {
        let peers: Vec<Arc<Peer>> = lock(&self.0.peers).values().cloned().collect();
        for peer in peers {
            peer.retry.notify_one();
            self.probe(peer);
        }
    }

    /// Asks a connected peer for a sign of life, and closes all connections with one that gives
    /// none, so that it is reached under the addresses that are known of it by now.
    fn probe(&self, peer: Arc<Peer>) {
        if !peer.is_up() || peer.is_probed.swap(true, Ordering::AcqRel) {
            return;
        }
        let peers = self.clone();
        self.0.tasks.spawn(async move {
            let nothing = StorePathHash::from_bytes([0; 20]);
            let answer = timeout(limits::PROBE_TIMEOUT, peer.lookup(Mode::Presence, nothing));
            let is_alive = tokio::select! {
                () = peer.gone.cancelled() => true,
                answer = answer => matches!(answer, Ok(Some(_))),
            };
            if !is_alive {
                debug!(peer = %peer.id.fmt_short(), "moved, or gone");
                peers.0.open.close(peer.id);
            }
            peer.is_probed.store(false, Ordering::Release);
        });
    }
}

impl Peer {
    /// The address that the connection leads to.
    fn address(&self) -> Option<TransportAddr> {
        let Link::Up(connection) = self.link.borrow().clone() else {
            return None;
        };
        let paths = connection.paths();
        let selected = paths.iter().find(|path| path.is_selected());
        selected.map(|path| path.remote_addr().clone())
    }
}

/// Whether packets to this address stay on the local network, or at least off the internet.
pub(super) fn stays_local(addr: &TransportAddr) -> bool {
    match addr {
        TransportAddr::Ip(addr) => addr.ip().is_loopback() || is_private(addr.ip()),
        _ => false,
    }
}
