//! The control socket: what the command line asks of a running daemon.
//!
//! HTTP over a unix socket; answers are JSON, and for what takes long one JSON value a line:
//! `{"progress": ...}` any number of times, then `{"done": ...}` or `{"error": ...}`. Who may ask
//! for what is decided by the credentials that the kernel gives for the other side.

use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use peerix_store::nix::{StorePath, StorePathHash, TrustedPublicKey};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{report::Report, share::ShareToken, ticket::PeerAddr, why::WhyReport};

pub mod client;
pub mod credentials;
mod server;
pub mod socket;

pub use client::{Client, ClientError};
pub use server::serve;
pub use socket::{ControlSocket, SocketError};

/// What a daemon does for its control socket.
///
/// Futures may be dropped at any point when the asking side goes away; what must not stay half
/// done has to run in a task of its own.
pub trait Operations: Send + Sync + 'static {
    /// What `GET /status` of the substituter tells.
    fn status(&self) -> BoxFuture<'_, serde_json::Value>;
    /// What `GET /peers` of the substituter tells.
    fn peers(&self) -> BoxFuture<'_, serde_json::Value>;
    /// All that one look at the daemon needs.
    fn report(&self) -> BoxFuture<'_, Report>;
    /// What can be told of a path: who has it, who said what, and what became of it lately.
    fn why(&self, path_hash: StorePathHash) -> BoxFuture<'_, WhyReport>;
    /// What was shared by hand.
    fn shared(&self) -> BoxFuture<'_, Result<Vec<SharedPath>, OperationError>>;
    /// This endpoint's own ticket, without paths.
    fn ticket(&self) -> BoxFuture<'_, String>;
    /// Shares `paths` with their closures.
    fn share(
        &self,
        paths: Vec<StorePath>,
        how: ShareHow,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<Shared, OperationError>>;
    /// Takes `paths` back.
    fn unshare(&self, paths: Vec<StorePath>) -> BoxFuture<'_, Result<(), OperationError>>;
    /// Makes a peer known, and shows it the token of what it shares in private, for as long as the daemon runs.
    fn add_peer(
        &self,
        peer: PeerAddr,
        token: Option<ShareToken>,
    ) -> BoxFuture<'_, Result<(), OperationError>>;
    /// Trusts a key besides, until the future is dropped.
    fn trust(
        &self,
        key: TrustedPublicKey,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), OperationError>>;
    /// Looks through the whole store.
    fn scan(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<ScanSummary, OperationError>>;
    /// Takes over what the configuration says by now.
    fn reload(&self) -> BoxFuture<'_, ()>;
    /// Pauses hashing in the background, or lets it go on.
    fn pause(&self, pause: bool) -> BoxFuture<'_, ()>;
    /// Uploads nothing for so many seconds, or until it is resumed.
    fn pause_uploads(&self, seconds: Option<u64>) -> BoxFuture<'_, ()>;
    /// Uploads again.
    fn resume_uploads(&self) -> BoxFuture<'_, ()>;
    /// Reads everything again that the index claims.
    fn verify(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<VerifySummary, OperationError>>;
    /// Forgets the hashes of `paths` and what was downloaded of them; returns those known.
    fn forget(&self, paths: Vec<StorePath>) -> BoxFuture<'_, Result<Vec<String>, OperationError>>;
    /// What the store holds and what it takes.
    fn store_stats(&self) -> BoxFuture<'_, Result<serde_json::Value, OperationError>>;
    /// Where the substituter listens.
    fn http_address(&self) -> SocketAddr;
    /// The Nix store that the daemon reads, as its configuration names it.
    fn store_uri(&self) -> String;
}

/// How far an operation is.
///
/// Sent with `try_send`: who doesn't read misses some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Progress {
    /// NARs are being hashed.
    Hashing {
        /// Paths that are done.
        paths_done: u64,
        /// Paths in all.
        paths_total: u64,
        /// Bytes of NARs that are done.
        bytes_done: u64,
        /// Bytes of NARs in all.
        bytes_total: u64,
    },
    /// What is held is being read again.
    Verifying {
        /// NARs that are done.
        blobs_done: u64,
        /// NARs in all.
        blobs_total: u64,
        /// Bytes that are done.
        bytes_done: u64,
        /// Bytes in all.
        bytes_total: u64,
    },
    /// The store is being looked through.
    Scanning {
        /// Paths seen so far.
        paths: u64,
        /// Paths that there were the last time, while fewer were seen.
        #[serde(default)]
        expected: Option<u64>,
    },
    /// The key is trusted from now on.
    Trusted,
}

/// How something is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareHow {
    /// Also what no public cache has, and make a key for what nobody has signed.
    pub yes: bool,
    /// Only with those who have the ticket.
    pub private: bool,
}

