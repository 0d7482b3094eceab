//! The older program's routes: who is there and who has what.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use serde_json::{Map, Value, json};

use super::body::Whole;
use super::{Face, address::Client, body, refusal::Refusal};
use crate::clock::unix_now;
use crate::tracker::api::{
    MAX_ANNOUNCE, MAX_ANNOUNCE_BODY, MAX_DIRECT_ADDRS, PUBLIC_SWARM, TrackedPeer,
};
use crate::tracker::limits;
use crate::tracker::storage::{OlderChange, OlderNode, OlderPeer, Outcome, Reputation};

pub(super) type Answer = Result<Json<Value>, Refusal>;

/// What is said to who may not write.
const SIGNED_ONLY: &str = "this tracker takes signed announcements only: POST /v1/announce";
const IS_SIGNED: &str = "this endpoint signs its announcements: only it may change what it said";

pub(super) async fn announce_node(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let fields = read(&face, client, &headers, body, limits::SMALL_BODY).await?;
    let (Some(node_id), Some(peer_id)) = (fields.text("node_id")?, fields.text("peer_id")?) else {
        return Err(malformed("node_id and peer_id required"));
    };
    let direct_addrs = match fields.get("direct_addrs") {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => {
            let list = texts(list, limits::OLDER_ADDR);
            list.ok_or_else(|| malformed("direct_addrs must be a list of addresses"))?
        }
    };
    if direct_addrs.len() > MAX_DIRECT_ADDRS {
        return Err(malformed("too many direct_addrs"));
    }
    may_write(&face, [&node_id, &peer_id]).await?;
    let node = OlderNode {
        node_id,
        peer_id,
        relay_url: fields.text("relay_url")?,
        direct_addrs,
        addr: client.addr.to_string(),
        last_seen: unix_now(),
    };
    let put = face.tracker.put_node(node).await;
    face.tracker.note_written(put)?;
    Ok(Json(json!({ "status": "ok" })))
}

pub(super) async fn nodes(State(face): State<Arc<Face>>) -> Result<Response, Refusal> {
    let turn = face.answers.turn().await?;
    let nodes = face
        .tracker
        .note(face.tracker.storage().nodes(live_since()).await)?;
    // Endpoints that sign are nodes too, for older clients.
    let known: HashSet<&str> = nodes.iter().map(|node| node.node_id.as_str()).collect();
    let signed: Vec<(TrackedPeer, String)> = face
        .tracker
        .directory()
        .signed_members(PUBLIC_SWARM)
        .take(limits::LISTED)
        .map(|(peer, addr)| (peer, addr.to_owned()))
        .collect();
    let signed = signed
        .iter()
        .filter(|(peer, _)| !known.contains(peer.endpoint.to_string().as_str()))
        .map(|(peer, addr)| {
            let mut value = signed_value(peer);
            value["addr"] = json!(addr);
            value
        });
    let peers: Vec<Value> = nodes
        .iter()
        .map(|node| {
            let mut value = node_value(node);
            value["addr"] = json!(node.addr);
            value
        })
        .chain(signed)
        .collect();
    let list = Json(json!({ "count": peers.len(), "peers": peers }));
    Ok((turn, list).into_response())
}

fn node_value(node: &OlderNode) -> Value {
    json!({
        "node_id": node.node_id, "peer_id": node.peer_id, "relay_url": node.relay_url,
        "direct_addrs": node.direct_addrs, "last_seen": node.last_seen,
    })
}

/// An endpoint that signs, as one of the older program's nodes.
fn signed_value(peer: &TrackedPeer) -> Value {
    json!({
        "node_id": peer.endpoint, "peer_id": peer.endpoint, "relay_url": peer.relay_url,
        "direct_addrs": peer.direct_addrs, "last_seen": peer.last_seen,
    })
}

/// Who was last heard before this is no longer told of.
fn live_since() -> f64 {
    unix_now() - limits::OLDER_TTL.as_secs_f64()
}

pub(super) async fn node(State(face): State<Arc<Face>>, Path(node_id): Path<String>) -> Answer {
    let storage = face.tracker.storage();
    if let Some(node) = face.tracker.note(storage.node(node_id.clone()).await)? {
        return Ok(Json(node_value(&node)));
    }
    let signed = node_id.parse().ok().and_then(|endpoint| {
        let directory = face.tracker.directory();
        directory.signed_member(PUBLIC_SWARM, &endpoint)
    });
    let peer = signed.ok_or_else(|| Refusal::NotFound(json!({ "error": "peer not found" })))?;
    Ok(Json(signed_value(&peer)))
}

