use std::collections::HashSet;

use iroh::SecretKey;
use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha12Rng, seq::IndexedRandom as _};

use super::*;
use crate::tracker::api::{Found, PathHash};
use crate::tracker::storage::Contents;

fn hash(number: u32) -> StorePathHash {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    StorePathHash::from_bytes(bytes)
}

fn names(numbers: impl IntoIterator<Item = u32>) -> HashMap<u32, StorePathHash> {
    numbers.into_iter().map(|n| (n, hash(n))).collect()
}

fn asked(numbers: impl IntoIterator<Item = u32>) -> Vec<PathHash> {
    numbers.into_iter().map(|n| PathHash(hash(n))).collect()
}

fn holding(id: HolderId, swarm: &str, revision: i64, paths: Option<Vec<u32>>) -> Holding {
    let endpoint = SecretKey::from_bytes(&[id as u8; 32]).public();
    Holding {
        holder: Holder {
            id,
            key: HolderKey::Signed(endpoint),
            swarm: swarm.to_owned(),
            present: true,
            revision,
            contact: Contact {
                endpoint: Some(endpoint),
                ..Contact::default()
            },
            last_seen: 0.0,
        },
        paths: paths.map(IdSet::from_unsorted),
    }
}

/// The holders of one path, by their numbers.
fn holders(directory: &Directory, swarm: &str, number: u32) -> Vec<u8> {
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let found = directory.lookup(swarm, &asked([number]), &mut rng);
    let mut ids: Vec<u8> = (1..=255)
        .filter(|id| {
            let endpoint = SecretKey::from_bytes(&[*id; 32]).public();
            found.peers.iter().any(|peer| peer.endpoint == endpoint)
        })
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn paths_are_found_as_they_come_and_go_and_in_their_swarm_alone() {
    let mut directory = Directory::default();
    let names = names(1..5);
    assert!(
        directory
            .take(holding(1, "a", 1, Some(vec![1, 2])), &names)
            .is_empty()
    );
    directory.take(holding(2, "a", 1, Some(vec![2, 3])), &names);
    directory.take(holding(3, "b", 1, Some(vec![2])), &names);
    assert_eq!(holders(&directory, "a", 2), [1, 2]);
    assert_eq!(holders(&directory, "b", 2), [3]);
    assert!(holders(&directory, "c", 2).is_empty());
    assert_eq!(directory.fill().records, 5);

    directory.take(holding(1, "a", 2, Some(vec![3])), &names);
    assert!(holders(&directory, "a", 1).is_empty());
    assert_eq!(holders(&directory, "a", 3), [1, 2]);
    directory.take(holding(2, "b", 2, Some(vec![3])), &names);
    assert_eq!(holders(&directory, "a", 3), [1], "it went to another swarm");
    assert_eq!(holders(&directory, "b", 3), [2]);

    for id in 1..=3 {
        let mut gone = holding(id, "a", 9, None).holder;
        gone.present = false;
        directory.remove(&gone);
    }
    assert_eq!(directory.fill(), Fill::default());
    assert!(directory.paths.is_empty() && directory.numbers.is_empty());
}

#[test]
fn all_at_once_is_the_same_as_one_after_the_other() {
    let mut rng = ChaCha12Rng::seed_from_u64(3);
    // Numbers that lie close together, and some that are far away.
    let numbers: Vec<u32> = (0..500)
        .map(|n| {
            if n % 10 == 0 {
                u32::MAX - n * 100_000
            } else {
                n
            }
        })
        .collect();
    let names: HashMap<u32, StorePathHash> = numbers.iter().map(|n| (*n, hash(*n))).collect();
    let mut holdings: Vec<Holding> = (1..=250)
        .map(|id| {
            let count = rng.random_range(0..50);
            let own = numbers.sample(&mut rng, count).copied().collect();
            holding(id, ["a", "b", "c"][id as usize % 3], 1, Some(own))
        })
        .collect();
    holdings.push(holding(251, "a", 1, None));
    holdings[7].holder.present = false;

    let mut one_by_one = Directory::default();
    for holding in &holdings {
        one_by_one.take(holding.clone(), &names);
    }
    let (at_once, unknown) = Directory::of(Contents {
        hashes: names.clone().into_iter().collect(),
        holdings: holdings.clone(),
    });
    assert!(unknown.is_empty());
    assert_eq!(at_once.fill(), one_by_one.fill());
    let filed = |directory: &Directory, number: u32| {
        let path = directory.paths.get(&number);
        let holders = path.map(|path| {
            ["a", "b", "c"].map(|swarm| path.of(directory.swarm_numbers[swarm]).cloned())
        });
        (path.map(|path| path.hash), holders)
    };
    for number in numbers {
        assert_eq!(filed(&at_once, number), filed(&one_by_one, number));
        assert_eq!(
            at_once.numbers.contains_key(&hash(number)),
            at_once.paths.contains_key(&number)
        );
    }
    let places = |directory: &Directory| -> Vec<String> {
        directory
            .places
            .iter()
            .map(|place| format!("{place:?}"))
            .collect()
    };
    assert_eq!(places(&at_once), places(&one_by_one));
}

#[test]
fn what_is_let_go_of_is_gone_and_the_same_revision_is_still_taken_up() {
    let mut directory = Directory::default();
    directory.take(holding(1, "a", 1, Some(vec![1, 2, 3])), &names(1..4));
    let next = holding(1, "a", 2, Some(vec![2, 4]));
    directory.let_go(&holding(1, "a", 1, Some(Vec::new())));
    assert_eq!(directory.fill().records, 3, "it is not newer");
    directory.let_go(&next);
    assert_eq!(directory.fill().records, 1);
    assert_eq!(holders(&directory, "a", 2), [1]);
    assert!(directory.take(next, &names([4])).is_empty());
    assert_eq!(holders(&directory, "a", 4), [1]);
    let mut gone = holding(1, "a", 3, None);
    gone.holder.present = false;
    directory.let_go(&gone);
    assert_eq!(directory.fill(), Fill::default());
}

#[test]
fn what_has_no_name_at_the_start_is_taken_up_when_it_has_one() {
    let first = holding(1, "a", 1, Some(vec![1, 2]));
    let second = holding(2, "a", 1, Some(vec![2, 70_000]));
    let (mut directory, unknown) = Directory::of(Contents {
        hashes: vec![(2, hash(2)), (70_000, hash(70_000))],
        holdings: vec![first.clone(), second],
    });
    assert_eq!(unknown, [1]);
    assert_eq!(directory.fill().records, 3);
    assert_eq!(holders(&directory, "a", 2), [1, 2]);
    assert!(directory.take(first, &names([1])).is_empty());
    assert_eq!(holders(&directory, "a", 1), [1]);
    assert_eq!(directory.fill().records, 4);
}

#[test]
fn what_is_older_than_what_is_known_changes_nothing() {
    let mut directory = Directory::default();
    let names = names(1..5);
    directory.take(holding(1, "a", 5, Some(vec![1])), &names);
    directory.take(holding(1, "a", 4, Some(vec![2])), &names);
    directory.take(holding(1, "a", 5, Some(vec![3])), &names);
    assert_eq!(holders(&directory, "a", 1), [1]);
    let mut gone = holding(1, "a", 5, None).holder;
    gone.present = false;
    directory.remove(&gone);
    assert_eq!(holders(&directory, "a", 1), [1]);
}

#[test]
fn paths_without_a_name_are_asked_for_and_taken_up_again() {
    let mut directory = Directory::default();
    let change = holding(1, "a", 1, Some(vec![1, 2, 3]));
    assert_eq!(directory.take(change.clone(), &names([2])), [1, 3]);
    assert_eq!(holders(&directory, "a", 2), [1]);
    assert!(directory.take(change, &names([1, 3])).is_empty());
    assert_eq!(holders(&directory, "a", 3), [1]);

    // A holder that was heard of before its paths.
    directory.take(holding(2, "a", 7, None), &HashMap::new());
    directory.take(holding(2, "a", 7, Some(vec![1])), &HashMap::new());
    assert_eq!(holders(&directory, "a", 1), [1, 2]);
}

#[test]
fn an_answer_names_few_who_have_much() {
    let mut directory = Directory::default();
    let names = names(0..1000);
    directory.take(holding(1, "a", 1, Some((0..1000).collect())), &names);
    for id in 2..=200 {
        let own = (0..1000).filter(|path| path % 10 == id as u32 % 10);
        directory.take(holding(id, "a", 1, Some(own.collect())), &names);
    }
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let found = directory.lookup("a", &asked(0..1000), &mut rng);
    assert_eq!(found.found.len(), 1000);
    assert!(found.peers.len() <= limits::HOLDERS_OF_ALL);
    let most = SecretKey::from_bytes(&[1; 32]).public();
    for indices in found.found.values() {
        assert!((1..=limits::HOLDERS_OF_ONE).contains(&indices.len()));
        assert_eq!(found.peers[indices[0] as usize].endpoint, most);
    }
    let none = directory.lookup("a", &asked(2000..2010), &mut rng);
    assert_eq!(none, Found::default());
}

#[test]
fn a_lookup_looks_at_so_many_pairs_and_names_somebody_for_each_path() {
    let mut directory = Directory::default();
    let names = names(0..10);
    // Those who announced it first can't be reached.
    for id in 101..=105 {
        let mut holding = holding(id, "a", 1, Some((0..10).collect()));
        holding.holder.key = HolderKey::Older(format!("laptop-{id}"));
        holding.holder.contact.endpoint = None;
        directory.take(holding, &names);
    }
    for id in 1..=100 {
        directory.take(holding(id, "a", 1, Some((0..10).collect())), &names);
    }
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    for (pairs, named) in [(1000, 100), (300, 30), (1, 1)] {
        let mut peers = HashSet::new();
        for _ in 0..200 {
            let found = directory.lookup_within(pairs, "a", &asked(0..10), &mut rng);
            assert_eq!(found.found.len(), 10);
            peers.extend(found.peers.iter().map(|peer| peer.endpoint));
        }
        assert_eq!(peers.len(), named, "{pairs} pairs");
    }
}

#[test]
fn of_a_path_those_are_named_who_have_most_of_the_rest_and_some_others_by_chance() {
    let mut directory = Directory::default();
    let names = names(0..100);
    // 26 to 29 have most of those who can be reached, and all have path 0.
    for id in 1..=30 {
        let count = if id > 25 { 70 + id as u32 } else { 1 };
        let mut holding = holding(id, "a", 1, Some((0..count).collect()));
        if id == 30 {
            holding.holder.key = HolderKey::Older("laptop".to_owned());
            holding.holder.contact.endpoint = None;
        }
        directory.take(holding, &names);
    }
    let endpoint = |id: u8| SecretKey::from_bytes(&[id; 32]).public();
    let mut named: HashSet<EndpointId> = HashSet::new();
    for seed in 0..200 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let found = directory.lookup("a", &asked(0..100), &mut rng);
        let of_path = |path: u32| -> Vec<EndpointId> {
            let indices = found.found.get(&PathHash(hash(path))).into_iter().flatten();
            indices
                .map(|index| found.peers[*index as usize].endpoint)
                .collect()
        };
        let first = of_path(0);
        assert_eq!(first[..4], [29, 28, 27, 26].map(endpoint), "seed {seed}");
        assert_eq!(first.len(), limits::HOLDERS_OF_ONE, "seed {seed}");
        named.extend(&first);
        let distinct: HashSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), first.len(), "seed {seed}");
        assert_eq!(of_path(50), [29, 28, 27, 26].map(endpoint), "seed {seed}");
        assert_eq!(of_path(97), [29, 28].map(endpoint), "seed {seed}");
        assert!(of_path(99).is_empty(), "seed {seed}");
    }
    assert_eq!(named.len(), 29, "all but who can't be reached");
}

