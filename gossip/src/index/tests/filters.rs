//! Which filters are fetched and held.

use super::*;

#[test]
fn a_filter_displaces_others_by_what_it_holds_and_not_by_what_it_might() {
    let now = Instant::now();
    let ours: Vec<_> = (0..200).map(|number| path(1, number)).collect();
    let mut authors: Vec<Author> = (1..=5).map(Author::new).collect();
    for author in &mut authors[..3] {
        author.build((0..100).chain(1000..1900).map(|number| path(1, number)));
    }
    for author in &mut authors[3..] {
        author.build((0..1000).map(|number| path(7, number)));
    }
    let size = authors[0].blob().unwrap().size as usize;
    let mut index = index(1 << 20);
    index.interested_in(ours);
    for author in &mut authors {
        let since = author.inventory.as_ref().unwrap().1;
        let said = author.say(since, &[]);
        index.hear(&said, &mut rng(), now).unwrap();
    }
    index.memory = index.memory_without_filters() + size * 3;
    for minute in 1..100 {
        fetch_all(&mut index, now + Duration::from_secs(minute * 60), &authors);
    }
    for author in &authors[..3] {
        assert_eq!(index.may_have(&path(1, 1500), now).len(), 3);
        assert_eq!(
            index.standing(&author.id(), &path(1, 5), now),
            Standing::MayHave
        );
    }
    // Who is not believed any more holds no place.
    disbelieve(&mut index, authors[0].id(), now);
    assert_eq!(index.held_bytes(), size * 2);
}

#[test]
fn the_filter_of_a_stranger_takes_a_small_share_and_that_of_a_friend_any() {
    let now = Instant::now();
    let mut index = index(64 << 20);
    let mut author = Author::new(1);
    let (blob, said) = author.say_size(4 << 20);
    index.hear(&said, &mut rng(), now).unwrap();
    let later = now + limits::FETCH_SPREAD_MOST;
    assert_eq!(index.next_fetch(later), None);
    index.answered(&author.id(), true, later, later);
    let later = later + limits::FETCH_SPREAD_MOST;
    assert_eq!(index.next_fetch(later).unwrap().blob, blob);
}

#[test]
fn an_author_that_could_not_be_fetched_from_waits_for_all_others() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut authors: Vec<Author> = (1..=10).map(Author::new).collect();
    let (dead, living) = authors.split_at_mut(8);
    let mut later = now;
    for round in 0..20u32 {
        later += Duration::from_secs(30);
        for author in &mut *dead {
            // A new one each time.
            author.build((0..50 + round).map(|number| path(1, number)));
            let since = author.sequence;
            index
                .hear(&author.say(since, &[]), &mut rng(), later)
                .unwrap();
        }
        while let Some(wanted) = index.next_fetch(later + Duration::from_secs(20)) {
            index.failed(&wanted, later);
        }
    }
    for author in &mut *living {
        author.build((0..50).map(|number| path(2, number)));
        let since = author.sequence;
        index
            .hear(&author.say(since, &[]), &mut rng(), later)
            .unwrap();
    }
    let later = later + limits::FETCH_BACKOFF_MOST;
    for _ in 0..2 {
        let wanted = index.next_fetch(later).unwrap();
        assert!(living.iter().any(|author| author.id() == wanted.author));
    }
}

#[test]
fn under_the_cap_the_filters_of_the_most_useful_are_held() {
    let now = Instant::now();
    let ours: Vec<_> = (0..200).map(|number| path(1, number)).collect();
    let mut authors: Vec<Author> = (1..=20).map(Author::new).collect();
    for (shared, author) in (1u32..).zip(&mut authors) {
        let shared = (0..shared * 10).map(|number| path(1, number));
        author.build(shared.chain((0..1000).map(|number| path(2, number))));
    }
    let size = authors[0].blob().unwrap().size as usize;
    let mut index = index(1 << 20);
    index.interested_in(ours);
    for author in &mut authors {
        let since = author.inventory.as_ref().unwrap().1;
        index
            .hear(&author.say(since, &[]), &mut rng(), now)
            .unwrap();
    }
    index.memory = index.memory_without_filters() + size * 6;
    for minute in 1..300 {
        fetch_all(&mut index, now + Duration::from_secs(minute * 60), &authors);
        assert!(index.held_bytes() <= size * 6);
    }
    let held: Vec<bool> = authors
        .iter()
        .map(|author| index.standing(&author.id(), &path(3, 0), now) == Standing::Lacks)
        .collect();
    assert!(held[16..].iter().all(|held| *held), "{held:?}");
    assert!(held[..10].iter().all(|held| !held), "{held:?}");
}

