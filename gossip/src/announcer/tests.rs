use rand::SeedableRng;

use super::*;
use crate::announcement::InventoryBlob;

fn rng() -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(1)
}

fn at(start: Instant, seconds: u64) -> Now {
    Now {
        at: start + Duration::from_secs(seconds),
        unix_ms: 1_000_000 + seconds * 1000,
    }
}

fn path(number: u32) -> PathHash {
    let mut path = [0; 20];
    path[..4].copy_from_slice(&number.to_be_bytes());
    path
}

fn paths(range: std::ops::Range<u32>) -> Offered {
    range.map(path).collect()
}

fn announcer() -> Announcer {
    let me = iroh::SecretKey::from_bytes(&[1; 32]).public();
    Announcer::new(me, vec!["x86_64-linux".into()], 0)
}

fn offer_of(announcement: &Announcement) -> &Offer {
    match &announcement.content {
        Content::Offer(offer) => offer,
        Content::Leave => panic!("it left"),
    }
}

fn blob(count: u64) -> Option<InventoryBlob> {
    Some(InventoryBlob {
        blob_hash: [1; 32],
        size: 5000,
        count,
    })
}

/// Calls `due` each second; returns what was announced and when.
fn run(
    announcer: &mut Announcer,
    start: Instant,
    seconds: std::ops::Range<u64>,
    authors: usize,
) -> Vec<(u64, Announcement)> {
    let mut rng = rng();
    let due = |second| {
        let announcement = announcer.due(authors, authors, &mut rng, at(start, second))?;
        let key = iroh::SecretKey::from_bytes(&[1; 32]);
        let size = announcement.seal(&key, &[7; 32]).unwrap().len();
        announcer.sent(size);
        Some((second, announcement))
    };
    seconds.filter_map(due).collect()
}

#[test]
fn nothing_is_told_before_it_is_known_what_there_is() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.hurry(&mut rng(), start);
    assert!(run(&mut announcer, start, 0..300, 2).is_empty());
}

#[test]
fn a_new_path_is_told_within_seconds_and_few_paths_need_no_inventory() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..3), true, start);
    announcer.hurry(&mut rng(), start);
    let first = run(&mut announcer, start, 0..30, 2);
    assert_eq!(first.len(), 1);
    assert!(announcer.build(start).is_none());
    announcer.offer(paths(0..4), true, at(start, 30).at);
    let second = run(&mut announcer, start, 30..40, 2);
    assert_eq!(second.len(), 1);
    let (second, announcement) = &second[0];
    assert!(*second <= 32, "{second}");
    let offer = offer_of(announcement);
    assert!(offer.inventory.is_none());
    assert!((0..4).all(|number| offer.changes.after(Tag::of(&path(number)), || false)));
    assert!(!offer.changes.after(Tag::of(&path(5)), || false));
}

#[test]
fn many_paths_wait_for_their_inventory_and_are_not_told_one_by_one() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..20_000), true, start);
    announcer.hurry(&mut rng(), start);
    assert!(run(&mut announcer, start, 0..10, 2).is_empty());
    let building = announcer.build(at(start, 10).at).unwrap();
    assert_eq!(building.len(), 20_000);
    // One more came while it was built: it is told beside the inventory.
    announcer.offer(paths(0..20_001), true, at(start, 11).at);
    announcer.built(&building, blob(20_000), at(start, 12));
    let told = run(&mut announcer, start, 12..20, 2);
    let offer = offer_of(&told[0].1);
    assert_eq!(offer.inventory, blob(20_000));
    assert_eq!(offer.changes.len(), 1);
    assert_eq!(offer.since, offer.inventory_sequence);
}

#[test]
fn a_bulk_change_makes_a_gap_that_receivers_see_and_a_small_one_does_not() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..1000), true, start);
    let building = announcer.build(start).unwrap();
    announcer.built(&building, blob(1000), at(start, 1));
    let first = run(&mut announcer, start, 1..10, 2).remove(0).1;
    announcer.offer(paths(0..1010), true, at(start, 100).at);
    let second = run(&mut announcer, start, 100..110, 2).remove(0).1;
    assert!(offer_of(&second).since <= first.sequence);
    announcer.offer(paths(0..5000), true, at(start, 200).at);
    let building = announcer.build(at(start, 200).at).unwrap();
    announcer.built(&building, blob(5000), at(start, 201));
    let third = run(&mut announcer, start, 201..260, 2).remove(0).1;
    assert!(offer_of(&third).since > second.sequence);
    assert_eq!(offer_of(&third).changes.len(), 0);
}

