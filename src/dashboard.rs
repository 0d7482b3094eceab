//! The dashboard: what its page is made of, and what it is told while it is open.
//!
//! The page itself is built from `dashboard/` by `scripts/dashboard` and lies in the binary
//! ([`assets`]). It asks once for all there is, follows [`events`], and asks for the page of peers
//! that it shows ([`pages`]). All of it is for browsers on this machine: the HTTP face sees to that.

pub mod assets;
pub mod events;
pub mod pages;

pub use pages::PeersQuery;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::events::Hub;
use crate::report::{PeersReport, Report};
use crate::stats::{Stats, history::Span};

/// Paths in each list of those that were asked for, and served, most.
const TOP_SHOWN: usize = 10;

/// Events that a page gets at once.
const EVENTS_SHOWN: usize = 200;

/// What the dashboard shows.
pub trait View: Send + Sync + 'static {
    /// Tells of everything but single peers. Asked each second while a page is open.
    fn report(&self) -> BoxFuture<'_, Report>;

    /// Some of the peers, in some order.
    fn peers(&self, query: &PeersQuery) -> PeersReport;

    /// What is known of the past.
    fn stats(&self) -> &Stats;

    /// The object of `/scan-status`.
    fn scan_status(&self) -> BoxFuture<'_, Value>;

    /// The object of `/dashboard-stats`.
    fn dashboard_stats(&self) -> BoxFuture<'_, Value>;

    /// Pauses hashing in the background, or lets it go on.
    fn pause(&self, pause: bool);
}

/// The dashboard of a running daemon. Cheap to clone.
#[derive(Clone)]
pub struct Dashboard(Arc<Inner>);

struct Inner {
    view: Arc<dyn View>,
    token: String,
    hub: Hub,
}

impl Dashboard {
    /// Makes the dashboard of `view`, whose pages are told of news until `stop`.
    #[must_use]
    pub fn new(view: Arc<dyn View>, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            hub: Hub::new(view.clone(), stop),
            token: hex::encode(rand::random::<[u8; 16]>()),
            view,
        }))
    }

    /// What is shown.
    #[must_use]
    pub fn view(&self) -> &dyn View {
        &*self.0.view
    }

    /// What tells every open page the news.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// The page, with the token that its buttons show. The token is another one after a restart.
    #[must_use]
    pub fn page(&self) -> String {
        assets::PAGE.replace("%TOKEN%", &self.0.token)
    }

    /// Whether a request that changes something carries the token: a page from elsewhere can't
    /// read it.
    #[must_use]
    pub fn is_token(&self, shown: &[u8]) -> bool {
        // In a time that does not tell how much of it is right.
        blake3::hash(shown) == blake3::hash(self.0.token.as_bytes())
    }

    /// All that a page shows when it is opened.
    pub async fn state(&self) -> Value {
        let view = &self.0.view;
        let (activity, newest) = view.stats().activity(0, EVENTS_SHOWN);
        json!({
            "report": view.report().await,
            "activity": activity,
            "newest": newest,
            "tops": self.tops(),
        })
    }

    /// The lists of those that were asked for, and served, most.
    #[must_use]
    pub fn tops(&self) -> Value {
        let stats = self.0.view.stats();
        let (requested, total_requested) = stats.most_requested(TOP_SHOWN);
        let (served, total_served) = stats.most_served(TOP_SHOWN);
        json!({
            "requested": requested,
            "total_requested": total_requested,
            "served": served,
            "total_served": total_served,
        })
    }

    /// The events after number `after`.
    #[must_use]
    pub fn activity(&self, after: u64) -> Value {
        let (activity, newest) = self.0.view.stats().activity(after, EVENTS_SHOWN);
        json!({ "activity": activity, "newest": newest })
    }

    /// The traffic of a span up to now.
    #[must_use]
    pub fn history(&self, span: Span) -> Value {
        let series = self
            .0
            .view
            .stats()
            .series(span, crate::clock::unix_seconds());
        serde_json::to_value(series).unwrap_or_default()
    }
}
