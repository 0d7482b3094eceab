//! What an author tells a swarm, as bytes that anyone can check and nobody can forge.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | version, 1 |
//! | 1..n-64 | postcard: author, number, lifetime in seconds, authors heard, then an offer or a leave |
//! | n-64..n | the author's ed25519 signature over a context, the topic and all bytes before it |
//!
//! The topic is not in the bytes: an announcement of one swarm means nothing in another. Numbers
//! rise with the author's clock (`max(clock, last + 1)`), so that no two announcements have the same
//! bytes: gossip would silently drop the second.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId, RelayUrl, SecretKey, Signature};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{changes::Changes, inventory::MAX_INVENTORY_SIZE, limits};

const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"peerix gossip announcement 1\0";

/// The 32 bytes that name a swarm.
pub type Topic = [u8; 32];

/// The BLAKE3 hash of an inventory's bytes.
pub type BlobHash = [u8; 32];

/// An inventory as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryBlob {
    /// Its BLAKE3 hash.
    pub blob_hash: BlobHash,
    /// Its size in bytes.
    pub size: u32,
    /// The number of paths in it.
    pub count: u64,
}

/// What an author offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The relay that reaches it.
    pub relay: Option<RelayUrl>,
    /// Its direct addresses.
    pub direct: Vec<SocketAddr>,
    /// The systems that its paths are for, as Nix names them.
    pub systems: Vec<String>,
    /// The inventory that the changes are relative to; none: the empty set.
    pub inventory: Option<InventoryBlob>,
    /// The number of the announcement up to which the inventory holds all.
    pub inventory_sequence: u64,
    /// Whether the author offers nothing beside what it announces.
    pub complete: bool,
    /// The number after which `changes` are all there are.
    pub since: u64,
    /// Paths that came and went.
    pub changes: Changes,
}

/// Offers, or says goodbye.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// What the author offers.
    Offer(Box<Offer>),
    /// The author leaves: nothing of it is offered any more.
    Leave,
}

/// One announcement, without its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Who says it.
    pub author: EndpointId,
    /// Its number: larger ones replace smaller ones.
    pub sequence: u64,
    /// How many seconds after its receipt it is forgotten, at the earliest: where the swarm turns
    /// out larger, later.
    pub lifetime: u32,
    /// How many authors its author knows of.
    pub heard: u32,
    /// What it says.
    pub content: Content,
}

/// A time as it is sent.
pub(crate) fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[derive(Serialize, Deserialize)]
struct Wire {
    author: [u8; 32],
    sequence: u64,
    lifetime: u32,
    heard: u32,
    content: Content,
}

/// Why an announcement was refused.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// More bytes than one may have.
    #[error("the announcement is larger than {} bytes", limits::MAX_ANNOUNCEMENT)]
    TooLarge,
    /// Not an announcement of this version.
    #[error("the announcement is not of a version that this program reads")]
    Foreign,
    /// Bytes that mean nothing.
    #[error("the announcement is malformed")]
    Malformed,
    /// Fields beyond any sense.
    #[error("the announcement claims what can't be")]
    Absurd,
    /// Not signed by its author for this topic.
    #[error("the announcement is not signed by its author for this swarm")]
    Forged,
    /// Not newer than what is known.
    #[error("the announcement is not newer than what is known")]
    Old,
    /// One of our own.
    #[error("the announcement is our own")]
    Own,
    /// Its author announces too often.
    #[error("the author announces too often")]
    TooOften,
}

/// An announcement that was read, not believed yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    announcement: Announcement,
    bytes: &'a [u8],
}

impl Announcement {
    /// Encodes and signs it for `topic`.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] where no receiver would take it.
    pub fn seal(&self, secret_key: &SecretKey, topic: &Topic) -> Result<Bytes, Refused> {
        let wire = Wire {
            author: *self.author.as_bytes(),
            sequence: self.sequence,
            lifetime: self.lifetime,
            heard: self.heard,
            content: self.content.clone(),
        };
        let bytes = postcard::to_extend(&wire, vec![VERSION]).map_err(|_| Refused::Malformed)?;
        let mut sealed = bytes;
        let signature = secret_key.sign(&signed(topic, &sealed));
        sealed.extend_from_slice(&signature.to_bytes());
        if sealed.len() > limits::MAX_ANNOUNCEMENT {
            return Err(Refused::TooLarge);
        }
        Ok(sealed.into())
    }

