//! Which swarm this machine is of: its name, and the secret that its members prove to each other.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::secret_file::{self, Secret};

/// The swarm that everybody is of who says nothing.
pub const PUBLIC: &str = "public";

/// Longest name of a swarm, in bytes: it stands in the names of protocols, which may have 255.
pub const MAX_NAME: usize = 64;

/// Fewest bytes of a secret: trackers and members may try to guess it without asking anybody.
pub const MIN_SECRET: usize = 32;

/// Most bytes of a secret.
pub const MAX_SECRET: usize = 4096;

/// What the names begin with under which trackers know private swarms.
const PRIVATE: &str = "private-";

/// A swarm: its name, which anybody may know, and the secret of a private one. Cheap to clone.
///
/// The name makes the names of all protocols that its members speak with each other; `public` leaves
/// them as they are. The secret is in none of them, nor in the topic, and `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmId {
    name: Arc<str>,
    secret: Option<SwarmSecret>,
}

/// The secret of a private swarm. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmSecret(Arc<[u8]>);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file can't be read.
    #[error("cannot read the swarm's secret {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others on this machine can read or change it.
    #[error(
        "the swarm's secret {path} can be read or changed by others on this machine (its mode is {mode:04o}): `chmod g-wx,o= {path}`, and give all members another one if somebody may have read it"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It can be guessed, or is no secret at all.
    #[error(
        "{path} holds {length} bytes beside white space at its ends: a swarm's secret has {MIN_SECRET} to {MAX_SECRET}; `openssl rand -hex 32` makes one"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that it holds; one more than are allowed where there are more.
        length: usize,
    },
}

impl Default for SwarmId {
    /// The public swarm.
    fn default() -> Self {
        Self::new(PUBLIC, None)
    }
}

impl SwarmId {
    /// The swarm of this name, private where there is a secret.
    pub fn new(name: &str, secret: Option<SwarmSecret>) -> Self {
        Self {
            name: name.into(),
            secret,
        }
    }

    /// The name, as `--swarm` gives it. It is no secret: it can be read on the wire.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its members prove to each other, in a private swarm.
    pub fn secret(&self) -> Option<&SwarmSecret> {
        self.secret.as_ref()
    }

    /// Whether this is the swarm of everybody, whose protocols have their usual names, and whose
    /// peers may speak those of the older program.
    pub fn is_public(&self) -> bool {
        *self.name == *PUBLIC
    }

    /// The name in this swarm of the protocol that is called `alpn` in the public one.
    pub fn alpn(&self, alpn: &[u8]) -> Vec<u8> {
        peerix_gossip::alpn_in(&self.name, alpn)
    }

    /// What others than members may be told of the swarm, such as trackers and the local network:
    /// `public`, the name of a swarm without a secret, or for a private swarm `private-` and a keyed
    /// hash of its name, which only those can make who have the secret.
    ///
    /// Who is told so learns which machines are of the same swarm, and neither its name nor its
    /// secret. The same in each run and at each member; at most [`MAX_NAME`] + 8 characters of those that
    /// [`is_name`] allows.
    pub fn told_to_others(&self) -> String {
        let Some(secret) = &self.secret else {
            return self.name.to_string();
        };
        let key = blake3::derive_key("peerix swarm as others are told of it 1", secret.as_bytes());
        let hash = blake3::keyed_hash(&key, self.name.as_bytes());
        format!("{PRIVATE}{}", hash.to_hex())
    }
}

/// Whether a swarm may be called so: 1 to [`MAX_NAME`] letters, digits, dots, dashes and
/// underscores, and not as private ones are called before others.
pub fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_part) && !name.starts_with(PRIVATE)
}

