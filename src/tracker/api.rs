//! The signed API: what endpoints and trackers say to each other, and how it is signed.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/info` | | [`TrackerInfo`] |
//! | `POST /v1/announce`, with [`SIGNATURE_HEADER`] | [`Announce`] | [`Announced`], or 409 with [`Stale`] |
//! | `POST /v1/lookup` | [`Lookup`] | [`Found`] |
//! | `GET /v1/peers?swarm=NAME&wait=SECONDS` | | [`SwarmPeers`], or 304 |
//!
//! All of it is JSON; what is refused is answered with an [`ApiError`] and a 4xx or 503. A signature
//! is over the bytes of the body as they were sent. Every announcement names the tracker that it is
//! for and carries a number higher than the endpoint's last one there, so that nobody else can
//! announce or withdraw, and nothing that was heard can be sent again, here or to another tracker.

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

use iroh::{EndpointId, RelayUrl, SecretKey, Signature};
use peerix_store::nix::StorePathHash;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// The header that carries the signature of an announcement: 128 hexadecimal characters.
pub const SIGNATURE_HEADER: &str = "peerix-signature";

/// The swarm that endpoints are in unless they name another.
pub const PUBLIC_SWARM: &str = "public";

/// Most path hashes in one [`Lookup`].
pub const MAX_LOOKUP: usize = 1000;

/// Most path hashes in one [`Announce`], added and removed together. What is more goes into deltas.
pub const MAX_ANNOUNCE: usize = 100_000;

/// Longest body of an announcement in bytes: [`MAX_ANNOUNCE`] hashes, and room for the rest.
pub const MAX_ANNOUNCE_BODY: usize = 4 * 1024 * 1024;

/// Longest time that a request for [`SwarmPeers`] may ask to wait, in seconds.
pub const MAX_WAIT_SECONDS: u64 = 60;

/// Most addresses of one endpoint.
pub const MAX_DIRECT_ADDRS: usize = 32;

/// Longest name of a swarm in bytes.
pub const MAX_SWARM_NAME: usize = 128;

/// Most systems of one endpoint, each of at most [`MAX_SYSTEM`] bytes.
pub const MAX_SYSTEMS: usize = 16;

/// Longest name of a system in bytes.
pub const MAX_SYSTEM: usize = 64;

/// Longest URL of a relay in bytes.
pub const MAX_RELAY_URL: usize = 512;

/// What signed bytes begin with, so that a signature means nothing elsewhere.
const SIGNED_PREFIX: &[u8] = b"peerix tracker announcement v1\n";

/// What a tracker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrackerInfo {
    /// `peerix-tracker`.
    pub name: String,
    /// The version of peerix that runs there.
    pub version: String,
    /// What announcements to this tracker name.
    #[schema(value_type = String, example = "00112233445566778899aabbccddeeff")]
    pub id: TrackerId,
    /// Whether unsigned announcements are refused.
    pub require_signed: bool,
    /// Seconds after which an endpoint that announced nothing is gone.
    pub ttl: u64,
    /// Seconds between announcements that the tracker wants.
    pub announce_interval: u64,
    /// Most hashes in one lookup.
    pub max_lookup: u32,
    /// Most hashes in one announcement.
    pub max_announce: u32,
    /// The relay that this tracker runs.
    pub relay: Option<RelayInfo>,
}

/// A relay that a tracker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayInfo {
    /// Its URL.
    #[schema(value_type = String)]
    pub url: RelayUrl,
    /// The UDP port of its QUIC address discovery, where it has that.
    pub quic_port: Option<u16>,
}

/// What a tracker is told by an endpoint, and signed by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Announce {
    /// [`TrackerInfo::id`] of the tracker that it is for.
    #[schema(value_type = String)]
    pub tracker: TrackerId,
    /// Who announces; the key that signs.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// Higher than in the endpoint's announcement before: `max(milliseconds since 1970, last + 1)`.
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    pub sequence: u64,
    /// The swarm that the endpoint is in.
    #[serde(default = "public_swarm")]
    pub swarm: String,
    /// The relay that reaches it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub relay_url: Option<RelayUrl>,
    /// The addresses that reach it, `ADDRESS:PORT`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub direct_addrs: Vec<SocketAddr>,
    /// The systems that its paths are for, such as `x86_64-linux`.
    #[serde(default)]
    pub systems: Vec<String>,
    /// What it does.
    pub kind: AnnounceKind,
    /// For a delta, the sequence number of the announcement of paths that it builds on: the last
    /// full or delta that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Path hashes that it has, 32 characters of Nix's base 32 each: all for a full announcement,
    /// the new ones for a delta.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub added: Vec<PathHash>,
    /// Path hashes that it no longer has, for a delta.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub removed: Vec<PathHash>,
}

/// The kinds of announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AnnounceKind {
    /// `added` is all that the endpoint has.
    Full,
    /// `added` and `removed` are what changed.
    Delta,
    /// Nothing changed but, perhaps, addresses: the endpoint is still there.
    Refresh,
    /// The endpoint leaves, and all that it announced goes.
    Withdraw,
}

/// The answer to an announcement that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Announced {
    /// `ok`.
    pub status: String,
    /// The announcement's sequence number.
    pub sequence: u64,
    /// How many path hashes of this endpoint the tracker has now.
    pub paths: u64,
    /// The sequence number for [`Announce::base`] of the next delta; nothing where a full
    /// announcement is due first.
    pub base: Option<u64>,
}

/// The answer (409) to an announcement that is not newer than what the tracker knows, or that
/// builds on what it doesn't know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stale {
    /// What is wrong, for people.
    pub error: String,
    /// The endpoint's number must be higher than this.
    pub sequence: u64,
    /// The base that a delta must name; nothing where only a full announcement helps.
    pub base: Option<u64>,
}

