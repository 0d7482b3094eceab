//! Nix's daemon, asked over its socket by a user who can't read the database.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use super::PathInfoSource;
use crate::{
    DatabaseError, limits,
    nix::{PathInfo, StorePath, StorePathHash},
};

mod connection;
mod wire;

pub(crate) use connection::DaemonConnection;
pub(crate) use wire::DaemonError;

/// A daemon's socket, with a small pool of connections.
pub(crate) struct DaemonDatabase {
    socket: PathBuf,
    /// Told apart from another daemon's socket put in its place.
    inode: (u64, u64),
    /// Files whose times tell of a change, where this user may stat them.
    watched: Vec<PathBuf>,
    idle: Mutex<Vec<Pooled>>,
}

struct Pooled {
    connection: DaemonConnection,
    since: Instant,
}

impl DaemonDatabase {
    /// Connects once, or tells a person why no daemon can be asked now.
    ///
    /// A change shows in the times of `store_dir`, and of `database` and its log.
    pub(crate) fn open(socket: &Path, store_dir: &Path, database: &Path) -> Result<Self, String> {
        let inode = socket_inode(socket)?;
        let mut log = database.to_owned().into_os_string();
        log.push("-wal");
        let source = Self {
            socket: socket.to_owned(),
            inode,
            watched: vec![store_dir.to_owned(), database.to_owned(), log.into()],
            idle: Mutex::new(Vec::new()),
        };
        let connection = source.connect().map_err(|error| error.to_string())?;
        source.give_back(connection);
        Ok(source)
    }

    /// A number that differs after every change of what is watched.
    ///
    /// While the last change is so young that a next one could have the same time, the number
    /// differs each time.
    fn stamp(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let now = SystemTime::now();
        let mut hasher = DefaultHasher::new();
        for path in &self.watched {
            let seen = fs::metadata(path).ok();
            let modified = seen.as_ref().and_then(|seen| seen.modified().ok());
            // The size of a directory says nothing that its time doesn't.
            let size = seen.filter(fs::Metadata::is_file).map(|seen| seen.len());
            (modified, size).hash(&mut hasher);
            let is_young = modified.is_some_and(|modified| {
                now.duration_since(modified)
                    .map_or(true, |age| age < limits::FILE_TIME_GRANULARITY)
            });
            if is_young {
                now.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    fn connect(&self) -> Result<DaemonConnection, DaemonError> {
        DaemonConnection::connect(&self.socket, limits::DAEMON_CONNECT)
    }

    /// The idle connections, without those that have been idle for too long.
    fn idle(&self) -> MutexGuard<'_, Vec<Pooled>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|pooled| pooled.since.elapsed() < limits::MAX_DAEMON_IDLE);
        idle
    }

    fn give_back(&self, connection: DaemonConnection) {
        let mut idle = self.idle();
        if idle.len() < limits::MAX_IDLE_DAEMON_CONNECTIONS {
            let since = Instant::now();
            idle.push(Pooled { connection, since });
        }
    }

    /// Asks, once more over a fresh connection where an idle one turns out to be dead.
    ///
    /// The connection is not given back.
    fn ask<T>(
        &self,
        mut request: impl FnMut(&mut DaemonConnection) -> Result<T, DaemonError>,
    ) -> Result<(DaemonConnection, Result<T, DaemonError>), DaemonError> {
        // The lock is not held while the daemon is asked.
        let pooled = self.idle().pop();
        if let Some(Pooled { mut connection, .. }) = pooled {
            match request(&mut connection) {
                Err(error) if error.ends_connection() => {
                    tracing::debug!(%error, "connection to Nix's daemon dropped");
                    // The others are of the same age, and likely as dead.
                    self.idle().clear();
                }
                answer => return Ok((connection, answer)),
            }
        }
        let mut connection = self.connect()?;
        match request(&mut connection) {
            Err(error) if error.ends_connection() => Err(error),
            answer => Ok((connection, answer)),
        }
    }

    fn failed(&self, error: DaemonError) -> DatabaseError {
        match error {
            DaemonError::Malformed { entry, reason } => DatabaseError::Malformed { entry, reason },
            error => DatabaseError::Daemon {
                socket: self.socket.clone(),
                reason: error.to_string(),
            },
        }
    }
}

impl PathInfoSource for DaemonDatabase {
    fn path(&self) -> &Path {
        &self.socket
    }

    fn path_infos(
        &self,
        path_hashes: &[StorePathHash],
    ) -> Result<Vec<Option<PathInfo>>, DatabaseError> {
        let mut infos = Vec::with_capacity(path_hashes.len());
        let asked = self.ask(|connection| {
            // What was answered before a connection broke stays.
            for &path_hash in &path_hashes[infos.len()..] {
                let path = connection.path_of(path_hash)?;
                infos.push(match path {
                    Some(path) => connection.path_info(&path)?,
                    None => None,
                });
            }
            Ok(())
        });
        let (connection, answer) = asked.map_err(|error| self.failed(error))?;
        self.give_back(connection);
        answer.map_err(|error| self.failed(error))?;
        Ok(infos)
    }

    fn for_each_path(&self, visit: &mut dyn FnMut(PathInfo) -> bool) -> Result<u64, DatabaseError> {
        let asked = self.ask(DaemonConnection::valid_paths);
        let (mut connection, paths) = asked.map_err(|error| self.failed(error))?;
        let paths: Vec<StorePath> = paths.map_err(|error| self.failed(error))?;
        let mut visited = 0;
        for path in &paths {
            match connection.path_info(path) {
                Ok(Some(info)) => {
                    visited += 1;
                    if !visit(info) {
                        break;
                    }
                }
                // It went since it was listed.
                Ok(None) => {}
                Err(error) if error.ends_connection() => return Err(self.failed(error)),
                Err(error) => tracing::debug!(%error, "path skipped"),
            }
        }
        self.give_back(connection);
        Ok(visited)
    }

    fn version(&self) -> Result<u64, String> {
        if socket_inode(&self.socket)? != self.inode {
            return Err("another socket is in its place".into());
        }
        // Asked for each second, so that none stays open much longer than it may.
        drop(self.idle());
        Ok(self.stamp())
    }
}

fn socket_inode(socket: &Path) -> Result<(u64, u64), String> {
    match fs::metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok((metadata.dev(), metadata.ino())),
        Ok(_) => Err("it is no socket".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no such socket: Nix's daemon does not run".into())
        }
        Err(error) => Err(error.to_string()),
    }
}
