//! What the tracker tells of itself.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::{Face, refusal::TooMany};
use crate::metrics::Format;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;\
    padding:0 1em;color:#222;background:#fff}table{border-collapse:collapse}\
    th,td{padding:.2em 1.5em .2em 0;text-align:left}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#111}a{color:#9cf}}";

/// Nothing but the style above, by its hash.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// A page for people who come by with a browser.
pub(super) async fn page(State(face): State<Arc<Face>>) -> Response {
    let fill = face.tracker.fill();
    let version = env!("CARGO_PKG_VERSION");
    let signed = if face.options.require_signed {
        "Only signed announcements are taken."
    } else {
        "Announcements of older peers are taken without a signature."
    };
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>peerix tracker</title>\
         <style>{STYLE}</style><h1>peerix tracker</h1>\
         <p>This is a tracker of peerix {version}, a peer-to-peer binary cache for Nix. Peers tell \
         it that they are there and which store paths they have, and ask it who has one. It has no \
         store paths itself, and lists for nobody what a peer has.</p>\
         <table><tr><th>Peers<td>{}<tr><th>Older peers<td>{}<tr><th>Swarms<td>{}\
         <tr><th>Store paths<td>{}<tr><th>Announced<td>{}</table><p>{signed} \
         <a href=\"/openapi.json\">API</a></p></html>",
        fill.signed, fill.older, fill.swarms, fill.paths, fill.records
    );
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY.clone())];
    (headers, Html(html)).into_response()
}

/// How the tracker is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy` or `degraded`.
    status: &'static str,
    /// `sqlite` or `postgres`.
    database: &'static str,
    /// Endpoints that sign and are there.
    peers: u64,
    /// Seconds since the start.
    uptime_seconds: u64,
}

/// Whether the tracker works: 503 while its database does not, or a part of it died.
#[utoipa::path(get, path = "/health", tag = "about",
    responses((status = 200, body = Health), (status = 429, body = TooMany),
        (status = 503, body = Health)))]
pub(super) async fn health(State(face): State<Arc<Face>>) -> Response {
    let is_read = face
        .tracker
        .note(face.tracker.storage().size().await)
        .is_ok();
    let works = is_read && face.tracker.trouble().is_none() && face.is_alive();
    let health = Health {
        status: if works { "healthy" } else { "degraded" },
        database: face.tracker.storage().kind(),
        peers: face.tracker.fill().signed,
        uptime_seconds: face.metrics.uptime().as_secs(),
    };
    let status = if works {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

/// Counters for Prometheus.
pub(super) async fn metrics(State(face): State<Arc<Face>>) -> Response {
    let size = face.tracker.storage().size().await.ok();
    let text = face.metrics.encode(face.tracker.fill(), size);
    ([(header::CONTENT_TYPE, Format::Text.content_type())], text).into_response()
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::tracker::{core::Tracker, http::FaceOptions, storage::sqlite::Sqlite};

    #[tokio::test]
    async fn a_task_that_died_is_told_of() {
        let tracker = Tracker::start(Arc::new(Sqlite::in_memory().unwrap()));
        let stop = CancellationToken::new();
        let face = Face::new(tracker.await.unwrap(), FaceOptions::default(), stop);
        let status = async || health(State(Arc::clone(&face))).await.status();
        let task = tokio::spawn(std::future::pending::<()>());
        face.rely_on(vec![task.abort_handle()]);
        assert_eq!(status().await, StatusCode::OK);
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
