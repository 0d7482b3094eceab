//! When to join more peers: gossip neither finds its first neighbour again by itself, nor does it
//! heal an overlay that a partition has split.

use std::time::{Duration, Instant};

use crate::limits;

/// The state of looking for neighbours.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    next: Option<Instant>,
    tries: u32,
    losses: Vec<Instant>,
    unrest_until: Option<Instant>,
}

impl Membership {
    /// A neighbour came.
    pub(crate) fn up(&mut self) {
        self.tries = 0;
    }

    /// A neighbour went and so many are left. `is_lost`: its connection ended. Several of those at once
    /// look like a partition; a neighbour whose connection stands only made room for another, and
    /// gossip finds one in its stead.
    pub(crate) fn down(&mut self, is_lost: bool, left: usize, now: Instant) {
        if is_lost {
            self.losses
                .retain(|at| now.saturating_duration_since(*at) < limits::UNREST_WINDOW);
            if self.losses.len() < limits::NEIGHBOURS {
                self.losses.push(now);
            }
            if self.losses.len() > 1 {
                self.unrest_until = Some(now + limits::UNREST);
            }
            self.tries = 0;
        }
        let soon = if is_lost || left <= 1 {
            limits::REJOIN_LEAST
        } else if left < limits::FEW_NEIGHBOURS {
            limits::REJOIN_SOON
        } else {
            return;
        };
        self.next = self.next.min(Some(now + soon));
    }

    /// Whether a partition may be over, or not yet.
    pub(crate) fn is_unrest(&self, now: Instant) -> bool {
        self.unrest_until.is_some_and(|until| now < until)
    }

    /// How many peers to join now, with so many neighbours of so many peers that are known.
    pub(crate) fn due(&mut self, neighbours: usize, known: usize, now: Instant) -> usize {
        if known <= neighbours || self.next.is_some_and(|at| now < at) {
            return 0;
        }
        let doubled = 1u32 << self.tries.min(6);
        let backed_off = |least: Duration, most| (least * doubled).min(most);
        let is_unrest = self.is_unrest(now);
        let (count, wait) = if neighbours == 0 {
            (3, backed_off(limits::REJOIN_LEAST, limits::REJOIN_MOST))
        } else if is_unrest {
            // Who is lost may be back at any time: no pause grows meanwhile.
            (1, limits::REJOIN_SOON)
        } else if neighbours < limits::FEW_NEIGHBOURS.min(known) {
            (1, backed_off(limits::REJOIN_SOON, limits::REJOIN_CALM))
        } else {
            (1, limits::REJOIN_RARELY)
        };
        let is_calm = neighbours >= limits::FEW_NEIGHBOURS.min(known) && !is_unrest;
        let is_first = self.next.is_none();
        self.next = Some(now + wait);
        self.tries = self.tries.saturating_add(1);
        if is_calm && is_first { 0 } else { count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joins(
        membership: &mut Membership,
        start: Instant,
        seconds: u64,
        neighbours: usize,
    ) -> usize {
        let at = |second| start + Duration::from_secs(second);
        (0..seconds)
            .map(|second| membership.due(neighbours, 20, at(second)))
            .sum()
    }

    #[test]
    fn alone_it_tries_again_and_again_at_the_longest_pause() {
        let start = Instant::now();
        let mut membership = Membership::default();
        assert!(membership.due(0, 5, start) > 0);
        let mut last = 0;
        for second in 1..600 {
            if membership.due(0, 5, start + Duration::from_secs(second)) > 0 {
                assert!(second - last <= limits::REJOIN_MOST.as_secs() + 1);
                last = second;
            }
        }
        assert!(last > 570);
        assert_eq!(
            membership.due(0, 0, start + Duration::from_secs(900)),
            0,
            "there is nobody"
        );
    }

    #[test]
    fn with_enough_neighbours_it_joins_rarely_and_after_a_partition_often() {
        let start = Instant::now();
        let mut membership = Membership::default();
        assert!(joins(&mut membership, start, 3600, 5) <= 12);
        let later = start + Duration::from_secs(3600);
        membership.down(true, 4, later);
        assert!(
            joins(&mut membership, later, 60, 5) <= 1,
            "one loss is usual"
        );
        let later = later + Duration::from_secs(600);
        membership.down(true, 4, later);
        membership.down(true, 4, later);
        assert!(joins(&mut membership, later, 60, 5) >= 4);
    }

    #[test]
    fn neighbours_that_make_room_for_others_are_no_partition_unless_few_are_left() {
        let start = Instant::now();
        let mut membership = Membership::default();
        joins(&mut membership, start, 600, 5);
        let later = start + Duration::from_secs(600);
        for _ in 0..20 {
            membership.down(false, 4, later);
        }
        assert!(!membership.is_unrest(later));
        assert!(joins(&mut membership, later, 300, 4) <= 1);
        let later = later + Duration::from_secs(300);
        membership.down(false, 1, later);
        assert!(joins(&mut membership, later, 5, 1) >= 1, "few are left");
    }

    #[test]
    fn with_one_neighbour_left_of_three_it_tries_every_ten_seconds_until_the_others_are_back() {
        let start = Instant::now();
        let mut membership = Membership::default();
        joins(&mut membership, start, 600, 3);
        let later = start + Duration::from_secs(600);
        membership.down(true, 4, later);
        membership.down(true, 1, later + Duration::from_secs(5));
        let soon = limits::REJOIN_SOON.as_secs();
        for ten_seconds in 1..limits::UNREST.as_secs() / soon {
            let from = later + Duration::from_secs(ten_seconds * soon);
            assert_eq!(joins(&mut membership, from, soon, 1), 1, "{ten_seconds}");
        }
    }
}
