use std::time::Duration;

use iroh::SecretKey;
use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::{announcement::Offer, changes::Changes};

mod claims;
mod filters;

const TOPIC: Topic = [7; 32];

fn key(number: u32) -> SecretKey {
    let mut bytes = [3; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&bytes)
}

fn rng() -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(1)
}

fn path(set: u8, number: u32) -> PathHash {
    let mut path = [set; 20];
    path[..4].copy_from_slice(&number.to_be_bytes());
    path
}

fn index(memory: usize) -> Index {
    Index::new(key(0).public(), TOPIC, vec!["x86_64-linux".into()], memory)
}

/// A swarm member as the tests want it.
struct Author {
    key: SecretKey,
    sequence: u64,
    inventory: Option<(Vec<u8>, u64)>,
}

impl Author {
    fn new(number: u32) -> Self {
        Self {
            key: key(number),
            sequence: 1,
            inventory: None,
        }
    }

    fn id(&self) -> EndpointId {
        self.key.public()
    }

    fn build(&mut self, paths: impl IntoIterator<Item = PathHash>) {
        let inventory = Inventory::build(paths, 1).unwrap();
        self.sequence += 1;
        self.inventory = Some((inventory.to_bytes(), self.sequence));
    }

    fn blob(&self) -> Option<InventoryBlob> {
        let (bytes, _) = self.inventory.as_ref()?;
        Some(blob_of(bytes, &Inventory::from_bytes(bytes).unwrap()))
    }

    fn say(&mut self, since: u64, changes: &[(PathHash, bool)]) -> Bytes {
        self.sequence += 1;
        let offer = Offer {
            relay: None,
            direct: vec!["127.0.0.1:4000".parse().unwrap()],
            systems: vec!["x86_64-linux".into()],
            inventory: self.blob(),
            inventory_sequence: self
                .inventory
                .as_ref()
                .map_or(since, |(_, sequence)| *sequence),
            complete: true,
            since,
            changes: Changes::gather(changes.iter().map(|(path, came)| (Tag::of(path), *came))),
        };
        self.seal(Content::Offer(Box::new(offer)))
    }

    /// Announces an inventory of this size that is nowhere.
    fn say_size(&mut self, size: u32) -> (InventoryBlob, Bytes) {
        self.sequence += 1;
        let mut blob_hash = *self.id().as_bytes();
        blob_hash[0] ^= self.sequence as u8;
        let blob = InventoryBlob {
            blob_hash,
            size,
            count: u64::from(size) / 4,
        };
        let offer = Offer {
            relay: None,
            direct: Vec::new(),
            systems: Vec::new(),
            inventory: Some(blob),
            inventory_sequence: self.sequence,
            complete: true,
            since: self.sequence,
            changes: Changes::default(),
        };
        (blob, self.seal(Content::Offer(Box::new(offer))))
    }

    fn seal(&self, content: Content) -> Bytes {
        let announcement = Announcement {
            author: self.id(),
            sequence: self.sequence,
            lifetime: 600,
            heard: 1,
            content,
        };
        announcement.seal(&self.key, &TOPIC).unwrap()
    }

    /// Says it, and has its filter fetched.
    fn joins(&mut self, index: &mut Index, now: Instant) {
        let since = self.inventory.as_ref().map_or(0, |(_, sequence)| *sequence);
        index.hear(&self.say(since, &[]), &mut rng(), now).unwrap();
        fetch_all(
            index,
            now + limits::FETCH_SPREAD_MOST,
            std::slice::from_ref(self),
        );
    }
}

fn fetch_all(index: &mut Index, now: Instant, authors: &[Author]) -> usize {
    let mut fetched = 0;
    while let Some(wanted) = index.next_fetch(now) {
        let author = authors.iter().find(|author| author.id() == wanted.author);
        let (bytes, _) = author.unwrap().inventory.as_ref().unwrap();
        assert_eq!(blake3::hash(bytes).as_bytes(), &wanted.blob.blob_hash);
        index.fetched(&wanted, Inventory::from_bytes(bytes).unwrap(), now);
        fetched += 1;
    }
    fetched
}

/// Between one question and the next.
const MOMENT: Duration = Duration::from_millis(1);

/// Has it deny what it claimed, in one request after the other.
fn disbelieve(index: &mut Index, peer: EndpointId, now: Instant) {
    for number in 0..limits::FALSE_CLAIMS {
        index.answered(&peer, false, now + MOMENT * number, now + MOMENT * number);
    }
}

