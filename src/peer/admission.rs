//! With whom connections are made at all.

mod proof;

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use iroh::{
    EndpointAddr, EndpointId,
    endpoint::{AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, VarInt},
};
use tokio::time::timeout;
use tracing::debug;

use crate::{limits, swarm::SwarmSecret};

/// What an endpoint that is turned away sees the connection closed with.
pub const TURNED_AWAY: u32 = 403;

/// What an endpoint sees the connection closed with that did not prove the swarm's secret.
pub const NO_MEMBER: u32 = 401;

/// The allow and deny lists and the secret of a private swarm, asked at the one place that the
/// connections of every protocol pass, right after the handshake has proved who is there and before
/// a request is read.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    own_id: EndpointId,
    lists: RwLock<Lists>,
    secret: Option<SwarmSecret>,
}

#[derive(Debug)]
struct Lists {
    allowed: BTreeSet<EndpointId>,
    denied: BTreeSet<EndpointId>,
}

impl Lists {
    fn new(allowed: &[EndpointId], denied: &[EndpointId]) -> Self {
        Self {
            allowed: allowed.iter().copied().collect(),
            denied: denied.iter().copied().collect(),
        }
    }
}

impl Admission {
    /// Admits to the endpoint `own_id` those of `allowed`, or everyone where that is empty, and none
    /// of `denied`; and of them, where there is a secret, those who prove that they have it too.
    pub fn new(
        own_id: EndpointId,
        allowed: &[EndpointId],
        denied: &[EndpointId],
        secret: Option<SwarmSecret>,
    ) -> Self {
        Self(Arc::new(Rules {
            own_id,
            lists: RwLock::new(Lists::new(allowed, denied)),
            secret,
        }))
    }

    /// Admits by these lists from now on; connections that are open stay open.
    pub fn replace(&self, allowed: &[EndpointId], denied: &[EndpointId]) {
        let lists = Lists::new(allowed, denied);
        *self.0.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
    }

    /// Whether the lists let connections with this endpoint be made, in either direction.
    pub fn admits(&self, id: &EndpointId) -> bool {
        let lists = self.0.lists.read().unwrap_or_else(PoisonError::into_inner);
        !lists.denied.contains(id) && (lists.allowed.is_empty() || lists.allowed.contains(id))
    }

    async fn is_member(&self, connection: &Connection) -> bool {
        let Some(secret) = &self.0.secret else {
            return true;
        };
        let proving = proof::prove(connection, self.0.own_id, secret);
        let peer = connection.remote_id().fmt_short();
        match timeout(limits::MEMBERSHIP_TIMEOUT, proving).await {
            Ok(Ok(())) => true,
            Ok(Err(reason)) => {
                debug!(%peer, %reason, "not a member of the swarm");
                false
            }
            Err(_) => {
                debug!(%peer, "not a member of the swarm: it gave no proof in time");
                false
            }
        }
    }
}

impl EndpointHooks for Admission {
    async fn before_connect<'a>(
        &'a self,
        remote_addr: &'a EndpointAddr,
        _alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        match self.admits(&remote_addr.id) {
            true => BeforeConnectOutcome::Accept,
            false => BeforeConnectOutcome::Reject,
        }
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        if !self.admits(&connection.remote_id()) {
            return AfterHandshakeOutcome::Reject {
                error_code: VarInt::from_u32(TURNED_AWAY),
                reason: b"not admitted".to_vec(),
            };
        }
        match self.is_member(connection).await {
            true => AfterHandshakeOutcome::Accept,
            false => AfterHandshakeOutcome::Reject {
                error_code: VarInt::from_u32(NO_MEMBER),
                reason: b"not a member of this swarm".to_vec(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_endpoint_is_not_admitted_even_if_it_is_allowed() {
        let id = |seed| iroh::SecretKey::from_bytes(&[seed; 32]).public();
        let (friend, foe, other) = (id(1), id(2), id(3));
        let open = Admission::new(id(9), &[], &[foe], None);
        assert!(open.admits(&friend) && open.admits(&other) && !open.admits(&foe));
        let closed = Admission::new(id(9), &[friend, foe], &[foe], None);
        assert!(closed.admits(&friend) && !closed.admits(&other) && !closed.admits(&foe));
        closed.clone().replace(&[], &[friend]);
        assert!(!closed.admits(&friend) && closed.admits(&other) && closed.admits(&foe));
    }
}
