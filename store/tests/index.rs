//! The index and its directory: what survives, what is refused, what is cleaned up.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{fs, time::SystemTime};

use peerix_store::{OpenError, Store, StorePathHash};
use redb::{Database, TableDefinition};
use support::{NixRoot, unknown};

#[tokio::test]
async fn shares_survive_a_restart() {
    let mut root = NixRoot::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| root.add_file(name, 10));
    let hashes = [&a, &b, &c].map(|info| info.path_hash());
    let store = root.open().await;
    let before = SystemTime::now();
    store
        .add_share(a.store_path.clone(), vec![hashes[0], hashes[1]])
        .await
        .unwrap();
    store
        .add_share(c.store_path.clone(), vec![hashes[2], hashes[1]])
        .await
        .unwrap();
    store.shutdown().await;
    let store = root.open().await;
    let shares = store.shares().await.unwrap();
    assert_eq!(shares.len(), 2);
    assert_eq!(shares[0].store_path, a.store_path);
    assert_eq!(shares[0].closure, [hashes[0], hashes[1]]);
    let age = before
        .duration_since(shares[0].shared_at)
        .unwrap_or_default();
    assert!(age.as_secs() <= 1);
    assert!(
        hashes
            .into_iter()
            .all(|path_hash| store.is_shared(path_hash))
    );
    assert!(!store.is_shared(unknown()));

    // What two shares have in common stays until both are gone.
    assert!(store.remove_share(hashes[0]).await.unwrap());
    assert!(!store.remove_share(hashes[0]).await.unwrap());
    assert!(!store.is_shared(hashes[0]) && store.is_shared(hashes[1]));
    assert!(store.remove_share(hashes[2]).await.unwrap());
    assert!(
        !hashes
            .into_iter()
            .any(|path_hash| store.is_shared(path_hash))
    );
    assert_eq!(store.stats().await.unwrap().shares, 0);
}

#[tokio::test]
async fn sharing_again_replaces_the_closure() {
    let mut root = NixRoot::new();
    let info = root.add_file("a", 10);
    let other = StorePathHash::from_bytes([77; 20]);
    let store = root.open().await;
    store
        .add_share(info.store_path.clone(), vec![other])
        .await
        .unwrap();
    store
        .add_share(info.store_path.clone(), vec![])
        .await
        .unwrap();
    assert!(store.is_shared(info.path_hash()) && !store.is_shared(other));
    assert_eq!(store.shares().await.unwrap().len(), 1);
}

async fn refusal(root: &NixRoot) -> OpenError {
    let error = Store::open(root.config()).await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    error
}

#[tokio::test]
async fn an_index_from_a_newer_version_is_refused() {
    let root = NixRoot::new();
    root.open().await.shutdown().await;
    let database = Database::open(root.state_dir().join("index.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let meta = TableDefinition::<&str, u64>::new("meta");
    write
        .open_table(meta)
        .unwrap()
        .insert("schema", 1000)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = refusal(&root).await;
    assert!(
        matches!(error, OpenError::NewerIndex { found: 1000, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_malformed_index_is_refused() {
    for bytes in [&b"not a database at all"[..], &[0; 100_000], b""] {
        let root = NixRoot::new();
        fs::create_dir_all(root.state_dir()).unwrap();
        fs::write(root.state_dir().join("index.redb"), bytes).unwrap();
        if bytes.is_empty() {
            // What a crash at the very first start leaves.
            root.open().await;
            continue;
        }
        let error = refusal(&root).await;
        assert!(
            matches!(error, OpenError::MalformedIndex { .. }),
            "{error:?}"
        );
        // Moved away, it is rebuilt.
        fs::remove_file(root.state_dir().join("index.redb")).unwrap();
        root.open().await;
    }
}

#[tokio::test]
async fn an_index_in_use_is_refused() {
    let root = NixRoot::new();
    let store = root.open().await;
    let error = refusal(&root).await;
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    drop(store);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_made_is_refused() {
    let root = NixRoot::new();
    fs::write(root.state_dir(), b"a file").unwrap();
    let error = refusal(&root).await;
    assert!(matches!(error, OpenError::StateDir { .. }), "{error:?}");
}

#[tokio::test]
async fn leftovers_of_an_unclean_stop_are_removed() {
    let mut root = NixRoot::new();
    let info = root.add_file("large", 20_000_000);
    let store = root.open().await;
    let blob = store.hash_nar(info.path_hash()).await.unwrap();
    store.shutdown().await;
    drop(store);
    let state_dir = root.state_dir();
    let unknown = peerix_store::BlobHash::new(b"unknown").to_hex();
    for leftover in ["tmp/.tmpabc", "outboards/junk", "blobs/junk"] {
        fs::write(state_dir.join(leftover), b"left over").unwrap();
    }
    fs::write(state_dir.join("blobs").join(&unknown), b"never committed").unwrap();
    let store = root.open().await;
    let left = |dir: &str| -> Vec<_> {
        let entries = fs::read_dir(state_dir.join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(left("tmp").len() + left("blobs").len(), 0);
    assert_eq!(left("outboards"), [blob.to_hex().as_str()]);
    store.open_blob(blob).await.unwrap();
}

#[tokio::test]
async fn a_store_that_was_shut_down_fails_and_does_not_hang() {
    let mut root = NixRoot::new();
    let info = root.add_file("file", 1_000_000);
    let store = root.open().await;
    store.shutdown().await;
    store.shutdown().await;
    assert!(store.hash_nar(info.path_hash()).await.is_err());
    store.start_hashing(info.path_hash());
    assert!(
        store
            .add_share(info.store_path.clone(), vec![])
            .await
            .is_err()
    );
}