#[test]
fn filters_make_room_for_more_authors_and_keep_half() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut authors: Vec<Author> = (1..=200).map(Author::new).collect();
    for author in &mut authors {
        author.build((0..3000).map(|number| path(1, number)));
        author.joins(&mut index, now);
    }
    for minute in 1..30 {
        fetch_all(&mut index, now + Duration::from_secs(minute * 60), &authors);
    }
    index.expire(now);
    let alone = index.held_bytes();
    assert!(index.memory() <= 1 << 20, "{}", index.memory());
    for number in 1000..1300 {
        let said = Author::new(number).say(0, &[]);
        index.hear(&said, &mut rng(), now).unwrap();
    }
    index.expire(now);
    assert!(index.held_bytes() < alone);
    assert!(index.memory() <= 1 << 20, "{}", index.memory());
    for number in 2000..4000 {
        let said = Author::new(number).say(0, &[]);
        index.hear(&said, &mut rng(), now).unwrap();
    }
    index.expire(now);
    let half = 1 << 19;
    assert!((half - 8192..=half).contains(&index.held_bytes()));
}

#[test]
fn a_filter_that_is_not_what_was_signed_is_not_taken() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    author.build((0..1000).map(|number| path(1, number)));
    let since = author.sequence;
    index
        .hear(&author.say(since, &[]), &mut rng(), now)
        .unwrap();
    let later = now + Duration::from_secs(60);
    let wanted = index.next_fetch(later).unwrap();
    let other = Inventory::build((0..999).map(|number| path(1, number)), 1).unwrap();
    index.fetched(&wanted, other, later);
    assert_eq!(index.held(), 0);
    assert!(
        index.next_fetch(later).is_none(),
        "it waits before it tries again"
    );
    assert!(index.next_fetch(later + limits::FETCH_BACKOFF).is_some());
}

#[test]
fn filters_of_strangers_that_are_too_large_hide_nobody_else() {
    let now = Instant::now();
    let mut index = index(64 << 20);
    for number in 0..200 {
        let mut large = Author::new(100 + number);
        let (_, said) = large.say_size(4 << 20);
        index.hear(&said, &mut rng(), now).unwrap();
    }
    let mut modest = Author::new(1);
    let (blob, said) = modest.say_size(40_000);
    index.hear(&said, &mut rng(), now).unwrap();
    let wanted = index.next_fetch(now + limits::FETCH_SPREAD_MOST).unwrap();
    assert_eq!(wanted.blob, blob);
}

#[test]
fn filters_for_which_there_is_no_room_hide_the_smaller_ones_for_no_longer_than_a_look_takes() {
    let now = Instant::now();
    // Full of a friend's, which nobody unknown displaces.
    let mut friend = Author::new(1);
    friend.build((0..100_000).map(|number| path(1, number)));
    let size = friend.blob().unwrap().size as usize;
    let mut index = index(1 << 20);
    index.interested_in((0..200).map(|number| path(1, number)).collect());
    friend.joins(&mut index, now);
    index.judge_peer(&friend.id(), 1.0);
    assert_eq!(index.held_bytes(), size);
    for number in 0..10 {
        let mut large = Author::new(100 + number);
        let (_, said) = large.say_size(100_000);
        index.hear(&said, &mut rng(), now).unwrap();
    }
    let mut small = Author::new(2);
    let (blob, said) = small.say_size(5000);
    let later = now + Duration::from_secs(1);
    index.hear(&said, &mut rng(), later).unwrap();
    index.memory = index.memory_without_filters() + size + 10_000;
    let wanted = index.next_fetch(later + limits::FETCH_SPREAD_MOST).unwrap();
    assert_eq!(wanted.blob, blob);
}
