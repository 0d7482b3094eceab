use proptest::prelude::*;

use super::*;
use crate::changes::Tag;

const TOPIC: Topic = [7; 32];

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32])
}

fn offer() -> Offer {
    Offer {
        relay: Some("https://relay.example/".parse().unwrap()),
        direct: vec!["192.0.2.1:12306".parse().unwrap()],
        systems: vec!["x86_64-linux".into()],
        inventory: Some(InventoryBlob {
            blob_hash: [1; 32],
            size: 50_000,
            count: 20_000,
        }),
        inventory_sequence: 5,
        complete: true,
        since: 7,
        changes: Changes::gather([(Tag::of(&[9; 20]), true), (Tag::of(&[8; 20]), false)]),
    }
}

fn announcement(content: Content) -> Announcement {
    Announcement {
        author: key(1).public(),
        sequence: 9,
        lifetime: 600,
        heard: 3,
        content,
    }
}

fn sealed(offer: Offer) -> Bytes {
    announcement(Content::Offer(Box::new(offer)))
        .seal(&key(1), &TOPIC)
        .unwrap()
}

fn open(bytes: &[u8]) -> Result<Announcement, Refused> {
    Unverified::read(bytes)?.verify(&TOPIC)
}

#[test]
fn what_is_sealed_is_read_again_and_small() {
    for content in [Content::Offer(Box::new(offer())), Content::Leave] {
        let announcement = announcement(content);
        let bytes = announcement.seal(&key(1), &TOPIC).unwrap();
        assert!(bytes.len() < 300, "{}", bytes.len());
        assert_eq!(open(&bytes), Ok(announcement));
    }
}

#[test]
fn the_largest_announcement_that_we_make_fits_gossip_with_room() {
    let tag = |number: u32| {
        let mut path = [0; 20];
        path[..4].copy_from_slice(&number.to_be_bytes());
        Tag::of(&path)
    };
    let mut largest = offer();
    largest.relay = Some(
        format!("https://{}.example/", "r".repeat(60))
            .parse()
            .unwrap(),
    );
    largest.direct = (0..8)
        .map(|i| format!("[2001:db8::{i}]:12306").parse().unwrap())
        .collect();
    largest.systems = vec!["a".repeat(limits::MAX_SYSTEM_NAME); limits::MAX_SYSTEMS];
    largest.changes =
        Changes::gather((0..limits::MAX_CHANGES as u32).map(|number| (tag(number), true)));
    assert!(sealed(largest).len() <= limits::MAX_ANNOUNCEMENT);
    const { assert!(limits::MAX_ANNOUNCEMENT + 64 < 4096) };
}

#[test]
fn another_author_topic_or_key_is_a_forgery() {
    let mut foreign = announcement(Content::Offer(Box::new(offer())));
    foreign.author = key(2).public();
    let forged = foreign.seal(&key(1), &TOPIC).unwrap();
    assert_eq!(open(&forged), Err(Refused::Forged));
    let elsewhere = announcement(Content::Leave)
        .seal(&key(1), &[8; 32])
        .unwrap();
    assert_eq!(open(&elsewhere), Err(Refused::Forged));
}

#[test]
fn absurd_claims_are_refused_before_the_signature_is_looked_at() {
    let blob = |size, count| {
        Some(InventoryBlob {
            blob_hash: [1; 32],
            size,
            count,
        })
    };
    type Bend = Box<dyn Fn(&mut Offer)>;
    let absurd: Vec<Bend> = vec![
        Box::new(move |offer| offer.inventory = blob(u32::MAX, 5)),
        Box::new(move |offer| offer.inventory = blob(1000, u64::MAX)),
        Box::new(move |offer| offer.inventory = blob(1000, 0)),
        Box::new(|offer| offer.direct = vec!["192.0.2.1:1".parse().unwrap(); 9]),
        Box::new(|offer| offer.systems = vec!["x".into(); 9]),
        Box::new(|offer| offer.systems = vec!["x".repeat(33)]),
        Box::new(|offer| offer.systems = vec!["<script>".into()]),
        Box::new(|offer| offer.since = 10),
        Box::new(|offer| offer.inventory_sequence = u64::MAX),
    ];
    for change in absurd {
        let mut offer = offer();
        change(&mut offer);
        let bytes = sealed(offer);
        assert_eq!(Unverified::read(&bytes).unwrap_err(), Refused::Absurd);
    }
}

#[test]
fn too_many_bytes_or_another_version_are_refused() {
    let mut bytes = sealed(offer()).to_vec();
    bytes[0] = 2;
    assert_eq!(open(&bytes), Err(Refused::Foreign));
    assert_eq!(open(&[1; 4000]), Err(Refused::TooLarge));
    assert_eq!(open(&[]), Err(Refused::Malformed));
    assert_eq!(open(&[1; 40]), Err(Refused::Malformed));
}

proptest! {
    #[test]
    fn a_flipped_bit_anywhere_is_noticed(at in 0usize..250, bit in 0u8..8) {
        let mut bytes = sealed(offer()).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(open(&bytes).is_err());
    }

    #[test]
    fn whatever_a_stranger_sends_is_read_without_a_panic(
        junk in proptest::collection::vec(any::<u8>(), 0..limits::MAX_ANNOUNCEMENT + 10),
        keep in 0usize..250,
    ) {
        let mut bytes = sealed(offer()).to_vec();
        bytes.truncate(keep);
        bytes.extend_from_slice(&junk);
        let _ = open(&bytes);
        let _ = open(&junk);
    }
}

#[test]
fn a_relay_with_a_long_url_is_refused() {
    let long = format!(
        "https://relay.example/{}",
        "x".repeat(limits::MAX_RELAY_URL)
    );
    let mut offer = offer();
    offer.relay = Some(long.parse().unwrap());
    assert_eq!(open(&sealed(offer)), Err(Refused::Absurd));
}
