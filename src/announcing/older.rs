//! The older program's tracker, and ours for who speaks as it does: no signatures, no lookups.

use std::net::SocketAddr;

use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};
use peerix_gossip::PathHash;
use peerix_store::nix::StorePathHash;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    http::{Ask, RequestError, Site, json},
    limits,
    whereabouts::Whereabouts,
};

#[derive(Serialize)]
struct Announce<'a> {
    node_id: String,
    peer_id: &'a str,
    relay_url: Option<&'a RelayUrl>,
    direct_addrs: &'a [SocketAddr],
}

#[derive(Serialize)]
struct Batch<'a> {
    peer_id: &'a str,
    hashes: Vec<String>,
}

#[derive(Serialize)]
struct Delta<'a> {
    peer_id: &'a str,
    added: Vec<String>,
    removed: Vec<String>,
}

#[derive(Deserialize)]
struct Listing {
    peers: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Listed {
    node_id: String,
    #[serde(default)]
    relay_url: Option<String>,
    #[serde(default)]
    direct_addrs: Vec<String>,
}

/// Says that this machine is there, and where.
pub(super) async fn announce(
    site: &Site,
    id: EndpointId,
    peer_id: &str,
    whereabouts: &Whereabouts,
) -> Result<(), RequestError> {
    let body = json(&Announce {
        node_id: id.to_string(),
        peer_id,
        relay_url: whereabouts.relay_url.as_ref(),
        direct_addrs: &whereabouts.direct_addrs,
    })?;
    let ask = Ask::post("iroh/announce", body, limits::SHORT_ANSWER);
    site.ask(ask).await.map(drop)
}

/// Says goodbye.
pub(super) async fn withdraw(site: &Site, id: EndpointId) -> Result<(), RequestError> {
    let path = format!("iroh/peer/{id}");
    let ask = Ask {
        method: Method::DELETE,
        ..Ask::get(&path, limits::SHORT_ANSWER)
    };
    match site.ask(ask).await {
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
        asked => asked.map(drop),
    }
}

/// Who is there. What is no peer is left out.
pub(super) async fn peers(site: &Site) -> Result<Vec<EndpointAddr>, RequestError> {
    let answer = site
        .ask(Ask::get("iroh/peers", limits::PEERS_ANSWER))
        .await?;
    let listing: Listing = answer.json()?;
    let peers = listing.peers.into_iter();
    Ok(peers.filter_map(endpoint_addr).collect())
}

/// Tells all that is announced.
pub(super) async fn batch(
    site: &Site,
    peer_id: &str,
    paths: &[PathHash],
) -> Result<(), RequestError> {
    let body = json(&Batch {
        peer_id,
        hashes: texts(paths),
    })?;
    let ask = Ask::post("packages/batch", body, limits::SHORT_ANSWER);
    site.ask(ask).await.map(drop)
}

/// Tells what changed of what is announced.
pub(super) async fn delta(
    site: &Site,
    peer_id: &str,
    added: &[PathHash],
    removed: &[PathHash],
) -> Result<(), RequestError> {
    let body = json(&Delta {
        peer_id,
        added: texts(added),
        removed: texts(removed),
    })?;
    let ask = Ask::post("packages/delta", body, limits::SHORT_ANSWER);
    site.ask(ask).await.map(drop)
}

/// The address that one entry means; what is no address is left out.
fn endpoint_addr(value: serde_json::Value) -> Option<EndpointAddr> {
    let listed: Listed = serde_json::from_value(value).ok()?;
    let id: EndpointId = listed.node_id.parse().ok()?;
    let relay = listed
        .relay_url
        .and_then(|url| url.parse::<RelayUrl>().ok());
    let direct = listed.direct_addrs.iter().take(limits::ADDRESSES);
    let direct = direct.filter_map(|text| text.parse::<SocketAddr>().ok());
    let addrs = relay
        .map(TransportAddr::Relay)
        .into_iter()
        .chain(direct.map(TransportAddr::Ip));
    Some(EndpointAddr::from_parts(id, addrs))
}

/// Path hashes as the older program writes them.
fn texts(paths: &[PathHash]) -> Vec<String> {
    let text = |path: &PathHash| StorePathHash::from_bytes(*path).to_string();
    paths.iter().map(text).collect()
}
