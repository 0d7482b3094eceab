//! What the older program's routes are asked and answer, as JSON.
//!
//! Requests are read field by field, as forgivingly as the older program read them, so their types
//! describe them only.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::tracker::api::TrackedPeer;
use crate::tracker::storage::{Cid, OlderNode, OlderPeer, Reputation};

/// A type that describes a request.
macro_rules! request {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(ToSchema)]
        #[expect(dead_code, reason = "it describes what is read field by field")]
        pub(super) struct $name {
            $($(#[$of_field])* $field: $type,)*
        }
    };
}

request! {
    /// An iroh node that is there.
    struct OlderNodeAnnouncement {
        /// Its id.
        node_id: String,
        /// Its name, which its packages are announced under.
        peer_id: String,
        /// The relay that reaches it.
        relay_url: Option<String>,
        /// The addresses that reach it, at most 32.
        direct_addrs: Option<Vec<String>>,
    }
}

request! {
    /// All that a peer has.
    struct OlderPackages {
        /// Its name.
        peer_id: String,
        /// Path hashes, at most 100,000. Other texts are left out.
        #[schema(required = false)]
        hashes: Vec<String>,
    }
}

request! {
    /// What changed of what a peer has.
    struct OlderPackagesDelta {
        /// Its name.
        peer_id: String,
        /// Path hashes that it has now, at most 100,000. Other texts are left out.
        #[schema(required = false)]
        added: Vec<String>,
        /// Path hashes that it no longer has, at most 100,000.
        #[schema(required = false)]
        removed: Vec<String>,
    }
}

request! {
    /// A peer that is there.
    struct OlderAnnouncement {
        /// Its name.
        peer_id: String,
        /// Its HTTP port.
        #[schema(minimum = 1, maximum = 65535)]
        port: u32,
        /// Its id in libp2p.
        libp2p_peer_id: Option<String>,
        /// All path hashes that it has, at most 100,000. It still has what it said before where
        /// there are none.
        packages: Option<Vec<String>>,
    }
}

request! {
    /// A transfer that is about to begin.
    struct OlderTransferBegin {
        /// Who sends.
        sender_id: String,
        /// Who receives.
        receiver_id: String,
    }
}

request! {
    /// What one side says of a transfer.
    struct OlderReport {
        /// The transfer's number.
        transfer_id: i64,
        /// Who says it.
        peer_id: String,
        /// `sender` or `receiver`.
        role: String,
        /// How many bytes there were.
        #[schema(minimum = 0)]
        bytes: i64,
    }
}

request! {
    /// The CID of a NAR.
    struct OlderCidAnnouncement {
        /// The NAR's hash.
        nar_hash: String,
        /// Its CID.
        cid: String,
        /// Who says so.
        peer_id: String,
    }
}

request! {
    /// A question for CIDs.
    struct OlderCidsQuestion {
        /// NAR hashes, at most 10,000.
        #[schema(required = false)]
        nar_hashes: Vec<String>,
    }
}

/// What became of a request.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderStatus {
    /// One word, or two.
    pub(super) status: &'static str,
}

impl OlderStatus {
    /// It was done.
    pub(super) const OK: Self = Self { status: "ok" };
}

/// The iroh nodes that are there, and endpoints that sign.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderNodes {
    /// How many there are.
    pub(super) count: usize,
    /// Who.
    pub(super) peers: Vec<OlderNodeEntry>,
}

/// An iroh node.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderNodeEntry {
    /// The address that it announced itself from; in lists alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    /// The addresses that reach it.
    direct_addrs: Vec<String>,
    /// When it announced itself last, in seconds since 1970.
    last_seen: f64,
    /// Its id.
    node_id: String,
    /// Its name; of an endpoint that signs its id again.
    peer_id: String,
    /// The relay that reaches it.
    relay_url: Option<String>,
}

impl OlderNodeEntry {
    pub(super) fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The entry of a list, with the address that it announced itself from.
    pub(super) fn listed(mut self, addr: String) -> Self {
        self.addr = Some(addr);
        self
    }
}

impl From<OlderNode> for OlderNodeEntry {
    fn from(node: OlderNode) -> Self {
        Self {
            addr: None,
            direct_addrs: node.direct_addrs,
            last_seen: node.last_seen,
            node_id: node.node_id,
            peer_id: node.peer_id,
            relay_url: node.relay_url,
        }
    }
}

impl From<TrackedPeer> for OlderNodeEntry {
    fn from(peer: TrackedPeer) -> Self {
        let addrs = peer.direct_addrs.iter().map(ToString::to_string);
        Self {
            addr: None,
            direct_addrs: addrs.collect(),
            last_seen: peer.last_seen,
            node_id: peer.endpoint.to_string(),
            peer_id: peer.endpoint.to_string(),
            relay_url: peer.relay_url.as_ref().map(ToString::to_string),
        }
    }
}

/// How many distinct path hashes were taken up.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderCounted {
    /// How many.
    pub(super) count: usize,
    /// `ok`.
    pub(super) status: &'static str,
}

