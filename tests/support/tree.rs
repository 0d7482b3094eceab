//! File trees made to measure, and their NARs written independently of the program under test.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

/// A file system object as a NAR can hold it.
#[derive(Clone, Debug)]
pub enum Node {
    /// A regular file.
    File {
        /// Where its bytes come from.
        content: Content,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A symbolic link and its target.
    Symlink(String),
    /// A directory and its entries.
    Directory(BTreeMap<String, Node>),
}

/// The bytes of a file.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes that don't compress, the same for the same seed.
    Random {
        /// Length in bytes.
        size: u64,
        /// What they are derived from.
        seed: String,
    },
    /// So many zeros, written as a hole.
    Sparse(u64),
}

impl Node {
    /// A file with these bytes.
    pub fn text(content: &str) -> Node {
        Node::bytes(content.as_bytes())
    }

    /// A file with these bytes.
    pub fn bytes(content: &[u8]) -> Node {
        Node::File {
            content: Content::Bytes(content.to_vec()),
            executable: false,
        }
    }

    /// A file of `size` bytes that don't compress.
    pub fn random(size: u64, seed: &str) -> Node {
        Node::File {
            content: Content::Random {
                size,
                seed: seed.to_owned(),
            },
            executable: false,
        }
    }

    /// An executable file.
    pub fn script(content: &str) -> Node {
        Node::File {
            content: Content::Bytes(content.as_bytes().to_vec()),
            executable: true,
        }
    }

    /// A symbolic link.
    pub fn link(target: &str) -> Node {
        Node::Symlink(target.to_owned())
    }

    /// A directory with these entries.
    pub fn directory<const N: usize>(entries: [(&str, Node); N]) -> Node {
        Node::Directory(
            entries
                .into_iter()
                .map(|(name, node)| (name.to_owned(), node))
                .collect(),
        )
    }

    /// Writes it at `path` as Nix leaves its paths: read-only, dated one second after the epoch.
    pub fn write_at(&self, path: &Path) {
        match self {
            Node::File {
                content,
                executable,
            } => {
                let mut file = fs::File::create(path).expect("a new file");
                content.write_to(&mut file).expect("space for the fixture");
                let dated = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
                file.set_modified(dated).expect("a settable time");
                drop(file);
                set_mode(path, if *executable { 0o555 } else { 0o444 });
            }
            Node::Symlink(target) => symlink(target, path).expect("a new symlink"),
            Node::Directory(entries) => {
                fs::create_dir(path).expect("a new directory");
                for (name, node) in entries {
                    node.write_at(&path.join(name));
                }
                set_mode(path, 0o555);
            }
        }
    }
}

impl Content {
    fn write_to(&self, file: &mut fs::File) -> io::Result<()> {
        match self {
            Content::Bytes(bytes) => file.write_all(bytes),
            Content::Sparse(size) => file.set_len(*size),
            Content::Random { size, seed } => {
                let mut stream = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
                let mut block = vec![0; 1 << 20];
                let mut left = *size;
                while left > 0 {
                    let now = left.min(block.len() as u64) as usize;
                    stream.fill(&mut block[..now]);
                    file.write_all(&block[..now])?;
                    left -= now as u64;
                }
                Ok(())
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

/// Writes the NAR of what lies at `path`.
pub fn write_nar(path: &Path, out: &mut dyn Write) -> io::Result<()> {
    string(out, b"nix-archive-1")?;
    write_node(path, out)
}

/// The NAR of what lies at `path`.
pub fn nar_of(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    write_nar(path, &mut nar).expect("a readable tree");
    nar
}

/// SHA-256 and length of the NAR of what lies at `path`.
pub fn nar_hash_of(path: &Path) -> ([u8; 32], u64) {
    struct Hashing(Sha256, u64);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            self.1 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hashing = Hashing(Sha256::new(), 0);
    write_nar(path, &mut hashing).expect("a readable tree");
    (hashing.0.finalize().into(), hashing.1)
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn write_node(path: &Path, out: &mut dyn Write) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    string(out, b"(")?;
    string(out, b"type")?;
    if metadata.is_symlink() {
        string(out, b"symlink")?;
        string(out, b"target")?;
        string(out, fs::read_link(path)?.as_os_str().as_bytes())?;
    } else if metadata.is_dir() {
        string(out, b"directory")?;
        let mut names = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            string(out, b"entry")?;
            string(out, b"(")?;
            string(out, b"name")?;
            string(out, name.as_bytes())?;
            string(out, b"node")?;
            write_node(&path.join(&name), out)?;
            string(out, b")")?;
        }
    } else {
        string(out, b"regular")?;
        if metadata.permissions().mode() & 0o100 != 0 {
            string(out, b"executable")?;
            string(out, b"")?;
        }
        string(out, b"contents")?;
        out.write_all(&metadata.len().to_le_bytes())?;
        let written = io::copy(&mut fs::File::open(path)?, out)?;
        padding(out, written)?;
    }
    string(out, b")")
}

fn string(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)?;
    padding(out, bytes.len() as u64)
}

fn padding(out: &mut dyn Write, written: u64) -> io::Result<()> {
    out.write_all(&[0; 8][..(8 - (written % 8) as usize) % 8])
}

/// Nix's own base 32 of `bytes`.
pub fn nix_base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let length = (bytes.len() * 8).div_ceil(5);
    (0..length)
        .rev()
        .map(|n| {
            let (byte, bit) = (n * 5 / 8, n * 5 % 8);
            let low = u16::from(bytes[byte]) >> bit;
            let high = bytes
                .get(byte + 1)
                .map_or(0, |b| u16::from(*b) << (8 - bit));
            ALPHABET[usize::from((low | high) & 31)] as char
        })
        .collect()
}
