//! Which resource a request's path names.

use peerix_store::nix::{NarHash, StorePath, StorePathHash};

use super::dashboard::Part;
use crate::narinfo::older;

/// Length of a NAR hash in nixbase32.
const NAR_HASH_CHARS: usize = 52;

/// A resource of the HTTP face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    CacheInfo,
    NarInfo(StorePathHash),
    Nar(NarHash),
    /// The own store's narinfo, as older clients ask for it.
    LocalNarInfo(StorePathHash),
    /// The own store's NAR under the name that older clients know.
    LocalNar(StorePathHash),
    Health,
    Metrics,
    Status,
    Peers,
    Dashboard(Part),
}

impl Route {
    /// Parses a path as it was sent. Nothing is decoded or normalised: a path is one of ours to
    /// the letter, or none.
    pub(super) fn parse(path: &str) -> Option<Self> {
        match path {
            "/nix-cache-info" => Some(Self::CacheInfo),
            "/health" => Some(Self::Health),
            "/metrics" => Some(Self::Metrics),
            "/status" => Some(Self::Status),
            "/peers" => Some(Self::Peers),
            _ => {
                if let Some(part) = Part::parse(path) {
                    return Some(Self::Dashboard(part));
                }
                let path = path.strip_prefix('/')?;
                if let Some(hash) = path.strip_suffix(".narinfo") {
                    return match hash.strip_prefix("local/") {
                        Some(hash) => Some(Self::LocalNarInfo(path_hash(hash)?)),
                        None => Some(Self::NarInfo(path_hash(hash)?)),
                    };
                }
                if let Some(name) = path.strip_prefix("local/nar/") {
                    return local_nar(name);
                }
                let name = path.strip_prefix("nar/")?;
                match name.strip_suffix(".nar").and_then(nar_hash) {
                    Some(nar_hash) => Some(Self::Nar(nar_hash)),
                    None => local_nar(name),
                }
            }
        }
    }

    /// Returns whether other hosts on the local network may have it.
    pub(super) fn is_for_the_network(self, path: &str) -> bool {
        match self {
            Self::CacheInfo | Self::LocalNarInfo(_) => true,
            Self::LocalNar(_) => path.starts_with("/local/"),
            _ => false,
        }
    }

    /// Returns whether Nix takes it for an answer about a path: such are 404 where refused.
    pub(super) const fn is_about_a_path(self) -> bool {
        matches!(
            self,
            Self::NarInfo(_) | Self::Nar(_) | Self::LocalNarInfo(_) | Self::LocalNar(_)
        )
    }

    /// Returns the name that metrics use.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CacheInfo => "nix-cache-info",
            Self::NarInfo(_) => "narinfo",
            Self::Nar(_) => "nar",
            Self::LocalNarInfo(_) => "local-narinfo",
            Self::LocalNar(_) => "local-nar",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Status => "status",
            Self::Peers => "peers",
            Self::Dashboard(part) => part.name(),
        }
    }
}

/// The store path in the last part of `path`, a route of [`Route::LocalNar`].
pub(super) fn local_nar_path(path: &str) -> Option<StorePath> {
    older::store_path_of_nar_name(path.rsplit('/').next()?)
}

fn local_nar(name: &str) -> Option<Route> {
    if name.contains('/') {
        return None;
    }
    let store_path = older::store_path_of_nar_name(name)?;
    Some(Route::LocalNar(StorePathHash::from(&store_path)))
}

/// Parses the query of a NAR's URL: `hash=<store path hash>` and nothing else.
pub(super) fn nar_query(query: Option<&str>) -> Option<StorePathHash> {
    path_hash(query?.strip_prefix("hash=")?)
}

fn path_hash(text: &str) -> Option<StorePathHash> {
    let hash: StorePathHash = text.parse().ok()?;
    // One spelling for each resource.
    (hash.to_string() == text).then_some(hash)
}

fn nar_hash(text: &str) -> Option<NarHash> {
    if text.len() != NAR_HASH_CHARS {
        return None;
    }
    let hash: NarHash = format!("sha256:{text}").parse().ok()?;
    (hash.nix_base32() == text).then_some(hash)
}
