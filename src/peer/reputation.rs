//! Reputations, kept over restarts.
//!
//! One file, written whole: a liar is as unwelcome after a restart as before it, and a good peer
//! as welcome.

use std::time::{Duration, Instant, SystemTime};

use iroh::EndpointId;
use serde::{Deserialize, Serialize};

use super::score::{SavedScore, Score};
use crate::state_dir::{StateDir, StateDirError};

const FILE: &str = "reputation";

/// The file's first byte: what follows is postcard of this version.
const VERSION: u8 = 1;

/// Peers whose reputation is kept, about 100 bytes each.
pub const MAX_PEERS: usize = 4096;

/// Longest file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Entry {
    id: [u8; 32],
    score: SavedScore,
}

/// Reads what was kept; what can't be understood is as good as nothing.
pub fn read(state_dir: &StateDir, now: Instant, clock: SystemTime) -> Vec<(EndpointId, Score)> {
    let bytes = match state_dir.read_file(FILE, MAX_FILE_SIZE) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "reputations of peers are forgotten");
            return Vec::new();
        }
    };
    let entries = match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes::<Vec<Entry>>(rest).ok(),
        _ => None,
    };
    let Some(entries) = entries else {
        tracing::warn!(
            "reputations of peers are forgotten: {FILE} is of another version, or damaged"
        );
        return Vec::new();
    };
    entries
        .into_iter()
        .take(MAX_PEERS)
        .filter_map(|entry| {
            let id = EndpointId::from_bytes(&entry.id).ok()?;
            Some((id, Score::restore(&entry.score, now, clock)))
        })
        .collect()
}

/// Keeps reputations: liars' first, then those seen last, at most [`MAX_PEERS`].
///
/// # Errors
/// If the file can't be written; it is as it was then.
pub fn write(
    state_dir: &StateDir,
    mut scores: Vec<(EndpointId, Score)>,
    now: Instant,
    clock: SystemTime,
) -> Result<(), StateDirError> {
    scores.retain(|(_, score)| score.total_requests > 0 || score.bytes_sent > 0);
    scores.sort_by_key(|(_, score)| std::cmp::Reverse((score.lies, score.last_seen())));
    scores.truncate(MAX_PEERS);
    let entries: Vec<Entry> = scores
        .iter()
        .map(|(id, score)| Entry {
            id: *id.as_bytes(),
            score: score.save(now, clock),
        })
        .collect();
    // Writing plain data to a growing vector fails in no way that postcard knows.
    let bytes = postcard::to_extend(&entries, vec![VERSION]).unwrap_or_default();
    state_dir.write_file(FILE, &bytes)
}

/// How often reputations are written.
pub const EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::score::Fault;

    fn id(seed: u8) -> EndpointId {
        iroh::SecretKey::from_bytes(&[seed; 32]).public()
    }

    #[test]
    fn a_liar_is_a_liar_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        let (now, clock) = (Instant::now(), SystemTime::now());
        let (mut liar, mut good) = (Score::default(), Score::default());
        liar.success(Some(Duration::from_millis(5)), now);
        liar.failure(Fault::BadData, now);
        good.success(Some(Duration::from_millis(20)), now);
        good.bytes_received = 7;
        let scores = vec![
            (id(1), liar.clone()),
            (id(2), good.clone()),
            (id(3), Score::default()),
        ];
        write(&state_dir, scores, now, clock).unwrap();
        let later = Duration::from_secs(60);
        let kept = read(&state_dir, now, clock + later);
        assert_eq!(kept.len(), 2, "who did nothing is not kept");
        let (_, kept_liar) = &kept[0];
        assert_eq!(kept_liar.lies, 1);
        assert!(kept_liar.is_backed_off(now));
        assert!(!kept_liar.is_backed_off(now + Duration::from_secs(1200)));
        let (kept_id, kept_good) = &kept[1];
        assert_eq!((*kept_id, kept_good.bytes_received), (id(2), 7));
        assert!((kept_good.value(now) - good.value(now + later)).abs() < 1e-3);
        assert_eq!(kept_good.usual_latency(), good.usual_latency());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x02\x00",
            b"\x01\xff\xff\xff\xff\x0f",
            b"nonsense",
        ] {
            state_dir.write_file(FILE, bytes).unwrap();
            assert!(read(&state_dir, Instant::now(), SystemTime::now()).is_empty());
        }
    }

    #[test]
    fn a_clock_that_jumps_punishes_nobody_for_ever() {
        let now = Instant::now();
        let mut liar = Score::default();
        liar.failure(Fault::BadData, now);
        let saved = liar.save(now, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
        let restored = Score::restore(&saved, now, SystemTime::now());
        assert!(!restored.is_backed_off(now + Duration::from_secs(600 * 65)));
    }
}
