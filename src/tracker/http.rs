//! The tracker's HTTP face: the signed API, the older program's, and what the tracker tells of
//! itself. Nothing in it lists what a peer has.

mod address;
mod admission;
mod body;
mod older;
mod older_transfers;
mod openapi;
mod page;
mod refusal;
mod router;
mod server;
mod v1;

use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use server::serve;

use super::{api::RelayInfo, core::Tracker, limits, metrics::TrackerMetrics};

/// How a tracker's HTTP face behaves.
#[derive(Clone, Debug, Default)]
pub struct FaceOptions {
    /// Whether the older API's writes are refused.
    pub require_signed: bool,
    /// Who is believed what it says of a client's address, beside programs on this machine.
    pub trusted_proxies: Vec<IpNet>,
    /// The relay that clients are told of.
    pub relay: Option<RelayInfo>,
}

/// What the routes answer from.
#[derive(Debug)]
pub struct Face {
    pub(super) tracker: Arc<Tracker>,
    pub(super) options: FaceOptions,
    pub(super) metrics: TrackerMetrics,
    pub(super) stop: CancellationToken,
    admission: admission::Admission,
    bodies: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Face {
    /// A face of `tracker`, until `stop`.
    #[must_use]
    pub fn new(tracker: Arc<Tracker>, options: FaceOptions, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            tracker,
            options,
            metrics: TrackerMetrics::new(),
            stop,
            admission: admission::Admission::new(),
            bodies: Arc::new(Semaphore::new(limits::BODIES / limits::BODY_UNIT)),
            waiting: Arc::new(Semaphore::new(limits::WAITING)),
        })
    }

    /// Forgets clients that were not heard of for long, as often as that is worth it, until stopped.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(limits::EXPIRE_EVERY);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.admission.forget_idle();
        }
    }
}