/// A question who has paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lookup {
    /// The swarm that is asked about.
    #[serde(default = "public_swarm")]
    pub swarm: String,
    /// Path hashes, at most [`MAX_LOOKUP`].
    #[schema(value_type = Vec<String>)]
    pub hashes: Vec<PathHash>,
}

/// Who has paths: a few peers for each, chosen by the tracker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// The peers that `found` refers to.
    pub peers: Vec<TrackedPeer>,
    /// For each path hash that somebody has: indices into `peers`, the best first.
    #[schema(value_type = BTreeMap<String, Vec<u32>>)]
    pub found: BTreeMap<PathHash, Vec<u32>>,
}

/// Some of the peers of a swarm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SwarmPeers {
    /// At most 64, at random.
    pub peers: Vec<TrackedPeer>,
    /// How many there are in all.
    pub count: u64,
}

/// A peer that a tracker knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrackedPeer {
    /// Its id.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// The relay that reaches it.
    #[schema(value_type = Option<String>)]
    pub relay_url: Option<RelayUrl>,
    /// The addresses that reach it.
    #[schema(value_type = Vec<String>)]
    pub direct_addrs: Vec<SocketAddr>,
    /// When it announced itself last, in seconds since 1970 by the tracker's clock.
    pub last_seen: f64,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What is wrong and what to do, for people.
    pub error: String,
}

fn public_swarm() -> String {
    PUBLIC_SWARM.to_owned()
}

/// The random id of one tracker's database, 32 hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrackerId([u8; 16]);

impl TrackerId {
    /// Makes a new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for TrackerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TrackerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for TrackerId {
    type Err = ParseTrackerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| ParseTrackerIdError)?;
        Ok(Self(id))
    }
}

/// Text that is no tracker's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tracker's id is 32 hexadecimal characters")]
pub struct ParseTrackerIdError;

/// A store path hash as it stands in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathHash(pub StorePathHash);

impl PartialOrd for PathHash {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathHash {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

impl fmt::Display for PathHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Debug for PathHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl FromStr for PathHash {
    type Err = <StorePathHash as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Serialisation as the text that `Display` writes and `FromStr` reads.
macro_rules! as_text {
    ($($type:ty, $what:literal;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str($what)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    )*};
}

as_text! {
    TrackerId, "32 hexadecimal characters";
    PathHash, "a store path hash";
}

/// Signs the body of an announcement, for [`SIGNATURE_HEADER`].
#[must_use]
pub fn sign(key: &SecretKey, body: &[u8]) -> String {
    hex::encode(key.sign(&signed_bytes(body)).to_bytes())
}

/// Checks the signature of an announcement's body.
///
/// # Errors
/// Unless `signature` is `endpoint`'s over `body`.
pub fn verify(endpoint: &EndpointId, body: &[u8], signature: &str) -> Result<(), BadSignature> {
    let mut bytes = [0; Signature::LENGTH];
    hex::decode_to_slice(signature, &mut bytes).map_err(|_| BadSignature)?;
    endpoint
        .verify(&signed_bytes(body), &Signature::from_bytes(&bytes))
        .map_err(|_| BadSignature)
}

/// A signature that is not the endpoint's, or not of this body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not the endpoint's over this body")]
pub struct BadSignature;

fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(key: &SecretKey) -> Announce {
        Announce {
            tracker: TrackerId::generate(),
            endpoint: key.public(),
            sequence: 7,
            swarm: public_swarm(),
            relay_url: None,
            direct_addrs: vec!["192.0.2.1:12306".parse().unwrap()],
            systems: vec!["x86_64-linux".to_owned()],
            kind: AnnounceKind::Full,
            base: None,
            added: vec!["17bh691vzkqk8hv1i7xiaqff85b85br3".parse().unwrap()],
            removed: Vec::new(),
        }
    }

    #[test]
    fn an_announcement_reads_as_it_was_written() {
        let announce = announce(&SecretKey::generate());
        let body = serde_json::to_string(&announce).unwrap();
        assert!(body.contains(r#""kind":"full""#), "{body}");
        assert!(body.contains(r#""added":["17bh691vzkqk8hv1i7xiaqff85b85br3"]"#));
        assert_eq!(serde_json::from_str::<Announce>(&body).unwrap(), announce);
    }

    #[test]
    fn only_the_endpoint_itself_signs_and_only_these_bytes() {
        let key = SecretKey::generate();
        let body = serde_json::to_vec(&announce(&key)).unwrap();
        let signature = sign(&key, &body);
        assert_eq!(verify(&key.public(), &body, &signature), Ok(()));

        let other = SecretKey::generate();
        assert_eq!(
            verify(&key.public(), &body, &sign(&other, &body)),
            Err(BadSignature)
        );
        assert_eq!(
            verify(&key.public(), &body[1..], &signature),
            Err(BadSignature)
        );
        for wrong in ["", "00", &signature[2..], &"z".repeat(128)] {
            assert_eq!(verify(&key.public(), &body, wrong), Err(BadSignature));
        }
        let bare = hex::encode(key.sign(&body).to_bytes());
        assert_eq!(verify(&key.public(), &body, &bare), Err(BadSignature));
    }

    #[test]
    fn a_hash_of_another_length_or_alphabet_is_refused() {
        for wrong in [
            "\"17bh691vzkqk8hv1i7xiaqff85b85br\"",
            "\"e7bh691vzkqk8hv1i7xiaqff85b85br3\"",
            "7",
        ] {
            assert!(serde_json::from_str::<PathHash>(wrong).is_err(), "{wrong}");
        }
    }
}
