//! The open connections with each peer, whoever made them, so that all can be closed at once.
//!
//! iroh sends to the address that works for any of them, and learns of no other while one is
//! open: after a peer or this machine moved to another address, connections that lead nowhere have
//! to go before the first new one can be made.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use iroh::{
    EndpointId,
    endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks, WeakConnectionHandle},
};

use crate::limits;

/// Closed by this side because the peer is to be found at another address.
const MOVED: u32 = 3;

/// Open connections by peer. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OpenConnections(Arc<Mutex<HashMap<EndpointId, Vec<WeakConnectionHandle>>>>);

impl OpenConnections {
    /// Closes every connection with `id`.
    pub fn close(&self, id: EndpointId) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = open.remove(&id).unwrap_or_default();
        drop(open);
        for connection in handles.iter().filter_map(WeakConnectionHandle::upgrade) {
            connection.close(MOVED.into(), b"moved");
        }
    }

    /// Closes every connection with a peer that `admits` says no to.
    pub fn close_unless(&self, admits: impl Fn(&EndpointId) -> bool) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unwanted: Vec<EndpointId> = open.keys().filter(|id| !admits(id)).copied().collect();
        drop(open);
        for id in unwanted {
            self.close(id);
        }
    }

    fn note(&self, connection: &Connection) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() > limits::CONNECTIONS {
            open.retain(|_, handles| handles.iter().any(is_open));
        }
        let handles = open.entry(connection.remote_id()).or_default();
        handles.retain(is_open);
        handles.push(connection.weak_handle());
    }
}

fn is_open(handle: &WeakConnectionHandle) -> bool {
    handle
        .upgrade()
        .is_some_and(|connection| connection.close_reason().is_none())
}

impl EndpointHooks for OpenConnections {
    async fn after_handshake(&self, connection: &Connection) -> AfterHandshakeOutcome {
        self.note(connection);
        AfterHandshakeOutcome::accept()
    }
}
