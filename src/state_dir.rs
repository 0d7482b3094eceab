//! The state directory: who this machine is, what it knows, and that only one daemon uses it.
//!
//! ```text
//! peerix-state      says that the directory is ours, and of which version
//! lock              locked while a daemon runs; holds its process id
//! iroh_secret.key   the endpoint's key, 32 bytes, mode 0600
//! signing.key       this host's own signing key, if a person asked for one, mode 0600
//! private_shares    which shares need a token, and that token, mode 0600
//! http_address      where the running daemon's substituter listens
//! control.sock      the control socket, where the directory was given by hand
//! ```
//! The store's own files lie beside them.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use iroh::{EndpointId, SecretKey};
use peerix_store::nix::TrustedPublicKey;

use crate::signing::SigningKey;

mod error;

pub use error::StateDirError;

const MARKER: &str = "peerix-state";
const MARKER_TEXT: &str = "This is a state directory of peerix, version 1.\n";
const LOCK: &str = "lock";
const SECRET_KEY: &str = "iroh_secret.key";
const SIGNING_KEY: &str = "signing.key";
const HTTP_ADDRESS: &str = "http_address";
const SECRET_KEY_LENGTH: usize = 32;

/// What the older peerix kept in its state directory; one that holds nothing else is adopted.
const OLDER_FILES: &[&str] = &[
    "stats.json",
    "announced_state.json",
    "filter_cache.json",
    SECRET_KEY,
];
/// What may lie in a new state directory before its first use.
const UNREMARKABLE: &[&str] = &[LOCK, "lost+found"];

/// A state directory that this process holds alone, until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    is_new: bool,
    // Held for its lock.
    _lock: File,
}

impl StateDir {
    /// Takes the directory at `path`, which is made with mode 0700 if nothing is there.
    ///
    /// Nothing is changed in a directory that isn't ours.
    ///
    /// # Errors
    /// Each says what to do. A directory in use by another daemon is [`StateDirError::InUse`].
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        create(path)?;
        check(path)?;
        let lock = lock(path)?;
        let state_dir = StateDir {
            path: path.to_owned(),
            is_new: !path.join(MARKER).exists(),
            _lock: lock,
        };
        if state_dir.is_new {
            state_dir.write(MARKER, MARKER_TEXT.as_bytes(), 0o644)?;
        }
        // Left by a daemon that was killed.
        state_dir.withdraw_http_address()?;
        Ok(state_dir)
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was made, or taken over from older peerix, just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// This host's own signing key, if one was made.
    ///
    /// # Errors
    /// [`StateDirError::SigningKey`] if there is one that can't be used.
    pub fn host_key(&self) -> Result<Option<SigningKey>, StateDirError> {
        let path = self.path.join(SIGNING_KEY);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(SigningKey::load(&path)?))
    }

    /// The public halves of the keys in the state directory at `path`, whether a daemon uses it or
    /// not. Nothing is made.
    ///
    /// # Errors
    /// If there are keys that can't be read.
    pub fn public_halves(
        path: &Path,
    ) -> Result<(Option<EndpointId>, Option<TrustedPublicKey>), StateDirError> {
        let key_file = path.join(SECRET_KEY);
        let endpoint = match fs::read(&key_file) {
            Ok(bytes) => {
                let bytes: [u8; SECRET_KEY_LENGTH] =
                    bytes
                        .try_into()
                        .map_err(|bytes: Vec<u8>| StateDirError::BadSecretKey {
                            path: key_file.clone(),
                            length: bytes.len() as u64,
                        })?;
                Some(SecretKey::from_bytes(&bytes).public())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(StateDirError::Io {
                    path: key_file,
                    source,
                });
            }
        };
        let signing_file = path.join(SIGNING_KEY);
        let signing = match signing_file.exists() {
            true => Some(SigningKey::load(&signing_file)?.public().clone()),
            false => None,
        };
        Ok((endpoint, signing))
    }

    /// Keeps `key` as this host's own signing key, in place of another one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn set_host_key(&self, key: &SigningKey) -> Result<(), StateDirError> {
        self.write(SIGNING_KEY, key.to_secret_line().as_bytes(), 0o600)
    }

    /// Makes this another endpoint from the next start on.
    ///
    /// # Errors
    /// If the key can't be written.
    pub fn new_identity(&self) -> Result<SecretKey, StateDirError> {
        let key = SecretKey::generate();
        self.write(SECRET_KEY, &key.to_bytes(), 0o600)?;
        Ok(key)
    }

    /// Reads one of the files of the daemon's parts; `None` where there is none yet.
    ///
    /// # Errors
    /// If it is longer than `limit` bytes or can't be read.
    pub fn read_file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StateDirError> {
        let path = self.path.join(name);
        let read = || {
            let file = File::open(&path)?;
            if file.metadata()?.len() > limit {
                return Err(io::Error::other("it is too long"));
            }
            let mut bytes = Vec::new();
            file.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirError::Io {
                path: path.clone(),
                source,
            }),
        }
    }

    /// Writes one of the files of the daemon's parts, readable by nobody else. It is whole and on
    /// disk when this returns, or as it was.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StateDirError> {
        self.write(name, bytes, 0o600)
    }

    /// The endpoint's secret key, made at first.
    ///
    /// # Errors
    /// [`StateDirError::BadSecretKey`] for a file of another length, which is left as it is: who
    /// replaced it silently would take away this machine's identity.
    pub fn secret_key(&self) -> Result<SecretKey, StateDirError> {
        let path = self.path.join(SECRET_KEY);
        let failed = |source| StateDirError::Io {
            path: path.clone(),
            source,
        };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = SecretKey::generate();
                self.write(SECRET_KEY, &key.to_bytes(), 0o600)?;
                return Ok(key);
            }
            other => other.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        let mut bytes = [0; SECRET_KEY_LENGTH];
        if metadata.len() != SECRET_KEY_LENGTH as u64 {
            return Err(StateDirError::BadSecretKey {
                path,
                length: metadata.len(),
            });
        }
        file.read_exact(&mut bytes).map_err(failed)?;
        if metadata.mode() & 0o077 != 0 {
            tracing::warn!("others could read the endpoint's key: its mode is now 0600");
            file.set_permissions(fs::Permissions::from_mode(0o600))
                .map_err(failed)?;
        }
        Ok(SecretKey::from_bytes(&bytes))
    }

    /// Says in `http_address` where the substituter listens, for scripts that wait for it.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn publish_http_address(&self, address: SocketAddr) -> Result<(), StateDirError> {
        self.write(HTTP_ADDRESS, format!("{address}\n").as_bytes(), 0o644)
    }

    /// Takes `http_address` away again, at shutdown.
    ///
    /// # Errors
    /// If the file is there and can't be removed.
    pub fn withdraw_http_address(&self) -> Result<(), StateDirError> {
        let path = self.path.join(HTTP_ADDRESS);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateDirError::Io {
                path,
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Writes a whole file or leaves it as it was: temporary file, sync, rename, sync of the
    /// directory.
    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StateDirError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.new"));
        let write = || {
            // A leftover may have another mode.
            if let Err(error) = fs::remove_file(&temporary)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| StateDirError::Io {
            path: path.clone(),
            source,
        })
    }
}

