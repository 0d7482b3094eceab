use std::fs;

use super::*;
use crate::tracker::storage::{HolderKey, conformance};

#[tokio::test]
async fn it_does_what_every_storage_does() {
    conformance::check(async || Sqlite::in_memory().unwrap()).await;
}

#[tokio::test]
async fn numbers_are_given_again_once_all_were_given() {
    let storage = Sqlite::in_memory().unwrap();
    let last = "INSERT INTO hash (id, hash) VALUES (4294967295, zeroblob(20))";
    let used_up = storage.call(|connection| connection.execute(last, []).map_err(error_of));
    assert_eq!(used_up.await, Ok(1));
    conformance::check_used_up(&storage).await;
}

#[tokio::test]
async fn what_is_kept_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tracker.db");
    let first = Sqlite::open(&path, None).unwrap();
    let id = first.tracker_id();
    let change = OlderChange {
        peer_id: "laptop".to_owned(),
        replaces: true,
        added: vec!["17bh691vzkqk8hv1i7xiaqff85b85br3".parse().unwrap()],
        removed: Vec::new(),
        addr: String::new(),
        now: 1.0,
    };
    first.announce_older(change).await.unwrap();
    let contents = first.load().await.unwrap();
    first.close().await;
    drop(first);

    let second = Sqlite::open(&path, None).unwrap();
    assert_eq!(second.tracker_id(), id);
    assert_eq!(second.load().await.unwrap(), contents);
}

#[tokio::test]
async fn the_older_programs_file_is_taken_over_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peerix-tracker.db");
    let older = Connection::open(&path).unwrap();
    older
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE peers (peer_id TEXT PRIMARY KEY, addr TEXT NOT NULL, port INTEGER NOT NULL,
                 libp2p_peer_id TEXT, last_seen REAL NOT NULL);
             CREATE TABLE iroh_peers (node_id TEXT PRIMARY KEY, peer_id TEXT NOT NULL, relay_url TEXT,
                 direct_addrs TEXT, addr TEXT, last_seen REAL NOT NULL);
             CREATE TABLE transfers (id INTEGER PRIMARY KEY AUTOINCREMENT, sender_id TEXT NOT NULL,
                 receiver_id TEXT NOT NULL, sender_bytes INTEGER, receiver_bytes INTEGER,
                 sender_confirmed INTEGER DEFAULT 0, receiver_confirmed INTEGER DEFAULT 0,
                 resolved INTEGER DEFAULT 0, created_at REAL NOT NULL);
             CREATE TABLE reputation (peer_id TEXT PRIMARY KEY, total_shared INTEGER DEFAULT 0,
                 total_received INTEGER DEFAULT 0, successful_transfers INTEGER DEFAULT 0,
                 failed_transfers INTEGER DEFAULT 0);
             CREATE TABLE packages (hash TEXT NOT NULL, peer_id TEXT NOT NULL, last_seen REAL NOT NULL,
                 PRIMARY KEY (hash, peer_id));
             CREATE INDEX idx_packages_hash ON packages (hash);
             CREATE INDEX idx_packages_peer ON packages (peer_id);
             CREATE TABLE cid_mappings (nar_hash TEXT PRIMARY KEY, cid TEXT NOT NULL,
                 peer_id TEXT NOT NULL, created_at REAL NOT NULL);
             CREATE INDEX idx_cid_mappings_cid ON cid_mappings (cid);
             INSERT INTO peers VALUES ('desk', '192.0.2.1', 12304, NULL, 5.5);
             INSERT INTO iroh_peers VALUES ('n', 'desk', NULL, '[\"10.0.0.1:1\"]', '192.0.2.1', 5.5);
             INSERT INTO transfers (sender_id, receiver_id, created_at) VALUES ('desk', 'r', 5.5);
             INSERT INTO reputation VALUES ('desk', 1000, 0, 1, 0);
             INSERT INTO reputation VALUES ('rich', 9.5e18, 0, 1, 0);
             INSERT INTO packages VALUES ('17bh691vzkqk8hv1i7xiaqff85b85br3', 'desk', 5.5);
             INSERT INTO packages VALUES ('17bh691vzkqk8hv1i7xiaqff85b85br4', 'desk', 5.0);
             INSERT INTO packages VALUES ('17bh691vzkqk8hv1i7xiaqff85b85br3', 'other', 4.0);
             INSERT INTO packages VALUES ('.links', 'other', 4.0);
             INSERT INTO cid_mappings VALUES ('sha256:a', 'Qm', 'desk', 5.5);",
        )
        .unwrap();
    drop(older);

    let storage = Sqlite::open(&path, None).unwrap();
    let contents = storage.load().await.unwrap();
    assert_eq!(contents.hashes.len(), 2);
    let mut holders: Vec<(HolderKey, f64, usize)> = contents
        .holdings
        .iter()
        .map(|holding| {
            let paths = holding.paths.as_ref().unwrap().len();
            (holding.holder.key.clone(), holding.holder.last_seen, paths)
        })
        .collect();
    holders.sort_by_key(|(_, _, paths)| *paths);
    assert_eq!(
        holders,
        [
            (HolderKey::Older("other".to_owned()), 4.0, 1),
            (HolderKey::Older("desk".to_owned()), 5.5, 2),
        ]
    );
    let peers = storage.peers(0.0, None).await.unwrap();
    assert_eq!(peers[0].0.port, 12304);
    assert_eq!(peers[0].1.total_shared, 1000);
    let rich = storage.reputation("rich".to_owned()).await.unwrap();
    assert_eq!(rich.total_shared, i64::MAX, "a sum that became a fraction");
    assert_eq!(
        storage.nodes(0.0).await.unwrap()[0].direct_addrs,
        ["10.0.0.1:1"]
    );
    assert_eq!(storage.all_cids().await.unwrap()[0].cid, "Qm");
    let transfer = OlderTransfer {
        sender_id: "a".to_owned(),
        receiver_id: "b".to_owned(),
        created_at: 6.0,
    };
    assert_eq!(storage.begin_transfer(transfer).await.unwrap(), 2);
}

#[test]
fn what_it_should_not_touch_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let newer = dir.path().join("newer.db");
    let connection = Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", 77).unwrap();
    drop(connection);
    let error = Sqlite::open(&newer, None).unwrap_err();
    assert!(
        matches!(error, StorageError::Newer { found: 77, .. }),
        "{error}"
    );

    let noise = dir.path().join("noise.db");
    fs::write(&noise, [7; 9000]).unwrap();
    let error = Sqlite::open(&noise, None).unwrap_err();
    assert!(matches!(error, StorageError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("noise.db"), "{error}");
    assert_eq!(fs::read(&noise).unwrap(), [7; 9000]);

    let used = dir.path().join("used.db");
    let _first = Sqlite::open(&used, None).unwrap();
    let error = Sqlite::open(&used, None).unwrap_err();
    assert!(error.to_string().contains("another tracker"), "{error}");

    let nowhere = dir.path().join("no/where.db");
    let error = Sqlite::open(&nowhere, None).unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)), "{error}");
}
