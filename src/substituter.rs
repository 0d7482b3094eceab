//! What stands behind the HTTP face: where narinfos and NARs come from.

use std::io;
use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use peerix_store::nix::{NarHash, PathInfo, StorePathHash};

/// Answers Nix's two questions: what is this path, and what are its bytes.
///
/// Every failure is a miss: an implementation that can't answer in time, or only wrongly, says
/// `None`. Futures are dropped when the client goes away, so they must be cancel safe.
pub trait Substituter: Send + Sync + 'static {
    /// Returns what is known of a store path, already trusted, or `None` for a miss.
    ///
    /// Bounded by the implementation's lookup deadline.
    fn narinfo(&self, path_hash: StorePathHash) -> BoxFuture<'_, Option<NarInfoAnswer>>;

    /// Opens the NAR of a store path for reading.
    ///
    /// `ranged` says that the client asked for a range that does not start at 0, that is, it
    /// already holds a prefix that came from somewhere.
    fn open_nar(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        ranged: bool,
    ) -> BoxFuture<'_, Option<OpenNar>>;

    /// Returns what this machine's own store has of a path, as far as `audience` may know.
    fn local(
        &self,
        path_hash: StorePathHash,
        audience: Audience,
    ) -> BoxFuture<'_, Option<PathInfo>>;

    /// Opens the NAR of a path that [`Substituter::local`] returned.
    fn open_local(
        &self,
        path_hash: StorePathHash,
        audience: Audience,
    ) -> BoxFuture<'_, Option<OpenNar>>;
}

/// Who asks the HTTP face, as its socket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A program on this machine.
    ThisMachine,
    /// Another host on the local network, by its address: it gets what is offered to peers.
    Network(IpAddr),
}

/// A trusted answer to a narinfo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarInfoAnswer {
    /// The fields to write. A deriver that is set is written out, so it must be of this
    /// machine's own knowledge and never a peer's.
    pub info: PathInfo,
}

/// A NAR that can be read.
pub struct OpenNar {
    /// Length of the NAR in bytes.
    pub size: u64,
    /// Where its bytes come from.
    pub body: Box<dyn NarBody>,
}

/// The bytes of one opened NAR.
pub trait NarBody: Send {
    /// Streams `range`, in order. An error cuts the client's connection.
    ///
    /// The pieces go to the socket as they are, without a copy: 64 KiB to 1 MiB each serve best.
    /// Whoever yields the last byte vouches for all of them, and is dropped right after it, so
    /// nothing may be left to do then.
    fn stream(self: Box<Self>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>>;
}
