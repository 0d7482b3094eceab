//! Nix's SQLite database, read beside the Nix that writes it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use super::{PathInfoSource, PathMarker};
use crate::{
    DatabaseError, limits,
    nix::{NarHash, PathInfo, STORE_DIR, StorePath, StorePathHash},
};

/// One statement answers for a path and its references, so that no writer can come between.
const COLUMNS: &str = "select p.path, p.hash, p.registrationTime, p.deriver, p.narSize, p.sigs, p.ca, \
     (select group_concat(v.path, ' ') from Refs r join ValidPaths v on v.id = r.reference \
      where r.referrer = p.id) from ValidPaths p";

/// Bytes of an SQLite header up to and including its change counter.
const CHANGE_COUNTER: std::ops::Range<usize> = 24..28;

/// A database file, opened with a small pool of connections.
pub(crate) struct SqliteDatabase {
    path: PathBuf,
    /// Told apart from another file put in its place.
    inode: (u64, u64),
    mode: Mode,
    idle: Mutex<Vec<Pooled>>,
    /// `PRAGMA data_version` counts for one connection only, so this one is kept.
    watcher: Mutex<Option<Connection>>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Mode {
    /// SQLite's own locks and write-ahead log.
    Shared,
    /// No locks, no log: right only while the [`Stamp`] stays the same.
    Immutable,
}

struct Pooled {
    connection: Connection,
    /// What the file looked like when the connection was opened, in [`Mode::Immutable`].
    stamp: Option<Stamp>,
}

/// What tells a changed database file from an unchanged one, without SQLite's help.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
struct Stamp {
    change_counter: [u8; 4],
    modified: (i64, i64),
    size: u64,
}

impl SqliteDatabase {
    /// Opens the database, or tells a person why it can't be read now.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => error.to_string(),
        })?;
        let mut database = Self {
            path: path.to_owned(),
            inode: (metadata.dev(), metadata.ino()),
            mode: Mode::Shared,
            idle: Mutex::new(Vec::new()),
            watcher: Mutex::new(None),
        };
        match database.connect_shared() {
            Ok(connection) => {
                database.watcher = Mutex::new(Some(connection));
                return Ok(database);
            }
            Err(error) if needs_write_access(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
        // Without write access SQLite can't make the file that readers and writers share.
        database.stamp()?;
        database.mode = Mode::Immutable;
        Ok(database)
    }

    fn connect_shared(&self) -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(&self.path, read_only())?;
        connection.busy_timeout(limits::DATABASE_BUSY)?;
        // SQLite reads nothing before the first query: this is where a missing right shows.
        connection
            .query_row("select 1 from ValidPaths limit 1", [], |_| Ok(()))
            .or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                error => Err(error),
            })?;
        Ok(connection)
    }

    fn connect_immutable(&self) -> Result<Connection, rusqlite::Error> {
        let mut uri = String::from("file:");
        for &byte in self.path.as_os_str().as_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                    uri.push(char::from(byte));
                }
                byte => uri.push_str(&format!("%{byte:02X}")),
            }
        }
        uri.push_str("?immutable=1");
        Connection::open_with_flags(uri, read_only() | OpenFlags::SQLITE_OPEN_URI)
    }

    /// Reads the stamp, or says why the file can't be read without locks.
    fn stamp(&self) -> Result<Stamp, String> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let no_log = || match fs::symlink_metadata(&log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => Err(format!(
                "Nix writes to it, and this user may not write to its directory {}: \
                 run as a user who may, or use Nix's daemon",
                self.path.parent().unwrap_or(&self.path).display()
            )),
        };
        no_log()?;
        let read = || -> io::Result<Stamp> {
            let file = File::open(&self.path)?;
            let mut header = [0; CHANGE_COUNTER.end];
            file.read_exact_at(&mut header, 0)?;
            let metadata = file.metadata()?;
            let mut change_counter = [0; 4];
            change_counter.copy_from_slice(&header[CHANGE_COUNTER]);
            Ok(Stamp {
                change_counter,
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                size: metadata.size(),
            })
        };
        read().map_err(|error| error.to_string())
    }

    fn take(&self, stamp: Option<Stamp>) -> Result<Pooled, rusqlite::Error> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // An immutable connection keeps pages of the file as it was.
        idle.retain(|pooled| pooled.stamp == stamp);
        if let Some(pooled) = idle.pop() {
            return Ok(pooled);
        }
        drop(idle);
        let connection = match stamp {
            None => self.connect_shared()?,
            Some(_) => self.connect_immutable()?,
        };
        Ok(Pooled { connection, stamp })
    }

    fn give_back(&self, pooled: Pooled) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::MAX_IDLE_CONNECTIONS {
            idle.push(pooled);
        }
    }

    /// Runs a query; in [`Mode::Immutable`] again if the file changed meanwhile.
    fn query<T>(
        &self,
        mut run: impl FnMut(&Connection) -> Result<T, QueryError>,
    ) -> Result<T, DatabaseError> {
        for _ in 0..limits::MAX_IMMUTABLE_ATTEMPTS {
            let stamp = match self.mode {
                Mode::Shared => None,
                Mode::Immutable => match self.stamp() {
                    Ok(stamp) => Some(stamp),
                    Err(_) => break,
                },
            };
            let pooled = self.take(stamp).map_err(|error| self.failed(error))?;
            let outcome = run(&pooled.connection);
            if self.mode == Mode::Immutable && self.stamp().ok() != stamp {
                continue;
            }
            return match outcome {
                Ok(value) => {
                    self.give_back(pooled);
                    Ok(value)
                }
                Err(QueryError::Row(error)) => {
                    self.give_back(pooled);
                    Err(error)
                }
                Err(QueryError::Sqlite(error)) => Err(self.failed(error)),
            };
        }
        Err(DatabaseError::Changing {
            path: self.path.clone(),
        })
    }

    fn failed(&self, error: rusqlite::Error) -> DatabaseError {
        DatabaseError::Query {
            path: self.path.clone(),
            source: Arc::new(error),
        }
    }
}

