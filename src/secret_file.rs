//! Files that a person keeps from others on the same machine.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// What came of reading one.
pub(crate) enum Secret {
    /// What it holds.
    Bytes(Vec<u8>),
    /// Others have rights to it that they must not have; this is its mode.
    Open(u32),
}

/// Reads up to `most` bytes of a file whose mode has none of the bits `forbidden`.
///
/// What systemd passes to the service ([`is_credential`]) may be readable by its group: systemd lets
/// the service's user read it by an access list, whose mask the mode shows there.
///
/// # Errors
/// What the system says, and that `path` is not a file.
pub(crate) fn read(path: &Path, forbidden: u32, most: u64) -> io::Result<Secret> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut forbidden = forbidden;
    if is_credential(path) {
        forbidden &= !0o040;
    }
    if metadata.mode() & forbidden != 0 {
        return Ok(Secret::Open(metadata.mode() & 0o7777));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Secret::Bytes(bytes))
}

/// Whether a file is a credential of the service that this process is, by systemd's word.
fn is_credential(path: &Path) -> bool {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
    directory.is_some_and(|directory| path.parent() == Some(Path::new(&directory)))
}
