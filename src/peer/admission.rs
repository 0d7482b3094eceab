//! With whom connections are made at all.

use std::{collections::BTreeSet, sync::Arc};

use iroh::{
    EndpointAddr, EndpointId,
    endpoint::{AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, VarInt},
};

/// What an endpoint that is turned away sees the connection closed with.
pub const TURNED_AWAY: u32 = 403;

/// The allow and deny lists, asked at the one place that the connections of every protocol pass,
/// right after the handshake has proved who is there and before a byte is read.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Lists>);

#[derive(Debug, Default)]
struct Lists {
    allowed: BTreeSet<EndpointId>,
    denied: BTreeSet<EndpointId>,
}

impl Admission {
    /// Admits those of `allowed`, or everyone where that is empty, and none of `denied`.
    pub fn new(allowed: &[EndpointId], denied: &[EndpointId]) -> Self {
        Self(Arc::new(Lists {
            allowed: allowed.iter().copied().collect(),
            denied: denied.iter().copied().collect(),
        }))
    }

    /// Whether connections with this endpoint are made, in either direction.
    pub fn admits(&self, id: &EndpointId) -> bool {
        let lists = &self.0;
        !lists.denied.contains(id) && (lists.allowed.is_empty() || lists.allowed.contains(id))
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
        if self.admits(&connection.remote_id()) {
            return AfterHandshakeOutcome::Accept;
        }
        AfterHandshakeOutcome::Reject {
            error_code: VarInt::from_u32(TURNED_AWAY),
            reason: b"not admitted".to_vec(),
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
        let open = Admission::new(&[], &[foe]);
        assert!(open.admits(&friend) && open.admits(&other) && !open.admits(&foe));
        let closed = Admission::new(&[friend, foe], &[foe]);
        assert!(closed.admits(&friend) && !closed.admits(&other) && !closed.admits(&foe));
    }
}
