//! What an upstream said of paths that carry no signature of it.
//!
//! Both answers are remembered, in one file that is written whole: a path that a public cache has
//! may be offered, with the signatures that it has there; one that it lacks is not asked for again
//! soon.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lru::LruCache;
use peerix_store::nix::{NarHash, PathInfo, StorePathHash};
use serde::{Deserialize, Serialize};

use crate::{
    clock::unix_seconds,
    narinfo::well_formed_signatures,
    state_dir::{StateDir, StateDirError},
};

const FILE: &str = "public_paths";
/// The file's first byte: what follows is postcard of this version.
const VERSION: u8 = 1;
/// Longest file that is read, in bytes: twice what [`MAX_ANSWERS`] usual answers take.
const MAX_FILE_SIZE: u64 = 32 << 20;

/// What older peerix kept of its questions.
const OLDER_FILE: &str = "filter_cache.json";

/// Answers remembered; a machine that builds for itself has some thousand unsigned paths.
const MAX_ANSWERS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// How long it is believed that a cache has a path: what one has it usually keeps.
const HAS_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long it is believed that a cache lacks a path: it may be built there any day.
const LACKS_AGE: Duration = Duration::from_secs(24 * 3600);

/// What an upstream says of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has this.
    Has(Box<PathInfo>),
    /// It lacks the path.
    Lacks,
    /// It could not be asked.
    Failed,
}

/// Asks an upstream whether it has a path.
pub trait AskUpstream: Send + Sync {
    /// Asks now; bounded in time.
    fn ask(&self, path_hash: StorePathHash) -> BoxFuture<'_, Asked>;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    /// Of what was asked; `None` where that is not known any more.
    nar_hash: Option<NarHash>,
    /// The upstream's signatures, if it has the path just as it is here.
    signatures: Option<Vec<String>>,
    /// When, in seconds since 1970.
    at: u64,
}

impl Answer {
    fn age(&self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.at))
    }

    fn lives(&self) -> Duration {
        match self.signatures {
            Some(_) => HAS_AGE,
            None => LACKS_AGE,
        }
    }

    fn is_about(&self, info: &PathInfo) -> bool {
        self.nar_hash
            .is_none_or(|nar_hash| nar_hash == info.nar_hash)
    }
}

#[derive(Debug)]
struct State {
    answers: LruCache<StorePathHash, Answer>,
    is_changed: bool,
}

/// The answers of upstreams.
#[derive(Debug)]
pub struct PublicPaths(Mutex<State>);

impl Default for PublicPaths {
    fn default() -> Self {
        Self(Mutex::new(State {
            answers: LruCache::new(MAX_ANSWERS),
            is_changed: false,
        }))
    }
}

impl PublicPaths {
    /// Reads what was remembered, or what older peerix did; what can't be understood is asked again.
    #[must_use]
    pub fn read(state_dir: &StateDir) -> Self {
        let paths = Self::default();
        match state_dir.read_file(FILE, MAX_FILE_SIZE) {
            Ok(Some(bytes)) => paths.take(&bytes),
            Ok(None) => match state_dir.read_file(OLDER_FILE, MAX_FILE_SIZE) {
                Ok(older) => paths.take_older(&older.unwrap_or_default(), unix_seconds()),
                Err(error) => tracing::debug!(%error, "the older filter cache is not read"),
            },
            Err(error) => tracing::warn!(%error, "what the upstream has is asked again"),
        }
        paths
    }

    /// Writes what is remembered, where it changed.
    ///
    /// # Errors
    /// If the file can't be written; it is as it was then.
    pub fn write(&self, state_dir: &StateDir) -> Result<(), StateDirError> {
        let answers: Vec<(StorePathHash, Answer)> = {
            let mut state = self.state();
            if !std::mem::take(&mut state.is_changed) {
                return Ok(());
            }
            // The oldest first, as they are put back.
            let answers = state.answers.iter().rev();
            answers
                .map(|(hash, answer)| (*hash, answer.clone()))
                .collect()
        };
        // Writing plain data to a growing vector fails in no way that postcard knows.
        let bytes = postcard::to_extend(&answers, vec![VERSION]).unwrap_or_default();
        let written = state_dir.write_file(FILE, &bytes);
        if written.is_err() {
            self.state().is_changed = true;
        }
        written
    }

    /// Remembers what an upstream said of a path of this machine.
    pub fn note(&self, info: &PathInfo, asked: Asked) {
        self.note_at(info, asked, unix_seconds());
    }

    fn note_at(&self, info: &PathInfo, asked: Asked, now: u64) {
        let signatures = match asked {
            Asked::Failed => return,
            Asked::Lacks => None,
            Asked::Has(theirs) => agrees(info, &theirs).then(|| {
                well_formed_signatures(&theirs.signatures)
                    .map(|signature| signature.to_nix_string())
                    .collect()
            }),
        };
        let answer = Answer {
            nar_hash: Some(info.nar_hash),
            signatures,
            at: now,
        };
        let mut state = self.state();
        state.answers.put(info.path_hash(), answer);
        state.is_changed = true;
    }

    /// The signatures that an upstream has for just this path; `None` if it hasn't the path, or was
    /// not asked lately.
    #[must_use]
    pub fn signatures(&self, info: &PathInfo) -> Option<Vec<String>> {
        self.signatures_at(info, unix_seconds())
    }

    fn signatures_at(&self, info: &PathInfo, now: u64) -> Option<Vec<String>> {
        let mut state = self.state();
        let answer = state.answers.get(&info.path_hash())?;
        // A path whose NAR hash is another one by now is another path.
        (answer.is_about(info) && answer.age(now) < HAS_AGE)
            .then(|| answer.signatures.clone())
            .flatten()
    }

