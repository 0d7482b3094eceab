//! What is fuzzed: whatever parses the bytes of a peer, a client, a file or a person.
//!
//! Each target may refuse what it is given and must not panic; where something was understood, it
//! must say the same when it is written and read again.

#![allow(dead_code, reason = "each fuzz target uses one of these")]

use std::{path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use iroh::SecretKey;
use peerix::{
    config, fuzzing,
    lan::broadcast::datagram::Datagram,
    limits, narinfo,
    peer::lookup::{self, Answer, Request},
    ticket::{PeerAddr, Ticket},
    trust::Trust,
};
use peerix_gossip::{
    Engine, Event, Inventory, Now, Page,
    announcement::{Content, Unverified},
};
use peerix_store::nix::{
    CAHash, NarHash, NarInfo, NixSignature, StoreDir, StorePath, StorePathHash, TrustedPublicKey,
};

/// A name, which is also that of its corpus, and what is done with each input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: &[Target] = &[
    ("announcements", announcements),
    ("catalogues", catalogues),
    ("config", config),
    ("datagrams", datagrams),
    ("inventories", inventories),
    ("keys", keys),
    ("lookup", lookup),
    ("nar_frames", nar_frames),
    ("narinfo", narinfo),
    ("range", range),
    ("store_paths", store_paths),
    ("tickets", tickets),
];

/// Most that a frame decoder is asked for.
const MOST_DECODED: usize = 4 << 20;

/// The text of a narinfo, as an upstream sends it.
pub fn narinfo(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(parsed) = text.parse::<NarInfo>() {
        assert!(parsed.nar_size() > 0, "a NAR of no bytes");
        let _fingerprint = parsed.fingerprint(&StoreDir::default());
    }
}

/// The compressed frames in which a peer sends NARs.
pub fn nar_frames(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    runtime.block_on(async {
        let mut decoder = peerix::peer::wire::decoder::Decoder::new(bytes, 20);
        let mut decoded = BytesMut::new();
        // One frame makes no more than its limit of them, whatever it was compressed from.
        while decoded.len() < MOST_DECODED {
            let before = decoded.len();
            match decoder.read_buf(&mut decoded).await {
                Ok(true) => assert!(decoded.len() - before <= limits::WIRE_FRAME),
                Ok(false) | Err(_) => return,
            }
        }
    });
}

/// Requests and answers of the lookup protocol, and what is believed of them.
pub fn lookup(bytes: &[u8]) {
    if let Ok(request) = lookup::decode::<Request>(bytes) {
        let _limits = lookup::check_request(&request);
        let frame = lookup::encode(&request, usize::MAX).unwrap_or_default();
        assert_eq!(
            frame
                .get(4..)
                .map(lookup::decode::<Request>)
                .and_then(Result::ok),
            Some(request)
        );
    }
    let Ok(answer) = lookup::decode::<Answer>(bytes) else {
        return;
    };
    let fields = match &answer {
        Answer::Absent | Answer::NotNow => None,
        Answer::Hashing { fields, .. }
        | Answer::Ready { fields, .. }
        | Answer::Part { fields, .. } => fields.clone(),
    };
    let path_hash = StorePathHash::from_bytes([7; 20]);
    let _claim = answer.into_claim(path_hash);
    let Some(Ok(info)) = fields.map(|fields| fields.into_info(path_hash)) else {
        return;
    };
    for no_verify in [false, true] {
        let Ok(info) = Trust::new(Vec::new(), no_verify).accept(info.clone()) else {
            continue;
        };
        let text = narinfo::narinfo_text(&info);
        let parsed = text.parse::<NarInfo>();
        assert_eq!(
            parsed.map(|parsed| parsed.nar_size()).ok(),
            Some(info.nar_size),
            "{text}"
        );
    }
}

/// A `Range` header: eight bytes of a NAR's size, then its value.
pub fn range(bytes: &[u8]) {
    let Some((size, value)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let size = u64::from_le_bytes(*size);
    if let Some(part) = fuzzing::selected_range(value, size) {
        assert!(
            part.start < part.end && part.end <= size,
            "{part:?} of {size}"
        );
    }
}

/// Store paths and hashes, and the addresses of the HTTP face.
pub fn store_paths(bytes: &[u8]) {
    if let Ok(path) = StorePath::from_absolute_path(bytes) {
        assert_eq!(path.to_absolute_path().as_bytes(), bytes);
    }
    let _base_name = StorePath::from_basename(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _path_hash = text.parse::<StorePathHash>();
    let _nar_hash = text.parse::<NarHash>();
    let _content_address = CAHash::parse(text);
    let _route = fuzzing::is_route(text);
}

/// A configuration file, taken as far as a configuration.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(layer) = config::file::parse(Path::new("config.toml"), text) else {
        return;
    };
    let surroundings = config::Surroundings {
        home: Some("/home/nobody".into()),
        user_id: 1000,
        ..config::Surroundings::default()
    };
    let sources = config::Sources {
        flags: layer,
        surroundings,
        ..config::Sources::default()
    };
    let _loaded = config::load(&sources);
}