impl PathInfoSource for SqliteDatabase {
    fn path(&self) -> &Path {
        &self.path
    }

    fn path_infos(
        &self,
        path_hashes: &[StorePathHash],
    ) -> Result<Vec<Option<PathInfo>>, DatabaseError> {
        self.query(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{COLUMNS} where p.path >= ?1 and p.path < ?2 limit 1"
            ))?;
            let mut infos = Vec::with_capacity(path_hashes.len());
            for path_hash in path_hashes {
                // '.' is the character after '-'.
                let bounds = [
                    format!("{STORE_DIR}/{path_hash}-"),
                    format!("{STORE_DIR}/{path_hash}."),
                ];
                let mut rows = statement.query(bounds)?;
                infos.push(match rows.next()? {
                    Some(row) => Some(path_info(row)?),
                    None => None,
                });
            }
            Ok(infos)
        })
    }

    fn for_each_path(&self, visit: &mut dyn FnMut(PathInfo) -> bool) -> Result<u64, DatabaseError> {
        // Each path is visited once, so a read that the file changed under is not run again.
        let stamp = match self.mode {
            Mode::Shared => None,
            Mode::Immutable => Some(self.stamp().map_err(|_| DatabaseError::Changing {
                path: self.path.clone(),
            })?),
        };
        let pooled = self.take(stamp).map_err(|error| self.failed(error))?;
        let mut run = || -> Result<u64, rusqlite::Error> {
            let mut statement = pooled.connection.prepare(COLUMNS)?;
            let mut rows = statement.query([])?;
            let mut visited = 0;
            while let Some(row) = rows.next()? {
                match path_info(row) {
                    Ok(info) => {
                        visited += 1;
                        if !visit(info) {
                            break;
                        }
                    }
                    Err(QueryError::Sqlite(error)) => return Err(error),
                    Err(QueryError::Row(error)) => tracing::debug!(%error, "path skipped"),
                }
            }
            Ok(visited)
        };
        let visited = run().map_err(|error| self.failed(error))?;
        if self.mode == Mode::Immutable && self.stamp().ok() != stamp {
            return Err(DatabaseError::Changing {
                path: self.path.clone(),
            });
        }
        self.give_back(pooled);
        Ok(visited)
    }

    fn marker(&self) -> Result<Option<PathMarker>, DatabaseError> {
        self.query(|connection| Ok(Some(marker(connection)?)))
    }

    fn added_since(
        &self,
        since: PathMarker,
    ) -> Result<Option<(Vec<PathInfo>, PathMarker)>, DatabaseError> {
        self.query(|connection| {
            let mut statement = connection.prepare_cached(&format!("{COLUMNS} where p.id > ?1"))?;
            let mut rows = statement.query([since.last_id])?;
            let mut infos = Vec::new();
            let mut added = 0;
            while let Some(row) = rows.next()? {
                added += 1;
                if infos.len() >= limits::MAX_ADDED_AT_ONCE {
                    return Ok(None);
                }
                match path_info(row) {
                    Ok(info) => infos.push(info),
                    Err(QueryError::Row(error)) => tracing::debug!(%error, "path skipped"),
                    Err(error) => return Err(error),
                }
            }
            let now = marker(connection)?;
            // As many as came more than before: none went. None came: something else changed.
            let only_added = added > 0 && now.paths == since.paths + added;
            Ok(only_added.then_some((infos, now)))
        })
    }

    fn version(&self) -> Result<u64, String> {
        let metadata = fs::metadata(&self.path).map_err(|error| error.to_string())?;
        if (metadata.dev(), metadata.ino()) != self.inode {
            return Err("another file is in its place".into());
        }
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        match &*watcher {
            Some(connection) => connection
                .query_row("pragma data_version", [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
                .map_err(|error| error.to_string()),
            None => {
                use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
                let stamp = self.stamp()?;
                Ok(BuildHasherDefault::<DefaultHasher>::default().hash_one(stamp))
            }
        }
    }
}

fn marker(connection: &Connection) -> Result<PathMarker, rusqlite::Error> {
    let sql = "select coalesce(max(id), 0), count(*) from ValidPaths";
    connection.query_row(sql, [], |row| {
        Ok(PathMarker {
            last_id: row.get(0)?,
            paths: row.get(1)?,
        })
    })
}

fn read_only() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn needs_write_access(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)
    )
}

