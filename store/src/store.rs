//! The store: Nix's database, the index, and the files between them.

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::{runtime::Handle, sync::watch, task::spawn_blocking, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, DatabaseError, DatabaseStatus, OpenError, StoreError,
    database::{self, Database},
    download::RecentBytes,
    downloads::Downloads,
    files::Files,
    index::{Change, Index, index_path},
    inline::InlineCache,
    layouts::LayoutCache,
    limits,
    nix::{StorePath, StorePathHash},
    observers::Observers,
    outboard,
    space::Space,
};

mod background;
mod blobs;
mod hash;
mod infos;
mod jobs;
mod nars;
mod roots;
mod shares;
mod verify;

pub use background::{BackgroundHashing, PauseReason, is_on_battery};
pub use nars::{LocalNar, NarState, Source, StoreStats};
pub use roots::{KeptPath, TempRoot};
pub use shares::Share;
pub use verify::{Dropped, VerifyProgress, VerifyReport};

use background::Backlog;
use jobs::Jobs;
use roots::TempRoots;

/// The NARs of this machine.
///
/// Clones share one store. All `async` methods are cancel safe: dropping the future leaves the
/// store as it was, or as it would have become.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// What all clones of a store share.
pub(crate) struct Inner {
    config: Config,
    pub(crate) database: Database,
    temp_roots: TempRoots,
    pub(crate) index: Index,
    pub(crate) files: Files,
    pub(crate) downloads: Downloads,
    pub(crate) recent: RecentBytes,
    pub(crate) space: Space,
    pub(crate) observers: Observers,
    inline: Mutex<InlineCache>,
    layouts: Mutex<LayoutCache>,
    jobs: Jobs,
    backlog: Backlog,
    /// How many shares each path is part of.
    shared: RwLock<HashMap<StorePathHash, usize>>,
    changes: watch::Sender<u64>,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("state_dir", &self.config.state_dir)
            .field("nix_store", &self.config.nix_store)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store, making its state directory where it is missing.
    ///
    /// A Nix database that isn't there is no error: it is taken up within a second of its
    /// appearance. Must be called within a tokio runtime, which the store's tasks use.
    ///
    /// # Errors
    /// [`OpenError`] where the state directory can't be used, or its index is in use, malformed
    /// or from a newer version.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let runtime = Handle::current();
        let state_dir = config.state_dir.clone();
        let opened = spawn_blocking(move || Inner::open(config, runtime)).await;
        let inner = opened.map_err(|error| OpenError::StateDir {
            path: state_dir,
            source: error.into(),
        })??;
        let store = Self(Arc::new(inner));
        store.0.tasks.spawn(watch_database(store.0.clone()));
        background::start(&store.0);
        let inner = store.0.clone();
        store
            .0
            .tasks
            .spawn_blocking(move || inner.check_all_resting());
        Ok(store)
    }

    /// Tells whether Nix's database is read, and if not, why.
    #[must_use]
    pub fn database_status(&self) -> DatabaseStatus {
        self.0.database.status()
    }

    /// Returns where the files of a store path are: below the root of a chroot store.
    #[must_use]
    pub fn physical_path(&self, store_path: &StorePath) -> PathBuf {
        self.0.physical_path(store_path)
    }

    /// Returns the directory in which Nix looks for garbage collector roots.
    #[must_use]
    pub fn gc_roots_dir(&self) -> PathBuf {
        self.0.config.nix_store.gc_roots_dir()
    }

    /// Returns a counter that grows whenever Nix's database changed, appeared or went.
    ///
    /// Looked at each second.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Ends the store's tasks and writes what is queued. Calling it again does nothing.
    ///
    /// Hashing under way is given up. Open blobs stay readable.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.backlog.stop();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        let inner = self.0.clone();
        let _closed = spawn_blocking(move || {
            inner.index.write(Change::StoppedCleanly);
            inner.index.close();
        })
        .await;
    }
}

