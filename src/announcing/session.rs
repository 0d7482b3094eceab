//! What one tracker knows of this machine, and what it is to be told next: rules without I/O.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use peerix_gossip::PathHash;
use serde::{Deserialize, Serialize};

use super::{limits, whereabouts::Whereabouts};

/// Path hashes, sorted and without repetitions.
pub(super) type Paths = Arc<[PathHash]>;

/// What a tracker acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The tracker that it was, since another one may answer at its URL some day.
    pub(super) tracker: String,
    /// The number of the last announcement.
    pub(super) sequence: u64,
    /// The number of the last one that told of paths.
    pub(super) base: u64,
    /// When that was, in seconds since 1970.
    pub(super) at: u64,
    /// The paths that it knows of us.
    pub(super) paths: Vec<PathHash>,
}

/// What to tell a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Say {
    /// All of these, and that there is nothing else.
    Full(Vec<PathHash>),
    /// What changed since the announcement `base`.
    Delta {
        base: u64,
        added: Vec<PathHash>,
        removed: Vec<PathHash>,
    },
    /// That this machine is still there, and where.
    Refresh,
}

/// What is said, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Say(Say),
    /// Nothing before then.
    At(Instant),
}

/// The record of one tracker.
#[derive(Debug)]
pub(super) struct Session {
    /// What it knows; `None` where it has to be told all.
    known: Option<Known>,
    last_sequence: u64,
    told: Option<(Whereabouts, Instant)>,
    /// Most paths in one announcement.
    most: usize,
}

/// What a tracker says that it knows after an announcement, or in place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// The number of the last announcement.
    pub(super) sequence: u64,
    /// What a delta may build on; `None` where it has to be told all.
    pub(super) base: Option<u64>,
}

impl Session {
    /// Goes on from an earlier run.
    pub(super) fn new(known: Option<Known>) -> Self {
        Self {
            last_sequence: known.as_ref().map_or(0, |known| known.sequence),
            known,
            told: None,
            most: limits::ANNOUNCED_AT_ONCE,
        }
    }

    /// Tells no more than so many paths at once.
    pub(super) fn tell_at_most(&mut self, paths: usize) {
        self.most = paths.clamp(1, limits::ANNOUNCED_AT_ONCE);
    }

    /// What the tracker knows, to be remembered.
    pub(super) fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// How many paths the tracker knows of this machine.
    pub(super) fn announced(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.paths.len())
    }

    /// Notes which tracker answers, and after which time it forgets who is silent: what another one
    /// knew, or it knew longer ago, is not known any more.
    pub(super) fn speaks_with(&mut self, tracker: &str, ttl: Duration, unix_now: u64) {
        let is_known = self.known.as_ref().is_some_and(|known| {
            known.tracker == tracker && unix_now.saturating_sub(known.at) < ttl.as_secs()
        });
        if !is_known {
            self.known = None;
        }
    }

    /// The number of the next announcement: it rises whatever the clock does.
    pub(super) fn next_sequence(&self, unix_millis: u64) -> u64 {
        unix_millis.max(self.last_sequence.saturating_add(1))
    }

    /// What to say now. `wanted` is what is to be known, where that is known already here.
    pub(super) fn next(
        &self,
        wanted: Option<&Paths>,
        whereabouts: &Whereabouts,
        interval: Duration,
        now: Instant,
    ) -> Next {
        if let Some(say) = self.next_of_paths(wanted) {
            return Next::Say(say);
        }
        match &self.told {
            Some((told, at)) if told == whereabouts => {
                let due = *at + interval;
                match due > now {
                    true => Next::At(due),
                    false => Next::Say(Say::Refresh),
                }
            }
            _ => Next::Say(Say::Refresh),
        }
    }

    /// What to say of paths, if anything is to be said of them.
    pub(super) fn next_of_paths(&self, wanted: Option<&Paths>) -> Option<Say> {
        let most = self.most;
        let Some(known) = &self.known else {
            let paths = wanted.map_or(&[][..], |wanted| &wanted[..wanted.len().min(most)]);
            return Some(Say::Full(paths.to_vec()));
        };
        if let Some(wanted) = wanted
            && wanted[..] != known.paths[..]
        {
            let (mut added, mut removed) = changes(&known.paths, wanted);
            if added.len() + removed.len() >= wanted.len() && wanted.len() <= most {
                return Some(Say::Full(wanted.to_vec()));
            }
            removed.truncate(most);
            added.truncate(most - removed.len());
            let base = known.base;
            return Some(Say::Delta {
                base,
                added,
                removed,
            });
        }
        None
    }

    /// Notes that the tracker took what was said under the number `sequence`, and its answer.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a fact of one announcement"
    )]
    pub(super) fn accepted(
        &mut self,
        say: Say,
        sequence: u64,
        word: Word,
        tracker: &str,
        whereabouts: Whereabouts,
        now: Instant,
        unix_now: u64,
    ) {
        self.last_sequence = self.last_sequence.max(sequence);
        self.told = Some((whereabouts, now));
        let before = self.known.take();
        let (paths, base) = match say {
            Say::Full(paths) => (paths, Some(sequence)),
            Say::Refresh => match before {
                Some(known) => (known.paths, Some(known.base)),
                None => (Vec::new(), None),
            },
            Say::Delta { added, removed, .. } => {
                let paths = before.map_or_else(Vec::new, |known| known.paths);
                (applied(paths, added, &removed), Some(sequence))
            }
        };
        if let Some(base) = base
            && word.base == Some(base)
        {
            self.known = Some(Known {
                tracker: tracker.to_owned(),
                sequence,
                base,
                at: unix_now,
                paths,
            });
        }
    }

    /// Notes what the tracker knows, which is not what an announcement took it to know.
    pub(super) fn conflicts(&mut self, word: Word) {
        self.last_sequence = self.last_sequence.max(word.sequence);
        if self
            .known
            .as_ref()
            .is_some_and(|known| word.base != Some(known.base))
        {
            self.known = None;
        }
    }

    /// Notes that the tracker was told goodbye.
    pub(super) fn withdrawn(&mut self) {
        self.known = None;
        self.told = None;
    }
}