    /// How many paths of this machine an upstream is known to have, and how many to lack.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        let has = state.answers.iter();
        let has = has
            .filter(|(_, answer)| answer.signatures.is_some())
            .count();
        (has as u64, (state.answers.len() - has) as u64)
    }

    /// Whether an upstream is to be asked for the path: it wasn't, or the answer is getting old.
    #[must_use]
    pub fn is_due(&self, info: &PathInfo) -> bool {
        self.is_due_at(info, unix_seconds())
    }

    fn is_due_at(&self, info: &PathInfo, now: u64) -> bool {
        let state = self.state();
        let Some(answer) = state.answers.peek(&info.path_hash()) else {
            return true;
        };
        // Before it is over, so that a path goes on being offered.
        !answer.is_about(info) || answer.age(now) >= answer.lives() / 10 * 9
    }

    fn take(&self, bytes: &[u8]) {
        let answers = match bytes.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes::<Vec<(StorePathHash, Answer)>>(rest).ok()
            }
            _ => None,
        };
        let Some(answers) = answers else {
            tracing::warn!("what the upstream has is asked again: {FILE} is damaged");
            return;
        };
        let mut state = self.state();
        for (path_hash, answer) in answers {
            state.answers.put(path_hash, answer);
        }
    }

    /// Takes over what older peerix found missing. What it found there proves nothing: it never
    /// compared NAR hashes.
    fn take_older(&self, bytes: &[u8], now: u64) {
        #[derive(Deserialize)]
        struct Older {
            #[serde(default)]
            skipped: Vec<String>,
        }
        let Ok(older) = serde_json::from_slice::<Older>(bytes) else {
            return;
        };
        let mut state = self.state();
        for path_hash in older.skipped.iter().filter_map(|hash| hash.parse().ok()) {
            let answer = Answer {
                nar_hash: None,
                signatures: None,
                at: now,
            };
            state.answers.put(path_hash, answer);
            state.is_changed = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an upstream's path is the one that is here.
fn agrees(ours: &PathInfo, theirs: &PathInfo) -> bool {
    ours.store_path == theirs.store_path
        && ours.nar_hash == theirs.nar_hash
        && ours.nar_size == theirs.nar_size
        && ours.references == theirs.references
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::{SIGNED, made_up, path_info};

    const NOW: u64 = 1_800_000_000;

    fn unsigned() -> PathInfo {
        PathInfo {
            signatures: Vec::new(),
            ..path_info(SIGNED)
        }
    }

    fn has() -> Asked {
        Asked::Has(Box::new(path_info(SIGNED)))
    }

    #[test]
    fn what_the_upstream_has_is_public_until_the_answer_is_old() {
        let paths = PublicPaths::default();
        let info = unsigned();
        assert!(paths.is_due_at(&info, NOW));
        paths.note_at(&info, has(), NOW);
        assert_eq!(
            paths.signatures_at(&info, NOW),
            Some(path_info(SIGNED).signatures)
        );
        assert!(!paths.is_due_at(&info, NOW + 24 * 3600));
        let old = NOW + HAS_AGE.as_secs();
        assert!(paths.is_due_at(&info, old - 24 * 3600));
        assert!(paths.signatures_at(&info, old - 1).is_some());
        assert_eq!(paths.signatures_at(&info, old), None);
    }

    #[test]
    fn another_nar_under_the_same_name_is_not_public() {
        let paths = PublicPaths::default();
        let info = unsigned();
        let other = PathInfo {
            nar_hash: NarHash::from_bytes([9; 32]),
            ..info.clone()
        };
        paths.note_at(&other, has(), NOW);
        assert_eq!(paths.signatures_at(&other, NOW), None);
        assert!(!paths.is_due_at(&other, NOW), "it was asked for");
        // Nor does an answer for one NAR hold for the next.
        assert!(paths.is_due_at(&info, NOW));
        paths.note_at(&info, has(), NOW);
        assert_eq!(paths.signatures_at(&other, NOW), None);
    }

    #[test]
    fn a_missing_path_is_asked_for_again_and_a_failure_is_no_answer() {
        let paths = PublicPaths::default();
        let info = unsigned();
        paths.note_at(&info, Asked::Failed, NOW);
        assert!(paths.is_due_at(&info, NOW));
        paths.note_at(&info, Asked::Lacks, NOW);
        assert!(!paths.is_due_at(&info, NOW + 3600));
        assert!(paths.is_due_at(&info, NOW + LACKS_AGE.as_secs()));
    }

    #[test]
    fn answers_survive_a_restart_and_damage_is_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        let paths = PublicPaths::default();
        paths.note(&unsigned(), has());
        paths.note(&made_up(3, [3; 32], 96), Asked::Lacks);
        paths.write(&state_dir).unwrap();
        let read = PublicPaths::read(&state_dir);
        assert!(read.signatures(&unsigned()).is_some());
        assert!(!read.is_due(&made_up(3, [3; 32], 96)));
        state_dir.write_file(FILE, b"\x01\xff\xff\xff").unwrap();
        assert!(PublicPaths::read(&state_dir).is_due(&unsigned()));
    }

    #[test]
    fn the_older_program_s_cache_says_what_is_missing_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        let (found, missing) = (unsigned(), made_up(3, [3; 32], 96));
        let older = serde_json::json!({
            "filtered": [found.path_hash().to_string()],
            "skipped": [missing.path_hash().to_string(), "nonsense"],
        });
        state_dir
            .write_file(OLDER_FILE, older.to_string().as_bytes())
            .unwrap();
        let paths = PublicPaths::read(&state_dir);
        assert!(!paths.is_due(&missing));
        assert!(paths.is_due(&found));
        assert_eq!(paths.signatures(&found), None);
    }
}