#[test]
fn a_peer_is_unknown_until_its_filter_is_there_and_then_its_misses_are_known() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    author.build((0..1000).map(|number| path(1, number)));
    let since = author.sequence;
    let heard = index
        .hear(&author.say(since, &[]), &mut rng(), now)
        .unwrap();
    assert!(matches!(heard, Heard::Offer(Some(addr)) if addr.addrs.len() == 1));
    assert_eq!(
        index.standing(&author.id(), &path(1, 5), now),
        Standing::Unknown
    );
    assert_eq!(index.unknown(now), [author.id()]);
    let later = now + Duration::from_secs(60);
    assert_eq!(
        fetch_all(&mut index, later, std::slice::from_ref(&author)),
        1
    );
    assert_eq!(index.may_have(&path(1, 5), later), [author.id()]);
    assert_eq!(
        index.standing(&author.id(), &path(2, 5), later),
        Standing::Lacks
    );
    assert!(index.unknown(later).is_empty());
    assert_eq!(index.held_bytes(), author.blob().unwrap().size as usize);
}

#[test]
fn changes_are_seen_at_once_and_need_no_second_fetch() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    author.build((0..1000).map(|number| path(1, number)));
    author.joins(&mut index, now);
    let (new, gone) = (path(1, 5000), path(1, 7));
    let since = author.sequence;
    index
        .hear(
            &author.say(since, &[(new, true), (gone, false)]),
            &mut rng(),
            now,
        )
        .unwrap();
    let since = author.sequence;
    index
        .hear(
            &author.say(since, &[(path(1, 6000), true)]),
            &mut rng(),
            now,
        )
        .unwrap();
    assert_eq!(index.may_have(&new, now), [author.id()]);
    assert_eq!(index.may_have(&path(1, 6000), now), [author.id()]);
    assert!(index.may_have(&gone, now).is_empty());
    // Its author built its inventory anew: who heard all of it needs nothing.
    author.build(
        (0..1000)
            .chain([5000, 6000])
            .filter(|n| *n != 7)
            .map(|n| path(1, n)),
    );
    author.sequence -= 1;
    let since = author.sequence;
    author.inventory.as_mut().unwrap().1 = since;
    index
        .hear(&author.say(since, &[]), &mut rng(), now)
        .unwrap();
    assert!(index.next_fetch(now + Duration::from_secs(3600)).is_none());
    assert_eq!(index.may_have(&new, now), [author.id()]);
}

#[test]
fn a_missed_announcement_is_noticed_and_the_filter_fetched_again() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    author.build((0..1000).map(|number| path(1, number)));
    author.joins(&mut index, now);
    author.say(author.sequence, &[(path(1, 5000), true)]);
    author.build((0..1000).chain([5000]).map(|number| path(1, number)));
    let since = author.sequence;
    index
        .hear(&author.say(since, &[]), &mut rng(), now)
        .unwrap();
    assert!(index.may_have(&path(1, 5000), now).is_empty());
    let standing = index.standing(&author.id(), &path(1, 5000), now);
    assert_eq!(standing, Standing::Unknown, "something was missed");
    // The old filter answers until the new one is there.
    assert_eq!(index.may_have(&path(1, 5), now), [author.id()]);
    let later = now + Duration::from_secs(60);
    assert_eq!(
        fetch_all(&mut index, later, std::slice::from_ref(&author)),
        1
    );
    assert_eq!(index.may_have(&path(1, 5000), later), [author.id()]);
}

#[test]
fn replayed_reordered_and_own_announcements_change_nothing() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    let first = author.say(0, &[(path(1, 1), true)]);
    let second = author.say(0, &[(path(1, 2), true)]);
    index.hear(&second, &mut rng(), now).unwrap();
    for old in [&first, &second] {
        assert_eq!(index.hear(old, &mut rng(), now), Err(Refused::Old));
    }
    assert_eq!(index.may_have(&path(1, 2), now).len(), 1);
    assert!(index.may_have(&path(1, 1), now).is_empty());
    let own = Author::new(0).say(0, &[]);
    assert_eq!(index.hear(&own, &mut rng(), now), Err(Refused::Own));
}

