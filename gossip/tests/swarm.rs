//! Swarms of real endpoints on loopback.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

#[path = "swarm/catalogue.rs"]
mod catalogue;
#[path = "swarm/faults.rs"]
mod faults;
#[path = "swarm/hostile.rs"]
#[allow(dead_code, reason = "the tests of the whole program use it too")]
mod hostile;
#[path = "swarm/loopback.rs"]
#[allow(dead_code, reason = "the tests of the whole program use it too")]
mod loopback;
#[path = "swarm/machine.rs"]
mod machine;

use std::time::{Duration, Instant};

use hostile::path;
use iroh_gossip::proto::TopicId;
use machine::{Machine, until, within};
use peerix_gossip::Standing;

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
async fn an_overlay_comes_to_rest_and_keeps_connections_between_neighbours_alone() {
    let mut machines = vec![Machine::start("rest", &[]).await];
    for _ in 1..12 {
        machines.push(Machine::start("rest", &[&machines[0]]).await);
    }
    let neighbours = || -> Vec<Vec<_>> {
        let of = |machine: &Machine| {
            let mut ids = machine.swarm.neighbours();
            ids.sort_unstable();
            ids
        };
        machines.iter().map(of).collect()
    };
    let (mut last, mut since) = (neighbours(), Instant::now());
    // Each shuffle of theirs, one a minute from each, is answered over a connection of its own.
    within(Duration::from_secs(150), "all are at rest", || {
        let now = neighbours();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let others: usize = machines.iter().map(Machine::other_links).sum();
        let alone = last.iter().filter(|of| of.is_empty()).count();
        alone == 0 && since.elapsed() > Duration::from_secs(20) && others <= machines.len()
    })
    .await;
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
