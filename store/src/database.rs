//! What Nix says is valid: one interface over the sources it can be read from.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    DatabaseError,
    nix::{PathInfo, StorePathHash},
};

mod sqlite;

pub(crate) use sqlite::SqliteDatabase;

/// Whether Nix's database can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseStatus {
    /// It is read.
    Present {
        /// Where it is.
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

/// A source of path infos. All methods block for as long as a disk does.
pub(crate) trait PathInfoSource: Send + Sync + 'static {
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
    /// Takes the place and the way to open it, and tries at once.
    pub(crate) fn new(path: PathBuf, open: OpenSource) -> Self {
        let state = RwLock::new(State::Absent {
            reason: "not opened yet".into(),
        });
        let database = Self { path, open, state };
        database.poll();
        database
    }

    pub(crate) fn status(&self) -> DatabaseStatus {
        let path = self.path.clone();
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Present { .. } => DatabaseStatus::Present { path },
            State::Absent { reason } => DatabaseStatus::Absent {
                path,
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
                    tracing::info!(path = %self.path.display(), %reason, "Nix's database is reopened");
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
