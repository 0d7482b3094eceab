//! What Nix says is valid: one interface over the sources it can be read from.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    DatabaseError, NixStore,
    nix::{PathInfo, StorePathHash},
};

mod daemon;
mod sqlite;

pub(crate) use daemon::{DaemonConnection, DaemonDatabase, DaemonError};
pub(crate) use sqlite::SqliteDatabase;

/// Whether Nix's database can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseStatus {
    /// It is read.
    Present {
        /// What is read: the SQLite database, or the socket of Nix's daemon.
        path: PathBuf,
    },
    /// It is not; it is taken up as soon as that changes.
    Absent {
        /// Where it would be.
        path: PathBuf,
        /// Why it isn't read, and what to do about it.
        reason: String,
    },
}

/// A moment of Nix's database, to ask later what has come since.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct PathMarker {
    pub(crate) last_id: i64,
    pub(crate) paths: i64,
}

/// A source of path infos. All methods but `path` block for as long as a disk or a daemon does.
pub(crate) trait PathInfoSource: Send + Sync + 'static {
    /// Returns the file or socket that is read.
    fn path(&self) -> &Path;

    /// Returns what is recorded of each path, in the order asked; `None` where it isn't valid.
    fn path_infos(
        &self,
        path_hashes: &[StorePathHash],
    ) -> Result<Vec<Option<PathInfo>>, DatabaseError>;

    /// Visits every valid path until `visit` returns false; returns how many it visited.
    fn for_each_path(&self, visit: &mut dyn FnMut(PathInfo) -> bool) -> Result<u64, DatabaseError>;

    /// Returns what tells later which paths came since; `None` where the source can't.
    fn marker(&self) -> Result<Option<PathMarker>, DatabaseError> {
        Ok(None)
    }

    /// Returns the paths that came since, if nothing else can have changed.
    fn added_since(
        &self,
        _marker: PathMarker,
    ) -> Result<Option<(Vec<PathInfo>, PathMarker)>, DatabaseError> {
        Ok(None)
    }

    /// Returns a number that differs after every change, or why the source is lost.
    fn version(&self) -> Result<u64, String>;
}

/// Opens a source, or tells why it can't be opened now.
pub(crate) type OpenSource = Box<dyn Fn() -> Result<Arc<dyn PathInfoSource>, String> + Send + Sync>;

/// Nix's database as it comes, changes and goes.
pub(crate) struct Database {
    path: PathBuf,
    open: OpenSource,
    state: RwLock<State>,
}

enum State {
    Present {
        source: Arc<dyn PathInfoSource>,
        version: u64,
    },
    Absent {
        reason: String,
    },
}

impl Database {
    /// Takes the place where it is expected and the way to open it, and tries at once.
    pub(crate) fn new(path: PathBuf, open: OpenSource) -> Self {
        let state = RwLock::new(State::Absent {
            reason: "not opened yet".into(),
        });
        let database = Self { path, open, state };
        database.poll();
        database
    }

    pub(crate) fn status(&self) -> DatabaseStatus {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Present { source, .. } => DatabaseStatus::Present {
                path: source.path().to_owned(),
            },
            State::Absent { reason } => DatabaseStatus::Absent {
                path: self.path.clone(),
                reason: reason.clone(),
            },
        }
    }

    /// The source, where there is one.
    pub(crate) fn source(&self) -> Option<Arc<dyn PathInfoSource>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Present { source, .. } => Some(source.clone()),
            State::Absent { .. } => None,
        }
    }

    pub(crate) fn path_info(&self, h: StorePathHash) -> Result<Option<PathInfo>, DatabaseError> {
        Ok(self.path_infos(&[h])?.pop().flatten())
    }

    /// Returns `None` for every path while there is no database.
    pub(crate) fn path_infos(
        &self,
        path_hashes: &[StorePathHash],
    ) -> Result<Vec<Option<PathInfo>>, DatabaseError> {
        match self.source() {
            Some(source) => source.path_infos(path_hashes),
            None => Ok(vec![None; path_hashes.len()]),
        }
    }

    /// Looks for a change and returns whether there was one. Blocks for as long as a disk does.
    pub(crate) fn poll(&self) -> bool {
        let known = match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Present { source, version } => Some((source.clone(), *version)),
            State::Absent { .. } => None,
        };
        let lost = match known {
            Some((source, version)) => match source.version() {
                Ok(current) if current == version => return false,
                Ok(current) => {
                    self.set(State::Present {
                        source,
                        version: current,
                    });
                    return true;
                }
                Err(reason) => {
                    tracing::info!(path = %source.path().display(), %reason, "Nix's database is reopened");
                    true
                }
            },
            None => false,
        };
        match (self.open)().and_then(|source| Ok((source.version()?, source))) {
            Ok((version, source)) => {
                self.set(State::Present { source, version });
                true
            }
            Err(reason) => {
                self.set(State::Absent { reason });
                lost
            }
        }
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The sources from which a Nix store's infos can be had.
pub(crate) fn of_store(nix_store: &NixStore) -> Database {
    let database = nix_store.database_path();
    let store_dir = nix_store.physical_store_dir();
    let socket = nix_store.daemon_socket();
    let path = database.clone();
    let open_sqlite = move || -> Result<Arc<dyn PathInfoSource>, String> {
        Ok(Arc::new(SqliteDatabase::open(&path)?))
    };
    let path = database.clone();
    let open_daemon = move |socket: &Path| -> Result<Arc<dyn PathInfoSource>, String> {
        Ok(Arc::new(DaemonDatabase::open(socket, &store_dir, &path)?))
    };
    match (nix_store, socket) {
        (NixStore::Daemon { .. }, Some(socket)) => {
            let path = socket.clone();
            Database::new(path, Box::new(move || open_daemon(&socket)))
        }
        (NixStore::Auto, Some(socket)) => {
            let open = move || {
                open_sqlite().or_else(|no_sqlite| {
                    open_daemon(&socket).map_err(|no_daemon| {
                        let socket = socket.display();
                        format!("{no_sqlite}; nor does a daemon answer at {socket}: {no_daemon}")
                    })
                })
            };
            Database::new(database, Box::new(open))
        }
        _ => Database::new(database, Box::new(open_sqlite)),
    }
}