pub(super) async fn remove_node(
    State(face): State<Arc<Face>>,
    Path(node_id): Path<String>,
) -> Answer {
    may_write(&face, [&node_id]).await?;
    let removed = face.tracker.storage().remove_node(node_id.clone()).await;
    let removed = face.tracker.note_written(removed)?;
    let has_packages = face.tracker.directory().has_older(&node_id);
    if has_packages {
        announce_packages(&face, node_id, true, Vec::new(), Vec::new(), String::new()).await?;
    }
    if removed {
        Ok(Json(json!({ "status": "deregistered" })))
    } else {
        Err(Refusal::NotFound(json!({ "status": "not found" })))
    }
}

pub(super) async fn packages(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let fields = read(&face, client, &headers, body, MAX_ANNOUNCE_BODY).await?;
    let peer_id = fields.peer_id()?;
    let hashes = fields
        .list("hashes")
        .ok_or_else(|| malformed("hashes must be a list"))?;
    may_write(&face, [&peer_id]).await?;
    let hashes = path_hashes(hashes)?;
    let count = hashes.len();
    let addr = client.addr.to_string();
    announce_packages(&face, peer_id, true, hashes, Vec::new(), addr).await?;
    Ok(Json(json!({ "status": "ok", "count": count })))
}

pub(super) async fn packages_delta(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let fields = read(&face, client, &headers, body, MAX_ANNOUNCE_BODY).await?;
    let peer_id = fields.peer_id()?;
    let (Some(added), Some(removed)) = (fields.list("added"), fields.list("removed")) else {
        return Err(malformed("added and removed must be lists"));
    };
    may_write(&face, [&peer_id]).await?;
    let (added, removed) = (path_hashes(added)?, path_hashes(removed)?);
    let counts = (added.len(), removed.len());
    let addr = client.addr.to_string();
    announce_packages(&face, peer_id, false, added, removed, addr).await?;
    Ok(Json(
        json!({ "status": "ok", "added": counts.0, "removed": counts.1 }),
    ))
}

async fn announce_packages(
    face: &Face,
    peer_id: String,
    replaces: bool,
    added: Vec<StorePathHash>,
    removed: Vec<StorePathHash>,
    addr: String,
) -> Result<Outcome, Refusal> {
    let change = OlderChange {
        peer_id,
        replaces,
        added,
        removed,
        addr,
        now: unix_now(),
    };
    let outcome = face.tracker.announce_older(change).await;
    Ok(face.tracker.note_written(outcome)?)
}

pub(super) async fn announce(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let fields = read(&face, client, &headers, body, MAX_ANNOUNCE_BODY).await?;
    let port = fields.number("port")?.filter(|port| *port != 0);
    let (Some(peer_id), Some(port)) = (fields.text("peer_id")?, port) else {
        return Err(malformed("peer_id and port required"));
    };
    if !(1..=65535).contains(&port) {
        return Err(malformed("port must be between 1 and 65535"));
    }
    may_write(&face, [&peer_id]).await?;
    let packages = match fields.get("packages") {
        None | Some(Value::Null) => Vec::new(),
        Some(_) => path_hashes(
            fields
                .list("packages")
                .ok_or_else(|| malformed("packages must be a list"))?,
        )?,
    };
    let addr = client.addr.to_string();
    let peer = OlderPeer {
        peer_id: peer_id.clone(),
        addr: addr.clone(),
        port,
        libp2p_peer_id: fields.text("libp2p_peer_id")?,
        last_seen: unix_now(),
    };
    face.tracker
        .note_written(face.tracker.storage().put_peer(peer).await)?;
    if !packages.is_empty() {
        announce_packages(&face, peer_id, true, packages, Vec::new(), addr).await?;
    } else if face.tracker.directory().has_older(&peer_id) {
        // Who is there still has what it said.
        announce_packages(&face, peer_id, false, packages, Vec::new(), addr).await?;
    }
    Ok(Json(json!({ "status": "ok" })))
}

pub(super) async fn status(State(face): State<Arc<Face>>) -> Answer {
    let counts = face.tracker.storage().older_counts(live_since()).await;
    let counts = face.tracker.note(counts)?;
    let packages = face.tracker.fill().paths;
    Ok(Json(json!({
        "status": "ok", "mode": "ipfs", "peers": counts.peers, "cid_mappings": counts.cids,
        "packages": packages,
    })))
}

pub(super) async fn peers(State(face): State<Arc<Face>>) -> Result<Response, Refusal> {
    let turn = face.answers.turn().await?;
    let peers = face.tracker.storage().peers(live_since(), None).await;
    let mut peers = face.tracker.note(peers)?;
    peers.sort_by(|(_, a), (_, b)| b.score().total_cmp(&a.score()));
    let peers: Vec<Value> = peers
        .iter()
        .map(|(peer, reputation)| {
            json!({
                "peer_id": peer.peer_id, "addr": peer.addr, "port": peer.port,
                "last_seen": peer.last_seen, "reputation": reputation_value(reputation),
            })
        })
        .collect();
    Ok((turn, Json(json!({ "peers": peers }))).into_response())
}

