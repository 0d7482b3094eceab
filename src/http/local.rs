//! `/local/<hash>.narinfo` and `/local/nar/<name>.nar`: the own store, as older clients ask for it.
//!
//! Other hosts on the local network get what is offered to peers; what is not offered looks like
//! what is not there.

use std::sync::Arc;
use std::time::Instant;

use hyper::{HeaderMap, Method, Response, StatusCode};
use peerix_store::nix::{StorePath, StorePathHash};
use tokio::time::timeout;

use super::body::ResponseBody;
use super::connection::Activity;
use super::range::ByteRange;
use super::respond::Refusal;
use super::{HttpState, nar, respond};
use crate::narinfo::older;
use crate::substituter::Audience;

/// Answers with the narinfo of a path of the own store.
pub(super) async fn narinfo(
    state: &HttpState,
    method: &Method,
    path_hash: StorePathHash,
    audience: Audience,
) -> Result<Response<ResponseBody>, Refusal> {
    let found = state.substituter.local(path_hash, audience);
    let info = timeout(state.limits.narinfo_deadline, found)
        .await
        .ok()
        .flatten()
        .filter(|info| info.path_hash() == path_hash)
        .ok_or(Refusal::NotFound)?;
    state.metrics.narinfos_served.inc();
    state.metrics.served.inc();
    let text = older::local_narinfo_text(&info);
    Ok(respond::text(
        method,
        StatusCode::OK,
        "text/x-nix-narinfo",
        text,
    ))
}

/// Answers with the NAR of a path of the own store, or a range of it.
pub(super) async fn nar(
    state: &HttpState,
    activity: &Arc<Activity>,
    method: &Method,
    headers: &HeaderMap,
    store_path: &StorePath,
    audience: Audience,
) -> Result<Response<ResponseBody>, Refusal> {
    let asked = Instant::now();
    let path_hash = StorePathHash::from(store_path);
    let found = state.substituter.local(path_hash, audience);
    let info = timeout(state.limits.narinfo_deadline, found)
        .await
        .ok()
        .flatten()
        .filter(|info| info.store_path == *store_path)
        .ok_or(Refusal::NotFound)?;
    let etag = format!("\"{}\"", info.nar_hash.nix_base32());
    if method == Method::HEAD {
        let body = ResponseBody::empty();
        return Ok(nar::response(StatusCode::OK, &etag, info.nar_size, body));
    }
    let wanted = ByteRange::of_request(headers, &etag);
    let opening = async {
        let slot = activity.nar_slot().await;
        let nar = state.substituter.open_local(path_hash, audience).await?;
        Some((slot, nar))
    };
    let opened = timeout(state.limits.nar_deadline, opening).await;
    let (slot, nar) = opened.ok().flatten().ok_or(Refusal::NotFound)?;
    nar::send(state, wanted, &etag, asked, slot, nar)
}
