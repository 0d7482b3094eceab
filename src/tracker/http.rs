//! The tracker's HTTP face: the signed API, the older program's, and what the tracker tells of
//! itself. Nothing in it lists what a peer has.

mod address;
mod admission;
mod answers;
mod body;
mod older;
mod older_shapes;
mod older_transfers;
mod openapi;
mod page;
mod refusal;
mod router;
mod server;
mod v1;

use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use tokio::{sync::Semaphore, task::AbortHandle};
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
    answers: answers::Answers,
    bodies: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// What must not end before the face is stopped.
    tasks: OnceLock<Vec<AbortHandle>>,
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
            answers: answers::Answers::new(),
            bodies: Arc::new(Semaphore::new(limits::BODIES / limits::BODY_UNIT)),
            waiting: Arc::new(Semaphore::new(limits::WAITING)),
            tasks: OnceLock::new(),
        })
    }

    /// Takes up the tasks without which the tracker does not work; once.
    pub(super) fn rely_on(&self, tasks: Vec<AbortHandle>) {
        let _others = self.tasks.set(tasks);
    }

    /// Whether all tasks run that must.
    pub(super) fn is_alive(&self) -> bool {
        let mut tasks = self.tasks.get().into_iter().flatten();
        !tasks.any(AbortHandle::is_finished)
    }

    /// Forgets clients that were not heard of for long, as often as that is worth it, until stopped.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(limits::EXPIRE_EVERY);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.admission.forget_idle();
        }
    }
}
