//! Nix's own formats: store paths, hashes, signatures and what Nix records of a path.
//!
//! The one module of the project that names the crates these formats come from, so that a
//! replacement touches one file.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use nix_derivation::nixbase32;
pub use nix_derivation::{
    CAHash, ContentAddressMethod, HashAlgorithm, NixHash, StoreDir, StorePath,
    hash::Error as NixHashError, store_path::Error as StorePathError,
};
pub use nix_narinfo::{
    BuildError as NarInfoBuildError, Compression, Field, KeyError, MAX_NARINFO_SIZE, NarInfo,
    NarInfoBuilder, NixSignature, ParseError as NarInfoParseError, SignatureError,
    TrustedPublicKey,
};

/// The logical store directory, the same for every store, chroot stores included.
pub const STORE_DIR: &str = "/nix/store";

/// Characters of a store path hash in Nix's base 32.
pub const PATH_HASH_CHARS: usize = 32;

/// Characters of a NAR hash in Nix's base 32, without `sha256:`.
pub const NAR_HASH_CHARS: usize = 52;

/// A text that is not the hash it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseHashError {
    /// Not 32 characters of Nix's base 32.
    #[error("{text:?} is no store path hash: expected 32 characters of Nix's base 32")]
    PathHash {
        /// What was given, shortened.
        text: String,
    },
    /// Not a SHA-256 in one of the notations that Nix writes.
    #[error(
        "{text:?} is no NAR hash: expected sha256:<52 characters of Nix's base 32>, \
         sha256:<64 hexadecimal digits> or sha256-<base64>"
    )]
    NarHash {
        /// What was given, shortened.
        text: String,
    },
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The 20 bytes before the `-` of a store path's name, by which paths are looked up.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StorePathHash([u8; 20]);

impl StorePathHash {
    /// Takes the 20 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Returns the 20 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl From<&StorePath> for StorePathHash {
    fn from(store_path: &StorePath) -> Self {
        Self(*store_path.digest())
    }
}

impl fmt::Display for StorePathHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&nixbase32::encode(&self.0))
    }
}

impl fmt::Debug for StorePathHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for StorePathHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = Some(text)
            .filter(|text| text.len() == PATH_HASH_CHARS)
            .and_then(|text| nixbase32::decode(text.as_bytes()).ok())
            .and_then(|bytes| <[u8; 20]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| ParseHashError::PathHash {
            text: shortened(text),
        })
    }
}

/// The SHA-256 of a whole uncompressed NAR.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NarHash([u8; 32]);

impl NarHash {
    /// Takes the 32 bytes of a SHA-256.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the SHA-256.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Writes the hash as 52 characters of Nix's base 32, without the algorithm.
    #[must_use]
    pub fn nix_base32(&self) -> String {
        nixbase32::encode(&self.0)
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.nix_base32())
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for NarHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `sha256:` of base 32 and of base 16, and `sha256-` of base 64: all that Nix writes.
        let prefixed = text.starts_with("sha256:") || text.starts_with("sha256-");
        let digest = Some(text)
            .filter(|text| prefixed && text.len() <= 80)
            .and_then(|text| NixHash::parse(text).ok())
            .filter(|parsed| parsed.algorithm() == HashAlgorithm::Sha256)
            .and_then(|parsed| <[u8; 32]>::try_from(parsed.digest_as_bytes()).ok());
        digest.map(Self).ok_or_else(|| ParseHashError::NarHash {
            text: shortened(text),
        })
    }
}

/// What Nix records of one valid store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path, with its logical store directory `/nix/store`.
    pub store_path: StorePath,
    /// SHA-256 of the uncompressed NAR.
    pub nar_hash: NarHash,
    /// Length of the uncompressed NAR in bytes, never 0.
    pub nar_size: u64,
    /// Direct dependencies; the path itself where it refers to itself.
    pub references: BTreeSet<StorePath>,
    /// The derivation that built the path.
    pub deriver: Option<StorePath>,
    /// Signatures as Nix writes them: `name:base64`.
    pub signatures: Vec<String>,
    /// Content address as Nix writes it: `fixed:r:sha256:...`, `text:sha256:...`.
    pub content_address: Option<String>,
    /// When the path became valid, in seconds since 1970.
    pub registration_time: i64,
}

impl PathInfo {
    /// Returns the hash part of the store path.
    #[must_use]
    pub fn path_hash(&self) -> StorePathHash {
        StorePathHash::from(&self.store_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-edge-question?x=1";

    #[test]
    fn a_path_hash_is_the_part_before_the_dash() {
        let store_path = StorePath::from_absolute_path(PATH.as_bytes()).unwrap();
        let path_hash = StorePathHash::from(&store_path);
        assert_eq!(path_hash.to_string(), "17bh691vzkqk8hv1i7xiaqff85b85br3");
        assert_eq!(path_hash.to_string().parse(), Ok(path_hash));
        for wrong in [
            "",
            "17bh691vzkqk8hv1i7xiaqff85b85br",
            "17bh691vzkqk8hv1i7xiaqff85b85bre",
            "17bh691vzkqk8hv1i7xiaqff85b85br33",
        ] {
            assert!(wrong.parse::<StorePathHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_nar_hash_reads_every_notation_that_nix_writes() {
        let nar_hash = NarHash::from_bytes(std::array::from_fn(|i| (i * 7) as u8));
        let parsed = NixHash::parse(&nar_hash.to_string()).unwrap();
        for text in [
            nar_hash.to_string(),
            parsed.to_nix_base16_string(),
            parsed.to_sri_string(),
        ] {
            assert_eq!(text.parse(), Ok(nar_hash), "{text}");
        }
        let bare = nar_hash.nix_base32();
        assert_eq!(bare.len(), NAR_HASH_CHARS);
        for wrong in [bare.as_str(), "", "sha256:", "sha512:00", "md5:00"] {
            assert!(wrong.parse::<NarHash>().is_err(), "{wrong}");
        }
    }
}
