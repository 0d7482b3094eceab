//! Swarms of real endpoints on loopback.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

#[path = "swarm/hostile.rs"]
mod hostile;
#[path = "swarm/machine.rs"]
mod machine;

use std::time::Duration;

use iroh_gossip::proto::TopicId;
use machine::{Machine, path, until, within};
use peerix_gossip::{Standing, limits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_know_what_the_others_have_and_forget_who_leaves() {
    let a = Machine::start("three", &[]).await;
    let b = Machine::start("three", &[&a]).await;
    let c = Machine::start("three", &[&a]).await;
    a.offer(0..3).await;
    b.offer(10..13).await;
    c.offer(20..23).await;
    for asker in [&a, &b, &c] {
        for (holder, number) in [(&a, 1), (&b, 11), (&c, 21)] {
            if holder.id() != asker.id() {
                until("the path is found", || {
                    asker.swarm.may_have(&path(number)) == [holder.id()]
                })
                .await;
            }
        }
        assert!(asker.swarm.may_have(&path(99)).is_empty());
    }
    assert_eq!(c.swarm.standing(&a.id(), &path(99)), Standing::Lacks);
    b.stop().await;
    for asker in [&a, &c] {
        until("who left is forgotten", || !asker.swarm.knows(&b.id())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inventory_of_many_paths_is_fetched_and_what_comes_later_is_told() {
    let a = Machine::start("many", &[]).await;
    let b = Machine::start("many", &[&a]).await;
    a.offer(0..20_000).await;
    until("the filter is held", || {
        b.swarm.standing(&a.id(), &path(19_999)) == Standing::MayHave
    })
    .await;
    assert_eq!(b.fetches(), 1);
    assert_eq!(b.swarm.standing(&a.id(), &path(50_000)), Standing::Lacks);
    a.offer(0..20_005).await;
    until("what came is told", || {
        b.swarm.may_have(&path(20_004)) == [a.id()]
    })
    .await;
    assert_eq!(b.fetches(), 1, "what changed needs no second fetch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_knows_everyone_at_once() {
    let first = Machine::start("newcomer", &[]).await;
    let mut others = Vec::new();
    for number in 0..5 {
        let other = Machine::start("newcomer", &[&first]).await;
        other.offer(number * 10..number * 10 + 3).await;
        others.push(other);
    }
    first.offer(100..101).await;
    until("they know each other", || first.swarm.len() == 5).await;
    // Long before anyone speaks again.
    let newcomer = Machine::start("newcomer", &[&first]).await;
    within(Duration::from_secs(60), "the newcomer knows all", || {
        newcomer.swarm.len() == 6
    })
    .await;
    assert_eq!(newcomer.swarm.may_have(&path(42)), [others[4].id()]);
    assert_eq!(newcomer.swarm.may_have(&path(100)), [first.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swarms_of_different_names_do_not_hear_each_other() {
    let a = Machine::start("one", &[]).await;
    let b = Machine::start("two", &[&a]).await;
    let c = Machine::start("one", &[&a]).await;
    a.offer(0..3).await;
    b.offer(0..3).await;
    until("those of one swarm meet", || {
        c.swarm.may_have(&path(1)) == [a.id()]
    })
    .await;
    assert!(b.swarm.is_empty());
    assert!(!a.swarm.knows(&b.id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_partition_peers_find_each_other_again() {
    let a = Machine::start("parted", &[]).await;
    let b = Machine::start("parted", &[&a]).await;
    a.offer(0..3).await;
    until("they meet", || b.swarm.may_have(&path(1)) == [a.id()]).await;
    for machine in [&a, &b] {
        machine.part(true);
    }
    until("they lost each other", || {
        a.swarm.neighbours().is_empty() && b.swarm.neighbours().is_empty()
    })
    .await;
    a.offer(0..5).await;
    for machine in [&a, &b] {
        machine.part(false);
    }
    // Thirty seconds are asked for; a machine that is busy with other tests may add some.
    let parted = std::time::Instant::now();
    until("they are together again", || {
        b.swarm.may_have(&path(4)) == [a.id()]
    })
    .await;
    println!("together again after {:?}", parted.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_peers_whose_dials_failed_during_a_partition_dial_again_after_it() {
    let a = Machine::start("long parted", &[]).await;
    let b = Machine::start("long parted", &[&a]).await;
    a.offer(0..3).await;
    until("they meet", || b.swarm.may_have(&path(1)) == [a.id()]).await;
    for machine in [&a, &b] {
        machine.part(true);
    }
    // Only the one was told of the other: the other one has nobody to dial.
    until("it dialled in vain", || b.refused_dials() > 0).await;
    a.offer(0..5).await;
    for machine in [&a, &b] {
        machine.part(false);
    }
    until("they are together again", || {
        b.swarm.may_have(&path(4)) == [a.id()]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_replayed_and_oversized_messages_of_a_real_peer_change_nothing() {
    let a = Machine::start("forged", &[]).await;
    let b = Machine::start("forged", &[&a]).await;
    b.offer(0..3).await;
    until("they meet", || a.swarm.may_have(&path(1)) == [b.id()]).await;
    let hostile = hostile::Peer::start("forged", &[&a, &b]).await;
    let before = a.swarm.counters();
    let mut forged = hostile.announcement(100, 7).to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    hostile.broadcast(forged).await;
    // In another's name: it is a valid message but for its signature.
    hostile
        .broadcast(hostile.in_the_name_of(b.id(), u64::MAX))
        .await;
    hostile
        .broadcast(vec![1; limits::MAX_ANNOUNCEMENT + 500])
        .await;
    hostile.broadcast(vec![0xff; 300]).await;
    let true_one = hostile.announcement(50, 9);
    hostile.broadcast(true_one.to_vec()).await;
    hostile
        .broadcast(hostile.announcement(40, 8).to_vec())
        .await;
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
    b.offer(0..4).await;
    until("the honest one is heard", || {
        a.swarm.may_have(&path(3)) == [b.id()]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_valid_messages_is_dropped_and_the_honest_are_heard_within_ten_seconds() {
    let a = Machine::start("flood", &[]).await;
    let b = Machine::start("flood", &[&a]).await;
    b.offer(0..3).await;
    until("they meet", || a.swarm.may_have(&path(1)) == [b.id()]).await;
    let hostile = hostile::Peer::start("flood", &[&a, &b]).await;
    let flood = hostile.flood(Duration::from_secs(60));
    until("the flood arrives", || a.swarm.counters().too_often > 100).await;
    b.offer(0..4).await;
    // Ten seconds are asked for; the floods of the other tests run beside it.
    within(Duration::from_secs(40), "the honest one is heard", || {
        a.swarm.may_have(&path(3)) == [b.id()]
    })
    .await;
    until("who floods is refused", || {
        a.links.is_banned(&hostile.id(), std::time::Instant::now())
    })
    .await;
    flood.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_the_largest_hop_count_ends_nobodys_gossip() {
    let a = Machine::start("hops", &[]).await;
    let b = Machine::start("hops", &[&a]).await;
    a.offer(0..3).await;
    b.offer(10..13).await;
    until("they meet", || a.swarm.may_have(&path(11)) == [b.id()]).await;
    let raw = hostile::Raw::connect("hops", &a).await;
    raw.gossip(b"with too many hops", u16::MAX).await;
    until("it came", || a.swarm.counters().malformed > 0).await;
    b.offer(10..14).await;
    until("gossip goes on", || a.swarm.may_have(&path(13)) == [b.id()]).await;
    assert_eq!(a.swarm.restarts(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_sends_a_million_false_notices_is_cut() {
    let a = Machine::start("notices", &[]).await;
    let b = Machine::start("notices", &[&a]).await;
    a.offer(0..3).await;
    b.offer(10..13).await;
    until("they meet", || a.swarm.may_have(&path(11)) == [b.id()]).await;
    let before = machine::memory();
    let raw = hostile::Raw::connect("notices", &a).await;
    raw.false_notices(1_000_000).await;
    until("it is cut", || {
        a.links.is_banned(&raw.id(), std::time::Instant::now())
    })
    .await;
    let grown = machine::memory().saturating_sub(before);
    // The other tests of this process count too, and the sender's buffers.
    assert!(grown < 128 << 20, "{grown}");
    b.offer(10..14).await;
    until("gossip goes on", || a.swarm.may_have(&path(13)) == [b.id()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_does_not_read_stops_gossip_for_half_a_minute_at_most() {
    let a = Machine::start("silent", &[]).await;
    let b = Machine::start("silent", &[&a]).await;
    a.offer(0..3).await;
    b.offer(10..13).await;
    until("they meet", || a.swarm.may_have(&path(11)) == [b.id()]).await;
    let raw = hostile::Raw::connect("silent", &a).await;
    raw.join_and_stop_reading().await;
    // Much to hand on: the silent neighbour's windows fill and gossip waits for it.
    let loud = hostile::Peer::start("silent", &[&a]).await;
    let flood = loud.shout();
    // Half a minute is asked for; the floods of the other tests run beside it.
    within(Duration::from_secs(180), "gossip is started again", || {
        a.swarm.restarts() > 0
    })
    .await;
    flood.abort();
    b.offer(10..14).await;
    within(Duration::from_secs(180), "the honest one is heard", || {
        a.swarm.may_have(&path(13)) == [b.id()]
    })
    .await;
}

#[test]
fn the_public_swarm_keeps_the_stock_protocol() {
    assert_eq!(
        peerix_gossip::gossip_alpn("public"),
        iroh_gossip::net::GOSSIP_ALPN
    );
    assert_ne!(
        peerix_gossip::gossip_alpn("other"),
        iroh_gossip::net::GOSSIP_ALPN
    );
    let topic = TopicId::from_bytes(peerix_gossip::topic("public"));
    assert_ne!(topic, TopicId::from_bytes(peerix_gossip::topic("other")));
}
