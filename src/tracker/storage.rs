//! What a tracker keeps, behind one interface: SQLite for one tracker, PostgreSQL for several
//! behind one name. `storage/conformance.rs` says what both do.
//!
//! Path hashes are interned: each distinct one has a number, and a holder's paths are one
//! [`IdSet`] of numbers, about a byte for each. Who has a path is answered from memory
//! ([`super::directory`]), which is filled from here at the start and kept up with every change.
//!
//! Numbers are given out in order. A hash that nobody has is dropped, and its number is not given
//! again before all four billion were: a swarm that makes a million paths a day gets there in eleven
//! years, who announces nothing but new hashes, as fast as one address may, in less than two days.
//! From then on any number is given that is free.

mod columns;
#[cfg(test)]
mod conformance;
mod decision;
mod older_types;
pub mod postgres;
mod sql;
pub mod sqlite;
mod transfer;
mod used;

use std::{fmt, net::SocketAddr};

use futures_util::future::BoxFuture;
use iroh::{EndpointId, RelayUrl};
use peerix_store::nix::StorePathHash;

pub use older_types::{
    Cid, OlderNode, OlderPeer, OlderTransfer, Report, Reported, Reputation, Role,
};

use super::{
    api::{AnnounceKind, TrackerId},
    id_set::IdSet,
};

/// The number of a holder.
pub type HolderId = i64;

/// Who holds paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HolderKey {
    /// An endpoint that signs what it announces.
    Signed(EndpointId),
    /// A peer of the older program, by the name that it gave.
    Older(String),
}

impl HolderKey {
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, Self::Signed(_))
    }

    /// The text that it is kept under.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Signed(endpoint) => endpoint.to_string(),
            Self::Older(peer_id) => peer_id.clone(),
        }
    }
}

/// How a holder is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// Its endpoint; nothing for an older peer that never said.
    pub endpoint: Option<EndpointId>,
    /// The relay that reaches it.
    pub relay_url: Option<RelayUrl>,
    /// The addresses that reach it.
    pub direct_addrs: Vec<SocketAddr>,
    /// The systems that its paths are for.
    pub systems: Vec<String>,
    /// The address that it announced itself from.
    pub addr: String,
}

/// One who holds paths, or held some.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Its number.
    pub id: HolderId,
    /// Who it is.
    pub key: HolderKey,
    /// The swarm that it is in.
    pub swarm: String,
    /// Whether it is there; what it had is gone otherwise.
    pub present: bool,
    /// Rises with each change of its paths or its presence.
    pub revision: i64,
    /// How it is reached.
    pub contact: Contact,
    /// When it was heard of last, in seconds since 1970.
    pub last_seen: f64,
}

/// A holder with its paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// Who.
    pub holder: Holder,
    /// The numbers of its paths; nothing where they did not change since they were last told of.
    pub paths: Option<IdSet>,
}

/// What is kept, or what of it changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Path hashes by number.
    pub hashes: Vec<(u32, StorePathHash)>,
    /// Holders; absent ones only where that changed.
    pub holdings: Vec<Holding>,
}

/// What an endpoint announced, its signature checked.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedChange {
    /// Who announces.
    pub endpoint: EndpointId,
    /// The announcement's number.
    pub sequence: u64,
    /// The swarm that it is in.
    pub swarm: String,
    /// How it is reached now.
    pub contact: Contact,
    /// What it does.
    pub kind: AnnounceKind,
    /// For a delta, the number of the announcement that it builds on.
    pub base: Option<u64>,
    /// Paths that it has.
    pub added: Vec<StorePathHash>,
    /// Paths that it no longer has.
    pub removed: Vec<StorePathHash>,
    /// The time, in seconds since 1970.
    pub now: f64,
}

/// What a peer of the older program said of its paths.
#[derive(Clone, Debug, PartialEq)]
pub struct OlderChange {
    /// The name that it gave.
    pub peer_id: String,
    /// Whether `added` is all that it has.
    pub replaces: bool,
    /// Paths that it has.
    pub added: Vec<StorePathHash>,
    /// Paths that it no longer has.
    pub removed: Vec<StorePathHash>,
    /// Where it is.
    pub addr: String,
    /// The time, in seconds since 1970.
    pub now: f64,
}

/// What became of an announcement.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is kept.
    Accepted {
        /// The holder with all its paths, or without where they did not change.
        holding: Box<Holding>,
        /// The numbers of the paths that were added.
        hashes: Vec<(u32, StorePathHash)>,
        /// The number that the next delta builds on.
        base: Option<u64>,
        /// How many paths it has now.
        count: u64,
    },
    /// It is not newer than what is kept, or builds on something else; nothing changed.
    Stale {
        /// The next number must be higher.
        sequence: u64,
        /// What a delta would have to build on.
        base: Option<u64>,
        /// What was wrong.
        reason: StaleReason,
    },
}

/// Why an announcement is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// Its number is not higher than the last.
    Sequence,
    /// It builds on paths that are not the ones that are kept.
    Base,
}

/// How long silence lasts before it means absence, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lifetimes {
    /// Of endpoints that sign.
    pub signed: f64,
    /// Of peers of the older program.
    pub older: f64,
    /// How long the number of an absent endpoint's last announcement is remembered.
    pub memory: f64,
    /// Of transfers of the older program.
    pub transfers: f64,
}

/// How much is kept of what strangers can make at will. What was heard of last stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Holders that are absent.
    pub absent: u32,
    /// Transfers of the older program.
    pub transfers: u32,
    /// Pairs of NAR hash and CID.
    pub cids: u32,
    /// Reputations.
    pub reputations: u32,
}

/// How much there is of the older program's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OlderCounts {
    /// Peers that are there.
    pub peers: u64,
    /// Pairs of NAR hash and CID.
    pub cids: u64,
}