#[test]
fn who_left_or_expired_is_forgotten_and_not_brought_back_by_a_replay() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    let offer = author.say(0, &[(path(1, 1), true)]);
    index.hear(&offer, &mut rng(), now).unwrap();
    author.sequence += 1;
    let leave = author.seal(Content::Leave);
    assert_eq!(
        index.hear(&leave, &mut rng(), now),
        Ok(Heard::Leave(author.id()))
    );
    assert_eq!(index.hear(&offer, &mut rng(), now), Err(Refused::Old));
    let mut other = Author::new(2);
    let offer = other.say(0, &[(path(1, 1), true)]);
    index.hear(&offer, &mut rng(), now).unwrap();
    assert!(index.expire(now + Duration::from_secs(599)).is_empty());
    assert_eq!(index.expire(now + Duration::from_secs(601)), [other.id()]);
    assert_eq!(index.hear(&offer, &mut rng(), now), Err(Refused::Old));
    assert!(index.is_empty());
}

#[test]
fn a_flood_of_one_author_is_dropped_and_others_are_heard() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut flooder = Author::new(1);
    let mut accepted = 0;
    for _ in 0..1000 {
        accepted += usize::from(index.hear(&flooder.say(0, &[]), &mut rng(), now).is_ok());
    }
    assert!(accepted <= limits::AUTHOR_BURST as usize, "{accepted}");
    assert!(
        index
            .hear(&Author::new(2).say(0, &[]), &mut rng(), now)
            .is_ok()
    );
    assert!(index.counters().too_often > 900);
}

#[test]
fn forgeries_do_not_use_up_the_rate_of_who_they_name() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut honest = Author::new(1);
    index.hear(&honest.say(0, &[]), &mut rng(), now).unwrap();
    for number in 0..1000u64 {
        let mut forged = Author::new(1);
        forged.sequence = 100 + number;
        let mut bytes = forged.say(0, &[]).to_vec();
        let end = bytes.len() - 1;
        bytes[end] ^= 1;
        assert_eq!(
            index.hear(&bytes.into(), &mut rng(), now),
            Err(Refused::Forged)
        );
    }
    assert!(index.hear(&honest.say(0, &[]), &mut rng(), now).is_ok());
}

#[test]
fn nobody_is_remembered_for_a_week_because_it_says_so() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut author = Author::new(1);
    author.sequence += 1;
    let mut announcement = Announcement {
        author: author.id(),
        sequence: author.sequence,
        lifetime: u32::MAX,
        heard: u32::MAX,
        content: Content::Leave,
    };
    announcement.content = Content::Offer(Box::new(Offer {
        relay: None,
        direct: Vec::new(),
        systems: Vec::new(),
        inventory: None,
        inventory_sequence: 0,
        complete: true,
        since: 0,
        changes: Changes::default(),
    }));
    let said = announcement.seal(&author.key, &TOPIC).unwrap();
    index.hear(&said, &mut rng(), now).unwrap();
    assert!(index.swarm_size() <= 4);
    let longest = limits::LEAST_LIFETIME;
    assert_eq!(index.expire(now + longest), [author.id()]);
}

#[test]
fn a_catalogue_brings_a_newcomer_up_to_date_and_no_one_back_to_life() {
    let now = Instant::now();
    let mut old = index(1 << 20);
    let mut size = 0;
    for number in 1..=2000 {
        let mut author = Author::new(number);
        let said = author.say(0, &[(path(1, number), true)]);
        size = said.len();
        old.hear(&said, &mut rng(), now).unwrap();
    }
    let expiry = now + pacing::lifetime(size, 2001);
    let later = expiry - Duration::from_secs(10);
    let mut new = index(1 << 20);
    let mut start = [0; 32];
    let mut pages = 0;
    loop {
        let (entries, next) = old.page(&start, later);
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        assert!(bytes <= limits::CATALOGUE_PAGE);
        for entry in &entries {
            new.hear_entry(entry, &mut rng(), later);
        }
        pages += 1;
        match next {
            Some(next) => start = next,
            None => break,
        }
    }
    assert!(pages > 1);
    assert_eq!(new.len(), 2000);
    let told = later + limits::CATCH_UP_MOST;
    assert!(new.expire(told - Duration::from_secs(1)).is_empty());
    assert_eq!(new.expire(told).len(), 2000);
}

