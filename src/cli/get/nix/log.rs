//! What Nix says in its own machine-readable log (`--log-format internal-json`).

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

/// Nix's number for the activity of copying one path.
const COPY_PATH: u64 = 100;
/// Nix's number for the activity of copying several paths.
const COPY_PATHS: u64 = 103;
/// Nix's number for the result that says how far an activity is.
const PROGRESS: u64 = 105;
/// Nix's number for the result that says how much is to come of a kind of activity.
const SET_EXPECTED: u64 = 106;
/// Messages up to this level are shown: errors, warnings, notices and information.
const SHOWN_LEVEL: u64 = 3;

/// How much Nix has copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) paths_done: u64,
    pub(super) paths_expected: u64,
    pub(super) bytes_done: u64,
    pub(super) bytes_expected: u64,
}

/// The log so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Kinds of the activities under way that matter.
    kinds: HashMap<u64, u64>,
    /// Bytes of the paths that are being copied.
    under_way: HashMap<u64, u64>,
    /// Without what is under way.
    copied: Copied,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
enum Event {
    Start {
        id: u64,
        #[serde(rename = "type")]
        kind: u64,
    },
    Stop {
        id: u64,
    },
    Result {
        id: u64,
        #[serde(rename = "type")]
        kind: u64,
        #[serde(default)]
        fields: Vec<Value>,
    },
    Msg {
        level: u64,
        msg: String,
    },
    #[serde(other)]
    Other,
}

impl Log {
    /// Takes one line, and returns what of it is for people.
    pub(super) fn read(&mut self, line: &str) -> Option<String> {
        let Some(json) = line.strip_prefix("@nix ") else {
            return Some(line.to_owned()).filter(|line| !line.trim().is_empty());
        };
        match serde_json::from_str(json).unwrap_or(Event::Other) {
            Event::Msg { level, msg } => return Some(msg).filter(|_| level <= SHOWN_LEVEL),
            Event::Start {
                id,
                kind: kind @ (COPY_PATH | COPY_PATHS),
            } => {
                self.kinds.insert(id, kind);
            }
            Event::Stop { id } => {
                self.kinds.remove(&id);
                let bytes = self.under_way.remove(&id).unwrap_or_default();
                self.copied.bytes_done = self.copied.bytes_done.saturating_add(bytes);
            }
            Event::Result { id, kind, fields } => {
                let fields: Vec<u64> = fields.iter().map_while(Value::as_u64).collect();
                self.result(id, kind, &fields);
            }
            Event::Start { .. } | Event::Other => {}
        }
        None
    }

    fn result(&mut self, id: u64, kind: u64, fields: &[u64]) {
        match (kind, self.kinds.get(&id), fields) {
            (PROGRESS, Some(&COPY_PATH), [done, ..]) => {
                self.under_way.insert(id, *done);
            }
            (PROGRESS, Some(&COPY_PATHS), [done, expected, ..]) => {
                (self.copied.paths_done, self.copied.paths_expected) = (*done, *expected);
            }
            (SET_EXPECTED, _, [COPY_PATH, expected]) => self.copied.bytes_expected = *expected,
            _ => {}
        }
    }

    /// How far it is in all.
    pub(super) fn copied(&self) -> Copied {
        let bytes_done = self
            .under_way
            .values()
            .copied()
            .fold(self.copied.bytes_done, u64::saturating_add);
        let bytes_expected = self.copied.bytes_expected.max(bytes_done);
        Copied {
            bytes_done,
            bytes_expected,
            ..self.copied
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nix_copies_is_added_up_and_its_messages_are_passed_on() {
        let mut log = Log::default();
        let mut quiet = |line: &str| {
            assert_eq!(log.read(line), None, "{line}");
            log.copied()
        };
        for line in [
            r#"@nix {"action":"start","id":9,"level":0,"text":"","type":103}"#,
            r#"@nix {"action":"result","fields":[0,2,1,0],"id":9,"type":105}"#,
            r#"@nix {"action":"result","fields":[101,200],"id":8,"type":106}"#,
            r#"@nix {"action":"result","fields":[100,150],"id":8,"type":106}"#,
            r#"@nix {"action":"start","id":1,"level":3,"parent":0,"text":"copying path","type":100,"fields":["/nix/store/a","http://x",""]}"#,
            r#"@nix {"action":"result","id":1,"type":105,"fields":[10,100,0,0]}"#,
            r#"@nix {"action":"start","id":2,"level":3,"parent":0,"text":"copying path","type":100}"#,
            r#"@nix {"action":"result","id":7,"type":105,"fields":[1,2]}"#,
            r#"@nix {"action":"result","id":2,"type":105,"fields":["x"]}"#,
            r#"@nix {"action":"start","id":3,"level":4,"parent":0,"text":"downloading","type":101}"#,
            r#"@nix {"action":"sing"}"#,
            r#"@nix {"action":"msg","level":5,"msg":"chatter"}"#,
            "@nix broken",
            "",
        ] {
            quiet(line);
        }
        let copied = quiet(r#"@nix {"action":"result","id":2,"type":105,"fields":[5,50,0,0]}"#);
        assert_eq!(
            copied,
            Copied {
                paths_done: 0,
                paths_expected: 2,
                bytes_done: 15,
                bytes_expected: 150
            }
        );
        quiet(r#"@nix {"action":"result","id":1,"type":105,"fields":[100,100,0,0]}"#);
        quiet(r#"@nix {"action":"stop","id":1}"#);
        let copied = quiet(r#"@nix {"action":"result","fields":[1,2,1,0],"id":9,"type":105}"#);
        assert_eq!(
            copied,
            Copied {
                paths_done: 1,
                paths_expected: 2,
                bytes_done: 105,
                bytes_expected: 150
            }
        );
        let error = r#"@nix {"action":"msg","level":0,"msg":"error: no"}"#;
        assert_eq!(log.read(error), Some("error: no".to_owned()));
        assert_eq!(
            log.read("warning: plain"),
            Some("warning: plain".to_owned())
        );
    }
}
