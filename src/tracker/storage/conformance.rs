//! What every storage does, told by what goes in and comes out.

use std::collections::BTreeSet;

use iroh::{EndpointId, SecretKey};
use peerix_store::nix::StorePathHash;

use super::*;
use crate::tracker::api::PUBLIC_SWARM;

const NOW: f64 = 1_800_000_000.0;
const LIFETIMES: Lifetimes = Lifetimes {
    signed: 300.0,
    older: 120.0,
    memory: 30.0 * 24.0 * 3600.0,
    transfers: 24.0 * 3600.0,
};
const KEPT: Kept = Kept {
    absent: 2,
    transfers: 2,
    cids: 2,
    reputations: 2,
};

/// Runs every check against storages that `make` makes anew.
pub(super) async fn check<S: Storage, F: Future<Output = S>>(make: impl Fn() -> F) {
    paths_are_announced_changed_and_withdrawn(&make().await).await;
    nothing_is_announced_twice(&make().await).await;
    a_delta_builds_on_what_is_there(&make().await).await;
    the_silent_go_and_are_forgotten_late(&make().await).await;
    older_peers_say_what_they_have(&make().await).await;
    older_nodes_come_and_go(&make().await).await;
    transfers_make_reputations(&make().await).await;
    reputations_stop_at_the_largest_number(&make().await).await;
    cids_are_kept(&make().await).await;
    hashes_that_nobody_has_go(&make().await).await;
    what_strangers_make_is_bounded(&make().await).await;
    who_is_forgotten_early_announces_nothing_again(&make().await).await;
}

/// Checks a storage that has given out all numbers in order.
pub(super) async fn check_used_up(storage: &impl Storage) {
    let (first, second) = (endpoint(), endpoint());
    let added: Vec<u32> = (0..500).collect();
    storage
        .announce(full(first, sequence(1), &added))
        .await
        .unwrap();
    storage
        .announce(full(second, sequence(1), &[1, 2, 700]))
        .await
        .unwrap();
    let delta = SignedChange {
        kind: AnnounceKind::Delta,
        base: Some(sequence(1)),
        removed: vec![hash(1)],
        ..full(second, sequence(2), &[800])
    };
    storage.announce(delta).await.unwrap();
    assert_eq!(
        paths_of(storage, &HolderKey::Signed(first)).await,
        hashes(&added)
    );
    assert_eq!(
        paths_of(storage, &HolderKey::Signed(second)).await,
        hashes(&[2, 700, 800])
    );
    let contents = storage.load().await.unwrap();
    let numbers: BTreeSet<u32> = contents.hashes.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers.len(), contents.hashes.len());
    assert!(numbers.range(..1 << 31).count() > 100, "they are anywhere");
}

fn hash(number: u32) -> StorePathHash {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    StorePathHash::from_bytes(bytes)
}

fn endpoint() -> EndpointId {
    SecretKey::generate().public()
}

fn full(endpoint: EndpointId, sequence: u64, added: &[u32]) -> SignedChange {
    SignedChange {
        endpoint,
        sequence,
        swarm: PUBLIC_SWARM.to_owned(),
        contact: Contact {
            endpoint: Some(endpoint),
            relay_url: Some("https://relay.example".parse().unwrap()),
            direct_addrs: vec!["192.0.2.1:1".parse().unwrap()],
            systems: vec!["x86_64-linux".to_owned()],
            addr: "192.0.2.1".to_owned(),
        },
        kind: AnnounceKind::Full,
        base: None,
        added: added.iter().copied().map(hash).collect(),
        removed: Vec::new(),
        now: NOW,
    }
}

/// Numbers that are surely newer than all that is forgotten.
fn sequence(number: u64) -> u64 {
    NOW as u64 * 1000 + number
}

