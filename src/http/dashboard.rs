//! `/dashboard` and what belongs to it; `/scan-status`, `/dashboard-stats`, `/scan/pause|resume`.

use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use serde_json::{Value, json};

use super::body::ResponseBody;
use super::respond::Refusal;
use super::{HttpState, respond};
use crate::dashboard::{Dashboard, PeersQuery, assets::Asset, pages::pairs};
use crate::stats::history::Span;

/// The header that carries the token: a page from elsewhere can't set it without being asked
/// beforehand, which is refused.
const TOKEN: &str = "x-peerix-token";

/// What the page may do: load its own files and talk to this daemon.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A resource of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The page.
    Page,
    /// The page under another name.
    Slash,
    /// A file of the page.
    Asset(&'static str),
    /// All that a page shows when it is opened.
    State,
    /// News, as long as the page is open.
    Events,
    /// A part of the peers.
    Peers,
    /// What happened to paths.
    Activity,
    /// The paths asked for most, and served most.
    Tops,
    /// Traffic over time.
    History,
    /// The older program's `/scan-status`.
    ScanStatus,
    /// The older program's `/dashboard-stats`.
    Stats,
    /// `POST /scan/pause`.
    Pause,
    /// `POST /scan/resume`.
    Resume,
}

impl Part {
    /// Parses a path.
    pub(super) fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "/dashboard" => Self::Page,
            "/dashboard/" => Self::Slash,
            "/dashboard/state" => Self::State,
            "/dashboard/events" => Self::Events,
            "/dashboard/peers" => Self::Peers,
            "/dashboard/activity" => Self::Activity,
            "/dashboard/tops" => Self::Tops,
            "/dashboard/history" => Self::History,
            "/scan-status" => Self::ScanStatus,
            "/dashboard-stats" => Self::Stats,
            "/scan/pause" => Self::Pause,
            "/scan/resume" => Self::Resume,
            _ => Self::Asset(Asset::named(path.strip_prefix("/dashboard/")?)?.name),
        })
    }

    /// Whether it changes something.
    pub(super) const fn is_change(self) -> bool {
        matches!(self, Self::Pause | Self::Resume)
    }

    /// The name that metrics use.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ScanStatus => "scan-status",
            Self::Stats => "dashboard-stats",
            Self::Pause | Self::Resume => "scan",
            _ => "dashboard",
        }
    }
}

/// Answers a request for a part of the dashboard.
pub(super) async fn answer(
    state: &HttpState,
    request: &Request<Incoming>,
    part: Part,
) -> Result<Response<ResponseBody>, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    let dashboard = state.dashboard.as_ref().ok_or(Refusal::NotFound)?;
    let view = dashboard.view();
    let query = request.uri().query().unwrap_or_default();
    let json = |value: &Value| Ok(respond::json(method, StatusCode::OK, value));
    match part {
        Part::Page => Ok(page(dashboard, method)),
        Part::Slash => Ok(moved()),
        Part::Asset(name) => asset(method, headers, name),
        Part::Events => events(dashboard, method),
        Part::State => json(&dashboard.state().await),
        Part::Tops => json(&dashboard.tops()),
        Part::Activity => {
            let pairs = pairs(query);
            let after = pairs.iter().find(|(name, _)| name == "after");
            let after = after.and_then(|(_, value)| value.parse().ok());
            json(&dashboard.activity(after.unwrap_or_default()))
        }
        Part::History => {
            let pairs = pairs(query);
            let span = pairs.iter().find(|(name, _)| name == "span");
            let span = span.map_or(Some(Span::Hour), |(_, value)| Span::from_name(value));
            json(&dashboard.history(span.ok_or(Refusal::NotFound)?))
        }
        Part::Peers => {
            let peers = view.peers(&PeersQuery::parse(query));
            json(&serde_json::to_value(peers).unwrap_or_default())
        }
        Part::ScanStatus => json(&view.scan_status().await),
        Part::Stats => json(&view.dashboard_stats().await),
        Part::Pause | Part::Resume => {
            let mut shown = headers.get_all(TOKEN).iter();
            let is_right = matches!(
                (shown.next(), shown.next()),
                (Some(shown), None) if dashboard.is_token(shown.as_bytes())
            );
            if !is_right {
                return Err(Refusal::Forbidden);
            }
            view.pause(part == Part::Pause);
            let status = if part == Part::Pause {
                "paused"
            } else {
                "resumed"
            };
            json(&json!({ "status": status }))
        }
    }
}

fn page(dashboard: &Dashboard, method: &Method) -> Response<ResponseBody> {
    let content_type = "text/html; charset=utf-8";
    let mut response = respond::text(method, StatusCode::OK, content_type, dashboard.page());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Neither a page elsewhere nor one in another window learns of it.
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    response
}

fn moved() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/dashboard"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0u64));
    response
}

fn asset(
    method: &Method,
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Response<ResponseBody>, Refusal> {
    let asset = Asset::named(name).ok_or(Refusal::NotFound)?;
    let accepted = headers.get(ACCEPT_ENCODING);
    let accepted = accepted.and_then(|value| value.to_str().ok());
    let (bytes, coding) = asset.coded(accepted.unwrap_or_default());
    let etag = asset.etag(coding);
    let held = headers.get(IF_NONE_MATCH);
    let held = held.and_then(|value| value.to_str().ok());
    let is_held = held.is_some_and(|held| {
        held.split(',')
            .any(|held| held.trim().trim_start_matches("W/") == etag)
    });
    let body = match is_held || method == Method::HEAD {
        true => ResponseBody::empty(),
        false => ResponseBody::full(bytes.into()),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if !is_held {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len() as u64));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        if let Some(coding) = coding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
        }
    }
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    if is_held {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    Ok(response)
}

fn events(dashboard: &Dashboard, method: &Method) -> Result<Response<ResponseBody>, Refusal> {
    let body = match method == Method::HEAD {
        true => ResponseBody::empty(),
        false => ResponseBody::events(dashboard.hub().subscribe().ok_or(Refusal::Busy)?),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
