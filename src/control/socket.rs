//! The socket file: where it lies, who may connect, and what happens to one left behind.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// A bound control socket; the file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    // Held for its lock: while it is, the socket file at `path` is ours to replace and remove.
    _lock: File,
}

/// Why the control socket can't be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another daemon listens there.
    #[error("another peerix daemon listens at {}: stop that one, or give this one a --state-dir of its own", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is longer than a socket's may be.
    #[error("{}: a socket's path has at most 107 bytes: give a shorter --state-dir", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is at that path.
    #[error("{}: something that is not a socket is in the control socket's place: move it away", path.display())]
    Obstructed {
        /// The path.
        path: PathBuf,
    },
    /// Any other failure.
    #[error("can't listen at {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// Longest path that fits into a socket's address, in bytes.
const MAX_SOCKET_PATH: usize = 107;

impl ControlSocket {
    /// Binds the socket at `path`, in place of one that a daemon left there that is no more.
    ///
    /// Anyone may connect; what they may do is decided by their credentials.
    ///
    /// # Errors
    /// [`SocketError::InUse`] while another daemon holds it.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        use std::os::unix::ffi::OsStrExt;
        if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(failed)?;
        }
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock_path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(SocketError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = ControlSocket {
            listener,
            path: path.to_owned(),
            _lock: lock,
        };
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(socket)
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes what a dead daemon left. The caller holds the lock, so nobody listens there.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(failed),
        Ok(_) => Err(SocketError::Obstructed {
            path: path.to_owned(),
        }),
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    }
}
