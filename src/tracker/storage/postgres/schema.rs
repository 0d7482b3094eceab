//! The tables, and how older databases become newer ones.

use deadpool_postgres::Transaction;

use super::super::StorageError;
use super::error_of;
use crate::tracker::api::TrackerId;

/// The version that this program writes.
const VERSION: i64 = 2;

/// The lock that trackers take which make tables.
const LOCK: i64 = 0x7065_6572_6978_0001;

const VERSION_1: &str = "
CREATE TABLE peers (
    peer_id TEXT PRIMARY KEY, addr TEXT NOT NULL, port BIGINT NOT NULL, libp2p_peer_id TEXT,
    last_seen DOUBLE PRECISION NOT NULL);
CREATE TABLE iroh_peers (
    node_id TEXT PRIMARY KEY, peer_id TEXT NOT NULL, relay_url TEXT, direct_addrs TEXT, addr TEXT,
    last_seen DOUBLE PRECISION NOT NULL);
CREATE INDEX iroh_peers_peer_id ON iroh_peers (peer_id);
CREATE TABLE transfers (
    id BIGSERIAL PRIMARY KEY, sender_id TEXT NOT NULL, receiver_id TEXT NOT NULL,
    sender_bytes BIGINT, receiver_bytes BIGINT, sender_confirmed BIGINT NOT NULL DEFAULT 0,
    receiver_confirmed BIGINT NOT NULL DEFAULT 0, resolved BIGINT NOT NULL DEFAULT 0,
    created_at DOUBLE PRECISION NOT NULL);
CREATE TABLE reputation (
    peer_id TEXT PRIMARY KEY, total_shared BIGINT NOT NULL, total_received BIGINT NOT NULL,
    successful_transfers BIGINT NOT NULL, failed_transfers BIGINT NOT NULL);
CREATE TABLE cid_mappings (
    nar_hash TEXT PRIMARY KEY, cid TEXT NOT NULL, peer_id TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL);
CREATE TABLE hash (
    id BIGINT GENERATED ALWAYS AS IDENTITY (MAXVALUE 4294967295) PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE);
CREATE TABLE holder (
    id BIGSERIAL PRIMARY KEY, signed BIGINT NOT NULL, key TEXT NOT NULL, swarm TEXT NOT NULL,
    present BIGINT NOT NULL, revision BIGINT NOT NULL, endpoint TEXT, relay_url TEXT,
    direct_addrs TEXT NOT NULL, systems TEXT NOT NULL, addr TEXT NOT NULL,
    last_seen DOUBLE PRECISION NOT NULL, sequence BIGINT NOT NULL, base BIGINT,
    changed BIGINT NOT NULL, UNIQUE (signed, key));
CREATE INDEX holder_last_seen ON holder (last_seen);
CREATE INDEX holder_changed ON holder (changed);
CREATE TABLE holding (holder BIGINT PRIMARY KEY, paths BYTEA NOT NULL);
-- A set of a byte a path does not get smaller.
ALTER TABLE holding ALTER paths SET STORAGE EXTERNAL;
";

/// What finds the silent, and the oldest of what strangers make; and the number up to which
/// announcements of endpoints that are not remembered are refused.
const VERSION_2: &str = "
DROP INDEX holder_last_seen;
CREATE INDEX holder_present ON holder (present, last_seen);
CREATE INDEX cid_mappings_created_at ON cid_mappings (created_at);
ALTER TABLE reputation ADD COLUMN changed_at DOUBLE PRECISION NOT NULL DEFAULT 0;
CREATE INDEX reputation_changed_at ON reputation (changed_at);
ALTER TABLE peerix_tracker ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;
";

/// Makes or updates the tables, and returns the id of the trackers that share them.
pub(super) async fn prepare(transaction: &Transaction<'_>) -> Result<TrackerId, StorageError> {
    let lock = "SELECT pg_advisory_xact_lock($1)::text";
    transaction
        .query_one(lock, &[&LOCK])
        .await
        .map_err(error_of)?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS peerix_tracker (version BIGINT NOT NULL, id TEXT NOT NULL)",
        )
        .await
        .map_err(error_of)?;
    let made = transaction
        .query_opt("SELECT version, id FROM peerix_tracker", &[])
        .await
        .map_err(error_of)?;
    let Some(made) = made else {
        for tables in [VERSION_1, VERSION_2] {
            transaction.batch_execute(tables).await.map_err(error_of)?;
        }
        let id = TrackerId::generate();
        let insert = "INSERT INTO peerix_tracker (version, id) VALUES ($1, $2)";
        transaction
            .execute(insert, &[&VERSION, &id.to_string()])
            .await
            .map_err(error_of)?;
        return Ok(id);
    };
    let version: i64 = made.try_get(0).map_err(error_of)?;
    if version > VERSION {
        return Err(StorageError::Newer {
            found: version,
            known: VERSION,
        });
    }
    if version < VERSION {
        transaction
            .batch_execute(VERSION_2)
            .await
            .map_err(error_of)?;
        let update = "UPDATE peerix_tracker SET version = $1";
        transaction
            .execute(update, &[&VERSION])
            .await
            .map_err(error_of)?;
    }
    let id: String = made.try_get(1).map_err(error_of)?;
    id.parse()
        .map_err(|_| StorageError::Damaged("the tracker's id is none".to_owned()))
}
