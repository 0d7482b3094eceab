//! What can go wrong, one family of operations each.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{
    BlobHash,
    nix::{NarHash, StorePathHash},
};

/// A store could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The state directory, or a part of it, can't be made, read or written.
    #[error("cannot use {path} of the state directory: {source}")]
    StateDir {
        /// The file or directory in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the index.
    #[error(
        "the index {path} is in use by another process: stop it, or choose another state directory"
    )]
    InUse {
        /// The index.
        path: PathBuf,
    },
    /// The index was written by a newer version.
    #[error(
        "the index {path} is from a newer version (schema {found}, this one knows {supported}): \
         run the newer version, or move the file away to have it rebuilt"
    )]
    NewerIndex {
        /// The index.
        path: PathBuf,
        /// The schema it says it has.
        found: u64,
        /// The newest schema known here.
        supported: u64,
    },
    /// The index can't be read.
    #[error("the index {path} cannot be read ({reason}): move it away to have it rebuilt")]
    MalformedIndex {
        /// The index.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Nix's database could not answer.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// A query failed.
    #[error("Nix's database {path} cannot be read: {source}")]
    Query {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// Nix's daemon failed, or didn't answer in time.
    #[error("Nix's daemon at {socket} cannot be asked: {reason}")]
    Daemon {
        /// Its socket.
        socket: PathBuf,
        /// What happened, or what it answered.
        reason: String,
    },
    /// An entry is not what Nix writes.
    #[error("Nix's database has a malformed entry for {entry}: {reason}")]
    Malformed {
        /// The path, as far as it can be told.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file kept changing while it was read without locks.
    #[error(
        "Nix's database {path} changes too fast to be read without write access to its directory"
    )]
    Changing {
        /// The database.
        path: PathBuf,
    },
    /// The store is shutting down.
    #[error("the store is shutting down")]
    ShuttingDown,
}

/// A closure could not be computed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClosureError {
    /// A path, or one that it needs, is neither valid in Nix's store nor held as a blob.
    #[error("no path with hash {path_hash} is valid here")]
    NotValid {
        /// The one that is missing.
        path_hash: StorePathHash,
    },
    /// The database could not answer.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The index could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The index or the files beside it failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nix's database could not answer.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The index could not be read or written.
    #[error("the index failed: {reason}")]
    Index {
        /// What redb said.
        reason: String,
    },
    /// A file of the state directory could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A download was committed before it was verified.
    #[error("the download of {blob_hash} is not verified")]
    NotVerified {
        /// The blob.
        blob_hash: BlobHash,
    },
    /// The blob is held already.
    #[error("{blob_hash} is held already")]
    AlreadyHeld {
        /// The blob.
        blob_hash: BlobHash,
    },
    /// The same blob is being received at another size: one of the two is wrong.
    #[error("{blob_hash} is being received at another size")]
    SizeConflict {
        /// The blob.
        blob_hash: BlobHash,
    },
    /// Neither the quota nor the disk leaves room.
    #[error("no room for {bytes} bytes: {reason}")]
    NoSpace {
        /// Bytes asked for.
        bytes: u64,
        /// Which bound it was.
        reason: String,
    },
    /// The store is shutting down.
    #[error("the store is shutting down")]
    ShuttingDown,
}

/// A NAR could not be hashed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum HashError {
    /// No such path is valid in Nix's store.
    #[error("no path with hash {path_hash} is valid in Nix's store")]
    NotFound {
        /// The one asked for.
        path_hash: StorePathHash,
    },
    /// The files don't give the NAR that Nix's database names.
    #[error(
        "{store_path} is not what Nix registered: {reason}; \
         `nix-store --verify-path {store_path}` tells more, `nix-store --repair-path` may help"
    )]
    Mismatch {
        /// The path.
        store_path: String,
        /// Which of the two, size or hash, differs and how.
        reason: String,
    },
    /// A file could not be read.
    #[error("cannot read {store_path}: {source}")]
    Read {
        /// The path.
        store_path: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The result could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A blob or NAR could not be opened.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum OpenBlobError {
    /// It is not held here, or its files are gone.
    #[error("not held here")]
    NotFound,
    /// The NAR had to be hashed first, which failed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DatabaseError> for OpenBlobError {
    fn from(error: DatabaseError) -> Self {
        Self::Store(error.into())
    }
}

/// Bytes could not be read, or were not the right ones.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file of the NAR is gone or unreadable; the entry has been dropped.
    #[error("a file of the NAR cannot be read: {0}")]
    Missing(#[source] io::Error),
    /// The bytes changed since they were hashed; the entry has been dropped.
    #[error("the bytes at {offset} are not the ones that were hashed")]
    Mismatch {
        /// Where the first wrong chunk group or node lies.
        offset: u64,
    },
    /// The whole NAR is not the one that Nix registered; its last bytes were withheld.
    #[error("the NAR is {actual}, Nix registered {expected}")]
    WrongNar {
        /// What Nix's database says.
        expected: NarHash,
        /// What the files gave.
        actual: NarHash,
    },
    /// The range lies beyond the end.
    #[error("bytes {start} to {end} of {size} do not exist")]
    OutOfBounds {
        /// First byte asked for.
        start: u64,
        /// First byte no longer asked for.
        end: u64,
        /// What there is.
        size: u64,
    },
    /// Whoever takes the bytes failed.
    #[error("the reader went away: {0}")]
    Output(#[source] io::Error),
}

/// A download is not the NAR it was meant to be.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// SHA-256 of the whole differs from the NAR hash.
    #[error("the NAR is {actual}, expected {expected}")]
    Mismatch {
        /// The NAR hash that is signed.
        expected: NarHash,
        /// What arrived.
        actual: NarHash,
    },
    /// What arrived could not be read back.
    #[error("cannot read the download back: {0}")]
    Io(Arc<io::Error>),
    /// The download was discarded before it was whole.
    #[error("the download was discarded")]
    Discarded,
}
