use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;

fn id(n: u8) -> EndpointId {
    iroh::SecretKey::from_bytes(&[n; 32]).public()
}

fn joined(n: u8) -> Event {
    Event::Joined {
        id: id(n),
        whole: true,
        rate: None,
        latency: Duration::from_millis(1),
    }
}

fn asks(actions: &[Action]) -> Vec<(RequestId, EndpointId, Range<u64>)> {
    let asks = actions.iter().filter_map(|action| match action {
        Action::Ask {
            request,
            provider,
            range,
            ..
        } => Some((*request, *provider, range.clone())),
        _ => None,
    });
    asks.collect()
}

#[test]
fn the_reader_s_first_bytes_are_asked_for_first() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 100 * MIB, ByteRanges::from(0..100 * MIB), now);
    let asked = asks(&schedule.handle(joined(1), now));
    assert_eq!(asked[0].2.start, 0);
    assert!(asked.windows(2).all(|two| two[0].2.end == two[1].2.start));
}

#[test]
fn what_a_provider_did_not_deliver_goes_to_another() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 100 * MIB, ByteRanges::from(0..100 * MIB), now);
    let first = asks(&schedule.handle(joined(1), now));
    schedule.handle(joined(2), now);
    let (request, _, range) = first[0].clone();
    let delivered = range.start + 5 * limits::CHUNK_GROUP;
    let actions = schedule.handle(
        Event::Ended {
            request,
            delivered,
            fault: Some(Fault::BadData),
        },
        now,
    );
    assert!(actions.contains(&Action::Drop {
        provider: id(1),
        fault: Fault::BadData
    }));
    // All that was asked of it is cut off, and the first missing bytes are the other's next.
    let cuts = actions
        .iter()
        .filter(|action| matches!(action, Action::Cut { .. }));
    assert_eq!(cuts.count(), first.len() - 1);
    assert!(schedule.providers.len() == 1 && schedule.open.contains(&delivered));
}

#[test]
fn a_busy_provider_that_turns_requests_away_is_asked_for_less_and_kept() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 100 * MIB, ByteRanges::from(0..100 * MIB), now);
    let first = asks(&schedule.handle(joined(1), now));
    for (request, _, range) in &first {
        let actions = schedule.handle(
            Event::Ended {
                request: *request,
                delivered: range.start,
                fault: Some(Fault::Refused),
            },
            now,
        );
        assert!(asks(&actions).is_empty());
    }
    let later = now + Duration::from_secs(3);
    let again = asks(&schedule.handle(Event::Tick, later));
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(schedule.outcome(now), Outcome::Running);
}

#[test]
fn with_nobody_left_and_nobody_found_it_fails() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 10 * MIB, ByteRanges::from(0..10 * MIB), now);
    schedule.handle(joined(1), now);
    let actions = schedule.handle(Event::Left { id: id(1) }, now);
    assert!(actions.contains(&Action::Look));
    assert_eq!(schedule.outcome(now), Outcome::Running);
    schedule.handle(Event::Looked, now);
    assert_eq!(schedule.outcome(now), Outcome::Failed);
}

#[test]
fn a_late_small_nar_is_asked_of_a_second_provider_and_the_loser_is_cut() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 65_536, ByteRanges::from(0..65_536), now);
    let first = asks(&schedule.handle(joined(1), now));
    assert_eq!(first.len(), 1);
    assert!(asks(&schedule.handle(joined(2), now)).is_empty());
    let later = now + limits::HEDGE_LEAST * 2;
    let hedged = asks(&schedule.handle(Event::Tick, later));
    assert_eq!(hedged[0].1, id(2));
    assert_eq!(hedged[0].2, 0..65_536);
    let actions = schedule.handle(
        Event::Ended {
            request: hedged[0].0,
            delivered: 65_536,
            fault: None,
        },
        later,
    );
    assert_eq!(
        actions,
        [Action::Cut {
            request: first[0].0,
            end: 0
        }]
    );
    assert_eq!(schedule.outcome(later), Outcome::Complete);
}

#[test]
fn nothing_is_asked_for_too_far_ahead_of_the_reader() {
    let now = Instant::now();
    let size = 4 * limits::READ_AHEAD;
    let missing = ByteRanges::from(limits::READ_AHEAD..size);
    let mut schedule = Schedule::new(id(9), size, missing, now);
    assert!(asks(&schedule.handle(joined(1), now)).is_empty());
    let hour = now + Duration::from_secs(3600);
    schedule.handle(Event::Looked, hour);
    assert_eq!(schedule.outcome(hour), Outcome::Running);
    let read = Event::Read { offset: MIB };
    assert!(!asks(&schedule.handle(read, hour)).is_empty());
}

