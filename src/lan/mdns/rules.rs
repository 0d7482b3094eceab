//! When to ask and when to answer on each network.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::lan::limits;

/// The schedule of all networks. A value of rules: it knows no sockets and no clock.
#[derive(Debug, Default)]
pub struct Rules(HashMap<u32, Schedule>);

#[derive(Debug)]
struct Schedule {
    ask_at: Instant,
    asked: usize,
    /// An answer that is due, or the first announcement.
    announce_at: Option<Instant>,
    joined_at: Instant,
    /// Further announcements of a newcomer that went out.
    repeated: usize,
    announced_at: Option<Instant>,
}

/// What is to be sent on a network, by its interface's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask who is there.
    Ask(u32),
    /// Say who is here.
    Announce(u32),
}

impl Rules {
    /// A network is there (again): ask at once, and say who came.
    pub fn joined(&mut self, network: u32, now: Instant) {
        let schedule = Schedule {
            ask_at: now,
            asked: 0,
            announce_at: Some(now),
            joined_at: now,
            repeated: 0,
            announced_at: None,
        };
        self.0.insert(network, schedule);
    }

    /// Drops the networks that are gone.
    pub fn keep_only(&mut self, keep: impl Fn(u32) -> bool) {
        self.0.retain(|network, _| keep(*network));
    }

    /// Somebody asks: an answer is due after a random delay, and one's own question can wait.
    pub fn asked(&mut self, network: u32, now: Instant, random: u32) {
        let Some(schedule) = self.0.get_mut(&network) else {
            return;
        };
        if schedule.asked >= limits::MDNS_FIRST_QUERIES.len() {
            schedule.ask_at = now + interval(random);
        }
        let soonest = now + spread(limits::MDNS_ANSWER_DELAY, random);
        let pause = schedule
            .announced_at
            .map_or(soonest, |at| at + limits::MDNS_ANSWER_PAUSE);
        let due = soonest.max(pause);
        schedule.announce_at = Some(schedule.announce_at.map_or(due, |at| at.min(due)));
    }

    /// What is due now.
    pub fn due(&mut self, now: Instant, random: u32) -> Vec<Action> {
        let mut actions = Vec::new();
        for (network, schedule) in &mut self.0 {
            let is_repeated = schedule.repeat_at().is_some_and(|at| at <= now);
            if is_repeated {
                schedule.repeated += 1;
            }
            if is_repeated || schedule.announce_at.is_some_and(|at| at <= now) {
                schedule.announce_at = None;
                schedule.announced_at = Some(now);
                actions.push(Action::Announce(*network));
            }
            if schedule.ask_at <= now {
                schedule.ask_at = match limits::MDNS_FIRST_QUERIES.get(schedule.asked) {
                    Some(pause) => now + *pause,
                    None => now + interval(random),
                };
                if schedule.asked < limits::MDNS_FIRST_QUERIES.len() {
                    schedule.asked += 1;
                }
                actions.push(Action::Ask(*network));
            }
        }
        actions
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        let times = self.0.values().flat_map(|schedule| {
            [
                Some(schedule.ask_at),
                schedule.announce_at,
                schedule.repeat_at(),
            ]
        });
        times.flatten().min()
    }
}

impl Schedule {
    /// When a newcomer says again that it is there.
    fn repeat_at(&self) -> Option<Instant> {
        let pause = limits::MDNS_FIRST_ANNOUNCEMENTS.get(self.repeated)?;
        Some(self.joined_at + *pause)
    }
}

/// The interval, up to a fifth longer, so that hosts that started together drift apart.
fn interval(random: u32) -> Duration {
    limits::MDNS_INTERVAL + spread(limits::MDNS_INTERVAL / 5, random)
}

fn spread(longest: Duration, random: u32) -> Duration {
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_network_is_asked_at_once_and_often_at_first() {
        let (mut rules, start) = (Rules::default(), Instant::now());
        rules.joined(3, start);
        let (mut asked, mut announced) = (Vec::new(), 0);
        while let Some(now) = rules
            .next()
            .filter(|at| *at < start + Duration::from_secs(60))
        {
            for action in rules.due(now, u32::MAX / 2) {
                match action {
                    Action::Ask(3) => asked.push((now - start).as_millis()),
                    Action::Announce(3) => announced += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(asked, [0, 300, 1200, 3700, 25_700, 47_700]);
        assert_eq!(announced, 3);
    }

    #[test]
    fn however_often_it_is_asked_it_answers_a_bounded_number_of_times() {
        let (mut rules, start) = (Rules::default(), Instant::now());
        rules.joined(1, start);
        let mut announced = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            rules.asked(1, now, 1);
            let actions = rules.due(now, 1);
            announced += actions
                .iter()
                .filter(|a| matches!(a, Action::Announce(1)))
                .count();
        }
        assert!((20..=28).contains(&announced), "{announced}");
    }

    #[test]
    fn a_newcomer_says_so_again_whatever_it_is_asked_meanwhile() {
        let (mut rules, start) = (Rules::default(), Instant::now());
        rules.joined(1, start);
        rules.due(start, 0);
        rules.asked(1, start + Duration::from_millis(100), 0);
        rules.due(start + Duration::from_millis(500), 0);
        for pause in limits::MDNS_FIRST_ANNOUNCEMENTS {
            assert!(rules.due(start + pause, 0).contains(&Action::Announce(1)));
        }
    }

    #[test]
    fn a_question_of_another_host_counts_as_ones_own() {
        let (mut rules, start) = (Rules::default(), Instant::now());
        rules.joined(1, start);
        while rules
            .next()
            .is_some_and(|at| at < start + Duration::from_secs(5))
        {
            let now = rules.next().unwrap();
            rules.due(now, 0);
        }
        let heard = start + Duration::from_secs(15);
        rules.asked(1, heard, 0);
        rules.due(heard, 0);
        assert_eq!(rules.next(), Some(heard + limits::MDNS_INTERVAL));
        rules.keep_only(|_| false);
        assert_eq!(rules.next(), None);
    }
}
