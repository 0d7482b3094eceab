//! What trackers know of this machine, from one start to the next.

use std::{collections::HashMap, time::UNIX_EPOCH};

use peerix_gossip::PathHash;
use peerix_store::nix::StorePathHash;
use serde::Deserialize;

use super::{limits, session::Known};
use crate::state_dir::StateDir;

const FILE: &str = "trackers";

/// What the older program last announced; it had one tracker.
const OLDER_FILE: &str = "announced_state.json";

/// What each tracker knows, by its URL; nothing where that can't be read.
pub(super) fn read(state_dir: &StateDir) -> HashMap<String, Known> {
    let read = state_dir.read_file(FILE, limits::MEMORY_SIZE);
    let bytes = match read {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, "what trackers know is not remembered");
            return HashMap::new();
        }
    };
    postcard::from_bytes(&bytes).unwrap_or_default()
}

/// Writes it down for the next start.
pub(super) fn write(state_dir: &StateDir, known: &HashMap<String, Known>) {
    let Ok(bytes) = postcard::to_stdvec(known) else {
        return;
    };
    if let Err(error) = state_dir.write_file(FILE, &bytes) {
        tracing::debug!(%error, "what trackers know can't be remembered");
    }
}

/// What the older program told its tracker, where that was a short time ago.
pub(super) fn read_older(state_dir: &StateDir) -> Option<Known> {
    #[derive(Deserialize)]
    struct Announced {
        hashes: Vec<String>,
    }
    let path = state_dir.path().join(OLDER_FILE);
    let written = std::fs::metadata(path).and_then(|file| file.modified());
    let at = written.ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let bytes = state_dir.read_file(OLDER_FILE, limits::OLDER_MEMORY_SIZE);
    let announced: Announced = serde_json::from_slice(&bytes.ok()??).ok()?;
    let hashes = announced.hashes.iter();
    let mut paths: Vec<PathHash> = hashes
        .filter_map(|text| text.parse::<StorePathHash>().ok())
        .map(|path_hash| *path_hash.as_bytes())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    Some(Known {
        tracker: OLDER_TRACKER.to_owned(),
        sequence: 0,
        base: 0,
        at,
        paths,
    })
}

/// What a tracker without an id of its own is remembered as.
pub(super) const OLDER_TRACKER: &str = "older";

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(&directory.path().join("state")).unwrap();
        (directory, state_dir)
    }

    #[test]
    fn what_is_written_is_read_again_and_a_broken_file_is_none() {
        let (_directory, state_dir) = state_dir();
        assert!(read(&state_dir).is_empty());
        let known = Known {
            tracker: "one".to_owned(),
            sequence: 7,
            base: 7,
            at: 1000,
            paths: vec![[1; 20], [2; 20]],
        };
        let all = HashMap::from([("https://a.example".to_owned(), known)]);
        write(&state_dir, &all);
        assert_eq!(read(&state_dir), all);
        state_dir.write_file(FILE, &[255; 100]).unwrap();
        assert!(read(&state_dir).is_empty());
    }

    #[test]
    fn the_older_programs_file_is_read() {
        let (_directory, state_dir) = state_dir();
        assert!(read_older(&state_dir).is_none());
        let text = r#"{"hashes": ["17bh691vzkqk8hv1i7xiaqff85b85br3", "not a hash"]}"#;
        state_dir.write_file(OLDER_FILE, text.as_bytes()).unwrap();
        let known = read_older(&state_dir).unwrap();
        assert_eq!(known.paths.len(), 1);
        assert!(crate::clock::unix_seconds() - known.at < 60);
        state_dir.write_file(OLDER_FILE, b"{").unwrap();
        assert!(read_older(&state_dir).is_none());
    }
}