#[test]
fn a_hedge_that_was_too_dear_is_not_waited_for() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 65_536, ByteRanges::from(0..65_536), now);
    let first = asks(&schedule.handle(joined(1), now));
    schedule.handle(joined(2), now);
    let later = now + limits::HEDGE_LEAST * 2;
    let (hedge, ..) = asks(&schedule.handle(Event::Tick, later))[0].clone();
    let declined = Event::Ended {
        request: hedge,
        delivered: 0,
        fault: None,
    };
    assert!(asks(&schedule.handle(declined, later)).is_empty());
    assert!(asks(&schedule.handle(Event::Tick, later)).is_empty());
    // The first one fails, and the other is asked after all.
    let failed = Event::Ended {
        request: first[0].0,
        delivered: 0,
        fault: Some(Fault::Disconnected),
    };
    let again = asks(&schedule.handle(failed, later));
    assert_eq!((again[0].1, again[0].2.clone()), (id(2), 0..65_536));
}

#[test]
fn what_came_just_before_a_cut_is_not_fetched_again() {
    let now = Instant::now();
    let mut schedule = Schedule::new(id(9), 10 * MIB, ByteRanges::from(0..10 * MIB), now);
    let (request, _, range) = asks(&schedule.handle(joined(1), now))[0].clone();
    schedule.handle(Event::Left { id: id(1) }, now);
    assert!(schedule.open.contains(&range.start));
    let delivered = range.start + 4 * limits::CHUNK_GROUP;
    let ended = Event::Ended {
        request,
        delivered,
        fault: None,
    };
    schedule.handle(ended, now);
    let again = asks(&schedule.handle(joined(2), now));
    assert_eq!(again[0].2.start, delivered);
}

#[test]
fn a_slow_provider_is_asked_for_what_no_fast_one_holds() {
    let start = Instant::now();
    let mut schedule = Schedule::new(id(9), 100 * MIB, ByteRanges::from(0..100 * MIB), start);
    schedule.handle(joined(1), start);
    if let Some(provider) = schedule.providers.get_mut(&id(1)) {
        provider.slow = true;
    }
    for request in schedule.requests_of(id(1)) {
        schedule.cut(request, 0, &mut Vec::new());
    }
    let part = Event::Joined {
        id: id(2),
        whole: false,
        rate: None,
        latency: Duration::ZERO,
    };
    let asked = asks(&schedule.handle(part, start));
    assert!(asked.iter().any(|(_, of, _)| *of == id(1)), "{asked:?}");
}

proptest! {
    /// Whatever providers do, every byte is asked for, none is forgotten, and it ends.
    #[test]
    fn every_byte_arrives_whatever_providers_drop(
        size in 1u64..80_000_000,
        faults in proptest::collection::vec((0u8..8, 0u64..3_000_000), 1..80),
    ) {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(id(9), size, ByteRanges::from(0..size), now);
        let mut asked = Vec::new();
        let mut faults = faults.into_iter();
        let mut pending: Vec<Event> = vec![joined(1), joined(2), joined(3)];
        let mut arrived = ByteRanges::empty();
        for _ in 0..10_000 {
            if schedule.outcome(now) != Outcome::Running {
                break;
            }
            now += Duration::from_millis(60);
            pending.push(Event::Tick);
            for event in std::mem::take(&mut pending) {
                for action in schedule.handle(event, now) {
                    match action {
                        Action::Ask { request, range, .. } => asked.push((request, range)),
                        Action::Cut { request, end } => {
                            for (id, range) in &mut asked {
                                if *id == request { range.end = range.end.min(end.max(range.start)); }
                            }
                        }
                        Action::Look => {
                            for n in 1..4 { pending.push(joined(n)); }
                            pending.push(Event::Looked);
                        }
                        Action::Drop { .. } => {}
                    }
                }
            }
            if !asked.is_empty() {
                let (request, range) = asked.remove(0);
                let (kind, lost) = faults.next().unwrap_or((7, 0));
                let fault = [Fault::BadData, Fault::Absent, Fault::Refused, Fault::Silent]
                    .get(kind as usize).copied();
                let lost = if fault.is_some() { lost.max(1).min(range.end - range.start) } else { 0 };
                let delivered = range.end - lost;
                arrived |= ByteRanges::from(range.start..delivered.max(range.start));
                pending.push(Event::Ended { request, delivered, fault: fault.filter(|_| lost > 0) });
            }
        }
        prop_assert_eq!(schedule.outcome(now), Outcome::Complete);
        prop_assert_eq!(arrived, ByteRanges::from(0..size));
    }
}