/// What is in `after` alone, and what in `before` alone; both sorted.
fn changes(before: &[PathHash], after: &[PathHash]) -> (Vec<PathHash>, Vec<PathHash>) {
    let missing_in = |other: &[PathHash], path: &PathHash| other.binary_search(path).is_err();
    let added = after.iter().filter(|path| missing_in(before, path));
    let removed = before.iter().filter(|path| missing_in(after, path));
    (added.copied().collect(), removed.copied().collect())
}

fn applied(mut paths: Vec<PathHash>, added: Vec<PathHash>, removed: &[PathHash]) -> Vec<PathHash> {
    paths.retain(|path| removed.binary_search(path).is_err());
    paths.extend(added);
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn paths(numbers: impl IntoIterator<Item = u32>) -> Paths {
        let mut paths: Vec<PathHash> = numbers
            .into_iter()
            .map(|number| {
                let mut path = [0; 20];
                path[..4].copy_from_slice(&number.to_be_bytes());
                path
            })
            .collect();
        paths.sort_unstable();
        paths.into()
    }

    fn here() -> Whereabouts {
        Whereabouts {
            relay_url: None,
            direct_addrs: vec!["192.0.2.1:12306".parse().unwrap()],
        }
    }

    /// A tracker that takes everything.
    struct Told {
        session: Session,
        sequence: u64,
        base: u64,
        now: Instant,
    }

    impl Told {
        fn new() -> Self {
            Self {
                session: Session::new(None),
                sequence: 0,
                base: 0,
                now: Instant::now(),
            }
        }

        /// What is said of `wanted` until nothing is left to be said.
        fn say(&mut self, wanted: Option<&Paths>) -> Vec<Say> {
            let mut said = Vec::new();
            while let Next::Say(say) = self.session.next(wanted, &here(), INTERVAL, self.now) {
                self.sequence = self.session.next_sequence(0);
                let (session, sequence) = (&mut self.session, self.sequence);
                if let Say::Delta { base, .. } = &say {
                    assert_eq!(*base, self.base);
                }
                if say != Say::Refresh {
                    self.base = sequence;
                }
                let base = Some(self.base);
                let word = Word { sequence, base };
                session.accepted(say.clone(), sequence, word, "one", here(), self.now, 100);
                said.push(say);
                assert!(said.len() < 100, "it never ends");
            }
            said
        }
    }

    #[test]
    fn all_is_told_once_then_changes_then_that_nothing_changed() {
        let mut told = Told::new();
        let first = paths(0..100);
        assert_eq!(told.say(Some(&first)), [Say::Full(first.to_vec())]);
        let second = paths(1..102);
        assert_eq!(
            told.say(Some(&second)),
            [Say::Delta {
                base: 1,
                added: paths(100..102).to_vec(),
                removed: paths(0..1).to_vec(),
            }]
        );
        assert_eq!(told.say(Some(&second)), []);
        told.now += INTERVAL;
        assert_eq!(told.say(Some(&second)), [Say::Refresh]);
        assert_eq!(told.sequence, 3);
        // What was told last of paths is what the next change builds on.
        let third = paths(1..103);
        assert!(matches!(
            &told.say(Some(&third))[..],
            [Say::Delta { base: 2, .. }]
        ));
    }

    #[test]
    fn this_machine_is_listed_before_it_knows_what_it_has() {
        let mut told = Told::new();
        assert_eq!(told.say(None), [Say::Full(Vec::new())]);
        let all = paths(0..3);
        assert_eq!(told.say(Some(&all)), [Say::Full(all.to_vec())]);
    }

    #[test]
    fn new_addresses_are_told_at_once() {
        let mut told = Told::new();
        let all = paths(0..3);
        told.say(Some(&all));
        let elsewhere = Whereabouts::default();
        let next = told
            .session
            .next(Some(&all), &elsewhere, INTERVAL, told.now);
        assert_eq!(next, Next::Say(Say::Refresh));
    }

    #[test]
    fn a_tracker_that_lost_what_it_knew_is_told_all_again() {
        let mut told = Told::new();
        let all = paths(0..10);
        told.say(Some(&all));
        let more = paths(0..11);
        let word = Word {
            sequence: 77,
            base: None,
        };
        told.session.conflicts(word);
        assert_eq!(told.say(Some(&more)), [Say::Full(more.to_vec())]);
        assert_eq!(told.sequence, 78);

        // It may notice by itself, when it is told that nothing changed.
        told.now += INTERVAL;
        told.base = 12;
        assert_eq!(
            told.say(Some(&more)),
            [Say::Refresh, Say::Full(more.to_vec())]
        );
    }

    #[test]
    fn a_number_that_was_used_already_does_not_take_telling_all_again() {
        let mut told = Told::new();
        let all = paths(0..10);
        told.say(Some(&all));
        let word = Word {
            sequence: 50,
            base: Some(told.base),
        };
        told.session.conflicts(word);
        let more = paths(0..11);
        assert!(matches!(&told.say(Some(&more))[..], [Say::Delta { .. }]));
        assert_eq!(told.sequence, 51);
    }

    #[test]
    fn numbers_rise_whatever_the_clock_does_and_never_overflow() {
        let mut session = Session::new(None);
        assert_eq!(session.next_sequence(5000), 5000);
        let word = |sequence| Word {
            sequence,
            base: None,
        };
        session.conflicts(word(9000));
        assert_eq!(session.next_sequence(5000), 9001);
        session.conflicts(word(u64::MAX));
        assert_eq!(session.next_sequence(5000), u64::MAX);
    }

    #[test]
    fn what_an_earlier_run_told_counts_for_the_same_tracker_and_its_time_only() {
        let known = Known {
            tracker: "one".to_owned(),
            sequence: 7,
            base: 7,
            at: 1000,
            paths: paths(0..3).to_vec(),
        };
        for (tracker, unix_now, is_known) in [
            ("one", 1050, true),
            ("one", 1200, false),
            ("another", 1050, false),
        ] {
            let mut session = Session::new(Some(known.clone()));
            session.speaks_with(tracker, Duration::from_secs(120), unix_now);
            assert_eq!(session.known().is_some(), is_known, "{tracker} {unix_now}");
            assert_eq!(session.next_sequence(0), 8);
        }
    }

    #[test]
    fn a_large_inventory_comes_in_parts() {
        let most = u32::try_from(limits::ANNOUNCED_AT_ONCE).unwrap();
        let mut told = Told::new();
        let all = paths(0..2 * most + 5);
        let said = told.say(Some(&all));
        assert_eq!(said.len(), 3);
        assert!(matches!(&said[0], Say::Full(paths) if paths.len() == most as usize));
        assert_eq!(told.session.announced(), all.len());
    }
}
