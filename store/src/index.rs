//! The index: which blobs are held and where their bytes are, and what was shared.
//!
//! One redb file. Reads go straight to it and cost microseconds; writes go through one thread
//! that commits whatever has queued up at once. What can be recomputed, the hash of a NAR that
//! is in Nix's store anyway, is visible at once and synced within a second; all else is synced
//! before it is acknowledged.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc},
    thread,
    time::Instant,
};

use bytes::Bytes;
use redb::{
    Database, DatabaseError as OpenFailed, ReadTransaction, ReadableDatabase as _,
    ReadableTable as _, ReadableTableMetadata as _, TableDefinition, TableError,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{BlobHash, OpenError, StoreError, limits, nix::StorePathHash};

mod record;
mod writer;

pub(crate) use record::{BlobRecord, PartialRecord, PathRecord, Place, ShareRecord};
pub(crate) use writer::Change;
use writer::{Message, Writer};

/// Version of what the tables mean.
const SCHEMA: u64 = 1;

/// In [`META`]: whether the last owner of the index closed it, which is unsaid at each start.
const STOPPED_CLEANLY: &str = "stopped cleanly";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Store path hash -> [`PathRecord`].
const PATHS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("paths");
/// Blob hash -> [`BlobRecord`].
const BLOBS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("blobs");
/// Blob hash -> pre-order outboard, where it is small.
const OUTBOARDS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("outboards");
/// Blob hash -> bytes, where they are few.
const DATA: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("data");
/// Blob hash -> [`PartialRecord`].
const PARTIALS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("partials");
/// Store path hash of the root -> [`ShareRecord`].
const SHARES: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("shares");

/// The open file, which its writer closes and opens again after an error of the disk: redb gives
/// a file up for good at the first one.
struct IndexFile {
    path: PathBuf,
    /// `None` once closed, so that the file can be opened again while clones of the store linger,
    /// and while a disk that failed does so still.
    database: RwLock<Option<Database>>,
}

/// The open index.
pub(crate) struct Index {
    file: Arc<IndexFile>,
    writer: Mutex<Option<Writer>>,
    stopped_cleanly: bool,
}

impl Index {
    /// Opens or makes the index. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let malformed = |reason: String| OpenError::MalformedIndex {
            path: path.to_owned(),
            reason,
        };
        create_if_missing(path).map_err(|error| match error {
            redb::Error::Io(source) => OpenError::StateDir {
                path: path.to_owned(),
                source,
            },
            error => malformed(error.to_string()),
        })?;
        let database = open_file(path).map_err(|error| match error {
            OpenFailed::DatabaseAlreadyOpen => OpenError::InUse {
                path: path.to_owned(),
            },
            OpenFailed::Storage(redb::StorageError::Io(source))
                if source.kind() != std::io::ErrorKind::InvalidData =>
            {
                OpenError::StateDir {
                    path: path.to_owned(),
                    source,
                }
            }
            error => malformed(error.to_string()),
        })?;
        let found = schema(&database).map_err(|error| malformed(error.to_string()))?;
        match found {
            Some(found) if found > SCHEMA => {
                return Err(OpenError::NewerIndex {
                    path: path.to_owned(),
                    found,
                    supported: SCHEMA,
                });
            }
            Some(_) => {}
            None => return Err(malformed("it has no schema".to_owned())),
        }
        let stopped_cleanly = begin_use(&database).map_err(|error| malformed(error.to_string()))?;
        let file = Arc::new(IndexFile {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
        });
        let writer = Writer::spawn(file.clone()).map_err(|source| OpenError::StateDir {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            writer: Mutex::new(Some(writer)),
            stopped_cleanly,
        })
    }

    /// What is held for a store path.
    pub(crate) fn path(&self, path_hash: StorePathHash) -> Result<Option<PathRecord>, StoreError> {
        let read = self.read()?;
        let table = read.open_table(PATHS).map_err(failed)?;
        let value = table.get(path_hash.as_bytes()).map_err(failed)?;
        value.map(|value| decode(value.value())).transpose()
    }

    /// What is held for several store paths, in one transaction.
    pub(crate) fn paths(
        &self,
        path_hashes: &[StorePathHash],
    ) -> Result<Vec<Option<PathRecord>>, StoreError> {
        let read = self.read()?;
        let table = read.open_table(PATHS).map_err(failed)?;
        path_hashes
            .iter()
            .map(|path_hash| {
                let value = table.get(path_hash.as_bytes()).map_err(failed)?;
                value.map(|value| decode(value.value())).transpose()
            })
            .collect()
    }

    /// Where a blob's bytes are, and its outboard if that is small.
    pub(crate) fn blob(
        &self,
        blob: BlobHash,
    ) -> Result<Option<(BlobRecord, Option<Bytes>)>, StoreError> {
        let read = self.read()?;
        let table = read.open_table(BLOBS).map_err(failed)?;
        let Some(value) = table.get(blob.as_bytes()).map_err(failed)? else {
            return Ok(None);
        };
        let record = decode(value.value())?;
        let outboards = read.open_table(OUTBOARDS).map_err(failed)?;
        let outboard = outboards.get(blob.as_bytes()).map_err(failed)?;
        let outboard = outboard.map(|value| Bytes::copy_from_slice(value.value()));
        Ok(Some((record, outboard)))
    }

    /// The bytes of a blob in the index.
    pub(crate) fn data(&self, blob: BlobHash) -> Result<Option<Bytes>, StoreError> {
        let read = self.read()?;
        let table = read.open_table(DATA).map_err(failed)?;
        let data = table.get(blob.as_bytes()).map_err(failed)?;
        Ok(data.map(|value| Bytes::copy_from_slice(value.value())))
    }

    /// The downloads that were not whole when the index was last written.
    pub(crate) fn partials(&self) -> Result<HashMap<BlobHash, PartialRecord>, StoreError> {
        let read = self.read()?;
        let table = read.open_table(PARTIALS).map_err(failed)?;
        let mut partials = HashMap::new();
        for entry in table.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            partials.insert(BlobHash::from_bytes(*key.value()), decode(value.value())?);
        }
        Ok(partials)
    }

    /// Whether the last owner closed the index.
    pub(crate) fn stopped_cleanly(&self) -> bool {
        self.stopped_cleanly
    }

    /// Visits every blob held.
    pub(crate) fn for_each_blob(
        &self,
        mut visit: impl FnMut(BlobHash, BlobRecord),
    ) -> Result<(), StoreError> {
        let read = self.read()?;
        let table = read.open_table(BLOBS).map_err(failed)?;
        for entry in table.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            visit(BlobHash::from_bytes(*key.value()), decode(value.value())?);
        }
        Ok(())
    }

    /// All shares.
    pub(crate) fn shares(&self) -> Result<Vec<ShareRecord>, StoreError> {
        let read = self.read()?;
        let table = read.open_table(SHARES).map_err(failed)?;
        let mut shares = Vec::new();
        for entry in table.iter().map_err(failed)? {
            let (_, value) = entry.map_err(failed)?;
            shares.push(decode(value.value())?);
        }
        Ok(shares)
    }

    /// Paths held, blobs held.
    pub(crate) fn counts(&self) -> Result<(u64, u64), StoreError> {
        let read = self.read()?;
        let paths = read.open_table(PATHS).map_err(failed)?;
        let blobs = read.open_table(BLOBS).map_err(failed)?;
        Ok((paths.len().map_err(failed)?, blobs.len().map_err(failed)?))
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(&self.file.path).map_or(0, |metadata| metadata.len())
    }

    /// Commits a change and waits for it. Blocks.
    pub(crate) fn write_blocking(&self, change: Change) -> Result<bool, StoreError> {
        let (done, receive) = mpsc::sync_channel(1);
        let answer = Box::new(move |outcome| {
            // Whoever asked waits below.
            let _ = done.send(outcome);
        });
        let message = Message {
            change,
            done: answer,
        };
        match &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => writer.send(message),
            None => return Err(StoreError::ShuttingDown),
        }
        receive.recv().unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Queues a change that nobody waits for.
    pub(crate) fn write(&self, change: Change) {
        let done = Box::new(|_| {});
        if let Some(writer) = &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            writer.send(Message { change, done });
        }
    }

    /// Commits and syncs what is queued, and closes the file. Blocks.
    pub(crate) fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            writer.close();
        }
        self.file.close();
    }

    fn read(&self) -> Result<ReadTransaction, StoreError> {
        let database = self.file.database.read();
        let database = database.unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(StoreError::ShuttingDown)?;
        database.begin_read().map_err(failed)
    }
}