/// What reading everything again found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifySummary {
    /// NARs whose every byte was right.
    pub right: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// NARs that are no longer offered, each with what was wrong.
    pub dropped: Vec<DroppedNar>,
}

/// A NAR that is no longer offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedNar {
    /// The absolute store path, where it is known.
    pub store_path: Option<String>,
    /// The blob hash.
    pub blob_hash: String,
    /// What was wrong.
    pub reason: String,
}

/// A path that was shared by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPath {
    /// The absolute store path.
    pub store_path: String,
    /// When, in seconds since 1970.
    pub shared_at: u64,
    /// Paths in its closure, itself included.
    pub closure_paths: u64,
    /// Whether only those who have the ticket are given it.
    #[serde(default)]
    pub private: bool,
}

/// The outcome of sharing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Where to get it: this endpoint and the paths.
    pub ticket: String,
    /// The absolute store paths that were shared.
    pub paths: Vec<String>,
    /// Paths in their closures.
    pub closure_paths: u64,
    /// Bytes of the closures' NARs.
    pub closure_bytes: u64,
}

/// What a look through the store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSummary {
    /// Valid paths.
    pub paths: u64,
    /// Paths that may be offered to peers.
    pub offered: u64,
}

/// Why an operation was not done; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum OperationError {
    /// Sharing these needs somebody's word.
    #[error(
        "{}: share {} with --yes if whoever has the ticket may read {}{}",
        unsigned(paths),
        it_or_them(paths),
        it_or_them(paths),
        if *makes_key { "; a key of this machine is made to sign what nobody has signed" } else { "" }
    )]
    Unconfirmed {
        /// The absolute store paths in question.
        paths: Vec<String>,
        /// Whether a key would be made for what nobody has signed.
        #[serde(default)]
        makes_key: bool,
    },
    /// The request makes no sense, or not here.
    #[error("{message}")]
    Refused {
        /// One line for a person.
        message: String,
    },
    /// Something failed on the daemon's side.
    #[error("{message}")]
    Failed {
        /// One line for a person.
        message: String,
    },
}

fn unsigned(paths: &[String]) -> String {
    match paths {
        [one] => format!("{one} is signed by no public cache"),
        _ => format!(
            "{} paths of the closure are signed by no public cache",
            paths.len()
        ),
    }
}

fn it_or_them(paths: &[String]) -> &'static str {
    if paths.len() == 1 { "it" } else { "them" }
}

/// What a client learns about the daemon before it asks for more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonInfo {
    /// Where the substituter listens.
    pub http_address: SocketAddr,
    /// The Nix store that the daemon reads.
    pub store_uri: String,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub process_id: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct ShareRequest {
    paths: Vec<String>,
    #[serde(flatten)]
    how: ShareHow,
}

#[derive(Debug, Serialize, Deserialize)]
struct TrustRequest {
    /// `NAME:BASE64`.
    key: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct UnshareRequest {
    paths: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ForgetRequest {
    paths: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PauseRequest {
    pause: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct PauseUploadsRequest {
    pause: bool,
    seconds: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AddPeerRequest {
    /// A ticket, or `ID@ADDR:PORT`.
    peer: String,
}

/// One line of a streamed answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<T> {
    Progress(Progress),
    Done(T),
    Error(OperationError),
}

#[cfg(test)]
mod tests;
