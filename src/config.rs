//! The configuration of the daemon: what it is, where each value may come from, which one wins.
//!
//! In rising order: defaults, `/etc/peerix/config.toml`, the user's file (or the one that
//! `--config` names), `PEERIX_*` variables, flags. A value given higher up replaces the one below,
//! lists included. Every setting is one entry of [`setting::ALL`]: its flag, its variable, its key
//! in a file and its default all come from there.
//!
//! Nothing in here reads the environment or the home directory: the caller passes them as
//! [`Surroundings`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use iroh::{EndpointAddr, EndpointId, RelayUrl};
use peerix_store::{NixStore, nix::TrustedPublicKey};

use crate::{
    offer::{Announce, Filter, rules::Patterns},
    peer::gate::UploadRules,
    swarm::{self, SwarmId, SwarmSecret, id::SecretError},
};

pub mod error;
pub mod example;
pub mod file;
pub mod layer;
pub mod places;
pub mod reload;
mod resolve;
pub mod setting;
pub mod value;
mod variables;

pub use error::ConfigError;
pub use layer::{Given, Layer, Origin};
pub use places::Surroundings;

/// How peers are reached and found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whatever this build does best: iroh.
    Auto,
    /// iroh: direct connections, and relays where there are any.
    Iroh,
    /// The local network alone: nothing leaves it.
    Lan,
}

/// Which relays help where no direct connection can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// iroh's public ones, with its DNS and pkarr, and those of trackers.
    Default,
    /// Those of trackers only: no DNS, no pkarr.
    Tracker,
    /// None: no relay, no DNS, no pkarr.
    Off,
    /// These only.
    Custom(Vec<RelayUrl>),
}

/// Whether and how hard blobs are compressed between peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireCompression {
    /// Where a link is slow enough for it to pay, as hard as it pays.
    Auto,
    /// Neither offered nor asked for.
    Off,
    /// Always, at this level of zstd, 1 to 19.
    Level(u8),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// To the journal with fields where a service manager reads standard error, else as text.
    Auto,
    /// Text.
    Text,
    /// A JSON object each.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

/// The daemon's configuration, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Port of the substituter on the loopback interface; 0 takes any free one.
    pub http_port: u16,
    /// Priority that `/nix-cache-info` tells Nix; lower is asked earlier.
    pub priority: u32,
    /// Longest time for a connection to a peer to come about.
    pub timeout: Duration,
    /// More to the log.
    pub verbose: bool,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Where identity, index and downloads live.
    pub state_dir: PathBuf,
    /// The control socket, to be bound by the daemon.
    pub control_socket: PathBuf,
    /// Which Nix store is read.
    pub store: NixStore,
    /// `store` as it was written, in Nix's own terms (`auto`, `local?root=/srv/chroot`).
    pub store_uri: String,
    /// Peers known from the start.
    pub peers: Vec<EndpointAddr>,
    /// Keys whose signature makes a peer's narinfo good for this machine's Nix: those of
    /// `nix.conf` and those configured here, without repetition.
    pub trusted_public_keys: Vec<TrustedPublicKey>,
    /// Keys of public caches: what they signed may be offered to any peer.
    pub public_cache_keys: Vec<TrustedPublicKey>,
    /// HTTP caches that Nix can fall back to; empty without one. In LAN mode those only that were
    /// given explicitly.
    pub upstream_caches: Vec<String>,
    /// Tell Nix of paths that only the upstream has.
    pub proxy_upstream: bool,
    /// URLs of trackers to register with; empty without one, and always in LAN mode.
    pub trackers: Vec<String>,
    /// The name under which trackers of the older program list this machine; by default its
    /// endpoint id.
    pub tracker_peer_id: Option<String>,
    /// Certificates of authorities that are trusted for trackers and relays, in PEM.
    pub ca_file: Option<PathBuf>,
    /// How peers are reached.
    pub mode: Mode,
    /// Peers are found on the local network, and it may ask this machine over HTTP. Always so in
    /// LAN mode.
    pub lan_discovery: bool,
    /// Which relays are used; none in LAN mode.
    pub relay: Relay,
    /// Where iroh's socket binds; `None` is port 12306, or any free one where that is taken.
    pub iroh_bind: Option<SocketAddr>,
    /// The key with which all that is offered is signed.
    pub private_key: Option<PathBuf>,
    /// What is offered without being shared by hand.
    pub filter: Filter,
    /// Names that are not offered unless they are shared by hand.
    pub excluded: Patterns,
    /// How many paths are looked up upstream at once.
    pub filter_concurrency: usize,
    /// The swarm to take part in, if any.
    pub swarm: Option<String>,
    /// The file with the secret of a private swarm; only with the name of a swarm other than
    /// `public`.
    pub swarm_secret_file: Option<PathBuf>,
    /// What is announced of what is offered; all of it where nothing is said, but to a tracker that
    /// knows nothing of signatures only what is said.
    pub announce: Option<Announce>,
    /// The only endpoints to speak with; empty for all.
    pub allow_peers: Vec<EndpointId>,
    /// Endpoints never to speak with.
    pub deny_peers: Vec<EndpointId>,
    /// Be another endpoint at each start.
    pub ephemeral_identity: bool,
    /// Don't ask for signatures of what peers send.
    pub no_verify: bool,
    /// Accept `http://` for trackers and upstream caches.
    pub allow_insecure_http: bool,
    /// Upload limit over all peers in bytes a second, loopback and private addresses included.
    /// `None` leaves the built-in policy, [`UNLIMITED`] lifts every limit.
    pub upload_limit: Option<u64>,
    /// Upload limit for each peer in bytes a second; as `upload_limit`.
    pub upload_limit_per_peer: Option<u64>,
    /// Whether and how much is uploaded.
    pub uploads: UploadRules,
    /// Bytes of NARs that peers may have hashed in a day.
    pub hash_per_day: u64,
    /// A database that tells the countries of peers.
    pub geoip_database: Option<PathBuf>,
    /// Disk space in bytes for downloads that are not in Nix's store.
    pub blob_quota: u64,
    /// Compression between peers.
    pub wire_compression: WireCompression,
    /// Time between two looks through the whole store; `None` never.
    pub scan_interval: Option<Duration>,
}

