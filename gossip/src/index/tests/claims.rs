//! Who is believed, and in which order they are asked.

use super::*;

#[test]
fn a_thousand_fresh_liars_do_not_hide_who_was_there_before() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut honest = Author::new(1);
    let wanted = path(1, 1);
    index
        .hear(&honest.say(0, &[(wanted, true)]), &mut rng(), now)
        .unwrap();
    for number in 0..1000 {
        let mut liar = Author::new(100 + number);
        let claims: Vec<_> = (0..100).map(|number| (path(1, number), true)).collect();
        let later = now + Duration::from_millis(u64::from(number) + 1);
        index
            .hear(&liar.say(0, &claims), &mut rng(), later)
            .unwrap();
    }
    let having = index.may_have(&wanted, now);
    assert_eq!(having.len(), 1001);
    assert_eq!(having[0], honest.id());
    let start = Instant::now();
    for _ in 0..100 {
        index.may_have(&path(9, 9), now);
    }
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_liar_is_disbelieved_after_three_false_claims_and_one_false_hit_lowers_nobody() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let (mut liar, mut honest) = (Author::new(1), Author::new(2));
    let wanted = path(1, 1);
    for (author, at) in [
        (&mut liar, now),
        (&mut honest, now + Duration::from_millis(1)),
    ] {
        index
            .hear(&author.say(0, &[(wanted, true)]), &mut rng(), at)
            .unwrap();
    }
    index.answered(&honest.id(), false, now, now);
    for second in 0..limits::FALSE_CLAIMS {
        assert_eq!(index.may_have(&wanted, now)[0], liar.id());
        let asked = now + MOMENT * second;
        index.answered(&liar.id(), false, asked, asked);
    }
    let now = now + MOMENT * limits::FALSE_CLAIMS;
    assert_eq!(index.may_have(&wanted, now), [honest.id()]);
    // Speaking again does not help, time does; and the second disbelief is longer.
    index
        .hear(&liar.say(0, &[(wanted, true)]), &mut rng(), now)
        .unwrap();
    assert_eq!(index.may_have(&wanted, now), [honest.id()]);
    let later = now + limits::DISBELIEF;
    assert_eq!(index.may_have(&wanted, later).len(), 2);
    disbelieve(&mut index, liar.id(), later);
    assert_eq!(
        index.may_have(&wanted, later + limits::DISBELIEF),
        [honest.id()]
    );
}

#[test]
fn who_collected_garbage_is_fetched_from_again_and_not_taken_for_a_liar() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    author.build((0..1000).map(|number| path(1, number)));
    author.joins(&mut index, now);
    // A batch asks for what went a moment ago: one mistake.
    for _ in 0..10 {
        index.answered(&author.id(), false, now, now);
    }
    assert_eq!(index.may_have(&path(1, 700), now), [author.id()]);
    // What went is not told one by one: no gap.
    author.build((0..400).map(|number| path(1, number)));
    author.sequence -= 1;
    let since = author.sequence;
    author.inventory.as_mut().unwrap().1 = since;
    let said = author.say(since, &[]);
    index.hear(&said, &mut rng(), now).unwrap();
    let mut later = now + Duration::from_secs(700);
    for _ in 0..limits::FALSE_CLAIMS {
        assert_eq!(index.may_have(&path(1, 700), later), [author.id()]);
        index.answered(&author.id(), false, later, later);
        later += Duration::from_secs(5);
    }
    let authors = std::slice::from_ref(&author);
    assert_eq!(fetch_all(&mut index, later, authors), 1);
    assert_eq!(index.may_have(&path(1, 300), later), [author.id()]);
    assert!(index.may_have(&path(1, 700), later).is_empty());
}

