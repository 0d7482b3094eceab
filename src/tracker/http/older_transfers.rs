//! The older program's routes: reputations, and CIDs of NARs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use super::older::{Answer, malformed, may_write, read, reputation_value, texts};
use super::{Face, address::Client, refusal::Refusal};
use crate::clock::unix_now;
use crate::tracker::limits;
use crate::tracker::storage::{Cid, OlderTransfer, Report, Reported, Role};

/// Longest body that asks for CIDs.
const CIDS_BODY: usize = 1024 * 1024;

pub(super) async fn begin(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
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
    Ok(Json(
        json!({ "transfer_id": face.tracker.note_written(id)? }),
    ))
}

pub(super) async fn report(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
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
        Reported::Pending => Ok(Json(json!({ "status": "pending" }))),
        Reported::Resolved { consistent } => Ok(Json(
            json!({ "status": "resolved", "consistent": consistent }),
        )),
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

pub(super) async fn reputation(
    State(face): State<Arc<Face>>,
    Path(peer_id): Path<String>,
) -> Answer {
    let reputation = face.tracker.storage().reputation(peer_id.clone()).await;
    let mut value = reputation_value(&face.tracker.note(reputation)?);
    value["peer_id"] = json!(peer_id);
    Ok(Json(value))
}

pub(super) async fn put_cid(
    State(face): State<Arc<Face>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let fields = read(&face, client, &headers, body, limits::SMALL_BODY).await?;
    let (Some(nar_hash), Some(cid), Some(peer_id)) = (
        fields.text("nar_hash")?,
        fields.text("cid")?,
        fields.text("peer_id")?,
    ) else {
        return Err(malformed("nar_hash, cid, and peer_id required"));
    };
    may_write(&face, [&peer_id]).await?;
    let answer = json!({ "status": "ok", "nar_hash": nar_hash, "cid": cid });
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

pub(super) async fn cid(State(face): State<Arc<Face>>, Path(nar_hash): Path<String>) -> Answer {
    let found = face.tracker.storage().cids(vec![nar_hash]).await;
    match face.tracker.note(found)?.first() {
        Some(cid) => Ok(Json(json!({
            "nar_hash": cid.nar_hash, "cid": cid.cid, "peer_id": cid.peer_id,
            "created_at": cid.created_at,
        }))),
        None => Err(Refusal::NotFound(json!({ "error": "CID not found" }))),
    }
}

pub(super) async fn all_cids(State(face): State<Arc<Face>>) -> Result<Response, Refusal> {
    let turn = face.answers.turn().await?;
    let all = face.tracker.storage().all_cids().await;
    let all = by_nar_hash(face.tracker.note(all)?);
    let all = Json(json!({ "count": all.len(), "cids": all }));
    Ok((turn, all).into_response())
}

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
        return Ok(Json(json!({ "cids": {} })).into_response());
    }
    if nar_hashes.len() > limits::MAX_CIDS {
        return Err(Refusal::TooLarge);
    }
    let turn = face.answers.turn().await?;
    let found = face.tracker.storage().cids(nar_hashes).await;
    let found = by_nar_hash(face.tracker.note(found)?);
    let found = Json(json!({ "count": found.len(), "cids": found }));
    Ok((turn, found).into_response())
}

fn by_nar_hash(cids: Vec<Cid>) -> Map<String, Value> {
    cids.into_iter()
        .map(|cid| (cid.nar_hash, Value::from(cid.cid)))
        .collect()
}