#[test]
fn changes_that_do_not_fit_are_told_later_and_each_is_told_once_at_least() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..20_000), true, start);
    let building = announcer.build(start).unwrap();
    announcer.built(&building, blob(20_000), at(start, 0));
    announcer.offer(paths(0..20_400), true, at(start, 1).at);
    let told = run(&mut announcer, start, 1..20_000, 1000);
    let mut seen = Changes::default();
    for (_, announcement) in &told {
        seen.merge(&offer_of(announcement).changes);
    }
    assert!((20_000..20_400).all(|number| seen.after(Tag::of(&path(number)), || false)));
}

#[test]
fn where_no_change_has_room_the_offer_is_not_complete_and_an_inventory_tells_them() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..1000), true, start);
    let building = announcer.build(start).unwrap();
    announcer.built(&building, blob(1000), at(start, 0));
    let authors = 10_000;
    let first = run(&mut announcer, start, 0..6000, authors).remove(0);
    assert!(offer_of(&first.1).complete);
    announcer.offer(paths(0..1001), true, at(start, 6000).at);
    let second = run(&mut announcer, start, 6000..13_000, authors).remove(0);
    assert_eq!(offer_of(&second.1).changes.len(), 0);
    assert!(
        !offer_of(&second.1).complete,
        "it offers what it did not tell"
    );
    assert!(announcer.build(at(start, second.0 + 60).at).is_none());
    let interval = pacing::wait_after(300, authors).as_secs();
    let third = at(start, second.0 + interval * 2);
    let building = announcer.build(third.at).expect("it waited for long");
    announcer.built(&building, blob(1001), third);
    let told = run(
        &mut announcer,
        start,
        second.0 + interval * 2..60_000,
        authors,
    )
    .remove(0);
    let offer = offer_of(&told.1);
    assert!(offer.complete && offer.inventory == blob(1001));
    assert!(
        offer.since > second.1.sequence,
        "receivers see that they miss something"
    );
}

#[test]
fn it_speaks_again_soon_where_the_swarm_turns_out_smaller_than_it_seemed() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..5), true, start);
    announcer.hurry(&mut rng(), start);
    run(&mut announcer, start, 0..30, 100_000).remove(0);
    let second = run(&mut announcer, start, 30..10_000, 3).remove(0);
    assert!(second.0 < 200, "{}", second.0);
}

#[test]
fn in_a_large_swarm_it_speaks_rarely_and_its_announcements_live_long_enough() {
    let start = Instant::now();
    for authors in [1, 100, 10_000] {
        let mut announcer = announcer();
        announcer.offer(paths(0..5), true, start);
        let hours = 24;
        let told = run(&mut announcer, start, 0..hours * 3600, authors);
        let size = told[0]
            .1
            .seal(&iroh::SecretKey::from_bytes(&[1; 32]), &[7; 32])
            .unwrap()
            .len();
        let bytes = told.len() as f64 * pacing::cost(size);
        let rate = bytes / (hours * 3600) as f64 * authors as f64;
        assert!(rate < 1.1 * limits::ANNOUNCEMENT_RATE, "{authors}: {rate}");
        for pair in told.windows(2) {
            let asked = Duration::from_secs(pair[0].1.lifetime.into());
            let believed = pacing::believed(asked, size, authors);
            assert!(pair[1].0 - pair[0].0 < believed.as_secs());
        }
    }
}

#[test]
fn nobody_expires_where_the_swarm_turns_out_larger_than_it_seemed() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..5), true, start);
    announcer.hurry(&mut rng(), start);
    let first = run(&mut announcer, start, 0..30, 1).remove(0);
    let second = run(&mut announcer, start, 30..20_000, 20_000).remove(0);
    let silence = Duration::from_secs(second.0 - first.0);
    let asked = Duration::from_secs(first.1.lifetime.into());
    assert!(asked < silence, "it need not speak only to stay known");
    assert!(silence < pacing::believed(asked, 240, 20_000));
}

#[test]
fn numbers_rise_even_where_the_clock_falls_back() {
    let start = Instant::now();
    let mut announcer = announcer();
    announcer.offer(paths(0..5), true, start);
    let mut rng = rng();
    let mut last = 0;
    for second in 0..1000 {
        let now = Now {
            at: start + Duration::from_secs(second),
            unix_ms: if second < 500 { u64::MAX / 2 } else { 5 },
        };
        if let Some(announcement) = announcer.due(1, 0, &mut rng, now) {
            assert!(announcement.sequence > last);
            last = announcement.sequence;
        }
    }
    assert!(announcer.leave(at(start, 2000)).sequence > last);
}
