//! Hashing on demand: one pass for each NAR, however many wait for it.

use std::{
    collections::HashMap,
    io,
    num::NonZeroUsize,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use lru::LruCache;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::spawn_blocking,
};

use super::{Inner, NarState, Store};
use crate::{
    BlobHash, HashError, StoreError, limits,
    nix::{NarHash, PathInfo, StorePathHash},
};

type Outcome = Result<BlobHash, HashError>;

/// What is being hashed, and what is known to be wrong.
pub(super) struct Jobs {
    running: Mutex<HashMap<StorePathHash, Job>>,
    wrong: Mutex<LruCache<StorePathHash, Wrong>>,
    foreground: Semaphore,
    background: Semaphore,
    queued: AtomicUsize,
}

#[derive(Clone)]
struct Job {
    done: Arc<AtomicU64>,
    total: u64,
    /// Somebody waits: no longer a matter of the background.
    urgent: Arc<Notify>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// A path whose files did not give its NAR, as they were then.
struct Wrong {
    nar_hash: NarHash,
    root: Option<RootStamp>,
    reason: String,
}

/// What a repair of the path changes.
type RootStamp = (u64, i64, i64);

#[derive(Copy, Clone, PartialEq, Eq)]
enum Priority {
    Foreground,
    Background,
}

impl Store {
    /// Computes SHA-256, BLAKE3 and outboard of a path's NAR in one pass, if they aren't known.
    ///
    /// Callers for the same path join. Cancel safe: the pass goes on without its callers, and its
    /// result is kept.
    ///
    /// # Errors
    /// [`HashError::Mismatch`] if the files don't give the NAR that Nix registered: that is
    /// remembered, and the path not offered, until its files change.
    pub async fn hash_nar(&self, path_hash: StorePathHash) -> Result<BlobHash, HashError> {
        let lookup = super::blocking(&self.0, move |inner| {
            let nar = inner.local_nar(path_hash)?;
            Ok::<_, StoreError>((nar, inner.database.path_info(path_hash)?))
        });
        let (nar, info) = lookup.await?;
        let total = match (nar, info) {
            (Some(nar), _) => match nar.state {
                NarState::Ready(blob) => return Ok(blob),
                NarState::Unhashed | NarState::Hashing { .. } => nar.info.nar_size,
            },
            // Known to be wrong: the job says how.
            (None, Some(info)) => info.nar_size,
            (None, None) => return Err(HashError::NotFound { path_hash }),
        };
        let mut outcome = self.0.start(path_hash, total, Priority::Foreground);
        let finished = outcome.wait_for(Option::is_some).await;
        match finished.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(StoreError::ShuttingDown.into()),
        }
    }

    /// Has a path's NAR hashed in the background, a few at a time.
    ///
    /// Asking again does nothing. Under very many requests some are dropped: whoever still needs
    /// the hash asks again.
    pub fn start_hashing(&self, path_hash: StorePathHash) {
        let jobs = &self.0.jobs;
        if self.0.is_stopping() || jobs.running().contains_key(&path_hash) {
            return;
        }
        if jobs.queued.fetch_add(1, Ordering::Relaxed) >= limits::MAX_BACKGROUND_QUEUE {
            jobs.queued.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let store = self.clone();
        self.0.tasks.spawn_on(
            async move {
                if let Ok(Some(nar)) = store.nar(path_hash).await
                    && nar.state == NarState::Unhashed
                {
                    let mut outcome =
                        store
                            .0
                            .start(path_hash, nar.info.nar_size, Priority::Background);
                    let _finished = outcome.wait_for(Option::is_some).await;
                }
                store.0.jobs.queued.fetch_sub(1, Ordering::Relaxed);
            },
            self.0.runtime(),
        );
    }
}

impl Inner {
    /// Joins the job for a path, or starts one.
    fn start(
        self: &Arc<Self>,
        path_hash: StorePathHash,
        total: u64,
        priority: Priority,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut running = self.jobs.running();
        if let Some(job) = running.get(&path_hash) {
            if priority == Priority::Foreground {
                job.urgent.notify_one();
            }
            return job.outcome.clone();
        }
        let (finished, outcome) = watch::channel(None);
        let job = Job {
            done: Arc::default(),
            total,
            urgent: Arc::default(),
            outcome: outcome.clone(),
        };
        running.insert(path_hash, job.clone());
        drop(running);
        let inner = self.clone();
        self.tasks.spawn_on(
            async move {
                let outcome = inner.run(path_hash, &job, priority).await;
                inner.jobs.running().remove(&path_hash);
                finished.send_replace(Some(outcome));
            },
            &self.runtime,
        );
        outcome
    }