    /// Where its author is reached.
    pub fn addr(&self) -> EndpointAddr {
        let mut addr = EndpointAddr::new(self.author);
        if let Content::Offer(offer) = &self.content {
            for direct in &offer.direct {
                addr = addr.with_ip_addr(*direct);
            }
            if let Some(relay) = &offer.relay {
                addr = addr.with_relay_url(relay.clone());
            }
        }
        addr
    }
}

impl<'a> Unverified<'a> {
    /// Reads what a stranger sent; memory is at most a few times that of `bytes`.
    ///
    /// # Errors
    /// [`Refused`] for anything but one announcement with sane fields.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Refused> {
        if bytes.len() > limits::MAX_ANNOUNCEMENT {
            return Err(Refused::TooLarge);
        }
        let (version, rest) = bytes.split_first().ok_or(Refused::Malformed)?;
        if *version != VERSION {
            return Err(Refused::Foreign);
        }
        let end = rest
            .len()
            .checked_sub(Signature::LENGTH)
            .ok_or(Refused::Malformed)?;
        let (wire, left): (Wire, _) =
            postcard::take_from_bytes(&rest[..end]).map_err(|_| Refused::Malformed)?;
        if !left.is_empty() {
            return Err(Refused::Malformed);
        }
        let author = EndpointId::from_bytes(&wire.author).map_err(|_| Refused::Malformed)?;
        let announcement = Announcement {
            author,
            sequence: wire.sequence,
            lifetime: wire.lifetime,
            heard: wire.heard,
            content: wire.content,
        };
        if !is_sane(&announcement) {
            return Err(Refused::Absurd);
        }
        Ok(Self {
            announcement,
            bytes,
        })
    }

    /// What it says, if it is to be believed.
    pub fn claims(&self) -> &Announcement {
        &self.announcement
    }

    /// Checks the signature for `topic`.
    ///
    /// # Errors
    /// [`Refused::Forged`] where its author did not sign it for this topic.
    pub fn verify(self, topic: &Topic) -> Result<Announcement, Refused> {
        let (body, signature) = self.bytes.split_at(self.bytes.len() - Signature::LENGTH);
        let signature = signature.try_into().map_err(|_| Refused::Malformed)?;
        self.announcement
            .author
            .verify(&signed(topic, body), &Signature::from_bytes(signature))
            .map_err(|_| Refused::Forged)?;
        Ok(self.announcement)
    }
}

/// What is signed.
fn signed(topic: &Topic, body: &[u8]) -> Vec<u8> {
    [CONTEXT, topic, body].concat()
}

fn is_sane(announcement: &Announcement) -> bool {
    let Content::Offer(offer) = &announcement.content else {
        return true;
    };
    let named = |system: &String| {
        (1..=limits::MAX_SYSTEM_NAME).contains(&system.len())
            && system
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    // 16 bits a path at least: more paths than that are a lie.
    let sized = |blob: &InventoryBlob| {
        blob.size as usize <= MAX_INVENTORY_SIZE
            && blob.count > 0
            && blob.count <= u64::from(blob.size) / 2
    };
    let relayed = |url: &RelayUrl| url.as_str().len() <= limits::MAX_RELAY_URL;
    offer.direct.len() <= limits::MAX_ADDRESSES
        && offer.relay.as_ref().is_none_or(relayed)
        && offer.systems.len() <= limits::MAX_SYSTEMS
        && offer.systems.iter().all(named)
        && offer.inventory.as_ref().is_none_or(sized)
        && offer.changes.is_sane()
        && offer.inventory_sequence <= announcement.sequence
        && offer.since <= announcement.sequence
        && (offer.inventory.is_some() || offer.since <= offer.inventory_sequence)
}

#[cfg(test)]
mod tests;