#[test]
fn a_liar_that_announces_a_newer_inventory_each_time_is_disbelieved_too() {
    let mut now = Instant::now();
    let mut index = index(1 << 20);
    let mut liar = Author::new(1);
    liar.build((0..1000).map(|number| path(1, number)));
    liar.joins(&mut index, now);
    let mut lies = 0;
    while !index.may_have(&path(1, 5), now).is_empty() {
        now += Duration::from_secs(10);
        liar.build((0..1000 + lies).map(|number| path(1, number)));
        let since = liar.inventory.as_ref().unwrap().1;
        index.hear(&liar.say(since, &[]), &mut rng(), now).unwrap();
        index.answered(&liar.id(), false, now, now);
        lies += 1;
    }
    assert!(
        lies <= limits::EXCUSED_CLAIMS + limits::FALSE_CLAIMS,
        "{lies}"
    );
    assert_eq!(index.held_bytes(), 0, "its filter takes no room any more");
}

#[test]
fn who_can_not_be_connected_to_comes_last_for_a_while() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let wanted = path(1, 1);
    let mut claimants: Vec<Author> = (1..=20).map(Author::new).collect();
    for (number, claimant) in (0u32..).zip(&mut claimants) {
        let at = now + Duration::from_millis(1) * number;
        let said = claimant.say(0, &[(wanted, true)]);
        index.hear(&said, &mut rng(), at).unwrap();
    }
    let honest = claimants[19].id();
    for claimant in &claimants[..19] {
        index.unreachable(&claimant.id(), now);
    }
    assert_eq!(index.may_have(&wanted, now)[0], honest);
    assert_eq!(index.may_have(&wanted, now).len(), 20);
    let mut later = now;
    while later < now + limits::UNREACHABLE {
        later += Duration::from_secs(300);
        for claimant in &mut claimants {
            let said = claimant.say(0, &[(wanted, true)]);
            index.hear(&said, &mut rng(), later).unwrap();
        }
        index.expire(later);
    }
    assert_eq!(index.may_have(&wanted, later)[0], claimants[0].id());
}

#[test]
fn a_claimant_that_is_too_large_to_fetch_costs_few_misses_a_question() {
    let mut now = Instant::now();
    let mut index = index(64 << 20);
    let mut large = Author::new(1);
    let (blob, said) = large.say_size(4 << 20);
    index.hear(&said, &mut rng(), now).unwrap();
    // A miss each second for a day, in batches: those asked at once are one question.
    let mut questions = 0;
    for second in 0..24 * 3600 {
        now += Duration::from_secs(1);
        match index.standing(&large.id(), &path(1, second), now) {
            Standing::Unknown => {
                questions += 1;
                for _ in 0..10 {
                    index.asked_in_vain(&large.id(), now, now + MOMENT);
                }
            }
            standing => assert_eq!(standing, Standing::Doubtful),
        }
    }
    assert!((10..50).contains(&questions), "{questions}");
    // One yes, and it is fetched and asked as anybody.
    index.answered(&large.id(), true, now, now);
    assert_eq!(
        index.standing(&large.id(), &path(1, 0), now),
        Standing::Unknown
    );
    let later = now + limits::FETCH_SPREAD_MOST;
    assert_eq!(index.next_fetch(later).unwrap().blob, blob);
}

#[test]
fn who_can_not_be_fetched_from_is_left_alone_and_who_will_be_is_asked_meanwhile() {
    let now = Instant::now();
    let mut index = index(64 << 20);
    let mut author = Author::new(1);
    let (_, said) = author.say_size(40_000);
    index.hear(&said, &mut rng(), now).unwrap();
    for second in 0..limits::FRUITLESS {
        let now = now + MOMENT * 2 * second;
        index.asked_in_vain(&author.id(), now, now + MOMENT);
    }
    let later = now + Duration::from_secs(5);
    let standing = |index: &Index| index.standing(&author.id(), &path(1, 1), later);
    assert_eq!(standing(&index), Standing::Unknown);
    let wanted = index.next_fetch(now + limits::FETCH_SPREAD_MOST).unwrap();
    index.failed(&wanted, now);
    assert_eq!(standing(&index), Standing::Doubtful);
}