    async fn run(
        self: &Arc<Self>,
        path_hash: StorePathHash,
        job: &Job,
        priority: Priority,
    ) -> Outcome {
        let stopped = || HashError::from(StoreError::ShuttingDown);
        let jobs = &self.jobs;
        let permit = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(stopped()),
            permit = jobs.background.acquire(), if priority == Priority::Background => permit,
            permit = async {
                if priority == Priority::Background {
                    job.urgent.notified().await;
                }
                jobs.foreground.acquire().await
            } => permit,
        };
        let _permit = permit.map_err(|_| stopped())?;
        let inner = self.clone();
        let done = job.done.clone();
        let pass = spawn_blocking(move || {
            inner.hash_nar(path_hash, &|hashed| {
                done.store(hashed, Ordering::Relaxed);
                if inner.is_stopping() {
                    return Err(io::Error::other("the store is shutting down"));
                }
                Ok(())
            })
        });
        pass.await.unwrap_or_else(|error| {
            if error.is_panic() {
                tracing::error!(%error, path = %path_hash, "hashing panicked");
            }
            Err(stopped())
        })
    }
}

impl Jobs {
    pub(super) fn new() -> Self {
        let remembered =
            NonZeroUsize::new(limits::MAX_REMEMBERED_MISMATCHES).unwrap_or(NonZeroUsize::MIN);
        Self {
            running: Mutex::default(),
            wrong: Mutex::new(LruCache::new(remembered)),
            foreground: Semaphore::new(limits::MAX_HASHING),
            background: Semaphore::new(limits::MAX_BACKGROUND_HASHING),
            queued: AtomicUsize::new(0),
        }
    }

    pub(super) fn state(&self, path_hash: StorePathHash) -> NarState {
        match self.running().get(&path_hash) {
            Some(job) => NarState::Hashing {
                done: job.done.load(Ordering::Relaxed),
                total: job.total,
            },
            None => NarState::Unhashed,
        }
    }

    /// Whether anything is hashed that somebody needs.
    pub(super) fn is_busy(&self) -> bool {
        !self.running().is_empty()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<StorePathHash, Job>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrong(&self) -> MutexGuard<'_, LruCache<StorePathHash, Wrong>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember_wrong(&self, info: &PathInfo, inner: &Inner, reason: &str) {
        let wrong = Wrong {
            nar_hash: info.nar_hash,
            root: root_stamp(info, inner),
            reason: reason.to_owned(),
        };
        self.wrong().put(info.path_hash(), wrong);
    }

    /// Why a path is known to be wrong, unless Nix replaced its files since.
    pub(super) fn known_wrong(&self, info: &PathInfo, inner: &Inner) -> Option<String> {
        let (root, reason) = {
            let mut wrong = self.wrong();
            let known = wrong.get(&info.path_hash())?;
            if known.nar_hash != info.nar_hash {
                return None;
            }
            (known.root, known.reason.clone())
        };
        (root == root_stamp(info, inner)).then_some(reason)
    }

    pub(super) fn is_known_wrong(&self, info: &PathInfo, inner: &Inner) -> bool {
        self.known_wrong(info, inner).is_some()
    }
}

fn root_stamp(info: &PathInfo, inner: &Inner) -> Option<RootStamp> {
    let root = inner.physical_path(&info.store_path);
    let metadata = std::fs::symlink_metadata(root).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}
