//! What can be wrong with a state directory.

use std::{io, path::PathBuf};

use crate::signing::SigningKeyError;

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// Something else is at that path.
    #[error("{}: the state directory's path is not a directory: give another with --state-dir", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// It holds other things than a daemon's state.
    #[error("{}: not a peerix state directory (it holds `{found}`): give an empty or new one with --state-dir", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Something foreign in it.
        found: String,
    },
    /// It belongs to another user.
    #[error("{}: the state directory belongs to user id {owner}: run as that user, or give another with --state-dir", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Everyone may write to it, so anyone could replace the key.
    #[error("{}: everyone may write to the state directory: run `chmod o-w` on it", path.display())]
    WritableByAll {
        /// The directory.
        path: PathBuf,
    },
    /// Made by a later version.
    #[error("{}: the state directory was written by a newer peerix: update this one, or give another with --state-dir", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon uses it.
    #[error("another peerix daemon{} uses {}: stop that one, or give another directory with --state-dir", owner(*process_id), path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id, where it could be read.
        process_id: Option<u32>,
    },
    /// It can't be written.
    #[error("{}: can't write to the state directory ({source}): make it writable, or give another with --state-dir", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key file is not a key.
    #[error("{}: holds {length} bytes where a key has 32: restore it from a backup, or move it away to get a new identity", path.display())]
    BadSecretKey {
        /// The key file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// This host's own signing key can't be used.
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    /// Any other failure.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

fn owner(process_id: Option<u32>) -> String {
    process_id
        .map(|id| format!(" (pid {id})"))
        .unwrap_or_default()
}