/// A failed query, or one row that Nix would not have written.
enum QueryError {
    Sqlite(rusqlite::Error),
    Row(DatabaseError),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn path_info(row: &Row<'_>) -> Result<PathInfo, QueryError> {
    let path = row.get_ref(0)?.as_str().unwrap_or_default();
    let malformed = |reason: String| {
        QueryError::Row(DatabaseError::Malformed {
            entry: path.to_owned(),
            reason,
        })
    };
    let store_path = |text: &str| {
        StorePath::from_absolute_path(text.as_bytes()).map_err(|error| malformed(error.to_string()))
    };
    let text = |column| {
        row.get_ref(column)?
            .as_str_or_null()
            .map_err(|error| malformed(error.to_string()))
    };
    let nar_hash = text(1)?
        .unwrap_or_default()
        .parse::<NarHash>()
        .map_err(|error| malformed(error.to_string()))?;
    let nar_size = row
        .get_ref(4)?
        .as_i64_or_null()
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .filter(|&size| size > 0)
        .ok_or_else(|| malformed("no NAR size".into()))?;
    let references = text(7)?
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(store_path)
        .collect::<Result<BTreeSet<_>, _>>()?;
    let present = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(PathInfo {
        store_path: store_path(path)?,
        nar_hash,
        nar_size,
        references,
        // A deriver is a hint: one that can't be read is none.
        deriver: text(3)?.and_then(|text| StorePath::from_absolute_path(text.as_bytes()).ok()),
        signatures: text(5)?
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
        content_address: present(text(6)?),
        registration_time: row.get_ref(2)?.as_i64().unwrap_or_default(),
    })
}
