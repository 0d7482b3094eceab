//! The older program's routes: reputations, and CIDs of NARs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::older::{Answer, Name, malformed, may_write, read, texts};
use super::older_shapes::{
    OlderCid, OlderCidAnnouncement, OlderCidTaken, OlderCids, OlderCidsQuestion, OlderReport,
    OlderReported, OlderReputation, OlderTransferBegin, OlderTransferBegun,
};
use super::refusal::{Refusal, TooMany};
use super::{Face, address::Client};
use crate::clock::unix_now;
use crate::tracker::api::ApiError;
use crate::tracker::limits;
use crate::tracker::storage::{Cid, OlderTransfer, Report, Reported, Role};

/// Longest body that asks for CIDs.
const CIDS_BODY: usize = 1024 * 1024;

/// Begins a transfer.
#[utoipa::path(post, path = "/transfer/init", tag = "older", request_body = OlderTransferBegin,
    responses((status = 200, body = OlderTransferBegun), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn begin(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderTransferBegun> {
    let fields = read(&face, client, &headers, body, limits::SMALL_BODY).await?;
    let (Some(sender_id), Some(receiver_id)) =
        (fields.text("sender_id")?, fields.text("receiver_id")?)
    else {
        return Err(malformed("sender_id and receiver_id required"));
    };
    may_write(&face, [&sender_id, &receiver_id]).await?;
    let transfer = OlderTransfer {
        sender_id,
        receiver_id,
        created_at: unix_now(),
    };
    let id = face.tracker.storage().begin_transfer(transfer).await;
    Ok(Json(OlderTransferBegun {
        transfer_id: face.tracker.note_written(id)?,
    }))
}

/// Takes up what one side says of a transfer.
#[utoipa::path(post, path = "/report", tag = "older", request_body = OlderReport,
    responses((status = 200, body = OlderReported), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError),
        (status = 403, body = ApiError, description = "who reports is not that side"),
        (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub(super) async fn report(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderReported> {
    let fields = read(&face, client, &headers, body, limits::SMALL_BODY).await?;
    let (Some(transfer_id), Some(peer_id), Some(role), Some(bytes)) = (
        fields.number("transfer_id")?,
        fields.text("peer_id")?,
        fields.text("role")?,
        fields.number("bytes")?,
    ) else {
        return Err(malformed("transfer_id, peer_id, role, and bytes required"));
    };
    let role = match role.as_str() {
        "sender" => Role::Sender,
        "receiver" => Role::Receiver,
        _ => return Err(malformed("role must be 'sender' or 'receiver'")),
    };
    if bytes < 0 {
        return Err(malformed("bytes must not be negative"));
    }
    may_write(&face, [&peer_id]).await?;
    let report = Report {
        transfer_id,
        peer_id,
        role,
        bytes,
        now: unix_now(),
    };
    let reported = face.tracker.storage().report(report).await;
    match face.tracker.note_written(reported)? {
        Reported::Pending => Ok(Json(OlderReported {
            consistent: None,
            status: "pending",
        })),
        Reported::Resolved { consistent } => Ok(Json(OlderReported {
            consistent: Some(consistent),
            status: "resolved",
        })),
        Reported::NotFound => Err(Refusal::NotFound(json!({ "error": "transfer not found" }))),
        Reported::AlreadyResolved => Err(Refusal::Conflict("transfer already resolved".into())),
        Reported::NotThatSide => Err(Refusal::Forbidden(format!(
            "peer_id does not match {}",
            role.name()
        ))),
        Reported::AlreadyReported => Err(Refusal::Conflict(format!(
            "{} already reported",
            role.name()
        ))),
    }
}

/// Says what a peer is known for.
#[utoipa::path(get, path = "/reputation/{peer_id}", tag = "older",
    params(("peer_id" = String, Path, description = "the name of a peer")),
    responses((status = 200, body = OlderReputation), (status = 429, body = TooMany), (status = 503, body = ApiError),
        (status = 400, body = ApiError)))]
pub(super) async fn reputation(
    State(face): State<Arc<Face>>,
    Name(peer_id): Name,
) -> Answer<OlderReputation> {
    let reputation = face.tracker.storage().reputation(peer_id.clone()).await;
    let reputation = face.tracker.note(reputation)?;
    Ok(Json(OlderReputation::of(&reputation, Some(peer_id))))
}

/// Takes up the CID of a NAR.
#[utoipa::path(post, path = "/cid", tag = "older", request_body = OlderCidAnnouncement,
    responses((status = 200, body = OlderCidTaken), (status = 400, body = ApiError),
        (status = 401, body = ApiError, description = "only signed announcements may do this"),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn put_cid(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer<OlderCidTaken> {
    let fields = read(&face, client, &headers, body, limits::SMALL_BODY).await?;
    let (Some(nar_hash), Some(cid), Some(peer_id)) = (
        fields.text("nar_hash")?,
        fields.text("cid")?,
        fields.text("peer_id")?,
    ) else {
        return Err(malformed("nar_hash, cid, and peer_id required"));
    };
    may_write(&face, [&peer_id]).await?;
    let answer = OlderCidTaken {
        cid: cid.clone(),
        nar_hash: nar_hash.clone(),
        status: "ok",
    };
    let cid = Cid {
        nar_hash,
        cid,
        peer_id,
        created_at: unix_now(),
    };
    face.tracker
        .note_written(face.tracker.storage().put_cid(cid).await)?;
    Ok(Json(answer))
}

/// Says the CID of a NAR.
#[utoipa::path(get, path = "/cid/{nar_hash}", tag = "older",
    params(("nar_hash" = String, Path, description = "the hash of a NAR")),
    responses((status = 200, body = OlderCid), (status = 429, body = TooMany), (status = 503, body = ApiError),
        (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub(super) async fn cid(State(face): State<Arc<Face>>, Name(nar_hash): Name) -> Answer<OlderCid> {
    let found = face.tracker.storage().cids(vec![nar_hash]).await;
    match face.tracker.note(found)?.into_iter().next() {
        Some(cid) => Ok(Json(cid.into())),
        None => Err(Refusal::NotFound(json!({ "error": "CID not found" }))),
    }
}

/// Lists CIDs of NARs, at most 10,000.
#[utoipa::path(get, path = "/cids", tag = "older",
    responses((status = 200, body = OlderCids), (status = 429, body = TooMany), (status = 503, body = ApiError)))]
pub(super) async fn all_cids(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
) -> Result<Response, Refusal> {
    let turn = face.answers.turn(client).await?;
    let all = face.tracker.storage().all_cids().await;
    let all = OlderCids::of(face.tracker.note(all)?);
    Ok((turn, Json(all)).into_response())
}

/// Says the CIDs of some NARs.
#[utoipa::path(post, path = "/cids/batch", tag = "older", request_body = OlderCidsQuestion,
    responses((status = 200, body = OlderCids), (status = 400, body = ApiError),
        (status = 408, body = ApiError, description = "the body took too long"),
        (status = 413, body = ApiError), (status = 429, body = TooMany),
        (status = 503, body = ApiError)))]
pub(super) async fn cids(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let fields = read(&face, client, &headers, body, CIDS_BODY).await?;
    let list = match fields.get("nar_hashes") {
        None => Some(Vec::new()),
        Some(list) => texts(list, limits::OLDER_TEXT),
    };
    let nar_hashes = list.ok_or_else(|| malformed("nar_hashes must be a list"))?;
    if nar_hashes.is_empty() {
        return Ok(Json(OlderCids::none()).into_response());
    }
    if nar_hashes.len() > limits::MAX_CIDS {
        return Err(Refusal::TooLarge);
    }
    let turn = face.answers.turn(client).await?;
    let found = face.tracker.storage().cids(nar_hashes).await;
    let found = OlderCids::of(face.tracker.note(found)?);
    Ok((turn, Json(found)).into_response())
}
