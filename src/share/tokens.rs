//! The tokens of private shares, kept over restarts.

use std::collections::BTreeMap;

use peerix_store::nix::StorePathHash;

use super::ShareToken;
use crate::state_dir::{StateDir, StateDirError};

const FILE: &str = "private_shares";

/// Longest file that is read, in bytes: ten thousand shares.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Why the tokens can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The file can't be read or written.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The file says something else. What it hides would be open to all, so nothing is.
    #[error(
        "{path}: the tokens of private shares can't be read; restore the file, or `peerix unshare` after moving it away: what was shared in private is open to all then"
    )]
    Malformed {
        /// The file.
        path: std::path::PathBuf,
    },
}

/// Reads which shares are private, by the store path hash of their roots.
///
/// # Errors
/// [`TokensError`]; nothing may be offered then.
pub fn read_tokens(
    state_dir: &StateDir,
) -> Result<BTreeMap<StorePathHash, ShareToken>, TokensError> {
    let Some(bytes) = state_dir.read_file(FILE, MAX_FILE_SIZE)? else {
        return Ok(BTreeMap::new());
    };
    let malformed = || TokensError::Malformed {
        path: state_dir.path().join(FILE),
    };
    let text = String::from_utf8(bytes).map_err(|_| malformed())?;
    let entry = |line: &str| {
        let (root, token) = line.split_once(' ')?;
        let token: [u8; 16] = hex::decode(token).ok()?.try_into().ok()?;
        Some((root.parse().ok()?, ShareToken::from_bytes(token)))
    };
    text.lines()
        .map(|line| entry(line).ok_or_else(malformed))
        .collect()
}

/// Keeps which shares are private.
///
/// # Errors
/// [`TokensError`] if the file can't be written; it is as it was then.
pub fn write_tokens(
    state_dir: &StateDir,
    tokens: &BTreeMap<StorePathHash, ShareToken>,
) -> Result<(), TokensError> {
    let lines = tokens
        .iter()
        .map(|(root, token)| format!("{root} {}\n", hex::encode(token.as_bytes())));
    let text: String = lines.collect();
    Ok(state_dir.write_file(FILE, text.as_bytes())?)
}
