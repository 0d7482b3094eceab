//! Which request goes where, and what every request passes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};

use super::address::{Client, From};
use super::{Face, older, older_transfers, openapi, page, v1};

pub(super) fn router(face: Arc<Face>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/health", get(page::health))
        .route("/metrics", get(page::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/v1/info", get(v1::info))
        .route("/v1/announce", post(v1::announce))
        .route("/v1/lookup", post(v1::lookup))
        .route("/v1/peers", get(v1::peers))
        .route("/iroh/announce", post(older::announce_node))
        .route("/iroh/peers", get(older::nodes))
        .route("/iroh/peer/{node_id}", get(older::node))
        .route("/iroh/peer/{node_id}", delete(older::remove_node))
        .route("/packages/batch", post(older::packages))
        .route("/packages/delta", post(older::packages_delta))
        .route("/announce", post(older::announce))
        .route("/status", get(older::status))
        .route("/peers", get(older::peers))
        .route("/find/{hash}", get(older::find))
        .route("/transfer/init", post(older_transfers::begin))
        .route("/report", post(older_transfers::report))
        .route("/reputation/{peer_id}", get(older_transfers::reputation))
        .route("/cid", post(older_transfers::put_cid))
        .route("/cid/{nar_hash}", get(older_transfers::cid))
        .route("/cids", get(older_transfers::all_cids))
        .route("/cids/batch", post(older_transfers::cids))
        .fallback(async || (StatusCode::NOT_FOUND, "Not Found"))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&face), admit))
        .with_state(face)
}

/// Finds out whose request it is, whether that one may ask now, and counts the answer.
async fn admit(State(face): State<Arc<Face>>, mut request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let from = request.extensions().get::<From>().copied();
    let from = from.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |from| from.0);
    let client = Client::of(from, request.headers(), &face.options.trusted_proxies);
    let method = request.method().clone();
    let mut response = match face.admission.admit_address(client, 1) {
        Ok(()) => {
            request.extensions_mut().insert(client);
            let answer = next.run(request).await;
            face.answers.share(client, answer).await
        }
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        );
    }
    face.metrics
        .count_answer(method.as_str(), &route, response.status().as_u16());
    response
}
