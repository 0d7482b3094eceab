//! The tables, and how older databases become newer ones.

use std::collections::HashMap;

use peerix_store::nix::StorePathHash;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::super::StorageError;
use super::error_of;
use crate::tracker::{api::TrackerId, id_set::IdSet};

/// The version that this program writes.
const VERSION: i64 = 2;

/// The tables of the older program that stay as they are. It wrote no version.
const OLDER: &str = "
CREATE TABLE IF NOT EXISTS peers (
    peer_id TEXT PRIMARY KEY, addr TEXT NOT NULL, port INTEGER NOT NULL, libp2p_peer_id TEXT,
    last_seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS iroh_peers (
    node_id TEXT PRIMARY KEY, peer_id TEXT NOT NULL, relay_url TEXT, direct_addrs TEXT, addr TEXT,
    last_seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sender_id TEXT NOT NULL, receiver_id TEXT NOT NULL,
    sender_bytes INTEGER, receiver_bytes INTEGER, sender_confirmed INTEGER DEFAULT 0,
    receiver_confirmed INTEGER DEFAULT 0, resolved INTEGER DEFAULT 0, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS reputation (
    peer_id TEXT PRIMARY KEY, total_shared INTEGER DEFAULT 0, total_received INTEGER DEFAULT 0,
    successful_transfers INTEGER DEFAULT 0, failed_transfers INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS cid_mappings (
    nar_hash TEXT PRIMARY KEY, cid TEXT NOT NULL, peer_id TEXT NOT NULL, created_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS idx_cid_mappings_cid ON cid_mappings (cid);
";

/// Ours.
const VERSION_1: &str = "
CREATE TABLE tracker (id TEXT NOT NULL);
CREATE TABLE hash (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE);
CREATE TABLE holder (
    id INTEGER PRIMARY KEY, signed INTEGER NOT NULL, key TEXT NOT NULL, swarm TEXT NOT NULL,
    present INTEGER NOT NULL, revision INTEGER NOT NULL, endpoint TEXT, relay_url TEXT,
    direct_addrs TEXT NOT NULL, systems TEXT NOT NULL, addr TEXT NOT NULL, last_seen REAL NOT NULL,
    sequence INTEGER NOT NULL, base INTEGER, changed INTEGER NOT NULL, UNIQUE (signed, key));
CREATE INDEX holder_last_seen ON holder (last_seen);
CREATE TABLE holding (holder INTEGER PRIMARY KEY, paths BLOB NOT NULL);
CREATE INDEX iroh_peers_peer_id ON iroh_peers (peer_id);
";

/// What finds the silent, and the oldest of what strangers make; and the number up to which
/// announcements of endpoints that are not remembered are refused.
const VERSION_2: &str = "
DROP INDEX holder_last_seen;
CREATE INDEX holder_present ON holder (present, last_seen);
CREATE INDEX cid_mappings_created_at ON cid_mappings (created_at);
ALTER TABLE reputation ADD COLUMN changed_at REAL NOT NULL DEFAULT 0;
CREATE INDEX reputation_changed_at ON reputation (changed_at);
ALTER TABLE tracker ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
";

/// Returns the version of a database, 0 for none and for the older program's; writes nothing.
///
/// # Errors
/// Where it is a newer one than is known here, or no database.
pub(super) fn version(connection: &Connection) -> Result<i64, StorageError> {
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(error_of)?;
    if version > VERSION {
        return Err(StorageError::Newer {
            found: version,
            known: VERSION,
        });
    }
    Ok(version)
}

/// Makes or updates the tables of a database of this version, and returns the tracker's id.
pub(super) fn prepare(
    connection: &mut Connection,
    version: i64,
) -> Result<TrackerId, StorageError> {
    if version < VERSION {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(error_of)?;
        update(&transaction, version).map_err(error_of)?;
        transaction.commit().map_err(error_of)?;
    }
    let id: String = connection
        .query_row("SELECT id FROM tracker", [], |row| row.get(0))
        .map_err(error_of)?;
    id.parse()
        .map_err(|_| StorageError::Damaged("the tracker's id is none".to_owned()))
}

fn update(transaction: &Transaction<'_>, version: i64) -> rusqlite::Result<()> {
    if version < 1 {
        make(transaction)?;
    }
    transaction.execute_batch(VERSION_2)?;
    transaction.pragma_update(None, "user_version", VERSION)
}

fn make(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(OLDER)?;
    transaction.execute_batch(VERSION_1)?;
    transaction.execute(
        "INSERT INTO tracker (id) VALUES (?1)",
        [TrackerId::generate().to_string()],
    )?;
    let had_packages: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'packages')",
        [],
        |row| row.get(0),
    )?;
    if had_packages {
        take_over_packages(transaction)?;
    }
    Ok(())
}

/// Turns the older program's rows, one for each path of each peer, into holdings.
fn take_over_packages(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut ids: HashMap<StorePathHash, u32> = HashMap::new();
    let mut holders: HashMap<String, (f64, Vec<u32>)> = HashMap::new();
    {
        let mut insert = transaction.prepare("INSERT INTO hash (hash) VALUES (?1)")?;
        let mut rows = transaction.prepare("SELECT hash, peer_id, last_seen FROM packages")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let hash: String = row.get(0)?;
            // Its clients may have sent anything; what is no hash can't be asked for.
            let Ok(hash) = hash.parse::<StorePathHash>() else {
                continue;
            };
            let id = match ids.get(&hash) {
                Some(id) => *id,
                None => {
                    let id = u32::try_from(insert.insert([hash.as_bytes()])?)
                        .map_err(|_| rusqlite::Error::InvalidQuery)?;
                    ids.insert(hash, id);
                    id
                }
            };
            let last_seen: f64 = row.get(2)?;
            let holder = holders
                .entry(row.get(1)?)
                .or_insert((last_seen, Vec::new()));
            holder.0 = holder.0.max(last_seen);
            holder.1.push(id);
        }
    }
    for (peer_id, (last_seen, paths)) in holders {
        transaction.execute(
            "INSERT INTO holder (signed, key, swarm, present, revision, direct_addrs, systems, \
             addr, last_seen, sequence, changed) VALUES (0, ?1, 'public', 1, 1, '[]', '[]', \
             coalesce((SELECT addr FROM peers WHERE peer_id = ?1), ''), ?2, 0, 0)",
            params![peer_id, last_seen],
        )?;
        let holder = transaction.last_insert_rowid();
        transaction.execute(
            "INSERT INTO holding (holder, paths) VALUES (?1, ?2)",
            params![holder, IdSet::from_unsorted(paths).as_bytes()],
        )?;
    }
    transaction.execute_batch("DROP TABLE packages")
}