/// How many distinct path hashes were taken up and taken away.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderChanged {
    /// How many were added.
    pub(super) added: usize,
    /// How many were removed.
    pub(super) removed: usize,
    /// `ok`.
    pub(super) status: &'static str,
}

/// How full the tracker is.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderFill {
    /// Pairs of NAR hash and CID.
    pub(super) cid_mappings: u64,
    /// `ipfs`.
    pub(super) mode: &'static str,
    /// Distinct path hashes.
    pub(super) packages: u64,
    /// Peers that are no iroh nodes.
    pub(super) peers: u64,
    /// `ok`.
    pub(super) status: &'static str,
}

/// The peers that are no iroh nodes, those of the best reputation first.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderPeers {
    /// Who.
    pub(super) peers: Vec<OlderPeerEntry>,
}

/// A peer that is no iroh node.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderPeerEntry {
    /// The address that it announced itself from.
    addr: String,
    /// When it announced itself last, in seconds since 1970.
    last_seen: f64,
    /// Its name.
    peer_id: String,
    /// Its HTTP port.
    port: i64,
    /// What it is known for.
    reputation: OlderReputation,
}

impl From<(OlderPeer, Reputation)> for OlderPeerEntry {
    fn from((peer, reputation): (OlderPeer, Reputation)) -> Self {
        Self {
            addr: peer.addr,
            last_seen: peer.last_seen,
            peer_id: peer.peer_id,
            port: peer.port,
            reputation: OlderReputation::of(&reputation, None),
        }
    }
}

/// What a peer is known for.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderReputation {
    /// Transfers whose sides did not agree.
    failed_transfers: i64,
    /// Its name, where the answer is about it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_id: Option<String>,
    /// The share of successes, times the logarithm of the bytes sent.
    score: f64,
    /// Transfers whose sides agreed.
    successful_transfers: i64,
    /// Bytes that it received.
    total_received: i64,
    /// Bytes that it sent.
    total_shared: i64,
}

impl OlderReputation {
    pub(super) fn of(reputation: &Reputation, peer_id: Option<String>) -> Self {
        Self {
            failed_transfers: reputation.failed_transfers,
            peer_id,
            score: reputation.score(),
            successful_transfers: reputation.successful_transfers,
            total_received: reputation.total_received,
            total_shared: reputation.total_shared,
        }
    }
}

/// Which peers that are no iroh nodes have a path.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderFound {
    /// The hash that was asked for.
    pub(super) hash: String,
    /// Who has it.
    pub(super) providers: Vec<OlderProvider>,
}

/// A peer that has a path.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderProvider {
    /// The address that it announced itself from.
    addr: String,
    /// When it announced itself last, in seconds since 1970.
    last_seen: f64,
    /// Its id in libp2p.
    libp2p_peer_id: Option<String>,
    /// Its name.
    peer_id: String,
    /// Its HTTP port.
    port: i64,
    /// The score of its reputation.
    score: f64,
}

impl From<(OlderPeer, Reputation)> for OlderProvider {
    fn from((peer, reputation): (OlderPeer, Reputation)) -> Self {
        Self {
            addr: peer.addr,
            last_seen: peer.last_seen,
            libp2p_peer_id: peer.libp2p_peer_id,
            peer_id: peer.peer_id,
            port: peer.port,
            score: reputation.score(),
        }
    }
}

/// A transfer that began.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderTransferBegun {
    /// The number that both sides report under.
    pub(super) transfer_id: i64,
}

/// What became of a report.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderReported {
    /// Whether both sides said the same, once both did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consistent: Option<bool>,
    /// `pending` or `resolved`.
    pub(super) status: &'static str,
}

/// A CID that was taken up.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderCidTaken {
    /// The CID.
    pub(super) cid: String,
    /// The NAR's hash.
    pub(super) nar_hash: String,
    /// `ok`.
    pub(super) status: &'static str,
}

/// The CID of a NAR.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderCid {
    /// The CID.
    cid: String,
    /// When it was said, in seconds since 1970.
    created_at: f64,
    /// The NAR's hash.
    nar_hash: String,
    /// Who said so.
    peer_id: String,
}

impl From<Cid> for OlderCid {
    fn from(cid: Cid) -> Self {
        Self {
            cid: cid.cid,
            created_at: cid.created_at,
            nar_hash: cid.nar_hash,
            peer_id: cid.peer_id,
        }
    }
}

/// CIDs of NARs.
#[derive(Serialize, ToSchema)]
pub(super) struct OlderCids {
    /// CIDs by the hashes of their NARs.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    cids: Map<String, Value>,
    /// How many there are; not said where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
}

impl OlderCids {
    /// The answer to who asked for none.
    pub(super) fn none() -> Self {
        Self {
            cids: Map::new(),
            count: None,
        }
    }

    pub(super) fn of(cids: Vec<Cid>) -> Self {
        let cids: Map<String, Value> = cids
            .into_iter()
            .map(|cid| (cid.nar_hash, Value::from(cid.cid)))
            .collect();
        Self {
            count: Some(cids.len()),
            cids,
        }
    }
}
