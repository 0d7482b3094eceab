//! Who is believed about a store path: signatures by trusted keys, and content addresses that
//! prove themselves.
//!
//! A store path's name says nothing of its bytes, so what a peer tells of a path is believed only
//! as far as a signature covers it, by a key that this machine trusts anyway.

mod content_address;
pub mod nix_conf;

pub use content_address::proven_content_address;

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use peerix_store::nix::{NixSignature, PathInfo, TrustedPublicKey};
use thiserror::Error;

use crate::narinfo::{fingerprint, well_formed_signatures};

/// Why what was said of a store path is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustError {
    /// There is neither a signature nor a content address that proves the path.
    #[error("{store_path} carries no signature")]
    Unsigned {
        /// The path, in full.
        store_path: String,
    },
    /// All signatures are by keys that are not trusted.
    #[error(
        "{store_path} is signed by {signers} only: add the public key to trusted-public-keys, or \
         give it with --trusted-public-key"
    )]
    UntrustedSigner {
        /// The path, in full.
        store_path: String,
        /// The names of the keys that signed it, separated by commas.
        signers: String,
    },
    /// A signature names a trusted key, and does not cover these fields.
    #[error("the signature of {store_path} by {signer} is wrong: it does not cover what was said")]
    WrongSignature {
        /// The path, in full.
        store_path: String,
        /// The name of the trusted key that the signature claims.
        signer: String,
    },
}

/// The keys that this machine trusts. Clones share what is trusted for a while.
#[derive(Clone, Debug)]
pub struct Trust {
    keys: Arc<RwLock<Keys>>,
    no_verify: bool,
}

#[derive(Debug)]
struct Keys {
    /// Trusted for as long as this machine is configured so.
    configured: Vec<TrustedPublicKey>,
    /// Trusted for a while.
    leased: Vec<TrustedPublicKey>,
    /// Both, as they are asked for.
    all: Arc<[TrustedPublicKey]>,
}

impl Keys {
    fn new(configured: Vec<TrustedPublicKey>, leased: Vec<TrustedPublicKey>) -> Self {
        let all = configured.iter().chain(&leased).cloned().collect();
        Self {
            configured,
            leased,
            all,
        }
    }
}

/// A key that is trusted as long as this is there.
#[derive(Debug)]
pub struct TrustLease {
    trust: Trust,
    key: TrustedPublicKey,
}

impl Drop for TrustLease {
    fn drop(&mut self) {
        let mut keys = self.trust.keys_mut();
        let mut left = keys.leased.clone();
        if let Some(position) = left.iter().rposition(|key| *key == self.key) {
            left.remove(position);
        }
        *keys = Keys::new(keys.configured.clone(), left);
    }
}

impl Trust {
    /// Trusts `keys`, or anything at all with `no_verify`.
    #[must_use]
    pub fn new(keys: Vec<TrustedPublicKey>, no_verify: bool) -> Self {
        Self {
            keys: Arc::new(RwLock::new(Keys::new(keys, Vec::new()))),
            no_verify,
        }
    }

    /// Trusts one more key until the lease is dropped.
    #[must_use]
    pub fn lease(&self, key: TrustedPublicKey) -> TrustLease {
        let mut keys = self.keys_mut();
        let mut leased = keys.leased.clone();
        leased.push(key.clone());
        *keys = Keys::new(keys.configured.clone(), leased);
        TrustLease {
            trust: self.clone(),
            key,
        }
    }

    /// Trusts `configured` from now on instead of what it was made with; leases stay.
    pub fn replace(&self, configured: Vec<TrustedPublicKey>) {
        let mut keys = self.keys_mut();
        *keys = Keys::new(configured, keys.leased.clone());
    }

    fn keys(&self) -> Arc<[TrustedPublicKey]> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.all.clone()
    }

    fn keys_mut(&self) -> RwLockWriteGuard<'_, Keys> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that a trusted key signed exactly these fields, or that the content address proves
    /// the path.
    ///
    /// Covered are store path, NAR hash, NAR size and references. Deriver, content address and the
    /// signatures themselves are not: see [`Trust::accept`].
    ///
    /// # Errors
    /// [`TrustError`], saying what is missing.
    pub fn check(&self, info: &PathInfo) -> Result<(), TrustError> {
        if self.no_verify || proven_content_address(info).is_some() {
            return Ok(());
        }
        let keys = self.keys();
        let signed = fingerprint(info);
        let mut wrong = None;
        let mut strangers = Vec::new();
        for signature in well_formed_signatures(&info.signatures) {
            if signature.verify(signed.as_bytes(), &keys) == Ok(true) {
                return Ok(());
            }
            if knows(&keys, &signature) {
                wrong.get_or_insert(signature.key_name);
            } else {
                strangers.push(signature.key_name);
            }
        }
        let store_path = info.store_path.to_absolute_path();
        Err(match wrong {
            Some(signer) => TrustError::WrongSignature { store_path, signer },
            None if strangers.is_empty() => TrustError::Unsigned { store_path },
            None => TrustError::UntrustedSigner {
                store_path,
                signers: strangers.join(", "),
            },
        })
    }

    /// Checks what a peer said of a path and returns what of it may be passed on.
    ///
    /// Dropped are the deriver, a content address that is not proven, malformed signatures, and
    /// wrong ones under the name of a trusted key. Signatures by keys that are not known here
    /// stay: another machine may trust them.
    ///
    /// # Errors
    /// [`TrustError`], as [`Trust::check`].
    pub fn accept(&self, info: PathInfo) -> Result<PathInfo, TrustError> {
        self.check(&info)?;
        let keys = self.keys();
        let signed = fingerprint(&info);
        let signatures = well_formed_signatures(&info.signatures)
            .filter(|signature| {
                !knows(&keys, signature) || signature.verify(signed.as_bytes(), &keys) == Ok(true)
            })
            .map(|signature| signature.to_nix_string())
            .collect();
        Ok(PathInfo {
            deriver: None,
            signatures,
            ..with_proven_content_address(info)
        })
    }
}

fn knows(keys: &[TrustedPublicKey], signature: &NixSignature) -> bool {
    keys.iter().any(|key| key.name == signature.key_name)
}

/// Replaces the content address by its canonical spelling, or by none where it proves nothing.
#[must_use]
pub fn with_proven_content_address(info: PathInfo) -> PathInfo {
    PathInfo {
        content_address: proven_content_address(&info),
        ..info
    }
}

/// Returns whether one of `keys` signed exactly these fields.
#[must_use]
pub(crate) fn is_signed_by(info: &PathInfo, keys: &[TrustedPublicKey]) -> bool {
    let mut signatures = well_formed_signatures(&info.signatures)
        .filter(|signature| keys.iter().any(|key| key.name == signature.key_name))
        .peekable();
    if signatures.peek().is_none() {
        return false;
    }
    let signed = fingerprint(info);
    signatures.any(|signature| signature.verify(signed.as_bytes(), keys) == Ok(true))
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