/// What a tracker keeps. Every write is atomic and either done or reported as failed.
///
/// Dropping a future may or may not undo what it was about; a caller that cares tries again.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The tracker's id, the same for all who share a database.
    fn tracker_id(&self) -> TrackerId;

    /// A word for logs: `sqlite` or `postgres`.
    fn kind(&self) -> &'static str;

    /// Reads all hashes and all present holders.
    fn load(&self) -> BoxFuture<'_, Result<Contents, StorageError>>;

    /// Reads what others changed since the last call; without hashes.
    fn changes(&self) -> BoxFuture<'_, Result<Contents, StorageError>>;

    /// Whether others write to the same database.
    fn is_shared(&self) -> bool;

    /// Reads the hashes with these numbers.
    fn hashes(
        &self,
        ids: Vec<u32>,
    ) -> BoxFuture<'_, Result<Vec<(u32, StorePathHash)>, StorageError>>;

    /// Takes up a signed announcement.
    fn announce(&self, change: SignedChange) -> BoxFuture<'_, Result<Outcome, StorageError>>;

    /// Whether this endpoint ever signed an announcement that is still remembered.
    fn has_signed(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<bool, StorageError>>;

    /// Takes up what a peer of the older program said of its paths.
    fn announce_older(&self, change: OlderChange) -> BoxFuture<'_, Result<Outcome, StorageError>>;

    /// Marks holders as absent that were silent for too long, and returns who went.
    fn expire(
        &self,
        now: f64,
        lifetimes: Lifetimes,
    ) -> BoxFuture<'_, Result<Vec<Holder>, StorageError>>;

    /// Forgets what is too old to matter, and the oldest of what there is too much of. Nothing that
    /// an endpoint announced before it was forgotten is taken again. Returns how many hashes there
    /// are.
    fn tidy(
        &self,
        now: f64,
        lifetimes: Lifetimes,
        kept: Kept,
    ) -> BoxFuture<'_, Result<u64, StorageError>>;

    /// Drops hashes that nobody has. What nobody has must not be about to be announced.
    fn collect_hashes(&self) -> BoxFuture<'_, Result<u64, StorageError>>;

    /// The size of the database in bytes.
    fn size(&self) -> BoxFuture<'_, Result<u64, StorageError>>;

    /// Remembers an iroh node of the older program, and where the holder of its name is.
    fn put_node(&self, node: OlderNode) -> BoxFuture<'_, Result<Option<Holding>, StorageError>>;

    /// Returns the nodes that were heard of since then.
    fn nodes(&self, since: f64) -> BoxFuture<'_, Result<Vec<OlderNode>, StorageError>>;

    /// Returns one node, however long ago it was heard of.
    fn node(&self, node_id: String) -> BoxFuture<'_, Result<Option<OlderNode>, StorageError>>;

    /// Removes a node, and says whether it was there.
    fn remove_node(&self, node_id: String) -> BoxFuture<'_, Result<bool, StorageError>>;

    /// Remembers a peer of the older program that is no iroh node.
    fn put_peer(&self, peer: OlderPeer) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Returns such peers that were heard of since then: all, or those of these names.
    fn peers(
        &self,
        since: f64,
        names: Option<Vec<String>>,
    ) -> BoxFuture<'_, Result<Vec<(OlderPeer, Reputation)>, StorageError>>;

    /// Begins a transfer, and returns its number.
    fn begin_transfer(&self, transfer: OlderTransfer) -> BoxFuture<'_, Result<i64, StorageError>>;

    /// Takes up one side's report of a transfer.
    fn report(&self, report: Report) -> BoxFuture<'_, Result<Reported, StorageError>>;

    /// Returns a peer's reputation, zeros where there is none.
    fn reputation(&self, peer_id: String) -> BoxFuture<'_, Result<Reputation, StorageError>>;

    /// Remembers a NAR's CID.
    fn put_cid(&self, cid: Cid) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Returns the CIDs of these NAR hashes.
    fn cids(&self, nar_hashes: Vec<String>) -> BoxFuture<'_, Result<Vec<Cid>, StorageError>>;

    /// Returns all CIDs, at most [`super::limits::MAX_CIDS`].
    fn all_cids(&self) -> BoxFuture<'_, Result<Vec<Cid>, StorageError>>;

    /// Counts the older program's peers since then, and its CIDs.
    fn older_counts(&self, since: f64) -> BoxFuture<'_, Result<OlderCounts, StorageError>>;

    /// Ends all work on the database. Nothing can be asked afterwards.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why the database did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Somebody else holds a lock on it.
    #[error("the database is locked by another program: {0}")]
    Locked(String),
    /// There is no room, on the disk or below the quota.
    #[error("the database is full: make room on its disk, or raise --db-quota")]
    Full,
    /// It can't be reached.
    #[error("the database can't be reached: {0}")]
    Unreachable(String),
    /// One holder would have more paths than [`super::limits::MAX_PATHS_OF_ONE`].
    #[error("one peer may have at most 1,000,000 paths")]
    TooManyPaths,
    /// It can't hold what it was given.
    #[error("the database can't hold that: {0}")]
    Unfit(String),
    /// Too much waits for it.
    #[error("too many requests wait for the database")]
    Busy,
    /// Its bytes make no sense.
    #[error(
        "the database is damaged: {0}. Move it away and start again: peers announce themselves anew"
    )]
    Damaged(String),
    /// A newer peerix wrote it.
    #[error(
        "the database was written by a newer peerix (version {found}, this one knows {known}): use that one, or another --db-path"
    )]
    Newer {
        /// The version of the database.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// Something else.
    #[error("the database failed: {0}")]
    Other(String),
}
