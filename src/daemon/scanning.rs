//! What the store holds: looks at all of it and at what comes, told to the swarm and to trackers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use peerix_gossip::PathHash;
use peerix_store::{PathInfo, PathMarker, Store, nix::StorePathHash};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::node::{Node, failed};
use crate::{
    control::{OperationError, Progress, ScanSummary},
    offer::Announce,
};

/// How often a scan says how far it is.
const SCAN_REPORT: u64 = 1000;

/// A look at all paths comes at most this many times its own duration after the one before.
const SCAN_SHARE: u32 = 20;

/// How long it is remembered which paths were told one by one, longer than a look at all takes.
const TOLD_AGE: Duration = Duration::from_secs(3600);

/// How many of them at most.
const TOLD_MOST: usize = 64 * 1024;

/// And not sooner than this after it.
const SCAN_PAUSE: Duration = Duration::from_secs(1);

/// Paths that are handed over at once to be hashed.
const HASH_BATCH: usize = 1000;

/// Collects offered paths to be hashed in the background; the rest goes when it is dropped.
struct ToHash {
    store: Store,
    paths: Vec<(StorePathHash, u64)>,
}

impl ToHash {
    fn new(store: Store) -> Self {
        Self {
            store,
            paths: Vec::new(),
        }
    }

    fn push(&mut self, info: &PathInfo) {
        self.paths.push((info.path_hash(), info.nar_size));
        if self.paths.len() >= HASH_BATCH {
            self.store.hash_in_background(&self.paths);
            self.paths.clear();
        }
    }
}

impl Drop for ToHash {
    fn drop(&mut self) {
        self.store.hash_in_background(&self.paths);
    }
}

/// Waits for a moment; forever where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

