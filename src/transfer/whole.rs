//! Sources that give a NAR only from its start, unverified until SHA-256: HTTP caches, and peers
//! that speak an older protocol.
//!
//! They are asked in the order of their registration, after the peers that serve verified ranges.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture, stream::BoxStream};
use peerix_store::{PathInfo, nix::StorePathHash};

use crate::{metrics::Fault, report::Source};

/// The bytes of one uncompressed NAR, from the first on.
///
/// The stream's owner bounds every wait in it: one that yields nothing for
/// [`limits::STALL`](crate::limits::STALL) is given up all the same. More bytes than the NAR has
/// are a fault of the holder.
pub type NarStream = BoxStream<'static, io::Result<Bytes>>;

/// Finds narinfos and holders of NARs outside of the peers that serve verified ranges.
///
/// Every failure is a miss: an implementation that can't answer says nothing.
pub trait WholeNarSource: Send + Sync + 'static {
    /// Whether its holders are peers: asked together with all others, their bytes counted as
    /// peers' bytes. Else it is asked after them.
    fn is_peer(&self) -> bool;

    /// Whether a question to it is one to everybody on a network: it is asked for a path once all
    /// other peers said no.
    fn asks_everybody(&self) -> bool {
        false
    }

    /// Whether Nix may be told of a path that only this source knows.
    fn tells_nix(&self) -> bool {
        true
    }

    /// What this source says of a path, or `None`. Not trusted yet: the caller checks it.
    ///
    /// The caller waits no longer than a lookup may take. Cancel safe.
    fn path_info(&self, path_hash: StorePathHash) -> BoxFuture<'_, Option<PathInfo>> {
        let _ = path_hash;
        async { None }.boxed()
    }

    /// Who may have the NAR of `info`, whose fields are trusted; the best first.
    fn holders<'a>(&'a self, info: &'a PathInfo) -> BoxFuture<'a, Vec<Arc<dyn WholeNarHolder>>>;
}

/// One that may have one NAR.
pub trait WholeNarHolder: Send + Sync {
    /// How logs name it.
    fn name(&self) -> String;

    /// Which way its bytes come, as far as is known once it was opened.
    fn source(&self) -> Source;

    /// Asks for the NAR, uncompressed.
    ///
    /// # Errors
    /// The fault, of which the holder is told by [`WholeNarHolder::ended`] like of any other.
    fn open(&self) -> BoxFuture<'_, Result<NarStream, Fault>>;

    /// Hears how it went, once for each call of [`WholeNarHolder::open`]: how many bytes of the
    /// NAR came, and what was wrong. The place to keep its score.
    fn ended(&self, received: u64, fault: Option<Fault>);
}

/// Sources in the order in which they are asked.
pub type WholeNarSources = Arc<[Arc<dyn WholeNarSource>]>;
