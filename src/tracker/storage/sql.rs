//! The statements that SQLite and PostgreSQL understand alike.
//!
//! SQLite numbers `$1` and the like by their first appearance, so they appear in order.

pub(super) const HOLDER: &str = "SELECT id, signed, key, swarm, present, revision, endpoint, \
    relay_url, direct_addrs, systems, addr, last_seen, sequence, base FROM holder";

pub(super) const INSERT_HOLDER: &str = "INSERT INTO holder (signed, key, swarm, present, revision, \
    endpoint, relay_url, direct_addrs, systems, addr, last_seen, sequence, base, changed) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id";

pub(super) const UPDATE_HOLDER: &str = "UPDATE holder SET swarm = $1, present = $2, revision = $3, \
    endpoint = $4, relay_url = $5, direct_addrs = $6, systems = $7, addr = $8, last_seen = $9, \
    sequence = $10, base = $11, changed = $12 WHERE id = $13";

pub(super) const PUT_HOLDING: &str = "INSERT INTO holding (holder, paths) VALUES ($1, $2) \
    ON CONFLICT (holder) DO UPDATE SET paths = excluded.paths";

pub(super) const PUT_NODE: &str = "INSERT INTO iroh_peers \
    (node_id, peer_id, relay_url, direct_addrs, addr, last_seen) VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (node_id) DO UPDATE SET peer_id = excluded.peer_id, \
    relay_url = excluded.relay_url, direct_addrs = excluded.direct_addrs, addr = excluded.addr, \
    last_seen = excluded.last_seen";

pub(super) const NODES: &str =
    "SELECT node_id, peer_id, relay_url, direct_addrs, addr, last_seen FROM iroh_peers";

pub(super) const PUT_PEER: &str = "INSERT INTO peers (peer_id, addr, port, libp2p_peer_id, \
    last_seen) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (peer_id) DO UPDATE SET \
    addr = excluded.addr, port = excluded.port, libp2p_peer_id = excluded.libp2p_peer_id, \
    last_seen = excluded.last_seen";

pub(super) const PEERS: &str = "SELECT p.peer_id, p.addr, p.port, p.libp2p_peer_id, p.last_seen, \
    r.total_shared, r.total_received, r.successful_transfers, r.failed_transfers \
    FROM peers p LEFT JOIN reputation r ON r.peer_id = p.peer_id WHERE p.last_seen > $1";

pub(super) const BEGIN_TRANSFER: &str = "INSERT INTO transfers (sender_id, receiver_id, \
    created_at) VALUES ($1, $2, $3) RETURNING id";

pub(super) const TRANSFER: &str = "SELECT sender_id, receiver_id, sender_bytes, receiver_bytes, \
    sender_confirmed, receiver_confirmed, resolved FROM transfers WHERE id = $1";

pub(super) const UPDATE_TRANSFER: &str = "UPDATE transfers SET sender_bytes = $1, \
    receiver_bytes = $2, sender_confirmed = $3, receiver_confirmed = $4, resolved = $5 \
    WHERE id = $6";

pub(super) const ADD_REPUTATION: &str = "INSERT INTO reputation (peer_id, total_shared, \
    total_received, successful_transfers, failed_transfers) VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (peer_id) DO UPDATE SET \
    total_shared = reputation.total_shared + excluded.total_shared, \
    total_received = reputation.total_received + excluded.total_received, \
    successful_transfers = reputation.successful_transfers + excluded.successful_transfers, \
    failed_transfers = reputation.failed_transfers + excluded.failed_transfers";

pub(super) const REPUTATION: &str = "SELECT total_shared, total_received, successful_transfers, \
    failed_transfers FROM reputation WHERE peer_id = $1";

pub(super) const PUT_CID: &str = "INSERT INTO cid_mappings (nar_hash, cid, peer_id, created_at) \
    VALUES ($1, $2, $3, $4) ON CONFLICT (nar_hash) DO UPDATE SET cid = excluded.cid, \
    peer_id = excluded.peer_id, created_at = excluded.created_at";

pub(super) const CIDS: &str = "SELECT nar_hash, cid, peer_id, created_at FROM cid_mappings";

pub(super) const COUNT_PEERS: &str = "SELECT count(*) FROM peers WHERE last_seen > $1";

pub(super) const COUNT_CIDS: &str = "SELECT count(*) FROM cid_mappings";
