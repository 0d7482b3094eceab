//! Who reads catalogues, and how much of them.

use std::time::{Duration, Instant};

use peerix_gossip::limits;

use super::{
    hostile::{Reader, path},
    machine::{Machine, until},
};

/// A machine whose catalogue holds another one.
async fn two(name: &str) -> (Machine, Machine) {
    let a = Machine::start(name, &[]).await;
    let b = Machine::start(name, &[&a]).await;
    b.offer(0..3).await;
    until("they meet", || a.swarm.may_have(&path(1)) == [b.id()]).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_its_share_of_pages_and_others_get_theirs() {
    let (a, _b) = two("readers").await;
    let greedy = Reader::start("readers", &a.addr).await;
    let begun = Instant::now();
    let mut pages = 0;
    for _ in 0..limits::CATALOGUE_PAGES + 5 {
        pages += usize::from(greedy.page().await.is_some());
    }
    assert!(begun.elapsed() < limits::CATCH_UP_INTERVAL, "too slow");
    assert_eq!(pages, limits::CATALOGUE_PAGES);
    let modest = Reader::start("readers", &a.addr).await;
    let page = modest.page().await.expect("a page");
    assert_eq!(page.entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_deaf_reader_takes_two_places_and_many_hold_them_for_a_while_alone() {
    let (a, _b) = two("deaf").await;
    let deaf = Reader::start("deaf", &a.addr).await;
    let mut held = Vec::new();
    for _ in 0..limits::PAGES_AT_ONCE {
        held.push(deaf.ask().await);
    }
    let modest = Reader::start("deaf", &a.addr).await;
    assert!(modest.page().await.is_some());
    for _ in 0..limits::PAGES_AT_ONCE / limits::PAGES_OF_A_READER {
        let deaf = Reader::start("deaf", &a.addr).await;
        for _ in 0..limits::PAGES_OF_A_READER {
            held.push(deaf.ask().await);
        }
    }
    // Whoever finds no place now asks another; here it waits.
    let deadline = Instant::now() + limits::CATALOGUE_TIMEOUT + Duration::from_secs(20);
    while modest.page().await.is_none() {
        assert!(Instant::now() < deadline, "the places are held for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(held);
}
