//! `/nar/<NAR hash>.nar?hash=<store path hash>`: the bytes of a store path.

use std::sync::Arc;
use std::time::Instant;

use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use peerix_store::nix::{NarHash, StorePathHash};
use tokio::time::timeout;

use super::HttpState;
use super::body::{NarBytes, ResponseBody};
use super::connection::{Activity, NarSlot};
use super::range::{ByteRange, Selected};
use super::respond::Refusal;
use crate::substituter::OpenNar;

/// Answers with the NAR, with a range of it, or with 404 where it can't be had.
///
/// The bytes go out as NAR, without compression: Nix resumes a broken body with `Range` only if
/// there was `Accept-Ranges` and no `Content-Encoding`.
pub(super) async fn answer(
    state: &HttpState,
    activity: &Arc<Activity>,
    method: &Method,
    headers: &HeaderMap,
    nar_hash: NarHash,
    path_hash: StorePathHash,
) -> Result<Response<ResponseBody>, Refusal> {
    let etag = format!("\"{}\"", nar_hash.nix_base32());
    if method == Method::HEAD {
        let size = known_size(state, nar_hash, path_hash).await?;
        return Ok(response(StatusCode::OK, &etag, size, ResponseBody::empty()));
    }
    let asked = Instant::now();
    let wanted = ByteRange::of_request(headers, &etag);
    let opening = async {
        let slot = activity.nar_slot().await;
        let ranged = wanted.skips_the_start();
        let nar = state
            .substituter
            .open_nar(path_hash, nar_hash, ranged)
            .await?;
        Some((slot, nar))
    };
    let opened = timeout(state.limits.nar_deadline, opening).await;
    let (slot, nar) = opened.ok().flatten().ok_or(Refusal::NotFound)?;
    send(state, wanted, &etag, asked, slot, nar)
}

/// Answers with what was asked for of an opened NAR.
pub(super) fn send(
    state: &HttpState,
    wanted: ByteRange,
    etag: &str,
    asked: Instant,
    slot: NarSlot,
    nar: OpenNar,
) -> Result<Response<ResponseBody>, Refusal> {
    let (status, range) = match wanted.select(nar.size) {
        Selected::Whole => (StatusCode::OK, 0..nar.size),
        Selected::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selected::Unsatisfiable => {
            return Err(Refusal::RangeNotSatisfiable { size: nar.size });
        }
    };
    let length = range.end - range.start;
    let content_range = format!(
        "bytes {}-{}/{}",
        range.start,
        range.end.saturating_sub(1),
        nar.size
    );
    let reaches_the_end = range.end == nar.size;
    let metrics = Arc::clone(&state.metrics);
    let pieces = nar.body.stream(range);
    let bytes = NarBytes::new(pieces, length, reaches_the_end, metrics, asked, slot);
    let mut response = response(status, etag, length, ResponseBody::nar(bytes));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::try_from(content_range)
    {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Returns the NAR's size from its narinfo: a HEAD must not start a transfer.
async fn known_size(
    state: &HttpState,
    nar_hash: NarHash,
    path_hash: StorePathHash,
) -> Result<u64, Refusal> {
    timeout(
        state.limits.narinfo_deadline,
        state.substituter.narinfo(path_hash),
    )
    .await
    .ok()
    .flatten()
    .filter(|answer| answer.info.path_hash() == path_hash && answer.info.nar_hash == nar_hash)
    .map(|answer| answer.info.nar_size)
    .ok_or(Refusal::NotFound)
}

pub(super) fn response(
    status: StatusCode,
    etag: &str,
    length: u64,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-nix-nar"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    response
}
