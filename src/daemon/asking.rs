//! Asks the upstream for paths that carry no signature of it, a few at a time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use peerix_store::{PathInfo, nix::StorePathHash};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::node::Node;
use crate::offer::public::{AskUpstream, Asked};

/// Paths that wait to be asked for; what does not fit is noticed by the next look at the store.
const MAX_WAITING: usize = 65_536;

/// Failures in a row after which the upstream is left alone until the next look at the store.
const PATIENCE: u32 = 20;

/// How often answers are written while there are many.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// Paths that wait to be asked for.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    paths: Mutex<BTreeMap<StorePathHash, PathInfo>>,
    came: Notify,
    asked: AtomicU64,
    under_way: AtomicU64,
    is_wanted: AtomicBool,
}

impl Waiting {
    /// Says that there is an upstream to be asked: before that nothing is kept waiting.
    pub(super) fn want(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    pub(super) fn push(&self, infos: impl IntoIterator<Item = PathInfo>) {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        for info in infos {
            if paths.len() >= MAX_WAITING {
                break;
            }
            paths.insert(info.path_hash(), info);
        }
        if !paths.is_empty() {
            self.came.notify_one();
        }
    }

    fn take(&self) -> Vec<PathInfo> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *paths).into_values().collect()
    }

    /// Paths that wait, or that are asked for now.
    pub(super) fn left(&self) -> u64 {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.len() as u64 + self.under_way.load(Ordering::Relaxed)
    }

    /// Paths asked for so far.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Node {
    /// Asks `upstream` for whatever waits, `at_once` requests at a time, until stopped.
    pub(super) async fn ask_upstream(
        &self,
        upstream: Arc<dyn AskUpstream>,
        at_once: usize,
        stop: CancellationToken,
    ) {
        loop {
            let came = self.waiting.came.notified();
            if stop.run_until_cancelled(came).await.is_none() {
                return;
            }
            let infos = self.waiting.take();
            if stop
                .run_until_cancelled(self.ask_for(&upstream, infos, at_once))
                .await
                .is_none()
            {
                self.write_answers().await;
                return;
            }
        }
    }

    async fn ask_for(&self, upstream: &Arc<dyn AskUpstream>, infos: Vec<PathInfo>, at_once: usize) {
        let total = infos.len();
        // Owned futures: ones that borrow can't be sent to other threads here.
        let questions: Vec<_> = infos
            .into_iter()
            .map(|info| {
                let upstream = upstream.clone();
                async move {
                    let asked = upstream.ask(info.path_hash()).await;
                    (info, asked)
                }
            })
            .collect();
        let mut answers = stream::iter(questions).buffer_unordered(at_once);
        self.waiting
            .under_way
            .store(total as u64, Ordering::Relaxed);
        let (mut found, mut failures) = (Vec::new(), 0);
        let mut written = Instant::now();
        while let Some((info, asked)) = answers.next().await {
            failures = match asked {
                Asked::Failed => failures + 1,
                _ => 0,
            };
            if failures >= PATIENCE {
                debug!(
                    "the upstream can't be asked: the rest waits for the next look at the store"
                );
                break;
            }
            self.waiting.asked.fetch_add(1, Ordering::Relaxed);
            self.waiting.under_way.fetch_sub(1, Ordering::Relaxed);
            self.parts.offer.public_paths().note(&info, asked);
            if self.parts.offer.is_offered(&self.parts.store, &info) {
                found.push((info.path_hash(), info.nar_size));
            }
            if written.elapsed() >= WRITE_EVERY {
                written = Instant::now();
                self.write_answers().await;
            }
        }
        self.waiting.under_way.store(0, Ordering::Relaxed);
        info!(
            total,
            found = found.len(),
            "asked the upstream for unsigned paths"
        );
        if !found.is_empty() {
            // The swarm is told of them, even where a look at all has just passed them over.
            self.look_again.notify_one();
        }
        self.count_offered(found).await;
        self.write_answers().await;
    }

    async fn write_answers(&self) {
        let (offer, state_dir) = (self.parts.offer.clone(), self.parts.state_dir.clone());
        let writing = tokio::task::spawn_blocking(move || offer.public_paths().write(&state_dir));
        if let Ok(Err(error)) = writing.await {
            debug!(%error, "the upstream's answers can't be kept");
        }
    }
}