impl SwarmSecret {
    /// Reads a secret, without white space at its ends, from a file that not everybody can read.
    ///
    /// # Errors
    /// [`SecretError`], which says nothing of what the file holds.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        // A group may read it: so systemd passes credentials.
        let read = secret_file::read(path, 0o027, MAX_SECRET as u64 + 64);
        let bytes = match read {
            Ok(Secret::Bytes(bytes)) => bytes,
            Ok(Secret::Open(mode)) => {
                let path = path.to_owned();
                return Err(SecretError::Open { path, mode });
            }
            Err(source) => {
                let path = path.to_owned();
                return Err(SecretError::Unreadable { path, source });
            }
        };
        let secret = bytes.trim_ascii();
        match (MIN_SECRET..=MAX_SECRET).contains(&secret.len()) {
            true => Ok(Self(secret.into())),
            false => Err(SecretError::Length {
                path: path.to_owned(),
                length: secret.len().min(MAX_SECRET + 1),
            }),
        }
    }

    /// The bytes, to be used as a key.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SwarmSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SwarmSecret")
    }
}

impl fmt::Debug for SwarmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.secret.is_some() {
            " (private)"
        } else {
            ""
        };
        write!(formatter, "SwarmId({}{kind})", self.name)
    }
}

impl fmt::Display for SwarmId {
    /// As people are told of it: "the swarm `name`".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.secret.is_some() {
            "private "
        } else {
            ""
        };
        write!(formatter, "the {kind}swarm `{}`", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn secret(bytes: &[u8], mode: u32) -> Result<SwarmSecret, SecretError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        SwarmSecret::load(&path)
    }

    #[test]
    fn others_are_told_neither_the_name_nor_the_secret_of_a_private_swarm() {
        let of = |name, byte| {
            let secret = secret(&[byte; 40], 0o600).unwrap();
            SwarmId::new(name, Some(secret))
        };
        let ours = of("ours", b'a');
        assert_eq!(ours.told_to_others(), of("ours", b'a').told_to_others());
        assert_ne!(ours.told_to_others(), of("ours", b'b').told_to_others());
        assert_ne!(ours.told_to_others(), of("other", b'a').told_to_others());
        assert!(!ours.told_to_others().contains("ours"));
        assert!(!is_name(&ours.told_to_others()));
        assert!(!format!("{ours:?} {ours}").contains("aaa"));
        assert_eq!(SwarmId::new("ours", None).told_to_others(), "ours");
        assert_eq!(SwarmId::default().told_to_others(), "public");
    }

    #[test]
    fn the_name_of_a_swarm_is_in_its_protocols_and_its_secret_is_not() {
        let secret = secret(&[b's'; 32], 0o440).unwrap();
        let ours = SwarmId::new("ours", Some(secret));
        assert_eq!(ours.alpn(b"peerix/x/1"), b"peerix/x/1/ours");
        assert_eq!(SwarmId::default().alpn(b"peerix/x/1"), b"peerix/x/1");
    }

    #[test]
    fn a_secret_is_long_enough_and_not_for_everybody_and_the_error_says_what_to_do() {
        let with_newline = [&[b'x'; 32][..], b"\n"].concat();
        assert!(secret(&with_newline, 0o600).unwrap() == secret(&[b'x'; 32], 0o400).unwrap());
        let told = |secret: Result<SwarmSecret, SecretError>| secret.unwrap_err().to_string();
        assert!(told(secret(b"short\n", 0o600)).contains("holds 5 bytes"));
        assert!(told(secret(&[b'x'; 5000], 0o600)).contains("openssl rand -hex 32"));
        assert!(told(secret(&[b'x'; 32], 0o604)).contains("chmod g-wx,o="));
        assert!(told(secret(&[b'x'; 32], 0o620)).contains("0620"));
        assert!(told(SwarmSecret::load(Path::new("/"))).contains("not a file"));
        assert!(told(SwarmSecret::load(Path::new("/nowhere"))).contains("/nowhere"));
    }

    #[test]
    fn names_can_stand_in_a_protocol_and_in_an_address() {
        for name in ["public", "our-lab", "a.b_c", &"x".repeat(MAX_NAME)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "a b",
            "a/b",
            "ä",
            "private-x",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