/// The paths of a holder, as the storage has them.
async fn paths_of(storage: &impl Storage, key: &HolderKey) -> Option<BTreeSet<StorePathHash>> {
    let contents = storage.load().await.unwrap();
    let names: std::collections::HashMap<_, _> = contents.hashes.into_iter().collect();
    let holding = contents
        .holdings
        .into_iter()
        .find(|holding| holding.holder.key == *key)?;
    let paths = holding.paths.unwrap();
    Some(paths.iter().map(|number| names[&number]).collect())
}

fn hashes(numbers: &[u32]) -> Option<BTreeSet<StorePathHash>> {
    Some(numbers.iter().copied().map(hash).collect())
}

async fn paths_are_announced_changed_and_withdrawn(storage: &impl Storage) {
    let endpoint = endpoint();
    let key = HolderKey::Signed(endpoint);
    let first = full(endpoint, sequence(1), &[1, 2, 3]);
    let outcome = storage.announce(first.clone()).await.unwrap();
    let Outcome::Accepted {
        holding,
        hashes: told,
        base,
        count,
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!((base, count, told.len()), (Some(sequence(1)), 3, 3));
    assert_eq!(holding.holder.contact, first.contact);
    assert_eq!(paths_of(storage, &key).await, hashes(&[1, 2, 3]));

    let delta = SignedChange {
        kind: AnnounceKind::Delta,
        base: Some(sequence(1)),
        removed: vec![hash(2), hash(99)],
        ..full(endpoint, sequence(2), &[4, 3])
    };
    let outcome = storage.announce(delta).await.unwrap();
    let Outcome::Accepted { base, count, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((base, count), (Some(sequence(2)), 3));
    assert_eq!(paths_of(storage, &key).await, hashes(&[1, 3, 4]));

    let mut refresh = full(endpoint, sequence(3), &[]);
    refresh.kind = AnnounceKind::Refresh;
    refresh.contact.direct_addrs = vec!["192.0.2.2:2".parse().unwrap()];
    let outcome = storage.announce(refresh.clone()).await.unwrap();
    let Outcome::Accepted { holding, base, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(base, Some(sequence(2)), "a refresh changes no paths");
    assert_eq!(holding.paths, None);
    assert_eq!(holding.holder.contact, refresh.contact);
    assert_eq!(paths_of(storage, &key).await, hashes(&[1, 3, 4]));

    let withdrawal = SignedChange {
        kind: AnnounceKind::Withdraw,
        ..full(endpoint, sequence(4), &[])
    };
    let outcome = storage.announce(withdrawal).await.unwrap();
    let Outcome::Accepted { holding, base, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(!holding.holder.present);
    assert_eq!(base, None);
    assert_eq!(paths_of(storage, &key).await, None);
    assert!(storage.has_signed(endpoint).await.unwrap());
}

async fn nothing_is_announced_twice(storage: &impl Storage) {
    let endpoint = endpoint();
    let old = full(endpoint, 1, &[1]);
    let outcome = storage.announce(old).await.unwrap();
    let Outcome::Stale { sequence: last, .. } = outcome else {
        panic!("an endpoint that is not remembered used a number of long ago: {outcome:?}");
    };
    assert_eq!(last, (NOW - LIFETIMES.memory) as u64 * 1000);
    assert!(!storage.has_signed(endpoint).await.unwrap());

    let change = full(endpoint, sequence(5), &[1]);
    storage.announce(change.clone()).await.unwrap();
    for (kind, number) in [
        (AnnounceKind::Full, sequence(5)),
        (AnnounceKind::Withdraw, sequence(4)),
    ] {
        let again = SignedChange {
            kind,
            sequence: number,
            ..change.clone()
        };
        let outcome = storage.announce(again).await.unwrap();
        assert_eq!(
            outcome,
            Outcome::Stale {
                sequence: sequence(5),
                base: Some(sequence(5)),
                reason: StaleReason::Sequence
            }
        );
    }
    assert_eq!(
        paths_of(storage, &HolderKey::Signed(endpoint)).await,
        hashes(&[1])
    );
}

async fn a_delta_builds_on_what_is_there(storage: &impl Storage) {
    let endpoint = endpoint();
    let delta = |number, base, swarm: &str| SignedChange {
        kind: AnnounceKind::Delta,
        base: Some(sequence(base)),
        swarm: swarm.to_owned(),
        ..full(endpoint, sequence(number), &[2])
    };
    let is_refused = async |change| {
        let outcome = storage.announce(change).await.unwrap();
        matches!(
            outcome,
            Outcome::Stale {
                reason: StaleReason::Base,
                ..
            }
        )
    };
    assert!(is_refused(delta(1, 0, PUBLIC_SWARM)).await, "nothing yet");
    storage
        .announce(full(endpoint, sequence(2), &[1]))
        .await
        .unwrap();
    assert!(is_refused(delta(3, 1, PUBLIC_SWARM)).await, "another base");
    assert!(is_refused(delta(3, 2, "other")).await, "another swarm");
    assert!(!is_refused(delta(3, 2, PUBLIC_SWARM)).await);
    assert_eq!(
        paths_of(storage, &HolderKey::Signed(endpoint)).await,
        hashes(&[1, 2])
    );
}

async fn the_silent_go_and_are_forgotten_late(storage: &impl Storage) {
    let (silent, heard) = (endpoint(), endpoint());
    storage
        .announce(full(silent, sequence(1), &[1]))
        .await
        .unwrap();
    let later = SignedChange {
        now: NOW + 200.0,
        ..full(heard, sequence(1), &[1])
    };
    storage.announce(later).await.unwrap();
    assert!(
        storage
            .expire(NOW + 299.0, LIFETIMES)
            .await
            .unwrap()
            .is_empty()
    );
    let gone = storage.expire(NOW + 301.0, LIFETIMES).await.unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].key, HolderKey::Signed(silent));
    assert!(!gone[0].present);
    assert_eq!(paths_of(storage, &HolderKey::Signed(silent)).await, None);
    assert_eq!(
        paths_of(storage, &HolderKey::Signed(heard)).await,
        hashes(&[1])
    );

    let soon = NOW + LIFETIMES.memory;
    storage.tidy(soon, LIFETIMES, KEPT).await.unwrap();
    assert!(storage.has_signed(silent).await.unwrap(), "remembered");
    storage.tidy(soon + 1000.0, LIFETIMES, KEPT).await.unwrap();
    assert!(!storage.has_signed(silent).await.unwrap(), "forgotten");
}

async fn older_peers_say_what_they_have(storage: &impl Storage) {
    let key = HolderKey::Older("laptop".to_owned());
    let change = |replaces, added: &[u32], removed: &[u32]| OlderChange {
        peer_id: "laptop".to_owned(),
        replaces,
        added: added.iter().copied().map(hash).collect(),
        removed: removed.iter().copied().map(hash).collect(),
        addr: "192.0.2.7".to_owned(),
        now: NOW,
    };
    storage
        .announce_older(change(false, &[1], &[]))
        .await
        .unwrap();
    storage
        .announce_older(change(true, &[2, 3], &[]))
        .await
        .unwrap();
    storage
        .announce_older(change(false, &[4], &[2]))
        .await
        .unwrap();
    assert_eq!(paths_of(storage, &key).await, hashes(&[3, 4]));

    let endpoint = endpoint();
    let node = OlderNode {
        peer_id: "laptop".to_owned(),
        last_seen: NOW + 100.0,
        ..node_of(&endpoint.to_string())
    };
    let holding = storage.put_node(node).await.unwrap().unwrap();
    assert_eq!(holding.holder.contact.endpoint, Some(endpoint));
    assert!(
        storage
            .expire(NOW + 121.0, LIFETIMES)
            .await
            .unwrap()
            .is_empty(),
        "who announces itself still has its paths"
    );
    assert_eq!(
        storage.expire(NOW + 221.0, LIFETIMES).await.unwrap().len(),
        1
    );
    assert_eq!(paths_of(storage, &key).await, None);
}

fn node_of(node_id: &str) -> OlderNode {
    OlderNode {
        node_id: node_id.to_owned(),
        peer_id: "host".to_owned(),
        relay_url: None,
        direct_addrs: vec!["10.0.0.1:1".to_owned(), "not an address".to_owned()],
        addr: "192.0.2.7".to_owned(),
        last_seen: NOW,
    }
}

async fn older_nodes_come_and_go(storage: &impl Storage) {
    let node = node_of("a");
    assert_eq!(storage.put_node(node.clone()).await.unwrap(), None);
    assert_eq!(
        storage.node("a".to_owned()).await.unwrap(),
        Some(node.clone())
    );
    assert_eq!(storage.nodes(NOW - 1.0).await.unwrap(), vec![node.clone()]);
    assert_eq!(storage.nodes(NOW + 1.0).await.unwrap(), Vec::new());
    let moved = OlderNode {
        relay_url: Some("https://relay.example".to_owned()),
        ..node
    };
    storage.put_node(moved.clone()).await.unwrap();
    assert_eq!(storage.nodes(NOW - 1.0).await.unwrap(), vec![moved]);
    assert!(storage.remove_node("a".to_owned()).await.unwrap());
    assert!(!storage.remove_node("a".to_owned()).await.unwrap());

    // An endpoint's own word ends what others said in its name.
    let endpoint = endpoint();
    storage
        .put_node(node_of(&endpoint.to_string()))
        .await
        .unwrap();
    storage
        .announce(full(endpoint, sequence(1), &[]))
        .await
        .unwrap();
    assert_eq!(storage.node(endpoint.to_string()).await.unwrap(), None);
}

async fn transfers_make_reputations(storage: &impl Storage) {
    let transfer = OlderTransfer {
        sender_id: "s".to_owned(),
        receiver_id: "r".to_owned(),
        created_at: NOW,
    };
    let report = |transfer_id, peer_id: &str, role, bytes| Report {
        transfer_id,
        peer_id: peer_id.to_owned(),
        role,
        bytes,
        now: NOW,
    };
    let id = storage.begin_transfer(transfer.clone()).await.unwrap();
    let told = async |report| storage.report(report).await.unwrap();
    assert_eq!(
        told(report(id + 1, "s", Role::Sender, 1)).await,
        Reported::NotFound
    );
    assert_eq!(
        told(report(id, "r", Role::Sender, 1)).await,
        Reported::NotThatSide
    );
    assert_eq!(
        told(report(id, "s", Role::Sender, 1000)).await,
        Reported::Pending
    );
    assert_eq!(
        told(report(id, "s", Role::Sender, 1)).await,
        Reported::AlreadyReported
    );
    assert_eq!(
        told(report(id, "r", Role::Receiver, 960)).await,
        Reported::Resolved { consistent: true }
    );
    assert_eq!(
        told(report(id, "r", Role::Receiver, 1)).await,
        Reported::AlreadyResolved
    );
    let other = storage.begin_transfer(transfer).await.unwrap();
    assert_eq!(other, id + 1);
    told(report(other, "r", Role::Receiver, 5)).await;
    assert_eq!(
        told(report(other, "s", Role::Sender, 500)).await,
        Reported::Resolved { consistent: false }
    );
    let sender = storage.reputation("s".to_owned()).await.unwrap();
    assert_eq!(
        sender,
        Reputation {
            total_shared: 1000,
            total_received: 0,
            successful_transfers: 1,
            failed_transfers: 1
        }
    );
    let nobody = storage.reputation("x".to_owned()).await.unwrap();
    assert_eq!(nobody, Reputation::default());

    let peer = OlderPeer {
        peer_id: "s".to_owned(),
        addr: "192.0.2.7".to_owned(),
        port: 12304,
        libp2p_peer_id: None,
        last_seen: NOW,
    };
    storage.put_peer(peer.clone()).await.unwrap();
    let listed = storage.peers(NOW - 1.0, None).await.unwrap();
    assert_eq!(listed, vec![(peer, sender)]);
    let others = Some(vec!["x".to_owned()]);
    assert_eq!(storage.peers(NOW - 1.0, others).await.unwrap(), Vec::new());
    assert_eq!(storage.older_counts(NOW - 1.0).await.unwrap().peers, 1);
    storage.tidy(NOW + 121.0, LIFETIMES, KEPT).await.unwrap();
    assert_eq!(storage.peers(0.0, None).await.unwrap(), Vec::new());
}

async fn reputations_stop_at_the_largest_number(storage: &impl Storage) {
    for bytes in [i64::MAX - 1, i64::MAX, 7] {
        let transfer = OlderTransfer {
            sender_id: "s".to_owned(),
            receiver_id: "r".to_owned(),
            created_at: NOW,
        };
        let transfer_id = storage.begin_transfer(transfer).await.unwrap();
        for (peer_id, role) in [("s", Role::Sender), ("r", Role::Receiver)] {
            let report = Report {
                transfer_id,
                peer_id: peer_id.to_owned(),
                role,
                bytes,
                now: NOW,
            };
            storage.report(report).await.unwrap();
        }
    }
    let sender = storage.reputation("s".to_owned()).await.unwrap();
    assert_eq!(
        (sender.total_shared, sender.successful_transfers),
        (i64::MAX, 3)
    );
    let receiver = storage.reputation("r".to_owned()).await.unwrap();
    assert_eq!(receiver.total_received, i64::MAX);
    let peer = OlderPeer {
        peer_id: "s".to_owned(),
        addr: String::new(),
        port: 1,
        libp2p_peer_id: None,
        last_seen: NOW,
    };
    storage.put_peer(peer.clone()).await.unwrap();
    assert_eq!(
        storage.peers(0.0, None).await.unwrap(),
        vec![(peer, sender)]
    );
}

async fn cids_are_kept(storage: &impl Storage) {
    let cid = |cid: &str| Cid {
        nar_hash: "sha256:a".to_owned(),
        cid: cid.to_owned(),
        peer_id: "p".to_owned(),
        created_at: NOW,
    };
    storage.put_cid(cid("Qm1")).await.unwrap();
    storage.put_cid(cid("Qm2")).await.unwrap();
    let asked = vec!["sha256:a".to_owned(), "sha256:b".to_owned()];
    assert_eq!(storage.cids(asked).await.unwrap(), vec![cid("Qm2")]);
    assert_eq!(storage.all_cids().await.unwrap(), vec![cid("Qm2")]);
    assert_eq!(storage.older_counts(NOW).await.unwrap().cids, 1);
}

async fn hashes_that_nobody_has_go(storage: &impl Storage) {
    let (first, second) = (endpoint(), endpoint());
    storage
        .announce(full(first, sequence(1), &[1, 2, 3]))
        .await
        .unwrap();
    storage
        .announce(full(second, sequence(1), &[3]))
        .await
        .unwrap();
    let withdrawal = SignedChange {
        kind: AnnounceKind::Withdraw,
        ..full(first, sequence(2), &[])
    };
    storage.announce(withdrawal).await.unwrap();
    assert_eq!(storage.collect_hashes().await.unwrap(), 2);
    let contents = storage.load().await.unwrap();
    assert_eq!(contents.hashes.len(), 1);
    let (number, left) = contents.hashes[0];
    assert_eq!(left, hash(3));
    assert_eq!(storage.hashes(vec![number]).await.unwrap(), contents.hashes);
    storage
        .announce(full(first, sequence(3), &[1, 3]))
        .await
        .unwrap();
    assert_eq!(
        paths_of(storage, &HolderKey::Signed(first)).await,
        hashes(&[1, 3])
    );
    assert!(storage.size().await.unwrap() > 0);
}

async fn what_strangers_make_is_bounded(storage: &impl Storage) {
    let mut transfers = Vec::new();
    for number in 0..5_u8 {
        let at = NOW + f64::from(number);
        let name = number.to_string();
        let transfer = OlderTransfer {
            sender_id: name.clone(),
            receiver_id: name.clone(),
            created_at: at,
        };
        let transfer_id = storage.begin_transfer(transfer).await.unwrap();
        transfers.push(transfer_id);
        for role in [Role::Sender, Role::Receiver] {
            let report = Report {
                transfer_id,
                peer_id: name.clone(),
                role,
                bytes: 1,
                now: at,
            };
            storage.report(report).await.unwrap();
        }
        let cid = Cid {
            nar_hash: name.clone(),
            cid: name.clone(),
            peer_id: name,
            created_at: at,
        };
        storage.put_cid(cid).await.unwrap();
    }
    storage.tidy(NOW + 10.0, LIFETIMES, KEPT).await.unwrap();
    let is_there = async |transfer_id| {
        let report = Report {
            transfer_id,
            peer_id: String::new(),
            role: Role::Sender,
            bytes: 1,
            now: NOW,
        };
        storage.report(report).await.unwrap() != Reported::NotFound
    };
    for (number, transfer_id) in (0..).zip(&transfers) {
        assert_eq!(is_there(*transfer_id).await, number >= 3, "{number}");
        let reputation = storage.reputation(number.to_string()).await.unwrap();
        assert_eq!(reputation != Reputation::default(), number >= 3, "{number}");
    }
    let mut cids = storage.all_cids().await.unwrap();
    cids.sort_by(|a, b| a.cid.cmp(&b.cid));
    let cids: Vec<&str> = cids.iter().map(|cid| cid.cid.as_str()).collect();
    assert_eq!(cids, ["3", "4"]);
    let late = NOW + 3.5 + LIFETIMES.transfers;
    storage.tidy(late, LIFETIMES, KEPT).await.unwrap();
    assert!(!is_there(transfers[3]).await && is_there(transfers[4]).await);
}

async fn who_is_forgotten_early_announces_nothing_again(storage: &impl Storage) {
    let endpoints: Vec<EndpointId> = (0..4).map(|_| endpoint()).collect();
    for (number, endpoint) in (0..).zip(&endpoints) {
        let change = SignedChange {
            now: NOW + number as f64,
            ..full(*endpoint, sequence(number), &[1])
        };
        storage.announce(change).await.unwrap();
    }
    // One whose clock is wrong keeps nobody out.
    let ahead = endpoint();
    storage
        .announce(full(ahead, i64::MAX as u64, &[1]))
        .await
        .unwrap();
    storage.expire(NOW + 304.0, LIFETIMES).await.unwrap();
    storage.tidy(NOW + 500.0, LIFETIMES, KEPT).await.unwrap();
    let is_known = async |endpoint: &EndpointId| storage.has_signed(*endpoint).await.unwrap();
    assert!(is_known(&ahead).await, "others may not know that it went");
    let late = NOW + 700.0;
    storage.tidy(late, LIFETIMES, KEPT).await.unwrap();
    for (number, endpoint) in (0..).zip(&endpoints) {
        assert_eq!(is_known(endpoint).await, number >= 2, "{number}");
        let again = SignedChange {
            now: late,
            ..full(*endpoint, sequence(number), &[1])
        };
        let outcome = storage.announce(again).await.unwrap();
        assert!(matches!(outcome, Outcome::Stale { .. }), "{number}");
    }
    assert!(!is_known(&ahead).await);
    let new = SignedChange {
        now: late,
        ..full(endpoint(), sequence(700_001), &[1])
    };
    let outcome = storage.announce(new).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
}