impl Config {
    /// The swarm that this machine is of, with its secret read: the public one too where it takes no
    /// part in any, since it speaks that one's protocols.
    ///
    /// # Errors
    /// Where the secret's file does not hold a secret.
    pub fn swarm_id(&self) -> Result<SwarmId, SecretError> {
        let name = self.swarm.as_deref().unwrap_or(swarm::id::PUBLIC);
        let secret = self.swarm_secret_file.as_deref().map(SwarmSecret::load);
        Ok(SwarmId::new(name, secret.transpose()?))
    }
}

/// The upload limit that is none, in bytes a second.
pub const UNLIMITED: u64 = u64::MAX;

/// Everything that a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The system's file; need not exist.
    pub system_file: Option<PathBuf>,
    /// The user's file; need not exist.
    pub user_file: Option<PathBuf>,
    /// The file named by `--config` or `PEERIX_CONFIG`, in place of the user's; must exist.
    pub named_file: Option<PathBuf>,
    /// What was given on the command line.
    pub flags: Layer,
    /// Variables, home directory and user id.
    pub surroundings: Surroundings,
    /// `trusted-public-keys` of `nix.conf`.
    pub nix_trusted_public_keys: Vec<TrustedPublicKey>,
}

impl Sources {
    /// The usual files for these surroundings, and the given flags.
    pub fn new(surroundings: Surroundings, flags: Layer) -> Self {
        Sources {
            system_file: Some(PathBuf::from(places::SYSTEM_CONFIG_FILE)),
            user_file: surroundings.user_config_file(),
            named_file: surroundings.variable("PEERIX_CONFIG").map(PathBuf::from),
            flags,
            surroundings,
            nix_trusted_public_keys: Vec::new(),
        }
    }
}

/// One setting as it was resolved, for people to read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The section in a file; empty for the top level.
    pub section: String,
    /// The key in that section.
    pub key: String,
    /// The value as text; lists have one entry each.
    pub values: Vec<String>,
    /// How a file writes it.
    pub kind: setting::Kind,
    /// Where the value came from.
    pub origin: String,
}

impl Shown {
    /// The key with its section, as `section.key`.
    pub fn name(&self) -> String {
        match self.section.as_str() {
            "" => self.key.clone(),
            section => format!("{section}.{}", self.key),
        }
    }
}

/// A configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The result.
    pub config: Config,
    /// Every setting with its origin, in the order of [`setting::ALL`].
    pub shown: Vec<Shown>,
    /// `PEERIX_*` variables that are no setting and were passed over.
    pub ignored_variables: Vec<String>,
}

/// Puts all sources together.
///
/// # Errors
/// [`ConfigError`], whose message is one line that names the place and says what to do.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut winners = Layer::default();
    for file in [&sources.system_file, &sources.user_file] {
        let is_replaced = sources.named_file.is_some() && file == &sources.user_file;
        if let Some(path) = file.as_deref().filter(|_| !is_replaced)
            && let Some(text) = read_if_there(path)?
        {
            winners.override_with(file::parse(path, &text)?);
        }
    }
    if let Some(path) = &sources.named_file {
        let text =
            read_if_there(path)?.ok_or_else(|| ConfigError::MissingFile { path: path.clone() })?;
        winners.override_with(file::parse(path, &text)?);
    }
    let (variables, ignored_variables) = variables::layer(&sources.surroundings)?;
    winners.override_with(variables);
    winners.override_with(sources.flags.clone());
    let (config, shown) = resolve::resolve(&winners, sources)?;
    Ok(Loaded {
        config,
        shown,
        ignored_variables,
    })
}

/// Longest configuration file that is read, in bytes: far above any that a person writes.
const MAX_FILE_SIZE: u64 = 1 << 20;

fn read_if_there(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(metadata) if metadata.len() > MAX_FILE_SIZE => {
            return Err(unreadable(std::io::Error::other("it is over 1 MiB long")));
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(unreadable)
}

/// Variables of a process by name; those that are not UTF-8 left out.
pub type Variables = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
