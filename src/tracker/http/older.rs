//! The older program's routes: who is there and who has what.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::{HeaderMap, request::Parts};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use serde_json::{Map, Value, json};

use super::body::Whole;
use super::older_shapes::{
    OlderAnnouncement, OlderChanged, OlderCounted, OlderFill, OlderFound, OlderNodeAnnouncement,
    OlderNodeEntry, OlderNodes, OlderPackages, OlderPackagesDelta, OlderPeerEntry, OlderPeers,
    OlderProvider, OlderStatus,
};
use super::refusal::{Refusal, TooMany};
use super::{Face, address::Client, body};
use crate::clock::unix_now;
use crate::tracker::api::{
    ApiError, MAX_ANNOUNCE, MAX_ANNOUNCE_BODY, MAX_DIRECT_ADDRS, PUBLIC_SWARM, TrackedPeer,
};
use crate::tracker::limits;
use crate::tracker::storage::{OlderChange, OlderNode, OlderPeer, Outcome};

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// What is said to who may not write.
const SIGNED_ONLY: &str = "this tracker takes signed announcements only: POST /v1/announce";
const IS_SIGNED: &str = "this endpoint signs its announcements: only it may change what it said";

/// Takes up that an iroh node is there.
#[utoipa::path(post, path = "/iroh/announce", tag = "older", request_body = OlderNodeAnnouncement,
    responses((status = 200, body = OlderStatus), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn announce_node(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderStatus> {
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
    Ok(Json(OlderStatus::OK))
}

/// Lists the iroh nodes that are there.
#[utoipa::path(get, path = "/iroh/peers", tag = "older",
    responses((status = 200, body = OlderNodes), (status = 429, body = TooMany), (status = 503, body = ApiError)))]
pub(super) async fn nodes(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
) -> Result<Response, Refusal> {
    let turn = face.answers.turn(client).await?;
    let nodes = face
        .tracker
        .note(face.tracker.storage().nodes(live_since()).await)?;
    // Endpoints that sign are nodes too, for older clients.
    let known: HashSet<String> = nodes.iter().map(|node| node.node_id.clone()).collect();
    let signed: Vec<(TrackedPeer, String)> = face
        .tracker
        .directory()
        .signed_members(PUBLIC_SWARM)
        .take(limits::LISTED)
        .map(|(peer, addr)| (peer, addr.to_owned()))
        .collect();
    let signed = signed
        .into_iter()
        .map(|(peer, addr)| (OlderNodeEntry::from(peer), addr))
        .filter(|(entry, _)| !known.contains(entry.node_id()));
    let peers: Vec<OlderNodeEntry> = nodes
        .into_iter()
        .map(|mut node| {
            let addr = std::mem::take(&mut node.addr);
            (OlderNodeEntry::from(node), addr)
        })
        .chain(signed)
        .map(|(entry, addr)| entry.listed(addr))
        .collect();
    let count = peers.len();
    Ok((turn, Json(OlderNodes { count, peers })).into_response())
}

/// Who was last heard before this is no longer told of.
fn live_since() -> f64 {
    unix_now() - limits::OLDER_TTL.as_secs_f64()
}

/// Says how an iroh node is reached.
#[utoipa::path(get, path = "/iroh/peer/{node_id}", tag = "older",
    params(("node_id" = String, Path, description = "the id of a node")),
    responses((status = 200, body = OlderNodeEntry), (status = 429, body = TooMany), (status = 503, body = ApiError),
        (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub(super) async fn node(
    State(face): State<Arc<Face>>,
    Name(node_id): Name,
) -> Answer<OlderNodeEntry> {
    let storage = face.tracker.storage();
    if let Some(node) = face.tracker.note(storage.node(node_id.clone()).await)? {
        return Ok(Json(node.into()));
    }
    let signed = node_id.parse().ok().and_then(|endpoint| {
        let directory = face.tracker.directory();
        directory.signed_member(PUBLIC_SWARM, &endpoint)
    });
    let peer = signed.ok_or_else(|| Refusal::NotFound(json!({ "error": "peer not found" })))?;
    Ok(Json(peer.into()))
}

/// Forgets an iroh node.
#[utoipa::path(delete, path = "/iroh/peer/{node_id}", tag = "older",
    params(("node_id" = String, Path, description = "the id of a node")),
    responses((status = 200, body = OlderStatus), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 404, body = OlderStatus), (status = 429, body = TooMany), (status = 503, body = ApiError)))]
