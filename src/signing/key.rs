//! A signing key and the file it lies in.

use std::{
    io,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use iroh::SecretKey;
use peerix_store::nix::TrustedPublicKey;

use crate::secret_file::{self, Secret};

/// Longest file that is read as a key, in bytes.
const MAX_FILE_SIZE: u64 = 4096;
/// Longest name of a key, in bytes.
const MAX_NAME: usize = 128;
const SECRET_LENGTH: usize = 32;
const PAIR_LENGTH: usize = 64;

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyError {
    /// The file can't be read.
    #[error("cannot read the signing key {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner can read it.
    #[error(
        "the signing key {path} can be read by others (its mode is {mode:04o}): make it private with `chmod 600 {path}`, and a new one if somebody may have read it"
    )]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "{path} is not a signing key: expected NAME:BASE64 as `nix-store --generate-binary-cache-key` or `peerix key generate` writes it"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// A name that no key may have.
    #[error(
        "`{name}` is not a name for a key: use letters, digits, dots, dashes and underscores, as in my-laptop-1"
    )]
    Name {
        /// The name, shortened.
        name: String,
    },
}

/// A key that signs store paths.
#[derive(Clone)]
pub struct SigningKey {
    secret: SecretKey,
    public: TrustedPublicKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("name", &self.public.name)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`SigningKeyError::Name`] for a name that can't stand in a signature.
    pub fn generate(name: &str) -> Result<Self, SigningKeyError> {
        Self::new(name, SecretKey::generate()).ok_or_else(|| SigningKeyError::Name {
            name: name.chars().take(80).collect(),
        })
    }

    fn new(name: &str, secret: SecretKey) -> Option<Self> {
        let encoded = BASE64.encode(secret.public().as_bytes());
        let public = TrustedPublicKey::parse(&format!("{name}:{encoded}")).ok()?;
        is_name(name).then_some(Self { secret, public })
    }

    /// Reads a key from a file that nobody else can read.
    ///
    /// # Errors
    /// [`SigningKeyError`], which says nothing of what the file holds.
    pub fn load(path: &Path) -> Result<Self, SigningKeyError> {
        let unreadable = |source| SigningKeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let bytes = match secret_file::read(path, 0o077, MAX_FILE_SIZE).map_err(unreadable)? {
            Secret::Bytes(bytes) => bytes,
            Secret::Open(mode) => {
                let path = path.to_owned();
                return Err(SigningKeyError::ReadableByOthers { path, mode });
            }
        };
        // The error of the conversion would hold the bytes.
        let text = String::from_utf8(bytes).map_err(|_| {
            let text = "stream did not contain valid UTF-8";
            unreadable(io::Error::new(io::ErrorKind::InvalidData, text))
        })?;
        Self::parse(&text).ok_or_else(|| SigningKeyError::Malformed {
            path: path.to_owned(),
        })
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, encoded) = text.trim().split_once(':')?;
        let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
        let secret: [u8; SECRET_LENGTH] = bytes.get(..SECRET_LENGTH)?.try_into().ok()?;
        let secret = SecretKey::from_bytes(&secret);
        let is_whole = match bytes.len() {
            SECRET_LENGTH => true,
            PAIR_LENGTH => bytes[SECRET_LENGTH..] == secret.public().as_bytes()[..],
            _ => false,
        };
        Self::new(name, secret).filter(|_| is_whole)
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.public.name
    }

    /// The public half, for `trusted-public-keys`.
    #[must_use]
    pub fn public(&self) -> &TrustedPublicKey {
        &self.public
    }

    /// The line that a key file holds.
    #[must_use]
    pub fn to_secret_line(&self) -> String {
        let mut pair = self.secret.to_bytes().to_vec();
        pair.extend_from_slice(self.secret.public().as_bytes());
        format!("{}:{}\n", self.name(), BASE64.encode(&pair))
    }

    /// Signs a fingerprint: `NAME:BASE64`.
    #[must_use]
    pub(super) fn sign(&self, fingerprint: &str) -> String {
        let signature = self.secret.sign(fingerprint.as_bytes()).to_bytes();
        format!("{}:{}", self.name(), BASE64.encode(&signature))
    }
}

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(directory: &Path, text: &str, mode: u32) -> PathBuf {
        let path = directory.join("key");
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_key_is_read_in_both_spellings_that_are_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::generate("my-laptop-1").unwrap();
        let short = BASE64.encode(&key.secret.to_bytes());
        for text in [key.to_secret_line(), format!("my-laptop-1:{short}")] {
            let read = SigningKey::load(&file(directory.path(), &text, 0o600)).unwrap();
            assert_eq!(read.public(), key.public());
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let line = SigningKey::generate("k-1").unwrap().to_secret_line();
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let error = SigningKey::load(&file(directory.path(), &line, mode)).unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn nothing_that_is_said_of_a_key_holds_its_secret() {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::generate("k-1").unwrap();
        let secret = BASE64.encode(&key.secret.to_bytes());
        let secret = secret.trim_end_matches('=');
        assert!(!format!("{key:?}").contains(&secret[..20]));
        let mut wrong_pair = key.secret.to_bytes().to_vec();
        wrong_pair.extend([7; 32]);
        for text in [
            String::new(),
            format!("k-1:{}", &secret[..20]),
            format!("k-1:{}", BASE64.encode(&wrong_pair)),
            format!("a name:{secret}="),
            format!("{secret}="),
        ] {
            let error = SigningKey::load(&file(directory.path(), &text, 0o600)).unwrap_err();
            assert!(!error.to_string().contains(&secret[..20]), "{error}");
        }
    }
}
