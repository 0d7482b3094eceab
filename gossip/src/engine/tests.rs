use super::*;
use crate::{changes::Tag, index::Standing};

const TOPIC: Topic = [7; 32];

fn now() -> Now {
    Now {
        at: Instant::now(),
        unix_ms: 1_000_000,
    }
}

fn later(now: Now, seconds: u64) -> Now {
    Now {
        at: now.at + Duration::from_secs(seconds),
        unix_ms: now.unix_ms + seconds * 1000,
    }
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32])
}

fn engine(number: u8, now: Now) -> Engine {
    let config = Config {
        secret_key: key(number),
        topic: TOPIC,
        systems: vec!["x86_64-linux".into()],
        last_sequence: 0,
        index_memory: 1 << 20,
        seed: number.into(),
    };
    Engine::new(config, now)
}

fn path(number: u32) -> PathHash {
    let mut path = [0; 20];
    path[..4].copy_from_slice(&number.to_be_bytes());
    path
}

/// Ticks until the engine broadcasts; the seconds that took, and the message.
fn broadcast(engine: &mut Engine, start: Now) -> (u64, Bytes) {
    for second in 0..600 {
        for action in engine.handle(Event::Tick, later(start, second)) {
            if let Action::Broadcast(bytes) = action {
                return (second, bytes);
            }
        }
    }
    panic!("it never spoke");
}

fn message(bytes: &Bytes, from: u8) -> Event {
    Event::Message {
        bytes: bytes.clone(),
        from: key(from).public(),
        hops: 0,
    }
}

#[test]
fn two_peers_meet_and_one_knows_what_the_other_has_within_seconds() {
    let start = now();
    let (mut a, mut b) = (engine(1, start), engine(2, start));
    a.handle(Event::Offered([path(1), path(2)].into(), true), start);
    let addr = EndpointAddr::new(key(1).public()).with_ip_addr("127.0.0.1:9".parse().unwrap());
    a.handle(Event::ReachedAt(addr.clone()), start);
    assert!(
        a.handle(Event::Tick, later(start, 100)).is_empty(),
        "nobody is there"
    );
    a.handle(Event::NeighbourUp(key(2).public()), later(start, 100));
    let (second, said) = broadcast(&mut a, later(start, 100));
    assert!(second <= 3, "{second}");
    let met = b.handle(message(&said, 1), later(start, 103));
    assert_eq!(met, [Action::Met(addr)]);
    let at = later(start, 103).at;
    assert_eq!(b.index.may_have(&path(1), at), [key(1).public()]);
    assert_eq!(
        b.index.standing(&key(1).public(), &path(3), at),
        Standing::Lacks
    );
    let goodbye = a.handle(Event::Leave, later(start, 104));
    let [Action::Broadcast(goodbye)] = goodbye.as_slice() else {
        panic!("{goodbye:?}");
    };
    let gone = b.handle(message(goodbye, 1), later(start, 104));
    let id = key(1).public();
    assert_eq!(gone, [Action::Left(id), Action::Forget(id)]);
    assert!(b.index.may_have(&path(1), at).is_empty());
}

#[test]
fn a_newcomer_asks_a_neighbour_for_what_it_knows_page_by_page() {
    let start = now();
    let mut engine = engine(1, start);
    let neighbour = key(2).public();
    let actions = engine.handle(Event::NeighbourUp(neighbour), start);
    assert_eq!(actions, [Action::AskPage(neighbour, [0; 32])]);
    assert!(
        engine.handle(Event::Tick, later(start, 1)).is_empty(),
        "one at a time"
    );
    let author = key(3);
    let last = *author.public().as_bytes();
    let bytes = empty_offer(&author, 1).seal(&author, &TOPIC).unwrap();
    let page = |next| {
        let entries = vec![Entry {
            age: 0,
            bytes: bytes.clone(),
        }];
        let next = Some(next);
        Event::Page(neighbour, Some(Page { entries, next }))
    };
    let asks = |actions: Vec<Action>| -> Vec<Action> {
        let asks = |action: &Action| matches!(action, Action::AskPage(..));
        actions.into_iter().filter(asks).collect()
    };
    let actions = asks(engine.handle(page(last), later(start, 2)));
    assert_eq!(actions, [Action::AskPage(neighbour, last)]);
    // A neighbour whose pages go round in circles is left alone.
    assert!(asks(engine.handle(page(last), later(start, 3))).is_empty());
    engine.handle(Event::Lagged, later(start, 4));
    assert!(asks(engine.handle(Event::Tick, later(start, 5))).is_empty());
    let again = later(start, 4 + limits::CATCH_UP_INTERVAL.as_secs());
    assert_eq!(
        asks(engine.handle(Event::Tick, again)),
        [Action::AskPage(neighbour, [0; 32])]
    );
}

