//! Which paths of this machine may be served to peers.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use peerix_store::Store;
use peerix_store::nix::{PathInfo, TrustedPublicKey};

use crate::narinfo::fingerprint;
use crate::trust::is_signed_by;

/// Verdicts remembered, about 70 bytes each: a store of 100,000 paths fits, so that going through
/// all of it again checks no signature twice.
const REMEMBERED_VERDICTS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// Decides what is offered: what a public cache signed, and what a person shared by hand.
///
/// The question is asked for every request of a peer, so verdicts are remembered. They depend on
/// what Nix's database says of the path alone; a share is looked up each time, so that an unshared
/// path is refused from the next request on.
pub struct OfferPolicy {
    public_cache_keys: Vec<TrustedPublicKey>,
    no_filter: bool,
    verdicts: Mutex<LruCache<VerdictKey, bool>>,
}

/// The start of a hash over all that a verdict depends on.
type VerdictKey = [u8; 16];

impl OfferPolicy {
    /// Offers paths signed by one of `public_cache_keys`, or every path with `no_filter`.
    #[must_use]
    pub fn new(public_cache_keys: Vec<TrustedPublicKey>, no_filter: bool) -> Self {
        let verdicts = Mutex::new(LruCache::new(REMEMBERED_VERDICTS));
        Self {
            public_cache_keys,
            no_filter,
            verdicts,
        }
    }

    /// Returns whether peers may have this path.
    #[must_use]
    pub fn is_offered(&self, store: &Store, info: &PathInfo) -> bool {
        self.no_filter || store.is_shared(info.path_hash()) || self.is_public(info)
    }

    /// Returns whether a public cache signed exactly these fields.
    #[must_use]
    pub fn is_public(&self, info: &PathInfo) -> bool {
        if info.signatures.is_empty() {
            return false;
        }
        let key = verdict_key(info);
        if let Some(&verdict) = self.verdicts().get(&key) {
            return verdict;
        }
        let verdict = is_signed_by(info, &self.public_cache_keys);
        self.verdicts().put(key, verdict);
        verdict
    }

    fn verdicts(&self) -> MutexGuard<'_, LruCache<VerdictKey, bool>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verdict_key(info: &PathInfo) -> VerdictKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fingerprint(info).as_bytes());
    for signature in &info.signatures {
        hasher.update(&(signature.len() as u64).to_le_bytes());
        hasher.update(signature.as_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests;
