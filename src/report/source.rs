//! Where the bytes of NARs come from.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use super::PeerPath;

/// Where bytes of NARs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This machine's own store.
    OwnStore,
    /// A peer on the local network.
    Lan,
    /// A peer, without anybody in between.
    Direct,
    /// A peer, through a relay.
    Relayed,
    /// An upstream cache.
    Upstream,
}

impl Source {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::OwnStore,
        Self::Lan,
        Self::Direct,
        Self::Relayed,
        Self::Upstream,
    ];

    /// Returns the name that stands in metrics and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnStore => "own_store",
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::Upstream => "upstream",
        }
    }

    /// Returns whether it is a peer.
    #[must_use]
    pub const fn is_peer(self) -> bool {
        matches!(self, Self::Lan | Self::Direct | Self::Relayed)
    }
}

impl From<PeerPath> for Source {
    fn from(path: PeerPath) -> Self {
        match path {
            PeerPath::Lan => Self::Lan,
            PeerPath::Direct => Self::Direct,
            PeerPath::Relayed => Self::Relayed,
        }
    }
}

/// One value for each [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BySource<T: Default> {
    /// Of this machine's own store.
    pub own_store: T,
    /// Of peers on the local network.
    pub lan: T,
    /// Of peers, without anybody in between.
    pub direct: T,
    /// Of peers, through a relay.
    pub relayed: T,
    /// Of upstream caches.
    pub upstream: T,
}

impl<T: Default> BySource<T> {
    /// Makes the value of each source.
    pub fn from_fn(mut value: impl FnMut(Source) -> T) -> Self {
        Self {
            own_store: value(Source::OwnStore),
            lan: value(Source::Lan),
            direct: value(Source::Direct),
            relayed: value(Source::Relayed),
            upstream: value(Source::Upstream),
        }
    }
}

impl<T: Default> Index<Source> for BySource<T> {
    type Output = T;

    fn index(&self, source: Source) -> &T {
        match source {
            Source::OwnStore => &self.own_store,
            Source::Lan => &self.lan,
            Source::Direct => &self.direct,
            Source::Relayed => &self.relayed,
            Source::Upstream => &self.upstream,
        }
    }
}

impl<T: Default> IndexMut<Source> for BySource<T> {
    fn index_mut(&mut self, source: Source) -> &mut T {
        match source {
            Source::OwnStore => &mut self.own_store,
            Source::Lan => &mut self.lan,
            Source::Direct => &mut self.direct,
            Source::Relayed => &mut self.relayed,
            Source::Upstream => &mut self.upstream,
        }
    }
}