impl Inner {
    fn open(config: Config, runtime: Handle) -> Result<Self, OpenError> {
        let files = Files::open(&config.state_dir)?;
        let path = index_path(&config.state_dir);
        let index = Index::open(&path)?;
        let malformed = |error: StoreError| OpenError::MalformedIndex {
            path: path.clone(),
            reason: error.to_string(),
        };
        let space = Space::new(config.blob_quota);
        let downloads = find_downloads(&files, &index, &space, &malformed)?;
        let shared = shares::count(&index.shares().map_err(malformed)?);
        let inner = Self {
            database: database::of_store(&config.nix_store),
            temp_roots: TempRoots::new(config.nix_store.daemon_socket()),
            inline: Mutex::new(InlineCache::new(config.inline_cache_bytes)),
            layouts: Mutex::new(LayoutCache::new(config.layout_cache_bytes)),
            downloads,
            recent: RecentBytes::default(),
            space,
            observers: Observers::default(),
            config,
            index,
            files,
            jobs: Jobs::new(),
            backlog: Backlog::default(),
            shared: RwLock::new(shared),
            changes: watch::Sender::new(0),
            runtime,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        // What Nix imported while nobody looked.
        inner.adopt_imported().map_err(malformed)?;
        Ok(inner)
    }

    pub(crate) fn physical_path(&self, store_path: &StorePath) -> PathBuf {
        let store_dir = self.config.nix_store.physical_store_dir();
        store_dir.join(store_path.to_basename())
    }

    pub(crate) fn inline(&self) -> MutexGuard<'_, InlineCache> {
        self.inline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layouts(&self) -> MutexGuard<'_, LayoutCache> {
        self.layouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `work` on a blocking thread; the store does not close before it ends.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.tasks.spawn_blocking_on(work, &self.runtime);
    }

    /// Runs `work` on a blocking thread and waits for it; the store does not close before it ends.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let work = self.tasks.spawn_blocking_on(work, &self.runtime);
        work.await.map_err(io::Error::from)
    }

    /// Runs a task that ends when the store stops; the store does not close before.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Completes once the store shuts down.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// Tells the files that the index knows from those that are left over, and counts the space.
fn find_downloads(
    files: &Files,
    index: &Index,
    space: &Space,
    malformed: &dyn Fn(StoreError) -> OpenError,
) -> Result<Downloads, OpenError> {
    let mut places = HashMap::new();
    let counted = index.for_each_blob(|blob, record| {
        if record.is_downloaded() {
            let bytes = record.size + outboard::tree(record.size).outboard_size();
            space.put(blob, bytes, record.used_at);
        }
        places.insert(blob, record.place);
    });
    counted.map_err(malformed)?;
    let records = index.partials().map_err(malformed)?;
    let partials = files.clean(&places)?;
    for &(blob, size) in &partials {
        let used_at = records.get(&blob).map_or(0, |record| record.used_at);
        space.put(blob, size + outboard::tree(size).outboard_size(), used_at);
    }
    for &blob in records.keys() {
        if !partials.iter().any(|(partial, _)| *partial == blob) {
            index.write(Change::RemovePartial { blob });
        }
    }
    Ok(Downloads::new(partials, records, index.stopped_cleanly()))
}

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static, E: From<DatabaseError> + Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Arc<Inner>) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let inner = inner.clone();
    spawn_blocking(move || work(&inner))
        .await
        .unwrap_or_else(|error| {
            if error.is_panic() {
                tracing::error!(%error, "a query of the store panicked");
            }
            Err(DatabaseError::ShuttingDown.into())
        })
}

/// Looks at Nix's database each second until the store shuts down.
async fn watch_database(inner: Arc<Inner>) {
    let mut ticks = time::interval(limits::DATABASE_POLL);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let polled = inner.clone();
        let changed = spawn_blocking(move || {
            let changed = polled.database.poll();
            if changed && let Err(error) = polled.adopt_imported() {
                tracing::error!(%error, "cannot move blobs over to Nix's store");
            }
            changed
        });
        if changed.await.unwrap_or(false) {
            inner.changes.send_modify(|count| *count += 1);
        }
    }
}
