//! One database file, for one tracker. A thread of its own has the connection.

mod holders;
mod older;
mod schema;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use futures_util::future::BoxFuture;
use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::{
    Cid, Contents, Holder, Holding, Kept, Lifetimes, OlderChange, OlderCounts, OlderNode,
    OlderPeer, OlderTransfer, Outcome, Report, Reported, Reputation, SignedChange, Storage,
    StorageError,
};
use crate::tracker::{api::TrackerId, limits};

/// SQLite's cache, in KiB, negative as it wants it.
const CACHE: i64 = -16 * 1024;

/// The size to which the write-ahead log is cut after it was larger, in bytes.
const LOG: i64 = 16 * 1024 * 1024;

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database of one tracker.
pub struct Sqlite {
    id: TrackerId,
    queue: Mutex<Option<mpsc::SyncSender<Work>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    // Keeps a second tracker from the same file: each answers from its own memory.
    _lock: Option<File>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Sqlite")
            .field("id", &self.id)
            .finish()
    }
}

impl Sqlite {
    /// Opens a file, makes it where there is none, and brings an older one up to date. Blocks.
    ///
    /// `quota` bounds its size in bytes.
    ///
    /// # Errors
    /// Where it can't be opened, is damaged, is in use by another tracker, or is a newer one's.
    pub fn open(path: &Path, quota: Option<u64>) -> Result<Self, StorageError> {
        let lock = lock(path)?;
        let connection = Connection::open(path).map_err(|error| at(path, error_of(error)))?;
        Self::over(connection, quota, Some(lock)).map_err(|error| at(path, error))
    }

    /// Keeps everything in memory.
    #[cfg(test)]
    pub(in crate::tracker) fn in_memory() -> Result<Self, StorageError> {
        let connection = Connection::open_in_memory().map_err(error_of)?;
        Self::over(connection, None, None)
    }

    fn over(
        mut connection: Connection,
        quota: Option<u64>,
        lock: Option<File>,
    ) -> Result<Self, StorageError> {
        connection
            .busy_timeout(limits::LOCK_TIMEOUT)
            .map_err(error_of)?;
        // A database that is not for this program is left as it is.
        let version = schema::version(&connection)?;
        set_up(&connection, quota).map_err(error_of)?;
        let id = schema::prepare(&mut connection, version)?;
        let (queue, work) = mpsc::sync_channel::<Work>(limits::QUEUE);
        let thread = std::thread::Builder::new()
            .name("tracker-sqlite".to_owned())
            .spawn(move || {
                while let Ok(work) = work.recv() {
                    work(&mut connection);
                }
                if let Err((_, error)) = connection.close() {
                    tracing::warn!(%error, "the tracker's database was not closed");
                }
            })
            .map_err(|error| StorageError::Other(error.to_string()))?;
        Ok(Self {
            id,
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            _lock: lock,
        })
    }

    /// Has the thread do something, and waits for what comes out.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StorageError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StorageError>> {
        let (answer, result) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            // Whoever asked may be gone.
            let _unheard = answer.send(work(connection));
        });
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = match queue.as_ref() {
            Some(queue) => queue.try_send(work).map_err(|_| StorageError::Busy),
            None => Err(closed()),
        };
        Box::pin(async move {
            queued?;
            result.await.unwrap_or_else(|_| Err(closed()))
        })
    }
}

fn closed() -> StorageError {
    StorageError::Unreachable("it is closed".to_owned())
}

/// Names the file in what can't be told without.
fn at(path: &Path, error: StorageError) -> StorageError {
    let name = path.display();
    match error {
        StorageError::Damaged(what) => StorageError::Damaged(format!("{name}: {what}")),
        StorageError::Locked(what) => StorageError::Locked(format!("{name}: {what}")),
        StorageError::Unreachable(what) => StorageError::Unreachable(format!("{name}: {what}")),
        StorageError::Other(what) => StorageError::Other(format!("{name}: {what}")),
        StorageError::Unfit(what) => StorageError::Unfit(format!("{name}: {what}")),
        StorageError::Full
        | StorageError::TooManyPaths
        | StorageError::Busy
        | StorageError::Newer { .. } => error,
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| StorageError::Unreachable(format!("{}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StorageError::Locked(format!(
            "{} is in use by another tracker; several need --database postgres://...",
            path.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(StorageError::Unreachable(format!(
            "{}: {error}",
            name.display()
        ))),
    }
}

fn set_up(connection: &Connection, quota: Option<u64>) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What a power cut takes of the last moments is announced again.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", CACHE)?;
    connection.pragma_update(None, "journal_size_limit", LOG)?;
    connection.set_prepared_statement_cache_capacity(64);
    if let Some(quota) = quota {
        let page: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from((quota / u64::from(page.max(1))).max(1)).unwrap_or(i64::MAX);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    Ok(())
}

/// Says what an error of SQLite means.
fn error_of(error: rusqlite::Error) -> StorageError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StorageError::Locked(text),
        Some(ErrorCode::DiskFull) => StorageError::Full,
        Some(ErrorCode::TooBig) => StorageError::Unfit(text),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StorageError::Damaged(text),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            StorageError::Unreachable(text)
        }
        _ => StorageError::Other(text),
    }
}

