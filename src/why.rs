//! Why a path was found or not, and given or not: what became of it lately, and what is told of it
//! now.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use peerix_store::nix::StorePathHash;
use serde::{Deserialize, Serialize};

use crate::clock::unix_now;

/// Paths of which something is remembered, those longest untouched go first; about a kilobyte each
/// where much happened.
const PATHS: NonZeroUsize = NonZeroUsize::new(2048).unwrap();

/// Events remembered of each.
const EVENTS: usize = 16;

/// A yes or a no with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it is a yes.
    pub yes: bool,
    /// Why, for a person.
    pub reason: String,
}

impl Verdict {
    /// A yes.
    #[must_use]
    pub fn yes(reason: impl Into<String>) -> Self {
        Self {
            yes: true,
            reason: reason.into(),
        }
    }

    /// A no.
    #[must_use]
    pub fn no(reason: impl Into<String>) -> Self {
        Self {
            yes: false,
            reason: reason.into(),
        }
    }
}

/// Something that became of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Nix asked for it.
    Looked {
        /// Whether it was told of it.
        found: bool,
        /// How long that took, in milliseconds.
        took_ms: f64,
    },
    /// Nix asked for its NAR.
    Opened {
        /// Whether there was one.
        found: bool,
    },
    /// A peer asked for it, and it is here.
    Asked {
        /// The peer's endpoint id, shortened.
        peer: String,
        /// What it was told.
        answer: String,
    },
}

/// An event and its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// Seconds since 1970.
    pub at: f64,
    /// What became of it.
    #[serde(flatten)]
    pub event: Event,
}

/// What became of paths lately. Bounded, and in memory alone.
#[derive(Debug)]
pub struct History(Mutex<LruCache<StorePathHash, VecDeque<Noted>>>);

impl Default for History {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PATHS)))
    }
}

impl History {
    /// Notes what became of a path now.
    pub fn note(&self, path_hash: StorePathHash, event: Event) {
        let at = unix_now();
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let events = paths.get_or_insert_mut(path_hash, VecDeque::new);
        if events.len() >= EVENTS {
            events.pop_front();
        }
        events.push_back(Noted { at, event });
    }

    /// What became of a path, the oldest first.
    #[must_use]
    pub fn of(&self, path_hash: StorePathHash) -> Vec<Noted> {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let events = paths.peek(&path_hash).into_iter().flatten();
        events.cloned().collect()
    }
}

/// What one who was asked just now said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// A peer's endpoint id, a tracker, or a kind of source.
    pub who: String,
    /// What was known before it was asked.
    pub expected: Option<String>,
    /// What it said.
    pub answer: String,
    /// Whether that is believed.
    pub trusted: Option<Verdict>,
    /// How long it took, in milliseconds; null where it was not asked.
    pub took_ms: Option<f64>,
}

/// All that can be told of a path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyReport {
    /// The store path hash.
    pub hash: String,
    /// The absolute store path, where anybody named it.
    pub store_path: Option<String>,
    /// Where this machine has it.
    pub here: Option<String>,
    /// Whether this machine's own copy may be told to Nix.
    pub told_to_nix: Option<Verdict>,
    /// Whether any peer may have this machine's copy.
    pub offered: Option<Verdict>,
    /// Whether swarm and trackers are told of it.
    pub announced: bool,
    /// Who was asked now, and what they said.
    pub answers: Vec<Answer>,
    /// Whether Nix would be told of it now.
    pub conclusion: Verdict,
    /// What became of it lately.
    pub recent: Vec<Noted>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> StorePathHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        StorePathHash::from_bytes(bytes)
    }

    #[test]
    fn what_is_remembered_is_bounded_by_path_and_in_all() {
        let history = History::default();
        for number in 0..PATHS.get() as u32 + 10 {
            history.note(hash(number), Event::Opened { found: false });
        }
        assert_eq!(history.of(hash(0)), []);
        let latest = hash(PATHS.get() as u32);
        for _ in 0..2 * EVENTS {
            history.note(latest, Event::Opened { found: true });
        }
        assert_eq!(history.of(latest).len(), EVENTS);
    }
}
