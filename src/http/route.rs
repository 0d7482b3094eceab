//! Which resource a request's path names.

use peerix_store::nix::{NarHash, StorePathHash};

/// Length of a NAR hash in nixbase32.
const NAR_HASH_CHARS: usize = 52;

/// A resource of the HTTP face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    CacheInfo,
    NarInfo(StorePathHash),
    Nar(NarHash),
    Health,
    Metrics,
    Status,
    Peers,
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
                let path = path.strip_prefix('/')?;
                if let Some(hash) = path.strip_suffix(".narinfo") {
                    return Some(Self::NarInfo(path_hash(hash)?));
                }
                let hash = path.strip_prefix("nar/")?.strip_suffix(".nar")?;
                Some(Self::Nar(nar_hash(hash)?))
            }
        }
    }

    /// Returns the name that metrics use.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CacheInfo => "nix-cache-info",
            Self::NarInfo(_) => "narinfo",
            Self::Nar(_) => "nar",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Status => "status",
            Self::Peers => "peers",
        }
    }
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