#[test]
fn a_silent_or_failing_neighbour_does_not_stop_the_catching_up_for_good() {
    let start = now();
    let mut engine = engine(1, start);
    let neighbour = key(2).public();
    engine.handle(Event::NeighbourUp(neighbour), start);
    let asks = |actions: Vec<Action>| {
        let asks = |action: &Action| matches!(action, Action::AskPage(..));
        actions.iter().any(asks)
    };
    let mut asked = 0;
    for second in 1..300 {
        let now = later(start, second);
        let event = if asks(engine.handle(Event::Tick, now)) {
            asked += 1;
            Event::Page(neighbour, None)
        } else {
            Event::Tick
        };
        asked += usize::from(asks(engine.handle(event, now)));
    }
    assert!((10..60).contains(&asked), "{asked}");
}

#[test]
fn a_neighbour_that_floods_is_cut_and_one_that_hands_floods_on_is_not() {
    let start = now();
    let mut engine = engine(1, start);
    let (flooder, honest) = (key(2), key(3).public());
    engine.handle(Event::NeighbourUp(flooder.public()), start);
    engine.handle(Event::NeighbourUp(honest), start);
    let mut cut = Vec::new();
    for number in 1..1000 {
        let flood = empty_offer(&flooder, number);
        let bytes = flood.seal(&flooder, &TOPIC).unwrap();
        let from = if number < 500 { 3 } else { 2 };
        cut.extend(engine.handle(message(&bytes, from), start));
    }
    let cut: Vec<_> = cut
        .into_iter()
        .filter(|action| matches!(action, Action::Cut(..)))
        .collect();
    assert_eq!(cut, [Action::Cut(flooder.public(), limits::BAN)]);
}

#[test]
fn goodbyes_of_strangers_are_charged_and_those_of_members_are_not() {
    let start = now();
    let mut engine = engine(1, start);
    let (neighbour, member) = (key(2).public(), key(3));
    let offer = empty_offer(&member, 1).seal(&member, &TOPIC).unwrap();
    let said = engine.index.hear(&offer, &mut engine.rng, start.at);
    assert!(said.is_ok());
    let mut left = engine.accounts.left(neighbour, start.at);
    let mut cost_of_leaving = |author: &SecretKey| {
        let leave = Announcement {
            content: crate::announcement::Content::Leave,
            ..empty_offer(author, 2)
        };
        let leave = leave.seal(author, &TOPIC).unwrap();
        engine.handle(message(&leave, 2), start);
        let before = std::mem::replace(&mut left, engine.accounts.left(neighbour, start.at));
        before - left
    };
    assert!(cost_of_leaving(&key(4)) > 0.0);
    assert!(cost_of_leaving(&member) == 0.0);
    assert!(cost_of_leaving(&key(5)) > 0.0);
}

