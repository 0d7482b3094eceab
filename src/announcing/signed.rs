//! The signed API: see [`crate::tracker::api`].

use std::{collections::HashMap, time::Duration};

use iroh::{EndpointAddr, SecretKey, TransportAddr};
use peerix_gossip::PathHash;
use peerix_store::nix::StorePathHash;
use reqwest::StatusCode;

use super::{
    http::{Answer, Ask, RequestError, Site, json},
    limits,
    session::{Say, Word},
    whereabouts::Whereabouts,
};
use crate::tracker::api::{
    self, Announce, AnnounceKind, Announced, Found, Lookup, SIGNATURE_HEADER, Stale, SwarmPeers,
    TrackedPeer, TrackerId, TrackerInfo,
};

/// Who speaks with a tracker, and of what.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    pub(super) key: SecretKey,
    /// The swarm as trackers may know it.
    pub(super) swarm: String,
    pub(super) systems: Vec<String>,
}

/// How an announcement ended that reached the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted(Word),
    Conflict(Word),
}

/// What the tracker says of itself; `None` where there is none with this API.
pub(super) async fn info(site: &Site) -> Result<Option<TrackerInfo>, RequestError> {
    let asked = site.ask(Ask::get("v1/info", limits::SHORT_ANSWER)).await;
    match asked {
        Ok(answer) => answer.json().map(Some),
        Err(error) => match error.status() {
            Some(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => Ok(None),
            _ => Err(error),
        },
    }
}

impl Speaker {
    /// Announces, under a number that was not used yet.
    pub(super) async fn announce(
        &self,
        site: &Site,
        tracker: TrackerId,
        sequence: u64,
        say: &Say,
        whereabouts: &Whereabouts,
    ) -> Result<Outcome, RequestError> {
        let kind = match say {
            Say::Full(_) => AnnounceKind::Full,
            Say::Delta { .. } => AnnounceKind::Delta,
            Say::Refresh => AnnounceKind::Refresh,
        };
        let announce = self.announcement(tracker, sequence, kind, whereabouts);
        let announce = match say {
            Say::Full(paths) => Announce {
                added: api_hashes(paths),
                ..announce
            },
            Say::Delta {
                base,
                added,
                removed,
            } => Announce {
                base: Some(*base),
                added: api_hashes(added),
                removed: api_hashes(removed),
                ..announce
            },
            Say::Refresh => announce,
        };
        match self.post(site, &announce).await {
            Ok(answer) => {
                let announced: Announced = answer.json()?;
                Ok(Outcome::Accepted(Word {
                    sequence: announced.sequence,
                    base: announced.base,
                }))
            }
            Err(RequestError::Refused {
                status: StatusCode::CONFLICT,
                body,
                ..
            }) => {
                let stale: Stale = serde_json::from_slice(&body)
                    .map_err(|error| RequestError::Malformed(error.to_string()))?;
                Ok(Outcome::Conflict(Word {
                    sequence: stale.sequence,
                    base: stale.base,
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// Says goodbye: the tracker forgets this machine and all that it announced.
    pub(super) async fn withdraw(
        &self,
        site: &Site,
        tracker: TrackerId,
        sequence: u64,
    ) -> Result<(), RequestError> {
        let nowhere = Whereabouts::default();
        let announce = self.announcement(tracker, sequence, AnnounceKind::Withdraw, &nowhere);
        self.post(site, &announce).await.map(drop)
    }

    fn announcement(
        &self,
        tracker: TrackerId,
        sequence: u64,
        kind: AnnounceKind,
        whereabouts: &Whereabouts,
    ) -> Announce {
        Announce {
            tracker,
            endpoint: self.key.public(),
            sequence,
            swarm: self.swarm.clone(),
            relay_url: whereabouts.relay_url.clone(),
            direct_addrs: whereabouts.direct_addrs.clone(),
            systems: self.systems.clone(),
            kind,
            base: None,
            added: Vec::new(),
            removed: Vec::new(),
        }
    }

    async fn post(&self, site: &Site, announce: &Announce) -> Result<Answer, RequestError> {
        let body = json(announce)?;
        let signature = api::sign(&self.key, &body);
        let mut ask = Ask::post("v1/announce", body, limits::SHORT_ANSWER);
        ask.headers.push((SIGNATURE_HEADER, signature));
        site.ask(ask).await
    }

    /// Who is in the swarm, once that is something else than what `etag` stands for, or after
    /// `wait`; `None` where it is not.
    pub(super) async fn peers(
        &self,
        site: &Site,
        etag: Option<&str>,
        wait: Duration,
    ) -> Result<Option<Listing>, RequestError> {
        let swarm: String = self.swarm.bytes().map(percent_encoded).collect();
        let path = format!("v1/peers?swarm={swarm}&wait={}", wait.as_secs());
        let mut ask = Ask::get(&path, limits::PEERS_ANSWER);
        ask.wait = wait;
        if let Some(etag) = etag {
            ask.headers.push(("if-none-match", etag.to_owned()));
        }
        let answer = site.ask(ask).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let listed: SwarmPeers = answer.json()?;
        Ok(Some(Listing {
            peers: listed.peers.into_iter().map(endpoint_addr).collect(),
            count: listed.count,
            etag: answer.etag,
        }))
    }

    /// Who has which of these paths: at most [`limits::LOOKUP_PATHS`].
    pub(super) async fn lookup(
        &self,
        site: &Site,
        paths: &[StorePathHash],
    ) -> Result<HashMap<StorePathHash, Vec<EndpointAddr>>, RequestError> {
        let body = json(&Lookup {
            swarm: self.swarm.clone(),
            hashes: paths.iter().copied().map(api::PathHash).collect(),
        })?;
        let ask = Ask::post("v1/lookup", body, limits::LOOKUP_ANSWER);
        let found: Found = site.ask(ask).await?.json()?;
        let peers: Vec<EndpointAddr> = found.peers.into_iter().map(endpoint_addr).collect();
        let holders = |indices: Vec<u32>| {
            let indices = indices.into_iter().take(limits::PEERS_FOR_A_PATH);
            let holders = indices.filter_map(|index| peers.get(usize::try_from(index).ok()?));
            holders.cloned().collect()
        };
        let found = found.found.into_iter();
        Ok(found
            .map(|(path_hash, indices)| (path_hash.0, holders(indices)))
            .collect())
    }
}

/// Some of the peers of a swarm.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) peers: Vec<EndpointAddr>,
    /// How many there are in all.
    pub(super) count: u64,
    pub(super) etag: Option<String>,
}

fn endpoint_addr(peer: TrackedPeer) -> EndpointAddr {
    let relay = peer.relay_url.map(TransportAddr::Relay);
    let direct = peer.direct_addrs.into_iter().map(TransportAddr::Ip);
    EndpointAddr::from_parts(peer.endpoint, relay.into_iter().chain(direct))
}

fn api_hashes(paths: &[PathHash]) -> Vec<api::PathHash> {
    let path_hash = |path: &PathHash| api::PathHash(StorePathHash::from_bytes(*path));
    paths.iter().map(path_hash).collect()
}

/// A byte as a query may hold it.
fn percent_encoded(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    }
}