pub(super) async fn remove_node(
    State(face): State<Arc<Face>>,
    Name(node_id): Name,
) -> Answer<OlderStatus> {
    may_write(&face, [&node_id]).await?;
    let removed = face.tracker.storage().remove_node(node_id.clone()).await;
    let removed = face.tracker.note_written(removed)?;
    let has_packages = face.tracker.directory().has_older(&node_id);
    if has_packages {
        announce_packages(&face, node_id, true, Vec::new(), Vec::new(), String::new()).await?;
    }
    if removed {
        Ok(Json(OlderStatus {
            status: "deregistered",
        }))
    } else {
        Err(Refusal::NotFound(json!({ "status": "not found" })))
    }
}

/// Takes up all that a peer has.
#[utoipa::path(post, path = "/packages/batch", tag = "older", request_body = OlderPackages,
    responses((status = 200, body = OlderCounted), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn packages(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderCounted> {
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
    Ok(Json(OlderCounted {
        count,
        status: "ok",
    }))
}

/// Takes up what changed of what a peer has.
#[utoipa::path(post, path = "/packages/delta", tag = "older", request_body = OlderPackagesDelta,
    responses((status = 200, body = OlderChanged), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn packages_delta(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderChanged> {
    let fields = read(&face, client, &headers, body, MAX_ANNOUNCE_BODY).await?;
    let peer_id = fields.peer_id()?;
    let (Some(added), Some(removed)) = (fields.list("added"), fields.list("removed")) else {
        return Err(malformed("added and removed must be lists"));
    };
    may_write(&face, [&peer_id]).await?;
    let (added, removed) = (path_hashes(added)?, path_hashes(removed)?);
    let answer = OlderChanged {
        added: added.len(),
        removed: removed.len(),
        status: "ok",
    };
    let addr = client.addr.to_string();
    announce_packages(&face, peer_id, false, added, removed, addr).await?;
    Ok(Json(answer))
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

/// Takes up that a peer is there that is no iroh node.
#[utoipa::path(post, path = "/announce", tag = "older", request_body = OlderAnnouncement,
    responses((status = 200, body = OlderStatus), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn announce(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderStatus> {
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
    Ok(Json(OlderStatus::OK))
}

/// Says how full the tracker is.
#[utoipa::path(get, path = "/status", tag = "older",
    responses((status = 200, body = OlderFill), (status = 429, body = TooMany), (status = 503, body = ApiError)))]
pub(super) async fn status(State(face): State<Arc<Face>>) -> Answer<OlderFill> {
    let counts = face.tracker.storage().older_counts(live_since()).await;
    let counts = face.tracker.note(counts)?;
    let packages = face.tracker.fill().paths;
    Ok(Json(OlderFill {
        cid_mappings: counts.cids,
        mode: "ipfs",
        packages,
        peers: counts.peers,
        status: "ok",
    }))
}

/// Lists the peers that are no iroh nodes.
#[utoipa::path(get, path = "/peers", tag = "older",
    responses((status = 200, body = OlderPeers), (status = 429, body = TooMany), (status = 503, body = ApiError)))]
pub(super) async fn peers(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
) -> Result<Response, Refusal> {
    let turn = face.answers.turn(client).await?;
    let peers = face.tracker.storage().peers(live_since(), None).await;
    let mut peers = face.tracker.note(peers)?;
    peers.sort_by(|(_, a), (_, b)| b.score().total_cmp(&a.score()));
    let peers = peers.into_iter().map(OlderPeerEntry::from).collect();
    Ok((turn, Json(OlderPeers { peers })).into_response())
}

/// Says which peers that are no iroh nodes have a path.
#[utoipa::path(get, path = "/find/{hash}", tag = "older",
    params(("hash" = String, Path, description = "a path hash")),
    responses((status = 200, body = OlderFound), (status = 429, body = TooMany), (status = 503, body = ApiError),
        (status = 400, body = ApiError)))]
pub(super) async fn find(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    Name(hash): Name,
) -> Result<Response, Refusal> {
    let turn = face.answers.turn(client).await?;
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
    let providers = peers.into_iter().map(OlderProvider::from).collect();
    let found = OlderFound { hash, providers };
    Ok((turn, Json(found)).into_response())
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

/// The name that a request's path ends with.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(Refusal::Malformed(error.body_text())),
        }
    }
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
