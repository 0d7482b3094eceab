//! What a [`Store`](crate::Store) is opened with.

use std::path::PathBuf;

use crate::limits;

/// Where a store keeps its state and which Nix store it reads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Directory for the index, outboards and downloaded blobs; made if it is missing.
    pub state_dir: PathBuf,
    /// The Nix store whose paths are offered.
    pub nix_store: NixStore,
    /// Bytes of downloaded NARs held in memory until Nix imports them.
    pub inline_cache_bytes: u64,
    /// Bytes that downloaded blobs may take on disk; what is shared does not count.
    pub blob_quota: u64,
    /// Where the kernel tells of batteries: nothing is hashed in the background on one.
    pub power_supplies: PathBuf,
    /// Bytes of NAR layouts kept for paths read lately.
    pub layout_cache_bytes: usize,
}

impl Config {
    /// Takes the two places and leaves every bound at its default.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>, nix_store: NixStore) -> Self {
        Self {
            state_dir: state_dir.into(),
            nix_store,
            ..Self::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::new(),
            nix_store: NixStore::Auto,
            inline_cache_bytes: 32 * 1024 * 1024,
            blob_quota: limits::BLOB_QUOTA,
            power_supplies: PathBuf::from("/sys/class/power_supply"),
            layout_cache_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Where Nix's daemon listens unless it is told otherwise.
pub const DAEMON_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// Which Nix store is read, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NixStore {
    /// The system's store at `/nix`: through its SQLite database where this user can read it
    /// safely, else through Nix's daemon.
    #[default]
    Auto,
    /// The system's store at `/nix`, through Nix's daemon.
    Daemon {
        /// The daemon's socket; `None` is [`DAEMON_SOCKET`].
        socket: Option<PathBuf>,
    },
    /// The store below a directory, read through its SQLite database.
    Local {
        /// The directory before `/nix/store`; `None` is `/`.
        root: Option<PathBuf>,
    },
}

impl NixStore {
    fn below_root(&self, relative: &str) -> PathBuf {
        match self {
            Self::Local { root: Some(root) } => root.join(relative),
            Self::Auto | Self::Daemon { .. } | Self::Local { root: None } => {
                PathBuf::from("/").join(relative)
            }
        }
    }

    /// Returns the directory that holds the store paths' files.
    #[must_use]
    pub fn physical_store_dir(&self) -> PathBuf {
        self.below_root("nix/store")
    }

    /// Returns the place of Nix's SQLite database.
    #[must_use]
    pub fn database_path(&self) -> PathBuf {
        self.below_root("nix/var/nix/db/db.sqlite")
    }

    /// Returns the socket of the daemon that looks after this store; a chroot store has none.
    #[must_use]
    pub fn daemon_socket(&self) -> Option<PathBuf> {
        match self {
            Self::Daemon {
                socket: Some(socket),
            } => Some(socket.clone()),
            Self::Auto | Self::Daemon { socket: None } | Self::Local { root: None } => {
                Some(PathBuf::from(DAEMON_SOCKET))
            }
            Self::Local { root: Some(_) } => None,
        }
    }

    /// Returns the directory of Nix's garbage collector roots.
    #[must_use]
    pub fn gc_roots_dir(&self) -> PathBuf {
        self.below_root("nix/var/nix/gcroots")
    }
}
