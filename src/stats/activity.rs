//! The latest things that happened to paths: a bounded ring.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Events that are kept.
pub const EVENTS: usize = 500;

/// How long bytes that one peer gets of one path are one event, in seconds.
const SAME_FOR: f64 = 600.0;

/// How many of the latest events are looked through for that.
const LOOK_BACK: usize = 64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nix asked for the path.
    Check,
    /// The NAR was fetched.
    Download,
    /// A peer got the NAR, or a part of it.
    Served,
}

/// One thing that happened to one path. Fields are those of the older program, and then some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; one that goes on gets a new one.
    #[serde(default)]
    pub number: u64,
    /// The number that it had first.
    #[serde(default)]
    pub id: u64,
    /// When, in seconds since 1970.
    pub time: f64,
    /// What.
    pub action: Action,
    /// The store path hash.
    pub hash: String,
    /// The store path's name without its hash; empty where it is not known.
    pub name: String,
    /// `local`, `upstream`, `miss`, `to-peer`, `lan:<ip>` or `peer:<8 characters of its id>`.
    pub source: String,
    /// Whether it went well.
    pub success: bool,
    /// Bytes of the NAR that it was about.
    pub size: u64,
    /// The peer, by the first 16 characters of its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub peer_id: Option<String>,
    /// Why it did not go well, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub took_ms: Option<f64>,
}

impl Event {
    /// Makes an event of now, which went well and tells nothing more.
    #[must_use]
    pub fn new(action: Action, hash: String, name: String, source: String) -> Self {
        Self {
            number: 0,
            id: 0,
            time: crate::clock::unix_now(),
            action,
            hash,
            name,
            source,
            success: true,
            size: 0,
            peer_id: None,
            reason: None,
            took_ms: None,
        }
    }
}

/// The latest events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    newest: u64,
    events: VecDeque<Event>,
}

impl Activity {
    /// Whether this is not the continuation of an event: a peer gets a NAR in many requests.
    pub(super) fn is_new(&self, event: &Event) -> bool {
        self.continued(event).is_none()
    }

    fn continued(&self, event: &Event) -> Option<usize> {
        if event.action != Action::Served {
            return None;
        }
        let latest = self.events.iter().enumerate().rev().take(LOOK_BACK);
        let mut latest = latest.filter(|(_, earlier)| {
            earlier.action == Action::Served
                && earlier.hash == event.hash
                && earlier.peer_id == event.peer_id
                && (event.time - earlier.time).abs() < SAME_FOR
        });
        latest.next().map(|(index, _)| index)
    }

    /// Adds an event, or goes on with one.
    pub(super) fn push(&mut self, mut event: Event) {
        self.newest += 1;
        event.number = self.newest;
        event.id = self.newest;
        if let Some(earlier) = self
            .continued(&event)
            .and_then(|index| self.events.remove(index))
        {
            event.id = earlier.id;
            event.size = event.size.saturating_add(earlier.size);
        }
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The latest events after number `after`, at most `limit`, newest first.
    pub(super) fn after(&self, after: u64, limit: usize) -> Vec<Event> {
        let newest = self.events.iter().rev();
        let newest = newest.take_while(|event| event.number > after);
        newest.take(limit).cloned().collect()
    }

    /// When the last thing that went well did so.
    pub(super) fn last_success(&self) -> Option<f64> {
        let mut latest = self.events.iter().rev();
        latest.find(|event| event.success).map(|event| event.time)
    }

    /// The newest event's number.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Takes up events of before.
    pub(super) fn restore(&mut self, before: impl IntoIterator<Item = Event>) {
        for mut event in before.into_iter().take(EVENTS) {
            let texts = [&mut event.hash, &mut event.name, &mut event.source];
            if texts.into_iter().any(|text| text.len() > 256) {
                continue;
            }
            self.newest += 1;
            event.number = self.newest;
            event.id = self.newest;
            self.events.push_back(event);
        }
        let surplus = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..surplus);
    }

    pub(super) fn into_events(self) -> VecDeque<Event> {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(peer: &str, size: u64) -> Event {
        let mut event = Event::new(
            Action::Served,
            "hash".into(),
            "name".into(),
            "to-peer".into(),
        );
        event.peer_id = Some(peer.into());
        event.size = size;
        event
    }

    #[test]
    fn a_nar_that_a_peer_gets_in_pieces_is_one_event() {
        let mut activity = Activity::default();
        activity.push(served("a", 10));
        activity.push(served("b", 1));
        activity.push(served("a", 5));
        let events = activity.after(0, 10);
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].size, events[0].id, events[0].number), (15, 1, 3));
        assert_eq!(activity.after(2, 10).len(), 1);
        assert!(activity.after(3, 10).is_empty());
    }

    #[test]
    fn the_oldest_events_go() {
        let mut activity = Activity::default();
        for event in 0..2 * EVENTS {
            activity.push(served(&event.to_string(), 1));
        }
        assert_eq!(activity.after(0, usize::MAX).len(), EVENTS);
        assert_eq!(activity.newest(), 2 * EVENTS as u64);
    }
}
