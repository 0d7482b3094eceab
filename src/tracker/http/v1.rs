//! The signed API's routes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Face,
    address::Client,
    body,
    refusal::{Refusal, TooMany},
};
use crate::clock::unix_now;
use crate::tracker::api::{
    self, Announce, AnnounceKind, Announced, ApiError, Found, Lookup, Stale, SwarmPeers,
    TrackerInfo,
};
use crate::tracker::limits;
use crate::tracker::storage::{Contact, Outcome, SignedChange, StaleReason};

/// Longest body of a lookup: 1,000 hashes, with white space.
const LOOKUP_BODY: usize = 128 * 1024;

/// What this tracker is.
#[utoipa::path(get, path = "/v1/info", tag = "v1",
    responses((status = 200, body = TrackerInfo), (status = 429, body = TooMany)))]
pub(super) async fn info(State(face): State<Arc<Face>>) -> Json<TrackerInfo> {
    Json(TrackerInfo {
        name: "peerix-tracker".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        id: face.tracker.storage().tracker_id(),
        require_signed: face.options.require_signed,
        ttl: limits::SIGNED_TTL.as_secs(),
        announce_interval: limits::ANNOUNCE_INTERVAL.as_secs(),
        max_lookup: api::MAX_LOOKUP as u32,
        max_announce: api::MAX_ANNOUNCE as u32,
        relay: face.options.relay.clone(),
    })
}

/// Takes up what an endpoint announces, signed by its key.
#[utoipa::path(post, path = "/v1/announce", tag = "v1", request_body = Announce,
    params(("peerix-signature" = String, Header,
        description = "hexadecimal Ed25519 signature by the endpoint's key over the text `peerix tracker announcement v1`, a newline and the body")),
    responses((status = 200, body = Announced), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "wrong signature, or meant for another tracker"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 409, body = Stale), (status = 413, body = ApiError),
        (status = 429, body = TooMany), (status = 503, body = ApiError)))]
pub(super) async fn announce(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Announced>, Refusal> {
    let whole = body::read(&face, client, &headers, body, api::MAX_ANNOUNCE_BODY).await?;
    let announce: Announce = parse(&whole.bytes)?;
    let signature = headers
        .get(api::SIGNATURE_HEADER)
        .and_then(|signature| signature.to_str().ok())
        .ok_or(Refusal::Unauthorized("the signature is missing"))?;
    api::verify(&announce.endpoint, &whole.bytes, signature)
        .map_err(|_| Refusal::Unauthorized("the signature is not the endpoint's over this body"))?;
    if announce.tracker != face.tracker.storage().tracker_id() {
        return Err(Refusal::Unauthorized(
            "this announcement is for another tracker: /v1/info says who this one is",
        ));
    }
    check(&announce)?;
    face.admission
        .admit_endpoint(&announce.endpoint, whole.cost().saturating_add(1))?;
    let kind = announce.kind;
    let sequence = announce.sequence;
    let outcome = face.tracker.announce(change(announce, client)).await;
    let outcome = match outcome {
        // Nothing was written.
        Ok(Outcome::Stale { .. }) => face.tracker.note(outcome)?,
        _ => face.tracker.note_written(outcome)?,
    };
    match outcome {
        Outcome::Accepted { base, count, .. } => {
            face.metrics.count_announcement(kind);
            Ok(Json(Announced {
                status: "ok".to_owned(),
                sequence,
                paths: count,
                base,
            }))
        }
        Outcome::Stale {
            sequence,
            base,
            reason,
        } => Err(Refusal::Stale(Stale {
            error: match reason {
                StaleReason::Sequence => "the sequence number is not higher than the last",
                StaleReason::Base => "a full announcement is needed first, or a delta of `base`",
            }
            .to_owned(),
            sequence,
            base,
        })),
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::Malformed(error.to_string()))
}

fn check(announce: &Announce) -> Result<(), Refusal> {
    let malformed = |what: &str| Err(Refusal::Malformed(what.to_owned()));
    if announce.added.len().saturating_add(announce.removed.len()) > api::MAX_ANNOUNCE {
        return Err(Refusal::TooLarge);
    }
    if i64::try_from(announce.sequence).is_err() {
        return malformed("the sequence number is too high");
    }
    check_swarm(&announce.swarm)?;
    let relay = announce.relay_url.as_ref().map(|url| url.as_str().len());
    if relay > Some(api::MAX_RELAY_URL) {
        return malformed("the relay's URL is too long");
    }
    if announce.direct_addrs.len() > api::MAX_DIRECT_ADDRS {
        return malformed("too many addresses");
    }
    if announce.systems.len() > api::MAX_SYSTEMS
        || announce.systems.iter().any(|s| s.len() > api::MAX_SYSTEM)
    {
        return malformed("too many systems, or one with too long a name");
    }
    match announce.kind {
        AnnounceKind::Delta if announce.base.is_none() => {
            malformed("a delta names the announcement that it builds on: base")
        }
        AnnounceKind::Full if !announce.removed.is_empty() => {
            malformed("a full announcement removes nothing")
        }
        AnnounceKind::Refresh | AnnounceKind::Withdraw
            if !(announce.added.is_empty() && announce.removed.is_empty()) =>
        {
            malformed("only full announcements and deltas name paths")
        }
        _ => Ok(()),
    }
}

fn check_swarm(swarm: &str) -> Result<(), Refusal> {
    if swarm.is_empty() || swarm.len() > api::MAX_SWARM_NAME {
        return Err(Refusal::Malformed(format!(
            "a swarm's name has 1 to {} bytes",
            api::MAX_SWARM_NAME
        )));
    }
    Ok(())
}

fn change(announce: Announce, client: Client) -> SignedChange {
    // What is named as added and as removed is there.
    let added: HashSet<_> = announce.added.iter().map(|hash| hash.0).collect();
    let removed: HashSet<_> = announce.removed.iter().map(|hash| hash.0).collect();
    SignedChange {
        endpoint: announce.endpoint,
        sequence: announce.sequence,
        swarm: announce.swarm,
        contact: Contact {
            endpoint: Some(announce.endpoint),
            relay_url: announce.relay_url,
            direct_addrs: announce.direct_addrs,
            systems: announce.systems,
            addr: client.addr.to_string(),
        },
        kind: announce.kind,
        base: announce.base,
        removed: removed.difference(&added).copied().collect(),
        added: added.into_iter().collect(),
        now: unix_now(),
    }
}

/// Says who of a swarm has paths.
#[utoipa::path(post, path = "/v1/lookup", tag = "v1", request_body = Lookup,
    responses((status = 200, body = Found), (status = 400, body = ApiError),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError, description = "too many large answers are on their way")))]