#[test]
fn what_is_of_no_use_is_held_against_its_writer_first_neighbour_or_not() {
    let start = now();
    let (mut first, mut second) = (engine(1, start), engine(4, start));
    second.handle(Event::NeighbourUp(key(1).public()), start);
    let cut = |actions: Vec<Action>, of: EndpointId| {
        actions.into_iter().find_map(|action| match action {
            Action::Cut(id, time) if id == of => Some(time),
            _ => None,
        })
    };
    let writer = key(2).public();
    let junk = |number: u32| {
        let mut junk = vec![0xff; 3000];
        junk[..4].copy_from_slice(&number.to_le_bytes());
        Bytes::from(junk)
    };
    let handed_on = |number: u32| Event::Message {
        bytes: junk(number),
        from: key(1).public(),
        hops: 1,
    };
    let mut number = 0;
    // The writer only connected: it is nobody's neighbour.
    let time = loop {
        if let Some(time) = cut(first.handle(message(&junk(number), 2), start), writer) {
            break time;
        }
        assert_eq!(
            cut(second.handle(handed_on(number), start), key(1).public()),
            None
        );
        number += 1;
        assert!(number < 5000, "the writer is never cut");
    };
    assert_eq!(time, limits::BAN);
    // More was under way than that: who handed it on is back in seconds, unless it goes on with it.
    let mut times = Vec::new();
    let mut now = start;
    for number in 5000..20_000 {
        if let Some(time) = cut(second.handle(handed_on(number), now), key(1).public()) {
            times.push(time);
            // What was queued by then counts no more.
            let rest = (0..2000).map(|number| second.handle(handed_on(number), now));
            assert!(
                rest.flat_map(|actions| cut(actions, key(1).public()))
                    .next()
                    .is_none()
            );
            now.at += time;
        }
    }
    assert_eq!(times[..3], [5, 10, 20].map(Duration::from_secs));
    assert_eq!(times.last(), Some(&limits::BAN));
    // Connecting anew pays no debt.
    first.handle(Event::NeighbourUp(writer), start);
    assert!(first.accounts.left(writer, start.at) < 0.0);
}

#[test]
fn after_one_neighbour_s_catalogue_another_one_s_is_read() {
    let start = now();
    let mut engine = engine(1, start);
    let neighbours = [key(2).public(), key(3).public()];
    let mut asked = Vec::new();
    let mut note = |actions: Vec<Action>| {
        let ids = actions.into_iter().filter_map(|action| match action {
            Action::AskPage(id, start) => Some((id, start)),
            _ => None,
        });
        asked.extend(ids);
        asked.last().copied()
    };
    for neighbour in neighbours {
        note(engine.handle(Event::NeighbourUp(neighbour), start));
    }
    // The first one says that there is nobody.
    let nobody = Page {
        entries: Vec::new(),
        next: None,
    };
    let (first, _) = note(Vec::new()).unwrap();
    note(engine.handle(Event::Page(first, Some(nobody.clone())), start));
    let (second, _) = note(engine.handle(Event::Tick, start)).unwrap();
    assert_ne!(first, second);
    note(engine.handle(Event::Page(second, Some(nobody)), start));
    for tick in 1..100 {
        note(engine.handle(Event::Tick, later(start, tick)));
    }
    assert_eq!(asked, [(first, [0; 32]), (second, [0; 32])]);
}

#[test]
fn after_a_partition_the_catalogue_of_who_comes_back_is_read() {
    let start = now();
    let mut engine = engine(1, start);
    let ids: Vec<EndpointId> = (2..6).map(|number| key(number).public()).collect();
    let nobody = Page {
        entries: Vec::new(),
        next: None,
    };
    let asked = |actions: &[Action]| -> Vec<EndpointId> {
        let ids = actions.iter().filter_map(|action| match action {
            Action::AskPage(id, _) => Some(*id),
            _ => None,
        });
        ids.collect()
    };
    for (number, id) in (2..).zip(&ids) {
        let author = key(number);
        let offer = empty_offer(&author, 1).seal(&author, &TOPIC).unwrap();
        engine.handle(message(&offer, number), start);
        engine.handle(Event::NeighbourUp(*id), start);
        engine.handle(Event::Page(*id, Some(nobody.clone())), start);
    }
    // Who had few neighbours at first asked again.
    for second in 1..60 {
        let now = later(start, second);
        for id in asked(&engine.handle(Event::Tick, now)) {
            engine.handle(Event::Page(id, Some(nobody.clone())), now);
        }
    }
    let parted = later(start, 60);
    for id in &ids[1..] {
        let lost = Event::NeighbourDown {
            id: *id,
            is_lost: true,
        };
        engine.handle(lost, parted);
    }
    let back = later(start, 120);
    assert!(asked(&engine.handle(Event::Tick, back)).is_empty());
    let actions = engine.handle(Event::NeighbourUp(ids[3]), back);
    assert_eq!(asked(&actions), [ids[3]]);
}

