//! Our own signature beside those that a path came with.
//!
//! A key is one line, as Nix writes it: `NAME:BASE64` of the 64 bytes of an Ed25519 key pair, or of
//! its 32 secret bytes. It is read once and never shown.

mod key;

pub use key::{SigningKey, SigningKeyError};

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use lru::LruCache;
use peerix_store::nix::{PathInfo, TrustedPublicKey};

use crate::narinfo::fingerprint;

/// Signatures remembered, about 200 bytes each: making one takes longer than the rest of an answer.
const REMEMBERED_SIGNATURES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The keys that this machine signs with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Signing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Signs all that is offered.
    configured: Option<SigningKey>,
    /// Signs what a person shared, where no other key is configured.
    host: RwLock<Option<SigningKey>>,
    made: Mutex<LruCache<[u8; 32], String>>,
}

impl Default for Signing {
    /// Signs nothing.
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl Signing {
    /// Signs with the configured key, or what is shared with this host's own.
    #[must_use]
    pub fn new(configured: Option<SigningKey>, host: Option<SigningKey>) -> Self {
        Self(Arc::new(Inner {
            configured,
            host: RwLock::new(host),
            made: Mutex::new(LruCache::new(REMEMBERED_SIGNATURES)),
        }))
    }

    /// Whether all that is offered is signed.
    #[must_use]
    pub fn signs_all(&self) -> bool {
        self.0.configured.is_some()
    }

    /// The public half of the key that signs what is shared, if there is one.
    #[must_use]
    pub fn public_key(&self) -> Option<TrustedPublicKey> {
        let host = self.0.host.read().unwrap_or_else(PoisonError::into_inner);
        let key = self.0.configured.as_ref().or(host.as_ref());
        key.map(|key| key.public().clone())
    }

    /// Takes up a host key that was just made.
    pub fn set_host_key(&self, key: SigningKey) {
        let mut host = self.0.host.write().unwrap_or_else(PoisonError::into_inner);
        *host = Some(key);
    }

    /// Returns the signatures of a path of this machine, ours behind them.
    #[must_use]
    pub fn sign(&self, info: PathInfo, is_shared: bool) -> PathInfo {
        let host = self.0.host.read().unwrap_or_else(PoisonError::into_inner);
        let host = host.as_ref().filter(|_| is_shared);
        let Some(key) = self.0.configured.as_ref().or(host) else {
            return info;
        };
        self.with_signature(key, info)
    }

    fn with_signature(&self, key: &SigningKey, mut info: PathInfo) -> PathInfo {
        let prefix = format!("{}:", key.name());
        // Whoever signed under our name before, with this key or an older one: ours is right.
        info.signatures
            .retain(|signature| !signature.starts_with(&prefix));
        let signed = fingerprint(&info);
        let digest = *blake3::Hasher::new()
            .update(prefix.as_bytes())
            .update(key.public().key.as_bytes())
            .update(signed.as_bytes())
            .finalize()
            .as_bytes();
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        let signature = made.get_or_insert(digest, || key.sign(&signed));
        info.signatures.push(signature.clone());
        info
    }
}

/// Whether this is the line of a key.
pub(crate) fn is_key(text: &str) -> bool {
    SigningKey::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{
        Trust,
        testing::{SIGNED, made_up, path_info},
    };

    #[test]
    fn our_signature_stands_beside_the_others_and_is_right() {
        let key = SigningKey::generate("mine-1").unwrap();
        let trust = Trust::new(vec![key.public().clone()], false);
        let signing = Signing::new(Some(key), None);
        let original = path_info(SIGNED);
        for _ in 0..2 {
            let signed = signing.sign(original.clone(), false);
            assert_eq!(signed.signatures.len(), 2);
            assert_eq!(signed.signatures[0], original.signatures[0]);
            assert_eq!(trust.check(&signed), Ok(()));
            // It is not added twice.
            assert_eq!(signing.sign(signed.clone(), false), signed);
        }
    }

    #[test]
    fn a_host_key_signs_what_is_shared_alone() {
        let signing = Signing::new(None, None);
        let info = made_up(1, [2; 32], 96);
        assert_eq!(signing.sign(info.clone(), true), info);
        signing.set_host_key(SigningKey::generate("host-1").unwrap());
        assert_eq!(signing.sign(info.clone(), false), info);
        assert_eq!(signing.sign(info, true).signatures.len(), 1);
        assert!(!signing.signs_all());
    }
}