/// Writes a new file that nobody else can read.
///
/// # Errors
/// If there is one of that name already, or it can't be written.
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn create(path: &Path) -> Result<(), StateDirError> {
    match fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
    {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(StateDirError::NotADirectory {
                path: path.to_owned(),
            })
        }
        Err(source) => Err(StateDirError::NotWritable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether the directory is ours, or empty and so may become ours.
fn check(path: &Path) -> Result<(), StateDirError> {
    let failed = |source| StateDirError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(StateDirError::ForeignOwner {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(StateDirError::WritableByAll {
            path: path.to_owned(),
        });
    }
    match fs::read_to_string(path.join(MARKER)) {
        Ok(text) if text == MARKER_TEXT => return Ok(()),
        Ok(text) if text.starts_with("This is a state directory of peerix") => {
            return Err(StateDirError::Newer {
                path: path.to_owned(),
            });
        }
        Ok(_) => {
            return Err(StateDirError::NotOurs {
                path: path.to_owned(),
                found: MARKER.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry
            .map_err(failed)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let is_known = |names: &[&str]| {
            names
                .iter()
                .any(|known| *known == name || format!("{known}.new") == name)
        };
        if !is_known(OLDER_FILES) && !is_known(UNREMARKABLE) && !is_known(&[MARKER]) {
            return Err(StateDirError::NotOurs {
                path: path.to_owned(),
                found: name,
            });
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, StateDirError> {
    let not_writable = |source| StateDirError::NotWritable {
        path: directory.to_owned(),
        source,
    };
    let path = directory.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.take(32).read_to_string(&mut text);
            let process_id = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(StateDirError::InUse {
                path: directory.to_owned(),
                process_id,
            });
        }
        Err(TryLockError::Error(source)) => return Err(StateDirError::Io { path, source }),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(not_writable)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
