//! The statements that SQLite and PostgreSQL understand alike.
//!
//! SQLite numbers `$1` and the like by their first appearance, so they appear in order.

/// Numbers of hashes that are given out in order; then any that is free. Below the highest there is
/// room for what trackers that share a database give out at the same time.
pub(super) const NUMBERS_IN_ORDER: i64 = (1 << 32) - (1 << 24);

macro_rules! holder {
    () => {
        "id, signed, key, swarm, present, revision, endpoint, relay_url, direct_addrs, systems, \
         addr, last_seen, sequence, base"
    };
}

pub(super) const HOLDER: &str = concat!("SELECT ", holder!(), " FROM holder");

macro_rules! silent {
    () => {
        "present = 1 AND last_seen < $2 AND last_seen < CASE signed WHEN 1 \
         THEN CAST($3 AS DOUBLE PRECISION) ELSE CAST($4 AS DOUBLE PRECISION) END"
    };
}

macro_rules! expire {
    ($which:expr) => {
        concat!(
            "UPDATE holder SET present = 0, revision = revision + 1, base = NULL, changed = $1 \
             WHERE ",
            $which,
            " RETURNING ",
            holder!()
        )
    };
}

/// Takes the number of the change, before when anybody is silent who was not heard of, and that of
/// those who sign and of the others.
pub(super) const EXPIRE: &str = expire!(silent!());

/// The same where others may be about to do that too, or somebody is just heard of.
pub(super) const EXPIRE_SHARED: &str = expire!(concat!(
    "id IN (SELECT id FROM holder WHERE ",
    silent!(),
    " ORDER BY id FOR UPDATE SKIP LOCKED)"
));

pub(super) const FORGET_OLDER: &str =
    "DELETE FROM holder WHERE present = 0 AND signed = 0 AND last_seen < $1";

pub(super) const FORGET_SIGNED: &str =
    "DELETE FROM holder WHERE present = 0 AND signed = 1 AND last_seen < $1 AND sequence < $2";

/// When the last of those was heard of that are too many.
pub(super) const ABSENT_BEYOND: &str =
    "SELECT last_seen FROM holder WHERE present = 0 ORDER BY last_seen DESC LIMIT 1 OFFSET $1";

pub(super) const ABSENT_SEQUENCE: &str =
    "SELECT max(sequence) FROM holder WHERE present = 0 AND last_seen <= $1";

pub(super) const FORGET_ABSENT: &str = "DELETE FROM holder WHERE present = 0 AND last_seen <= $1";

pub(super) const TRIM_TRANSFERS: &str = "DELETE FROM transfers WHERE created_at < $1 \
    OR id <= (SELECT max(id) FROM transfers) - $2";

pub(super) const TRIM_CIDS: &str = "DELETE FROM cid_mappings WHERE created_at < (SELECT created_at \
    FROM cid_mappings ORDER BY created_at DESC LIMIT 1 OFFSET CAST($1 AS BIGINT) - 1)";

pub(super) const TRIM_REPUTATIONS: &str = "DELETE FROM reputation WHERE changed_at < (SELECT \
    changed_at FROM reputation ORDER BY changed_at DESC LIMIT 1 OFFSET CAST($1 AS BIGINT) - 1)";

pub(super) const COUNT_HASHES: &str = "SELECT count(*) FROM hash";

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
    CAST(r.total_shared AS BIGINT), CAST(r.total_received AS BIGINT), \
    CAST(r.successful_transfers AS BIGINT), CAST(r.failed_transfers AS BIGINT) \
    FROM peers p LEFT JOIN reputation r ON r.peer_id = p.peer_id WHERE p.last_seen > $1";

pub(super) const BEGIN_TRANSFER: &str = "INSERT INTO transfers (sender_id, receiver_id, \
    created_at) VALUES ($1, $2, $3) RETURNING id";

// Numbers of the older program's database may be fractions or texts.
pub(super) const TRANSFER: &str = "SELECT sender_id, receiver_id, \
    CAST(sender_bytes AS BIGINT), CAST(receiver_bytes AS BIGINT), \
    sender_confirmed, receiver_confirmed, resolved FROM transfers WHERE id = $1";

pub(super) const UPDATE_TRANSFER: &str = "UPDATE transfers SET sender_bytes = $1, \
    receiver_bytes = $2, sender_confirmed = $3, receiver_confirmed = $4, resolved = $5 \
    WHERE id = $6";

/// What a column of `reputation` becomes when something is added to it: at most the largest number,
/// where SQLite would go on with fractions and PostgreSQL would refuse.
macro_rules! sum {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN CAST(reputation.",
            $column,
            " AS BIGINT) > 9223372036854775807 - excluded.",
            $column,
            " THEN 9223372036854775807 ELSE CAST(reputation.",
            $column,
            " AS BIGINT) + excluded.",
            $column,
            " END"
        )
    };
}

pub(super) const ADD_REPUTATION: &str = concat!(
    "INSERT INTO reputation (peer_id, total_shared, total_received, successful_transfers, \
     failed_transfers, changed_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (peer_id) DO UPDATE SET ",
    sum!("total_shared"),
    ", ",
    sum!("total_received"),
    ", ",
    sum!("successful_transfers"),
    ", ",
    sum!("failed_transfers"),
    ", changed_at = excluded.changed_at"
);

pub(super) const REPUTATION: &str = "SELECT CAST(total_shared AS BIGINT), \
    CAST(total_received AS BIGINT), CAST(successful_transfers AS BIGINT), \
    CAST(failed_transfers AS BIGINT) FROM reputation WHERE peer_id = $1";

pub(super) const PUT_CID: &str = "INSERT INTO cid_mappings (nar_hash, cid, peer_id, created_at) \
    VALUES ($1, $2, $3, $4) ON CONFLICT (nar_hash) DO UPDATE SET cid = excluded.cid, \
    peer_id = excluded.peer_id, created_at = excluded.created_at";

pub(super) const CIDS: &str = "SELECT nar_hash, cid, peer_id, created_at FROM cid_mappings";

pub(super) const COUNT_PEERS: &str = "SELECT count(*) FROM peers WHERE last_seen > $1";

pub(super) const COUNT_CIDS: &str = "SELECT count(*) FROM cid_mappings";