impl IndexFile {
    fn close(&self) {
        let database = self.database.write();
        database.unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Opens the file again after an error of the disk. Blocks for as long as reads hold it.
    fn reopen(&self) -> Result<(), OpenFailed> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        database.take();
        let deadline = Instant::now() + limits::INDEX_REOPEN;
        loop {
            match open_file(&self.path) {
                Ok(opened) => {
                    *database = Some(opened);
                    return Ok(());
                }
                // A read under way, which ends within microseconds.
                Err(OpenFailed::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Makes an empty index that is either whole or not there.
fn create_if_missing(path: &Path) -> Result<(), redb::Error> {
    // An empty file is as good as none.
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let fresh = path.with_extension("redb.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    create_tables(&open_file(&fresh)?)?;
    fs::rename(&fresh, path)?;
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn open_file(path: &Path) -> Result<Database, OpenFailed> {
    Database::builder()
        .set_cache_size(limits::INDEX_CACHE_BYTES)
        .create(path)
}

fn schema(database: &Database) -> Result<Option<u64>, redb::Error> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(meta.get("schema")?.map(|value| value.value()))
}

/// Notes that the index is in use, and returns whether its last user closed it.
fn begin_use(database: &Database) -> Result<bool, redb::Error> {
    let write = database.begin_write()?;
    let stopped_cleanly = write
        .open_table(META)?
        .remove(STOPPED_CLEANLY)?
        .is_some_and(|value| value.value() == 1);
    write.commit()?;
    Ok(stopped_cleanly)
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        write.open_table(META)?.insert("schema", SCHEMA)?;
        write.open_table(PATHS)?;
        write.open_table(BLOBS)?;
        write.open_table(OUTBOARDS)?;
        write.open_table(DATA)?;
        write.open_table(PARTIALS)?;
        write.open_table(SHARES)?;
    }
    write.commit()?;
    Ok(())
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Index {
        reason: error.into().to_string(),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(bytes).map_err(|error| StoreError::Index {
        reason: format!("a malformed record: {error}"),
    })
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(record).map_err(|error| StoreError::Index {
        reason: format!("a record cannot be written: {error}"),
    })
}

/// The index's place in a state directory.
pub(crate) fn index_path(state_dir: &Path) -> PathBuf {
    state_dir.join("index.redb")
}
