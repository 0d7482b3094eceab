//! Where this machine is reached, as trackers are told.

use std::net::SocketAddr;

use iroh::{Endpoint, EndpointAddr, RelayUrl, TransportAddr};

use super::limits;

/// Addresses of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Whereabouts {
    pub(super) relay_url: Option<RelayUrl>,
    pub(super) direct_addrs: Vec<SocketAddr>,
}

impl Whereabouts {
    /// What `addr` says, or, where it says nothing, what `endpoint` is bound to.
    pub(super) fn of(endpoint: &Endpoint, addr: &EndpointAddr) -> Self {
        let mut whereabouts = Self::default();
        for at in &addr.addrs {
            match at {
                TransportAddr::Relay(url) if whereabouts.relay_url.is_none() => {
                    whereabouts.relay_url = Some(url.clone());
                }
                TransportAddr::Ip(addr) => whereabouts.push(*addr),
                _ => {}
            }
        }
        if addr.addrs.is_empty() {
            for bound in endpoint.bound_sockets() {
                whereabouts.push(bound);
            }
        }
        whereabouts
    }

    fn push(&mut self, addr: SocketAddr) {
        if !addr.ip().is_unspecified() && self.direct_addrs.len() < limits::ADDRESSES {
            self.direct_addrs.push(addr);
        }
    }
}
