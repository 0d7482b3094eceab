//! A connection to Nix's daemon: the few operations that are asked of it.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt as _, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::wire::{DaemonError, Timed, Version, Wire, too_late};
use crate::{
    limits,
    nix::{NarHash, PathInfo, StorePath, StorePathHash},
};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;

/// The newest version that needs no exchange of features.
const NEWEST: Version = Version::new(1, 37);
/// What Nix 2.3 speaks.
const OLDEST: Version = Version::new(1, 21);
/// The daemon tells which Nix it is.
const WITH_NIX_VERSION: Version = Version::new(1, 33);
/// The daemon tells whether it trusts this user.
const WITH_TRUST: Version = Version::new(1, 35);

const ADD_TEMP_ROOT: u64 = 11;
const ADD_INDIRECT_ROOT: u64 = 12;
const QUERY_ALL_VALID_PATHS: u64 = 23;
const QUERY_PATH_INFO: u64 = 26;
const QUERY_PATH_FROM_HASH_PART: u64 = 29;

/// A connection to Nix's daemon, for one request at a time.
///
/// Every method blocks until the answer is there, or fails after a bounded time. After an error
/// that [ends the connection](DaemonError::ends_connection) it is of no more use.
pub(crate) struct DaemonConnection {
    conversation: Conversation<Timed>,
}

impl DaemonConnection {
    /// Connects and shakes hands.
    pub(crate) fn connect(socket: &Path, within: Duration) -> Result<Self, DaemonError> {
        let deadline = Instant::now() + within;
        let stream = connect_within(socket, within)?;
        let wire = Wire::new(Timed::new(stream, deadline));
        Ok(Self {
            conversation: Conversation::shake_hands(wire)?,
        })
    }

    fn within(&mut self, time: Duration) -> &mut Conversation<Timed> {
        let deadline = Instant::now() + time;
        self.conversation.wire.stream_mut().set_deadline(deadline);
        &mut self.conversation
    }

    /// Returns the valid path of a hash.
    pub(crate) fn path_of(
        &mut self,
        path_hash: StorePathHash,
    ) -> Result<Option<StorePath>, DaemonError> {
        self.within(limits::DAEMON_ANSWER).path_of(path_hash)
    }

    /// Returns what is recorded of a path; `None` where it isn't valid.
    pub(crate) fn path_info(
        &mut self,
        store_path: &StorePath,
    ) -> Result<Option<PathInfo>, DaemonError> {
        self.within(limits::DAEMON_ANSWER).path_info(store_path)
    }

    /// Lists the valid paths.
    pub(crate) fn valid_paths(&mut self) -> Result<Vec<StorePath>, DaemonError> {
        self.within(limits::DAEMON_LIST).valid_paths()
    }

    /// Keeps a path from the garbage collector for as long as the connection stays open.
    pub(crate) fn add_temp_root(
        &mut self,
        store_path: &StorePath,
        within: Duration,
    ) -> Result<(), DaemonError> {
        let path = store_path.to_absolute_path();
        self.within(within).add_root(ADD_TEMP_ROOT, path.as_bytes())
    }

    /// Makes a symlink, which lies anywhere, a root of the garbage collector.
    pub(crate) fn add_indirect_root(
        &mut self,
        link: &Path,
        within: Duration,
    ) -> Result<(), DaemonError> {
        self.within(within)
            .add_root(ADD_INDIRECT_ROOT, link.as_os_str().as_bytes())
    }
}

/// Connects, though the daemon may have no room for one more and no time to tell.
fn connect_within(socket: &Path, within: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC;
    let unconnected = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    set_socket_timeout(&unconnected, Timeout::Send, Some(within))?;
    match connect(&unconnected, &address) {
        Ok(()) => Ok(UnixStream::from(unconnected)),
        Err(Errno::AGAIN) => Err(too_late()),
        Err(error) => Err(error.into()),
    }
}

/// The protocol, over anything that carries bytes.
struct Conversation<S: Read> {
    wire: Wire<S>,
    version: Version,
}