pub(super) async fn lookup(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let whole = body::read(&face, client, &headers, body, LOOKUP_BODY).await?;
    let lookup: Lookup = parse(&whole.bytes)?;
    check_swarm(&lookup.swarm)?;
    if lookup.hashes.len() > api::MAX_LOOKUP {
        return Err(Refusal::TooLarge);
    }
    let turn = face.answers.turn(client).await?;
    let found = face
        .tracker
        .directory()
        .lookup(&lookup.swarm, &lookup.hashes, &mut rand::rng());
    face.metrics
        .count_lookup(lookup.hashes.len(), found.found.len());
    Ok((turn, Json(found)).into_response())
}

/// What is asked about a swarm.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct PeersQuery {
    /// The swarm, `public` where none is named.
    swarm: Option<String>,
    /// A system, such as `x86_64-linux`, whose peers are named first.
    system: Option<String>,
    /// With `If-None-Match`: how many seconds to wait for a change, at most 60.
    wait: Option<u64>,
}

/// Says who is in a swarm, to join it.
#[utoipa::path(get, path = "/v1/peers", tag = "v1",
    params(PeersQuery, ("If-None-Match" = Option<String>, Header, description = "the ETag of an earlier answer")),
    responses((status = 200, body = SwarmPeers), (status = 304, description = "nothing changed"),
        (status = 400, body = ApiError), (status = 429, body = TooMany)))]
pub(super) async fn peers(
    State(face): State<Arc<Face>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(query) = Query::<PeersQuery>::try_from_uri(&uri)
        .map_err(|error| Refusal::Malformed(error.body_text()))?;
    let swarm = query.swarm.as_deref().unwrap_or(api::PUBLIC_SWARM);
    check_swarm(swarm)?;
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|tag| tag.to_str().ok());
    if let Some(known) = known {
        let wait = query.wait.unwrap_or(0).min(api::MAX_WAIT_SECONDS);
        if !changed(&face, swarm, known, Duration::from_secs(wait)).await {
            let tag = tag_of(face.tracker.directory().version(swarm));
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
        }
    }
    let (tag, sample) = {
        let directory = face.tracker.directory();
        let sample = directory.sample(swarm, query.system.as_deref(), &mut rand::rng());
        (tag_of(directory.version(swarm)), sample)
    };
    let peers = SwarmPeers {
        peers: sample.peers,
        count: sample.count,
    };
    Ok(([(header::ETAG, tag)], Json(peers)).into_response())
}

fn tag_of(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("W/\"{version:x}\""))
        .unwrap_or(HeaderValue::from_static("W/\"\""))
}

/// Waits until a swarm is other than a client knows it, or the time is over.
async fn changed(face: &Face, swarm: &str, known: &str, wait: Duration) -> bool {
    let is_known = |version: u64| tag_of(version) == known;
    if !is_known(face.tracker.directory().version(swarm)) {
        return true;
    }
    let Ok(_place) = face.waiting.try_acquire() else {
        return false;
    };
    if wait.is_zero() {
        return false;
    }
    let mut versions = face.tracker.change().watch(swarm);
    let change = async {
        let changed = versions
            .wait_for(|version| !is_known(*version))
            .await
            .is_ok();
        if changed {
            // Who comes together is told of together.
            tokio::time::sleep(limits::WAIT_AT_LEAST).await;
        }
    };
    tokio::select! {
        () = change => true,
        () = tokio::time::sleep(wait) => false,
        () = face.stop.cancelled() => false,
    }
}
