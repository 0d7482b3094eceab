//! The protocols that are served over iroh, and to whom.

use std::sync::Arc;

use iroh::{
    Endpoint,
    endpoint::IncomingAddr,
    protocol::{IncomingFilter, IncomingFilterOutcome, Router},
};
use peerix_store::Store;

use crate::{
    config::WireCompression,
    lan::networks::Networks,
    metrics::Metrics,
    offer::OfferPolicy,
    peer::{
        self,
        budget::Budgets,
        lookup_server::LookupServer,
        older::{
            Older,
            nar::{self, NarServer},
            narinfo::{self, NarInfoServer},
        },
        peers::Peers,
        provider::{self, Provider},
        rate::UploadLimits,
        wire::Compression,
    },
    swarm::{Swarm, SwarmId},
    why::History,
};

/// What the protocols serve from.
pub(super) struct Protocols<'a> {
    pub(super) store: &'a Store,
    pub(super) offer: &'a Arc<OfferPolicy>,
    pub(super) upload: &'a Arc<UploadLimits>,
    pub(super) compression: WireCompression,
    pub(super) budgets: Budgets,
    pub(super) history: &'a Arc<History>,
    pub(super) peers: &'a Peers,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) swarm: &'a Option<Swarm>,
    pub(super) swarm_id: &'a SwarmId,
    /// The networks that nobody is served outside of; anybody is where there are none.
    pub(super) within: Option<Networks>,
}

impl Protocols<'_> {
    /// Accepts connections on `endpoint` until the router is shut down.
    pub(super) fn accept_on(self, endpoint: &Endpoint) -> Router {
        let (store, offer, metrics) = (self.store, self.offer, self.metrics);
        let counting = self.peers.clone();
        let sent = move |id, bytes| counting.sent(id, bytes);
        let provider = Provider::new(provider::Parts {
            store: store.clone(),
            offer: offer.clone(),
            limits: self.upload.clone(),
            compression: Compression::new(self.compression),
            metrics: metrics.clone(),
            sent: Box::new(sent.clone()),
            budgets: self.budgets.clone(),
            swarm: self.swarm.clone(),
        });
        let lookups = LookupServer::new(
            store.clone(),
            offer.clone(),
            metrics.clone(),
            self.budgets.clone(),
            self.upload.clone(),
            self.history.clone(),
        );
        let older = Older::new(
            store.clone(),
            offer.clone(),
            self.upload.clone(),
            metrics.clone(),
            self.budgets,
            sent,
        );
        let id = self.swarm_id;
        let mut router = Router::builder(endpoint.clone());
        if self.compression != WireCompression::Off {
            router = router.accept(id.alpn(peer::wire::ALPN), provider.clone());
        }
        router = router
            .accept(id.alpn(iroh_blobs::ALPN), provider)
            .accept(id.alpn(peer::lookup::ALPN), lookups);
        if let Some(swarm) = self.swarm {
            let (name, gossip) = swarm.gossip().gossip_protocol();
            router = router.accept(name, gossip);
            let (name, catalogue) = swarm.gossip().catalogue_protocol();
            router = router.accept(name, catalogue);
        }
        // The older program is in everybody's swarm.
        if id.is_public() {
            for name in narinfo::ALPNS {
                router = router.accept(name, NarInfoServer(older.clone()));
            }
            for name in nar::ALPNS {
                router = router.accept(name, NarServer(older.clone()));
            }
        }
        if let Some(networks) = self.within {
            router = router.incoming_filter(neighbours_only(networks));
        }
        router.spawn()
    }
}

/// Lets nobody from elsewhere get as far as a handshake.
fn neighbours_only(networks: Networks) -> IncomingFilter {
    Arc::new(move |incoming| match incoming.remote_addr() {
        IncomingAddr::Ip(addr) => {
            let ip = addr.ip().to_canonical();
            match ip.is_loopback() || networks.is_local(ip) {
                true => IncomingFilterOutcome::Accept,
                false => IncomingFilterOutcome::Ignore,
            }
        }
        _ => IncomingFilterOutcome::Ignore,
    })
}