#[test]
fn memory_is_bounded_however_many_keys_there_are() {
    let now = Instant::now();
    let mut index = index(1 << 20);
    let mut honest = Author::new(1);
    honest.build((0..100).map(|number| path(1, number)));
    honest.joins(&mut index, now);
    for number in 0..limits::MAX_AUTHORS as u32 + 2000 {
        // The signature costs most of the time: it is not what is tested here.
        let announcement = Announcement {
            author: key(10 + number).public(),
            sequence: 5,
            lifetime: 600,
            heard: 1,
            content: Content::Offer(Box::new(Offer {
                relay: None,
                direct: Vec::new(),
                systems: Vec::new(),
                inventory: None,
                inventory_sequence: 0,
                complete: true,
                since: 0,
                changes: Changes::gather((0..500).map(|n| (Tag::of(&path(2, n)), true))),
            })),
        };
        let later = now + Duration::from_millis(1);
        let bytes = Bytes::from(vec![0; 600]);
        index.accept(announcement, &bytes, Duration::ZERO, &mut rng(), later);
    }
    assert!(index.len() <= limits::MAX_AUTHORS);
    assert!(index.memory() < 48 << 20, "{}", index.memory());
    let changes: usize = index
        .authors
        .values()
        .map(super::Author::changes_bytes)
        .sum();
    assert_eq!(changes, index.changes_bytes);
    assert!(changes <= limits::CHANGES_MEMORY);
    let displaced = index.expire(now + Duration::from_millis(2));
    assert!(
        !displaced.is_empty(),
        "the swarm's user is told who is not known any more"
    );
    assert_eq!(
        index.standing(&honest.id(), &path(1, 1), now),
        Standing::MayHave
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_receiver_without_a_gap_misses_nothing_that_its_author_has(
        steps in proptest::collection::vec((0u32..40, any::<bool>(), any::<bool>()), 1..40),
        lost in proptest::collection::vec(any::<bool>(), 40),
    ) {
        use crate::{announcer::Announcer, clock::Now};
        let start = Instant::now();
        let mut truth: std::collections::BTreeSet<PathHash> =
            (100..500).map(|number| path(1, number)).collect();
        let mut announcer = Announcer::new(key(1).public(), Vec::new(), 0);
        let mut index = index(1 << 20);
        let mut rng = rng();
        let mut blobs = HashMap::new();
        for (second, (number, came, many)) in (1u64..).map(|step| step * 100).zip(steps) {
            let now = Now { at: start + Duration::from_secs(second), unix_ms: second * 1000 };
            for number in if many { number * 400 + 1000..number * 400 + 1350 } else { number..number + 1 } {
                if came { truth.insert(path(1, number)); } else { truth.remove(&path(1, number)); }
            }
            announcer.offer(truth.iter().copied().collect(), true, now.at);
            if let Some(paths) = announcer.build(now.at) {
                let inventory = Inventory::build(paths.iter().copied(), 1).unwrap();
                let blob = blob_of(&inventory.to_bytes(), &inventory);
                blobs.insert(blob.blob_hash, inventory);
                announcer.built(&paths, (!paths.is_empty()).then_some(blob), now);
            }
            let later = Now { at: now.at + Duration::from_secs(90), unix_ms: now.unix_ms + 90_000 };
            let Some(announcement) = announcer.due(1, 1, &mut rng, later) else { continue };
            let bytes = announcement.seal(&key(1), &TOPIC).unwrap();
            let is_lost = lost[(second / 100) as usize % lost.len()];
            if is_lost && truth.len().is_multiple_of(2) {
                continue;
            }
            index.hear(&bytes, &mut rng, later.at).unwrap();
            let fetched_at = later.at + Duration::from_secs(5);
            while let Some(wanted) = index.next_fetch(fetched_at) {
                index.fetched(&wanted, blobs[&wanted.blob.blob_hash].clone(), fetched_at);
            }
            if index.authors[&key(1).public()].has_gap() {
                continue;
            }
            for number in (0..500).chain((1000..17_000).step_by(41)) {
                let has = index.standing(&key(1).public(), &path(1, number), fetched_at);
                let should = truth.contains(&path(1, number));
                if should {
                    prop_assert_eq!(has, Standing::MayHave, "{} is missed", number);
                }
            }
            // What went is not always told, but what never was there is hardly ever claimed.
            // They share no tag with those that came.
            let strangers = (1..500).map(|number| path(9, number << 16));
            let claimed = |path: &PathHash| {
                index.standing(&key(1).public(), path, fetched_at) == Standing::MayHave
            };
            let wrong = strangers.filter(claimed).count();
            prop_assert!(wrong < 3, "{} false hits", wrong);
        }
    }
}
