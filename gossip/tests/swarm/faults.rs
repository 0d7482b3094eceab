//! What members of a swarm try that mean no good, over real connections. `tests/whole` of the program
//! holds a daemon to what it may cost.

use std::time::{Duration, Instant};

use peerix_gossip::{Standing, limits};

use super::{
    hostile::{Peer, Raw, Reader, goodbye, path},
    machine::{Machine, until, within},
};

/// Two machines that know each other's paths: 0 to 2 of the first, 10 to 12 of the second.
async fn two(name: &str) -> (Machine, Machine) {
    let a = Machine::start(name, &[]).await;
    let b = Machine::start(name, &[&a]).await;
    a.offer(0..3).await;
    b.offer(10..13).await;
    until("they meet", || {
        a.swarm.may_have(&path(11)) == [b.id()] && b.swarm.may_have(&path(1)) == [a.id()]
    })
    .await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_who_floods_with_valid_messages_is_dropped_and_cut() {
    let (a, b) = two("flood").await;
    let hostile = Peer::start("flood", &[&a.addr, &b.addr]).await;
    let flood = hostile.flood(5000);
    until("the flood arrives", || a.swarm.counters().too_often > 100).await;
    b.offer(10..14).await;
    until("the honest one is heard", || {
        a.swarm.may_have(&path(13)) == [b.id()]
    })
    .await;
    until("who floods is refused", || {
        a.links.is_banned(&hostile.id(), Instant::now())
    })
    .await;
    assert!(!a.links.is_banned(&b.id(), Instant::now()));
    flood.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_false_notices_under_many_keys_restart_gossip_which_keeps_what_it_knew() {
    let (a, b) = two("notices").await;
    let mut sent = 0;
    while a.swarm.restarts() == 0 {
        if let Some(raw) = Raw::try_connect("notices", &a.addr).await {
            sent += raw.false_notices(1_000_000).await;
        }
        assert!(sent < 3_000_000, "{sent} notices were taken");
        println!("{sent} notices");
    }
    // Nobody has to say anything again for that.
    assert_eq!(a.swarm.standing(&b.id(), &path(11)), Standing::MayHave);
    a.offer(0..4).await;
    b.offer(10..14).await;
    until("each hears the other again", || {
        a.swarm.may_have(&path(13)) == [b.id()] && b.swarm.may_have(&path(3)) == [a.id()]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_message_with_the_largest_hop_count_ends_nobodys_gossip() {
    let (a, b) = two("hops").await;
    let raw = Raw::connect("hops", &a.addr).await;
    assert!(raw.gossip(b"with too many hops", u16::MAX).await);
    until("it came", || a.swarm.counters().malformed > 0).await;
    b.offer(10..14).await;
    until("gossip goes on", || a.swarm.may_have(&path(13)) == [b.id()]).await;
    assert_eq!(a.swarm.restarts(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_where_a_neighbour_does_not_read_gossip_is_started_again_within_half_a_minute() {
    let (a, b) = two("silent").await;
    let raw = Raw::connect("silent", &a.addr).await;
    raw.join().await;
    // Much to hand on: the silent neighbour's windows fill and gossip waits for it.
    let loud = Peer::start("silent", &[&a.addr]).await;
    let flood = loud.shout();
    let begun = Instant::now();
    // Eight seconds of this are how long gossip may stand still.
    within(Duration::from_secs(30), "gossip is started again", || {
        a.swarm.restarts() > 0
    })
    .await;
    println!("started again after {:?}", begun.elapsed());
    flood.abort();
    b.offer(10..14).await;
    // Its gossip may have stood still for the first one's sake, and then refuses that one for a while.
    until("the honest one is heard", || {
        a.swarm.may_have(&path(13)) == [b.id()]
    })
    .await;
    println!("heard after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_forged_replayed_reordered_and_future_messages_of_a_real_peer_change_nothing() {
    let (a, b) = two("forged").await;
    // What the second said before its next word.
    let catalogue = Reader::start("forged", &a.addr).await;
    let said = catalogue.page().await.expect("a page").entries;
    b.offer(10..14).await;
    until("it speaks again", || {
        a.swarm.may_have(&path(13)) == [b.id()]
    })
    .await;

    let hostile = Peer::start("forged", &[&a.addr, &b.addr]).await;
    let before = a.swarm.counters();
    let mut forged = hostile.announcement(100, 7).to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    hostile.broadcast(forged).await;
    // In another's name: it is a valid message but for its signature.
    let forged = hostile.in_the_name_of(b.id(), u64::MAX);
    hostile.broadcast(forged).await;
    for entry in said {
        hostile.broadcast(entry.bytes).await;
    }
    hostile
        .broadcast(vec![1; limits::MAX_ANNOUNCEMENT + 500])
        .await;
    hostile.broadcast(vec![0xff; 300]).await;
    hostile.broadcast(hostile.announcement(50, 9)).await;
    hostile.broadcast(hostile.announcement(40, 8)).await;
    until("all of it came", || {
        let now = a.swarm.counters();
        now.forged >= before.forged + 2
            && now.malformed >= before.malformed + 2
            && now.old > before.old
    })
    .await;
    assert_eq!(a.swarm.may_have(&path(9)), [hostile.id()]);
    assert!(a.swarm.may_have(&path(7)).is_empty());
    assert!(a.swarm.may_have(&path(8)).is_empty());
    assert_eq!(a.swarm.may_have(&path(13)), [b.id()]);

    // One of a time that never comes hurts its author alone.
    hostile.broadcast(hostile.announcement(u64::MAX, 8)).await;
    until("it is taken", || {
        a.swarm.may_have(&path(8)) == [hostile.id()]
    })
    .await;
    let before = a.swarm.counters();
    hostile.broadcast(hostile.announcement(70, 7)).await;
    until("the next one came", || a.swarm.counters().old > before.old).await;
    assert!(a.swarm.may_have(&path(7)).is_empty());
    b.offer(10..15).await;
    until("the honest one is heard", || {
        a.swarm.may_have(&path(14)) == [b.id()]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_what_is_of_no_use_is_cut_and_who_hands_it_on_is_soon_heard_again() {
    let (a, b) = two("waste").await;
    // It is no member, so nobody else hears of it from itself.
    let raw = Raw::connect("waste", &a.addr).await;
    for seed in 0..20 {
        assert!(raw.gossip(&goodbye("waste", seed), 0).await);
    }
    let heard = |machine: &Machine| machine.swarm.counters().accepted;
    let before = heard(&b);
    until("some of it was handed on", || heard(&b) > before).await;
    let mut number = 0u32;
    while !a.links.is_banned(&raw.id(), Instant::now()) {
        let mut junk = vec![0xff; limits::MAX_ANNOUNCEMENT];
        junk[..4].copy_from_slice(&number.to_le_bytes());
        raw.gossip(&junk, 0).await;
        number += 1;
        assert!(number < 5000, "it is never cut");
    }
    assert!(b.swarm.counters().malformed > 100, "nothing was handed on");
    a.offer(0..4).await;
    within(
        Duration::from_secs(30),
        "the two still hear each other",
        || b.swarm.may_have(&path(3)) == [a.id()],
    )
    .await;
    assert_eq!(b.swarm.restarts(), 0);
}