pub(super) fn reputation_value(reputation: &Reputation) -> Value {
    json!({
        "total_shared": reputation.total_shared, "total_received": reputation.total_received,
        "successful_transfers": reputation.successful_transfers,
        "failed_transfers": reputation.failed_transfers, "score": reputation.score(),
    })
}

pub(super) async fn find(
    State(face): State<Arc<Face>>,
    Path(hash): Path<String>,
) -> Result<Response, Refusal> {
    let turn = face.answers.turn().await?;
    let names = hash.parse().map_or_else(
        |_| Vec::new(),
        |hash| face.tracker.directory().older_holders(PUBLIC_SWARM, &hash),
    );
    let peers = if names.is_empty() {
        Vec::new()
    } else {
        let peers = face
            .tracker
            .storage()
            .peers(live_since(), Some(names))
            .await;
        face.tracker.note(peers)?
    };
    let providers: Vec<Value> = peers
        .iter()
        .map(|(peer, reputation)| {
            json!({
                "peer_id": peer.peer_id, "addr": peer.addr, "port": peer.port,
                "libp2p_peer_id": peer.libp2p_peer_id, "last_seen": peer.last_seen,
                "score": reputation.score(),
            })
        })
        .collect();
    let found = Json(json!({ "hash": hash, "providers": providers }));
    Ok((turn, found).into_response())
}

/// Refuses who writes unsigned where that is off, or in the name of an endpoint that signs.
pub(super) async fn may_write<const N: usize>(
    face: &Face,
    names: [&String; N],
) -> Result<(), Refusal> {
    if face.options.require_signed {
        return Err(Refusal::Unauthorized(SIGNED_ONLY));
    }
    for name in names {
        let Ok(endpoint) = name.parse::<EndpointId>() else {
            continue;
        };
        let signs = face.tracker.storage().has_signed(endpoint).await;
        if face.tracker.note(signs)? {
            return Err(Refusal::Unauthorized(IS_SIGNED));
        }
    }
    Ok(())
}

pub(super) fn malformed(what: &str) -> Refusal {
    Refusal::Malformed(what.to_owned())
}

/// The fields of a request.
pub(super) struct Fields {
    fields: Map<String, Value>,
    // What was read takes its share of memory for as long as it is there.
    _whole: Whole,
}

pub(super) async fn read(
    face: &Face,
    client: Client,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Fields, Refusal> {
    let whole = body::read(face, client, headers, body, limit).await?;
    Ok(Fields {
        fields: whole.object()?,
        _whole: whole,
    })
}

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// A text that is there and not empty, as Python has it.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Refusal> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text.len() > limits::OLDER_TEXT => {
                Err(Refusal::Malformed(format!("{name} is too long")))
            }
            // PostgreSQL has none in texts.
            Some(Value::String(text)) if text.contains('\0') => {
                Err(Refusal::Malformed(format!("{name} has a zero byte in it")))
            }
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::Malformed(format!("{name} must be a string"))),
        }
    }

    fn peer_id(&self) -> Result<String, Refusal> {
        self.text("peer_id")?
            .ok_or_else(|| malformed("peer_id required"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| Refusal::Malformed(format!("{name} must be a whole number"))),
        }
    }

    /// A list; an empty one where the field is missing.
    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.fields.get(name) {
            None => Some(&[]),
            Some(value) => value.as_array().map(Vec::as_slice),
        }
    }
}

/// The texts of a list of nothing else, each of at most `longest` bytes.
pub(super) fn texts(list: &Value, longest: usize) -> Option<Vec<String>> {
    let short = |value: &Value| {
        let text = value.as_str()?;
        (text.len() <= longest && !text.contains('\0')).then(|| text.to_owned())
    };
    list.as_array()?.iter().map(short).collect()
}

/// The distinct path hashes of a list of texts; other texts can't be asked for and are left out.
fn path_hashes(list: &[Value]) -> Result<Vec<StorePathHash>, Refusal> {
    if list.len() > MAX_ANNOUNCE {
        return Err(Refusal::TooLarge);
    }
    let mut hashes = HashSet::with_capacity(list.len());
    for value in list {
        let text = value
            .as_str()
            .ok_or_else(|| malformed("hashes must be strings"))?;
        if let Ok(hash) = text.parse::<StorePathHash>() {
            hashes.insert(hash);
        }
    }
    Ok(hashes.into_iter().collect())
}
