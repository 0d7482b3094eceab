//! The HTTP face: a substituter for the Nix on this machine, and what the daemon tells of itself.
//!
//! Nix asks for `/nix-cache-info`, `/<store path hash>.narinfo` and the NAR at the URL of that
//! narinfo, over many keep-alive connections. Lookups and NARs answer 200, 206, 404 or 416 and
//! nothing else: any other status makes Nix retry, wait, or give the cache up for a minute. No
//! body says why. A NAR that can't be completed ends in a cut connection, never in a clean end.
//!
//! The listener is on a loopback address, or on all addresses where the local network is served:
//! other hosts get `/local/...` and `/nix-cache-info` alone ([`HttpState::networks`]). Web pages
//! are kept out by the `Host` and `Origin` headers; there is no CORS.

mod body;
mod cache_info;
pub(crate) mod connection;
mod dashboard;
mod guard;
mod health;
pub mod limits;
mod local;
mod metrics;
mod nar;
mod narinfo;
mod peers;
mod range;
mod respond;
mod route;
mod server;
mod status;
pub(crate) mod stream;

pub use limits::HttpLimits;
pub use server::serve;
pub use status::StatusSource;

use std::sync::Arc;

use crate::dashboard::Dashboard;
use crate::lan::networks::Networks;
use crate::metrics::Metrics;
use crate::substituter::Substituter;

/// What the routes answer from.
#[derive(Clone)]
pub struct HttpState {
    /// Answers narinfo and NAR requests.
    pub substituter: Arc<dyn Substituter>,
    /// Counted into, and shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Answers `/status`, `/health` and `/peers`.
    pub status: Arc<dyn StatusSource>,
    /// The cache's priority for Nix; the lowest is asked first.
    pub priority: u32,
    /// What clients may take.
    pub limits: HttpLimits,
    /// The local networks whose hosts are served what is offered; `None` where the listener is on
    /// a loopback address.
    pub networks: Option<Networks>,
    /// Answers `/dashboard` and what belongs to it.
    pub dashboard: Option<Dashboard>,
}

impl HttpState {
    /// Serves with the usual limits.
    #[must_use]
    pub fn new(
        substituter: Arc<dyn Substituter>,
        metrics: Arc<Metrics>,
        status: Arc<dyn StatusSource>,
        priority: u32,
    ) -> Self {
        Self {
            substituter,
            metrics,
            status,
            priority,
            limits: HttpLimits::default(),
            networks: None,
            dashboard: None,
        }
    }

    /// Serves other hosts on `networks` too.
    #[must_use]
    pub fn on_networks(self, networks: Option<Networks>) -> Self {
        Self { networks, ..self }
    }

    /// Shows `dashboard` too.
    #[must_use]
    pub fn with_dashboard(self, dashboard: Dashboard) -> Self {
        Self {
            dashboard: Some(dashboard),
            ..self
        }
    }
}

/// The part of a NAR of `size` bytes that a `Range` header asks for, where it can be had.
pub(crate) fn selected_range(value: &[u8], size: u64) -> Option<std::ops::Range<u64>> {
    let mut headers = hyper::HeaderMap::new();
    let value = hyper::header::HeaderValue::from_bytes(value).ok()?;
    headers.insert(hyper::header::RANGE, value);
    match range::ByteRange::of_request(&headers, "").select(size) {
        range::Selected::Part(part) => Some(part),
        range::Selected::Whole | range::Selected::Unsatisfiable => None,
    }
}

/// Whether there is a resource at this path.
pub(crate) fn is_route(path: &str) -> bool {
    route::Route::parse(path).is_some()
}

#[cfg(test)]
mod tests;