impl Storage for Sqlite {
    fn tracker_id(&self) -> TrackerId {
        self.id
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn load(&self) -> BoxFuture<'_, Result<Contents, StorageError>> {
        self.call(holders::load)
    }

    fn changes(&self) -> BoxFuture<'_, Result<Contents, StorageError>> {
        Box::pin(std::future::ready(Ok(Contents::default())))
    }

    fn hashes(
        &self,
        ids: Vec<u32>,
    ) -> BoxFuture<'_, Result<Vec<(u32, StorePathHash)>, StorageError>> {
        self.call(move |connection| holders::hashes(connection, &ids))
    }

    fn announce(&self, change: SignedChange) -> BoxFuture<'_, Result<Outcome, StorageError>> {
        self.call(move |connection| holders::announce(connection, &change))
    }

    fn has_signed(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<bool, StorageError>> {
        self.call(move |connection| holders::has_signed(connection, endpoint))
    }

    fn announce_older(&self, change: OlderChange) -> BoxFuture<'_, Result<Outcome, StorageError>> {
        self.call(move |connection| holders::announce_older(connection, &change))
    }

    fn expire(
        &self,
        now: f64,
        lifetimes: Lifetimes,
    ) -> BoxFuture<'_, Result<Vec<Holder>, StorageError>> {
        self.call(move |connection| holders::expire(connection, now, lifetimes))
    }

    fn tidy(
        &self,
        now: f64,
        lifetimes: Lifetimes,
        kept: Kept,
    ) -> BoxFuture<'_, Result<u64, StorageError>> {
        self.call(move |connection| holders::tidy(connection, now, lifetimes, kept))
    }

    fn collect_hashes(&self) -> BoxFuture<'_, Result<u64, StorageError>> {
        self.call(holders::collect_hashes)
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, StorageError>> {
        self.call(|connection| {
            connection
                .query_row(
                    "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                    [],
                    |row| row.get(0),
                )
                .map(i64::unsigned_abs)
                .map_err(error_of)
        })
    }

    fn put_node(&self, node: OlderNode) -> BoxFuture<'_, Result<Option<Holding>, StorageError>> {
        self.call(move |connection| older::put_node(connection, &node))
    }

    fn nodes(&self, since: f64) -> BoxFuture<'_, Result<Vec<OlderNode>, StorageError>> {
        self.call(move |connection| older::nodes(connection, since).map_err(error_of))
    }

    fn node(&self, node_id: String) -> BoxFuture<'_, Result<Option<OlderNode>, StorageError>> {
        self.call(move |connection| older::node(connection, &node_id).map_err(error_of))
    }

    fn remove_node(&self, node_id: String) -> BoxFuture<'_, Result<bool, StorageError>> {
        self.call(move |connection| older::remove_node(connection, &node_id).map_err(error_of))
    }

    fn put_peer(&self, peer: OlderPeer) -> BoxFuture<'_, Result<(), StorageError>> {
        self.call(move |connection| older::put_peer(connection, &peer).map_err(error_of))
    }

    fn peers(
        &self,
        since: f64,
        names: Option<Vec<String>>,
    ) -> BoxFuture<'_, Result<Vec<(OlderPeer, Reputation)>, StorageError>> {
        self.call(move |connection| {
            older::peers(connection, since, names.as_deref()).map_err(error_of)
        })
    }

    fn begin_transfer(&self, transfer: OlderTransfer) -> BoxFuture<'_, Result<i64, StorageError>> {
        self.call(move |connection| older::begin_transfer(connection, &transfer).map_err(error_of))
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Reported, StorageError>> {
        self.call(move |connection| older::report(connection, &report).map_err(error_of))
    }

    fn reputation(&self, peer_id: String) -> BoxFuture<'_, Result<Reputation, StorageError>> {
        self.call(move |connection| older::reputation(connection, &peer_id).map_err(error_of))
    }

    fn put_cid(&self, cid: Cid) -> BoxFuture<'_, Result<(), StorageError>> {
        self.call(move |connection| older::put_cid(connection, &cid).map_err(error_of))
    }

    fn cids(&self, nar_hashes: Vec<String>) -> BoxFuture<'_, Result<Vec<Cid>, StorageError>> {
        self.call(move |connection| older::cids(connection, &nar_hashes).map_err(error_of))
    }

    fn all_cids(&self) -> BoxFuture<'_, Result<Vec<Cid>, StorageError>> {
        self.call(|connection| older::all_cids(connection).map_err(error_of))
    }

    fn older_counts(&self, since: f64) -> BoxFuture<'_, Result<OlderCounts, StorageError>> {
        self.call(move |connection| older::counts(connection, since).map_err(error_of))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Box::pin(async move {
            if let Some(thread) = thread {
                // It ends by itself once the queue is empty.
                let _ended = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