impl<S: Read + Write> Conversation<S> {
    fn shake_hands(mut wire: Wire<S>) -> Result<Self, DaemonError> {
        wire.put_number(CLIENT_MAGIC).send()?;
        if wire.number()? != DAEMON_MAGIC {
            return Err(DaemonError::Protocol("no daemon of Nix answers".into()));
        }
        let number = wire.number()?;
        let offered = Version::from_number(number)
            .filter(|offered| *offered >= OLDEST && offered.major() == NEWEST.major())
            .ok_or_else(|| {
                let text = Version::from_number(number)
                    .map_or_else(|| number.to_string(), |offered| offered.to_string());
                DaemonError::Protocol(format!("version {text}, expected {OLDEST} or later"))
            })?;
        let version = offered.min(NEWEST);
        // No CPU to be bound to, no space to be reserved: what older versions asked.
        wire.put_number(version.number())
            .put_number(0)
            .put_number(0);
        wire.send()?;
        if version >= WITH_NIX_VERSION {
            wire.text()?;
        }
        if version >= WITH_TRUST {
            wire.number()?;
        }
        wire.skip_log(version)?;
        Ok(Self { wire, version })
    }

    fn ask(&mut self, operation: u64, argument: Option<&[u8]>) -> Result<(), DaemonError> {
        self.wire.put_number(operation);
        if let Some(argument) = argument {
            self.wire.put_text(argument);
        }
        self.wire.send()?;
        self.wire.skip_log(self.version)
    }

    fn path_of(&mut self, path_hash: StorePathHash) -> Result<Option<StorePath>, DaemonError> {
        let text = path_hash.to_string();
        self.ask(QUERY_PATH_FROM_HASH_PART, Some(text.as_bytes()))?;
        let path = self.wire.bytes(limits::MAX_DAEMON_PATH)?;
        if path.is_empty() {
            return Ok(None);
        }
        let found = store_path(&text, &path)?;
        if StorePathHash::from(&found) != path_hash {
            return Err(malformed(&text, "it has the path of another hash"));
        }
        Ok(Some(found))
    }

    fn path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, DaemonError> {
        let entry = path.to_absolute_path();
        self.ask(QUERY_PATH_INFO, Some(entry.as_bytes()))?;
        if self.wire.number()? == 0 {
            return Ok(None);
        }
        // The whole answer is taken before a part of it is judged: the next one comes after it.
        let deriver = self.wire.bytes(limits::MAX_DAEMON_PATH)?;
        let nar_hash = self.wire.text()?;
        let mut references = Vec::new();
        for _ in 0..self.wire.count("references", limits::MAX_REFERENCES)? {
            references.push(self.wire.bytes(limits::MAX_DAEMON_PATH)?);
        }
        let registration_time = self.wire.number()?;
        let nar_size = self.wire.number()?;
        let _is_built_here = self.wire.number()?;
        let mut signatures = Vec::new();
        for _ in 0..self.wire.count("signatures", limits::MAX_SIGNATURES)? {
            signatures.push(self.wire.text()?);
        }
        let content_address = self.wire.text()?;

        let nar_hash = match nar_hash.contains([':', '-']) {
            true => nar_hash.parse::<NarHash>(),
            false => format!("sha256:{nar_hash}").parse(),
        };
        if nar_size == 0 {
            return Err(malformed(&entry, "no NAR size"));
        }
        Ok(Some(PathInfo {
            store_path: path.clone(),
            nar_hash: nar_hash.map_err(|error| malformed(&entry, &error.to_string()))?,
            nar_size,
            references: references
                .iter()
                .map(|reference| store_path(&entry, reference))
                .collect::<Result<BTreeSet<_>, _>>()?,
            // A deriver is a hint: one that can't be read is none.
            deriver: StorePath::from_absolute_path(&deriver).ok(),
            signatures,
            content_address: Some(content_address).filter(|text| !text.is_empty()),
            registration_time: registration_time.cast_signed(),
        }))
    }

    fn valid_paths(&mut self) -> Result<Vec<StorePath>, DaemonError> {
        self.ask(QUERY_ALL_VALID_PATHS, None)?;
        let mut paths = Vec::new();
        for _ in 0..self.wire.count("valid paths", limits::MAX_VALID_PATHS)? {
            let path = self.wire.bytes(limits::MAX_DAEMON_PATH)?;
            match store_path(&String::from_utf8_lossy(&path), &path) {
                Ok(path) => paths.push(path),
                Err(error) => tracing::debug!(%error, "path skipped"),
            }
        }
        Ok(paths)
    }

    fn add_root(&mut self, operation: u64, path: &[u8]) -> Result<(), DaemonError> {
        self.ask(operation, Some(path))?;
        match self.wire.number()? {
            1 => Ok(()),
            other => Err(DaemonError::Protocol(format!("{other} for a root"))),
        }
    }
}

fn store_path(entry: &str, path: &[u8]) -> Result<StorePath, DaemonError> {
    StorePath::from_absolute_path(path).map_err(|error| malformed(entry, &error.to_string()))
}

fn malformed(entry: &str, reason: &str) -> DaemonError {
    DaemonError::Malformed {
        entry: entry.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