#[test]
fn who_was_given_by_hand_stays_whoever_else_is_named_and_the_latest_of_those_stay() {
    let start = now();
    let mut engine = engine(1, start);
    let id = |number: u16| {
        let mut bytes = [9; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        SecretKey::from_bytes(&bytes).public()
    };
    let seeds = |ids: Vec<EndpointId>, by_hand| Event::Seeds { ids, by_hand };
    let tried_in = |actions: &[Action]| -> Vec<EndpointId> {
        let joins = actions.iter().filter_map(|action| match action {
            Action::Join(ids) => Some(ids.clone()),
            _ => None,
        });
        joins.flatten().collect()
    };
    engine.handle(seeds(vec![id(0)], true), start);
    let named = (1..=limits::SEEDS as u16 + 10).map(id).collect();
    let actions = engine.handle(seeds(named, false), start);
    for number in 1..=10 {
        assert!(actions.contains(&Action::Forget(id(number))), "{number}");
    }
    let mut tried = std::collections::HashSet::new();
    for second in 1..20_000 {
        let actions = engine.handle(Event::Tick, later(start, second));
        tried.extend(tried_in(&actions));
    }
    assert!(tried.contains(&id(0)) && tried.contains(&id(limits::SEEDS as u16 + 10)));
    assert!(!tried.contains(&id(1)));
}

#[test]
fn a_thousand_authors_do_not_keep_us_from_who_was_given_by_hand() {
    let start = now();
    let mut engine = engine(1, start);
    let seed = key(2).public();
    let ids = vec![seed];
    engine.handle(Event::Seeds { ids, by_hand: true }, start);
    for number in 0..1000u32 {
        let mut bytes = [9; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        let author = SecretKey::from_bytes(&bytes);
        let bytes = empty_offer(&author, 1).seal(&author, &TOPIC).unwrap();
        engine.handle(message(&bytes, 3), start);
    }
    let mut rounds = 0;
    for second in 1..60 {
        for action in engine.handle(Event::Tick, later(start, second)) {
            if let Action::Join(ids) = action {
                rounds += 1;
                assert!(ids.contains(&seed), "alone it tries it each time");
            }
        }
    }
    assert!(rounds > 3);
}

fn empty_offer(author: &SecretKey, sequence: u64) -> Announcement {
    Announcement {
        author: author.public(),
        sequence,
        lifetime: 600,
        heard: 1,
        content: crate::announcement::Content::Offer(Box::new(crate::announcement::Offer {
            relay: None,
            direct: Vec::new(),
            systems: Vec::new(),
            inventory: None,
            inventory_sequence: 0,
            complete: true,
            since: 0,
            changes: crate::Changes::gather([(Tag::of(&path(1)), true)]),
        })),
    }
}

#[test]
fn filters_are_fetched_within_their_rate() {
    let start = now();
    let mut receiver = engine(1, start);
    let size = 100_000u32;
    for number in 2..200u8 {
        let author = key(number);
        let inventory = InventoryBlob {
            blob_hash: [number; 32],
            size,
            count: 40_000,
        };
        let offer = Announcement {
            author: author.public(),
            sequence: 10,
            lifetime: 36_000,
            heard: 1,
            content: crate::announcement::Content::Offer(Box::new(crate::announcement::Offer {
                relay: None,
                direct: Vec::new(),
                systems: Vec::new(),
                inventory: Some(inventory),
                inventory_sequence: 9,
                complete: true,
                since: 9,
                changes: crate::Changes::default(),
            })),
        };
        let bytes = offer.seal(&author, &TOPIC).unwrap();
        receiver.handle(message(&bytes, 2), start);
    }
    let mut fetched = 0u32;
    for second in 1..=120 {
        let mut actions = receiver.handle(Event::Tick, later(start, second));
        while let Some(action) = actions.pop() {
            if let Action::Fetch(wanted, from) = action {
                assert_eq!(from[0], wanted.author);
                fetched += wanted.blob.size;
                let failed = Event::Fetched(wanted, None);
                actions.extend(receiver.handle(failed, later(start, second)));
            }
        }
    }
    let allowed = limits::FETCH_RATE * 120.0 + limits::FETCH_BURST + f64::from(size);
    assert!(f64::from(fetched) <= allowed, "{fetched}");
    assert!(
        f64::from(fetched) > 0.8 * limits::FETCH_RATE * 120.0,
        "{fetched}"
    );
}