impl Node {
    /// Looks through the store at the start, whenever Nix changed it, and every `interval`, until
    /// stopped.
    ///
    /// New paths are told one by one. What else may have changed takes a look at all, which comes
    /// so seldom that it never takes more than a twentieth of one core.
    pub(super) async fn scan_now_and_then(
        self: Arc<Self>,
        interval: Option<Duration>,
        stop: CancellationToken,
    ) {
        let mut changes = self.parts.store.changes();
        loop {
            changes.mark_unchanged();
            let mut marker = self.parts.store.path_marker().await;
            let (progress, _unheard) = mpsc::channel(1);
            let started = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                scanned = self.scan_store(progress) => if let Err(error) = scanned {
                    tracing::debug!(%error, "the store could not be scanned");
                }
            }
            let earliest = Instant::now() + started.elapsed() * SCAN_SHARE + SCAN_PAUSE;
            let due = interval.map(|interval| Instant::now() + interval);
            let mut wanted_at = due;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = at(wanted_at) => break,
                    () = self.look_again.notified() => {
                        wanted_at = Some(wanted_at.map_or(earliest, |at| at.min(earliest)));
                    }
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if !self.take_added(&mut marker).await {
                            wanted_at = Some(wanted_at.map_or(earliest, |at| at.min(earliest)));
                        }
                    }
                }
            }
        }
    }

    /// Counts the paths that came since `marker`; false where a look at all is needed.
    async fn take_added(&self, marker: &mut Option<PathMarker>) -> bool {
        let Some(since) = *marker else { return false };
        let Some((infos, now)) = self.parts.store.added_since(since).await else {
            return false;
        };
        *marker = Some(now);
        let parts = &self.parts;
        let announced = infos
            .iter()
            .filter(|info| parts.offer.is_announced(&parts.store, info))
            .map(|info| *info.path_hash().as_bytes());
        let announced = announced.collect();
        self.announce_more(announced).await;
        let (offered, rest): (Vec<_>, Vec<_>) = infos
            .into_iter()
            .partition(|info| parts.offer.is_offered(&parts.store, info));
        let asked = rest.into_iter();
        self.waiting
            .push(asked.filter(|info| parts.offer.is_to_be_asked(info)));
        let offered = offered.iter();
        self.count_offered(
            offered
                .map(|info| (info.path_hash(), info.nar_size))
                .collect(),
        )
        .await
    }

    /// Counts paths that are offered from now on, and has them hashed.
    pub(super) async fn count_offered(&self, offered: Vec<(StorePathHash, u64)>) -> bool {
        let more = offered.len() as u64;
        let count = self.offered.fetch_add(more, Ordering::Relaxed);
        let gauge = i64::try_from(count + more).unwrap_or(i64::MAX);
        self.parts.metrics.available_hashes.set(gauge);
        let store = self.parts.store.clone();
        let queued = tokio::task::spawn_blocking(move || store.hash_in_background(&offered));
        queued.await.is_ok()
    }

    /// Counts what is valid and what of it is offered, which is hashed in the background.
    pub(super) async fn scan_store(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> Result<ScanSummary, OperationError> {
        let started = Instant::now();
        let offer = self.parts.offer.clone();
        let store = self.parts.store.clone();
        let counted = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let counting = counted.clone();
        let announced = Arc::new(Mutex::new(Vec::new()));
        let announcing = announced.clone();
        let mut to_hash = ToHash::new(store.clone());
        let waiting = self.waiting.clone();
        let expected = self.scanned.load(Ordering::Relaxed);
        let looking = self.look.clone().begin();
        let look = self.look.clone();
        let scanned = self.parts.store.for_each_path(move |info| {
            let paths = counting.0.fetch_add(1, Ordering::Relaxed) + 1;
            if offer.is_offered(&store, &info) {
                counting.1.fetch_add(1, Ordering::Relaxed);
                to_hash.push(&info);
            }
            if offer.is_announced(&store, &info) {
                let mut announced = announcing.lock().unwrap_or_else(PoisonError::into_inner);
                announced.push(*info.path_hash().as_bytes());
            }
            if offer.is_to_be_asked(&info) {
                waiting.push([info]);
            }
            if paths.is_multiple_of(SCAN_REPORT) {
                look.is_at(paths);
                let expected = (expected >= paths).then_some(expected);
                let _ = progress.try_send(Progress::Scanning { paths, expected });
            }
            true
        });
        scanned.await.map_err(failed)?;
        self.parts.store.remove_stale().await.map_err(failed)?;
        let announced =
            std::mem::take(&mut *announced.lock().unwrap_or_else(PoisonError::into_inner));
        self.announce(announced, started).await;
        let summary = ScanSummary {
            paths: counted.0.load(Ordering::Relaxed),
            offered: counted.1.load(Ordering::Relaxed),
        };
        self.offered.store(summary.offered, Ordering::Relaxed);
        self.scanned.store(summary.paths, Ordering::Relaxed);
        looking.ended(summary.paths);
        let gauge = i64::try_from(summary.offered).unwrap_or(i64::MAX);
        self.parts.metrics.available_hashes.set(gauge);
        Ok(summary)
    }

    /// Tells swarm and trackers what of this machine's they may know, by a look at all that began
    /// at `started`.
    async fn announce(&self, mut announced: Vec<PathHash>, started: Instant) {
        let announces = self.parts.offer.announces();
        if announces == Announce::None {
            return;
        }
        let mut told = self.told.lock().await;
        told.retain(|(at, _)| at.elapsed() < TOLD_AGE);
        let since = told.iter().filter(|(at, _)| *at >= started);
        announced.extend(since.map(|(_, path_hash)| path_hash));
        announced.extend(self.announced_shares().await);
        if let Some(trackers) = &self.parts.trackers {
            trackers.announce(&announced);
        }
        if let Some(swarm) = &self.parts.swarm {
            swarm.announce(announced, announces == Announce::All).await;
        }
    }

    /// Takes back what swarm and trackers were told.
    pub(super) async fn announce_nothing(&self) {
        let _telling = self.told.lock().await;
        if let Some(trackers) = &self.parts.trackers {
            trackers.announce(&[]);
        }
        if let Some(swarm) = &self.parts.swarm {
            swarm.announce(Vec::<PathHash>::new(), false).await;
        }
    }

    /// Tells swarm and trackers of paths that came, of those that they may know.
    async fn announce_more(&self, more: Vec<PathHash>) {
        if more.is_empty() || self.parts.offer.announces() == Announce::None {
            return;
        }
        let mut told = self.told.lock().await;
        let now = Instant::now();
        told.extend(more.iter().map(|path_hash| (now, *path_hash)));
        let excess = told.len().saturating_sub(TOLD_MOST);
        told.drain(..excess);
        if let Some(trackers) = &self.parts.trackers {
            trackers.announce_more(&more);
        }
        if let Some(swarm) = &self.parts.swarm {
            swarm.announce_more(more).await;
        }
    }

    /// Tells swarm and trackers what was shared just now.
    pub(super) async fn announce_shares(&self) {
        let shared = self.announced_shares().await;
        self.announce_more(shared).await;
    }

    /// What was shared and may be announced: it need not be in Nix's store.
    async fn announced_shares(&self) -> Vec<PathHash> {
        let (store, offer) = (&self.parts.store, &self.parts.offer);
        let mut announced = Vec::new();
        for share in store.shares().await.unwrap_or_default() {
            let members: Vec<StorePathHash> = share.closure.into_iter().collect();
            for nar in store
                .nars(members)
                .await
                .unwrap_or_default()
                .into_iter()
                .flatten()
            {
                if offer.is_announced(store, &nar.info) {
                    announced.push(*nar.info.path_hash().as_bytes());
                }
            }
        }
        announced
    }
}
