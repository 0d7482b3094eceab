//! What a newcomer is told at once: the announcements that are known, as they came.
//!
//! Gossip replays nothing, and in a large swarm everyone speaks once in half an hour. So whoever
//! is new, or missed messages, asks its neighbours page by page. Each entry is its author's own
//! signed bytes, so a neighbour can hide some and forge none.

use std::time::Instant;

use bytes::Bytes;
use rand::rngs::ChaCha12Rng;
use serde::{Deserialize, Serialize};

use super::{Heard, Index};
use crate::{announcement::seconds, limits};

/// One author's last announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since its author said it: what is handed on does not live anew.
    pub age: u32,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Index {
    /// The announcements of the authors after `start`, by id, up to a page; and where the next page
    /// starts, if there is one.
    pub fn page(&self, start: &[u8; 32], now: Instant) -> (Vec<Entry>, Option<[u8; 32]>) {
        let after = self
            .authors
            .values()
            .filter(|author| author.id.as_bytes() > start);
        let mut after: Vec<_> = after.filter(|author| !author.raw.is_empty()).collect();
        after.sort_unstable_by(|a, b| a.id.as_bytes().cmp(b.id.as_bytes()));
        let mut entries = Vec::new();
        let mut size = 0;
        let mut last = None;
        for author in after {
            size += author.raw.len() + 16;
            if size > limits::CATALOGUE_PAGE {
                return (entries, last);
            }
            last = Some(*author.id.as_bytes());
            entries.push(Entry {
                age: seconds(author.silent_for(now)),
                bytes: author.raw.clone(),
            });
        }
        (entries, None)
    }

    /// Takes an entry of another's catalogue.
    pub fn hear_entry(
        &mut self,
        entry: &Entry,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) -> Option<Heard> {
        self.hear_with(&entry.bytes, Some(entry.age), rng, now).ok()
    }
}