/// Tickets, and peers as people name them.
pub fn tickets(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _peer = text.parse::<PeerAddr>();
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string().parse::<Ticket>().as_ref(), Ok(&ticket));
    }
}

/// Datagrams of the local network.
pub fn datagrams(bytes: &[u8]) {
    if let Ok(datagram) = Datagram::parse(bytes) {
        let again = Datagram::parse(&datagram.encode());
        assert_eq!(
            again.map(|again| again.encode()).ok(),
            Some(datagram.encode())
        );
    }
}

/// Public keys, signatures and signing keys.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _public = TrustedPublicKey::parse(text);
    if let Ok(signature) = NixSignature::parse(text) {
        let _verified = signature.verify(bytes, &[]);
    }
    let _secret = fuzzing::is_signing_key(text);
}

/// The topic of the swarm that is fuzzed.
const TOPIC: [u8; 32] = [7; 32];

/// The rules of a peer that knows nobody yet.
fn engine(now: Now) -> Engine {
    let config = peerix_gossip::Config {
        secret_key: SecretKey::from_bytes(&[1; 32]),
        topic: TOPIC,
        systems: vec!["x86_64-linux".to_owned()],
        last_sequence: 0,
        index_memory: 1 << 20,
        seed: 1,
    };
    Engine::new(config, now)
}

/// Lets a peer's rules go on for as long as anything that they heard may live.
fn live_on(engine: &mut Engine, start: Now) {
    for seconds in [1, 600, 3600, 8 * 24 * 3600] {
        let now = Now {
            at: start.at + Duration::from_secs(seconds),
            unix_ms: start.unix_ms.saturating_add(seconds * 1000),
        };
        let _actions = engine.handle(Event::Tick, now);
        let _may_have = engine.index.may_have(&[7; 20], now.at);
        let _page = engine.page(&[0; 32], now.at);
    }
}

/// What gossip delivers: as it came, and as if its author were one who can sign it.
pub fn announcements(bytes: &[u8]) {
    let now = Now::system();
    let mut engine = engine(now);
    let message = |bytes: &[u8]| Event::Message {
        bytes: Bytes::copy_from_slice(bytes),
        from: SecretKey::from_bytes(&[3; 32]).public(),
        hops: 1,
    };
    let _actions = engine.handle(message(bytes), now);
    let Ok(unverified) = Unverified::read(bytes) else {
        return;
    };
    let key = SecretKey::from_bytes(&[2; 32]);
    let mut announcement = unverified.claims().clone();
    announcement.author = key.public();
    let Ok(sealed) = announcement.seal(&key, &TOPIC) else {
        return;
    };
    let read = Unverified::read(&sealed).and_then(|read| read.verify(&TOPIC));
    assert_eq!(read.as_ref(), Ok(&announcement));
    if let Content::Offer(_) = announcement.content {
        let _addr = announcement.addr();
    }
    let _actions = engine.handle(message(&sealed), now);
    live_on(&mut engine, now);
}

/// A page of what a neighbour says it knows.
pub fn catalogues(bytes: &[u8]) {
    let Ok(page) = postcard::from_bytes::<Page>(bytes) else {
        return;
    };
    let now = Now::system();
    let mut engine = engine(now);
    let neighbour = SecretKey::from_bytes(&[3; 32]).public();
    // It is asked as soon as it is there.
    let _actions = engine.handle(Event::NeighbourUp(neighbour), now);
    let _actions = engine.handle(Event::Tick, now);
    let _actions = engine.handle(Event::Page(neighbour, Some(page)), now);
    live_on(&mut engine, now);
}

/// An inventory, as a stranger's blob.
pub fn inventories(bytes: &[u8]) {
    let Ok(inventory) = Inventory::from_bytes(bytes) else {
        return;
    };
    assert_eq!(inventory.to_bytes(), bytes);
    for first in 0..=u8::MAX {
        let _may_contain = inventory.may_contain(&[first; 20]);
    }
}
