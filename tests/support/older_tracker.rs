//! A tracker of the older program: its routes as its nodes use them, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use super::http_server::{HttpServer, Reply, Request};

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    packages: BTreeMap<String, BTreeSet<String>>,
}

/// A running tracker.
pub struct OlderTracker {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

impl OlderTracker {
    /// Starts one that knows nobody.
    pub fn start() -> OlderTracker {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = state.clone();
        let server = HttpServer::start(move |request| {
            let mut state = answering.lock().expect("no panic");
            Some(answer(&mut state, request))
        });
        OlderTracker { server, state }
    }

    /// The server behind it.
    pub fn server(&self) -> &HttpServer {
        &self.server
    }

    /// Who is announced.
    pub fn nodes(&self) -> Vec<Value> {
        let state = self.state.lock().expect("no panic");
        state.nodes.values().cloned().collect()
    }

    /// The hashes that `peer_id` announced.
    pub fn packages(&self, peer_id: &str) -> Option<BTreeSet<String>> {
        let state = self.state.lock().expect("no panic");
        state.packages.get(peer_id).cloned()
    }
}

fn answer(state: &mut State, request: &Request) -> Reply {
    let body = request.json();
    let hashes = |field: &str| -> BTreeSet<String> {
        let list = body[field].as_array().expect("a list");
        list.iter()
            .map(|hash| hash.as_str().expect("a string").to_owned())
            .collect()
    };
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    match (request.method.as_str(), request.target.as_str()) {
        ("POST", "/iroh/announce") => {
            let (node, peer) = (text("node_id"), text("peer_id"));
            if node.is_empty() || peer.is_empty() {
                return Reply::json(400, json!({ "error": "node_id and peer_id required" }));
            }
            let entry = json!({
                "node_id": node,
                "peer_id": peer,
                "relay_url": body["relay_url"],
                "direct_addrs": body["direct_addrs"],
                "addr": "127.0.0.1",
                "last_seen": 1_700_000_000.5,
            });
            state.nodes.insert(node, entry);
            Reply::json(200, json!({ "status": "ok" }))
        }
        ("GET", "/iroh/peers") => {
            let peers: Vec<&Value> = state.nodes.values().collect();
            Reply::json(200, json!({ "peers": peers, "count": peers.len() }))
        }
        ("POST", "/packages/batch") => {
            let hashes = hashes("hashes");
            let count = hashes.len();
            state.packages.insert(text("peer_id"), hashes);
            Reply::json(200, json!({ "status": "ok", "count": count }))
        }
        ("POST", "/packages/delta") => {
            let (added, removed) = (hashes("added"), hashes("removed"));
            let known = state.packages.entry(text("peer_id")).or_default();
            known.retain(|hash| !removed.contains(hash));
            known.extend(added.iter().cloned());
            let counts = (added.len(), removed.len());
            Reply::json(
                200,
                json!({ "status": "ok", "added": counts.0, "removed": counts.1 }),
            )
        }
        ("DELETE", target) => {
            let node = target.strip_prefix("/iroh/peer/").unwrap_or_default();
            match state.nodes.remove(node) {
                Some(_) => {
                    state.packages.remove(node);
                    Reply::json(200, json!({ "status": "deregistered" }))
                }
                None => Reply::json(404, json!({ "status": "not found" })),
            }
        }
        _ => Reply::text(404, "Not Found"),
    }
}
