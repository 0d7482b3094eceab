//! The document that describes both APIs.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use axum::{Json, http::header};
use bytes::Bytes;
use utoipa::OpenApi;

use super::{older, older_transfers, page, refusal::TooMany, v1};

/// The signed API, the older program's, and what the tracker tells of itself.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "peerix tracker",
        description = "Who is in a swarm, and who has which store path. Announcements are signed by the endpoint's key."
    ),
    paths(
        v1::info,
        v1::announce,
        v1::lookup,
        v1::peers,
        page::health,
        document,
        older::announce_node,
        older::nodes,
        older::node,
        older::remove_node,
        older::packages,
        older::packages_delta,
        older::announce,
        older::status,
        older::peers,
        older::find,
        older_transfers::begin,
        older_transfers::report,
        older_transfers::reputation,
        older_transfers::put_cid,
        older_transfers::cid,
        older_transfers::all_cids,
        older_transfers::cids
    )
)]
struct Document;

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| Document::openapi().to_json().unwrap_or_default().into());

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "about",
    responses((status = 200, body = serde_json::Value), (status = 429, body = TooMany)))]
pub(super) async fn document() -> Response {
    if DOCUMENT.is_empty() {
        return Json(serde_json::Value::Null).into_response();
    }
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, DOCUMENT.clone()).into_response()
}