#[test]
fn changes_of_who_is_there_are_told_and_refreshes_are_not() {
    let mut directory = Directory::default();
    let names = names(1..5);
    let mut told = directory.watch("a");
    directory.take(holding(1, "a", 1, Some(vec![1])), &names);
    assert!(told.has_changed().unwrap());
    told.mark_unchanged();
    directory.take(holding(1, "a", 1, None), &names);
    directory.take(holding(1, "a", 2, Some(vec![2])), &names);
    assert!(!told.has_changed().unwrap());
    let mut moved = holding(1, "a", 2, None);
    moved.holder.contact.direct_addrs = vec!["192.0.2.1:1".parse().unwrap()];
    directory.take(moved, &names);
    assert!(told.has_changed().unwrap());
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    assert_eq!(directory.sample("a", None, &mut rng).count, 1);
    assert_eq!(directory.sample("b", None, &mut rng).count, 0);
}

#[test]
fn where_nobody_else_fits_who_is_there_changes_and_goes() {
    let mut directory = Directory::default();
    let names = names(1..9);
    directory.take(holding(1, "a", 1, Some(vec![1, 2, 3])), &names);
    let mut older = holding(2, "a", 1, Some(vec![4]));
    older.holder.key = HolderKey::Older("laptop".to_owned());
    directory.take(older, &names);
    assert!(directory.has_older("laptop") && !directory.has_older("desk"));
    let bounds = Bounds {
        holders: 2,
        paths: 5,
        records: 6,
    };
    let key = |id| holding(id, "a", 1, None).holder.key;
    let fits = |directory: &Directory, key: &HolderKey, added: &[u32], replaces| {
        let added: Vec<_> = added.iter().copied().map(hash).collect();
        directory.fits(key, &added, replaces, &bounds)
    };
    assert!(fits(&directory, &key(1), &[], false));
    assert!(fits(
        &directory,
        &HolderKey::Older("laptop".to_owned()),
        &[5],
        false
    ));
    assert!(!fits(&directory, &key(3), &[], true), "one too many");
    assert!(fits(&directory, &key(1), &[1, 2, 3, 5], true), "in place");
    assert!(!fits(&directory, &key(1), &[1, 2, 3], false), "records");
    assert!(!fits(&directory, &key(1), &[5, 6], false), "paths");
    let mut gone = holding(2, "a", 2, None).holder;
    gone.present = false;
    directory.remove(&gone);
    assert!(!directory.has_older("laptop"));
    assert!(fits(&directory, &key(3), &[], true));
}

#[test]
fn members_are_the_ones_that_did_not_leave() {
    let mut directory = Directory::default();
    for id in 1..=20 {
        directory.take(holding(id, "a", 1, Some(Vec::new())), &HashMap::new());
    }
    for id in [1, 20, 7, 8, 2] {
        let mut gone = holding(id, "a", 2, None).holder;
        gone.present = false;
        directory.remove(&gone);
    }
    directory.take(holding(7, "a", 3, Some(Vec::new())), &HashMap::new());
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let sample = directory.sample("a", None, &mut rng);
    assert_eq!((sample.count, sample.peers.len()), (16, 16));
    for id in [7_u8, 19] {
        let endpoint = SecretKey::from_bytes(&[id; 32]).public();
        assert!(sample.peers.iter().any(|peer| peer.endpoint == endpoint));
    }
}
