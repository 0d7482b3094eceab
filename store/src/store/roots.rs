//! Roots that Nix's daemon holds for this process.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::timeout};

use super::{LocalNar, Source, Store};
use crate::{
    DatabaseError,
    database::{DaemonConnection, DaemonError},
    limits,
    nix::StorePath,
};

/// Keeps a path from Nix's garbage collector until it is dropped.
///
/// All guards of a store share one connection to Nix's daemon, which holds the roots: they go
/// together, when the last guard is dropped, and they go when the daemon ends.
#[must_use = "the root is gone once the guard is dropped"]
pub struct TempRoot {
    store_path: StorePath,
    _connection: Arc<Shared>,
}

impl TempRoot {
    /// Returns the path that is kept.
    #[must_use]
    pub fn store_path(&self) -> &StorePath {
        &self.store_path
    }
}

impl fmt::Debug for TempRoot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("TempRoot")
            .field(&self.store_path)
            .finish()
    }
}

type Shared = Mutex<DaemonConnection>;

/// The connection that holds the roots, where there are guards.
pub(super) struct TempRoots {
    socket: Option<PathBuf>,
    shared: Mutex<Weak<Shared>>,
}

impl TempRoots {
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        Self {
            socket,
            shared: Mutex::new(Weak::new()),
        }
    }

    /// Blocks until `deadline` at most, but for those who wait already.
    fn add(&self, store_path: &StorePath, deadline: Instant) -> Result<TempRoot, DaemonError> {
        let no_daemon = || DaemonError::Refused("a chroot store has no daemon".into());
        let socket = self.socket.as_deref().ok_or_else(no_daemon)?;
        // Held for the whole request: there is one connection, and it takes one at a time.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = shared.upgrade() {
            let added = connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add_temp_root(store_path, remaining(deadline)?);
            match added {
                Err(error) if error.ends_connection() => {
                    tracing::debug!(%error, "connection to Nix's daemon dropped");
                    *shared = Weak::new();
                }
                added => return added.map(|()| guard(store_path, connection)),
            }
        }
        let mut connection = DaemonConnection::connect(socket, remaining(deadline)?)?;
        connection.add_temp_root(store_path, remaining(deadline)?)?;
        let connection = Arc::new(Mutex::new(connection));
        *shared = Arc::downgrade(&connection);
        Ok(guard(store_path, connection))
    }
}

/// A path that Nix's garbage collector is asked to leave alone; see [`Store::keep_while_read`].
#[derive(Debug)]
pub struct KeptPath {
    /// Dropping it drops the root, at once or as soon as it is there.
    _root: tokio::task::JoinHandle<Option<TempRoot>>,
}

fn guard(store_path: &StorePath, connection: Arc<Shared>) -> TempRoot {
    TempRoot {
        store_path: store_path.clone(),
        _connection: connection,
    }
}

fn remaining(deadline: Instant) -> Result<Duration, DaemonError> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        remaining => Ok(remaining),
    }
}

impl Store {
    /// Asks Nix's daemon to keep a path from the garbage collector while the guard lives.
    ///
    /// The path need not be valid (yet). Returns `None` where no daemon answers within
    /// ten seconds, and for chroot stores, which have none.
    pub async fn add_temp_root(&self, store_path: &StorePath) -> Option<TempRoot> {
        let (inner, store_path) = (self.0.clone(), store_path.clone());
        let deadline = Instant::now() + limits::DAEMON_ANSWER;
        let adding = spawn_blocking(move || {
            inner
                .temp_roots
                .add(&store_path, deadline)
                .inspect_err(|error| tracing::debug!(%store_path, %error, "no temporary root"))
                .ok()
        });
        timeout(limits::DAEMON_ANSWER, adding).await.ok()?.ok()?
    }

    /// Has Nix's daemon keep a path from the garbage collector while the result lives, without
    /// waiting for it; `None` for what is read before the daemon could answer, or elsewhere.
    ///
    /// Where no daemon answers, nothing is kept. Must be called within a tokio runtime.
    #[must_use]
    pub fn keep_while_read(&self, nar: &LocalNar) -> Option<KeptPath> {
        if nar.source != Source::ByReference || nar.info.nar_size <= limits::KEPT_WHILE_READ {
            return None;
        }
        let (store, store_path) = (self.clone(), nar.info.store_path.clone());
        Some(KeptPath {
            _root: tokio::spawn(async move { store.add_temp_root(&store_path).await }),
        })
    }

    /// Asks Nix's daemon to take the symlink `link` as a root of the garbage collector.
    ///
    /// The link may lie anywhere; the root is gone once the link is. Returns false for chroot
    /// stores, which have no daemon.
    ///
    /// # Errors
    /// [`DatabaseError::Daemon`] where no daemon answers within ten seconds, or it refuses.
    pub async fn add_indirect_root(&self, link: &Path) -> Result<bool, DatabaseError> {
        let Some(socket) = self.0.config.nix_store.daemon_socket() else {
            return Ok(false);
        };
        let deadline = Instant::now() + limits::DAEMON_ANSWER;
        let (asked, link) = (socket.clone(), link.to_owned());
        let adding = spawn_blocking(move || {
            DaemonConnection::connect(&asked, remaining(deadline)?)?
                .add_indirect_root(&link, remaining(deadline)?)
        });
        let added = adding
            .await
            .map_err(|_| DatabaseError::ShuttingDown)?
            .map(|()| true);
        added.map_err(|error| DatabaseError::Daemon {
            socket,
            reason: error.to_string(),
        })
    }
}
