use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::tracker::{core::Tracker, storage::conformance};

#[path = "../../../../tests/support/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod server;

/// Starts a server, or says that there is none to start.
async fn server() -> Option<server::Postgres> {
    let started = tokio::task::spawn_blocking(server::Postgres::start).await;
    let started = started.unwrap();
    if started.is_none() {
        eprintln!("skipped: PostgreSQL is not installed");
    }
    started
}

#[tokio::test]
async fn it_does_what_every_storage_does() {
    let Some(server) = server().await else {
        return;
    };
    let databases = AtomicUsize::new(0);
    conformance::check(async || {
        let name = format!("d{}", databases.fetch_add(1, Ordering::Relaxed));
        Postgres::open(&server.database(&name), None).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn numbers_are_given_again_once_all_were_given() {
    let Some(server) = server().await else {
        return;
    };
    let storage = Postgres::open(&server.database("old"), None).await.unwrap();
    let client = storage.client().await.unwrap();
    let used_up = "SELECT setval('hash_id_seq', 4294967295)";
    client.query_one(used_up, &[]).await.unwrap();
    drop(client);
    conformance::check_used_up(&storage).await;
}

#[tokio::test]
async fn a_number_that_was_given_again_is_another_path_to_all_trackers() {
    let Some(server) = server().await else {
        return;
    };
    let url = server.database("reused");
    let storage = Arc::new(Postgres::open(&url, None).await.unwrap());
    let first = Tracker::start(Arc::clone(&storage) as Arc<dyn Storage>)
        .await
        .unwrap();
    let second = Postgres::open(&url, None).await.unwrap();
    let second = Tracker::start(Arc::new(second)).await.unwrap();
    let hash = |text: &str| -> StorePathHash { text.parse().unwrap() };
    let old = hash("17bh691vzkqk8hv1i7xiaqff85b85br3");
    let new = hash("27bh691vzkqk8hv1i7xiaqff85b85br3");
    let says = async |name: &str, added: Vec<StorePathHash>| {
        let change = OlderChange {
            peer_id: name.to_owned(),
            replaces: true,
            added,
            removed: Vec::new(),
            addr: String::new(),
            now: crate::clock::unix_now(),
        };
        first.announce_older(change).await.unwrap();
    };
    says("laptop", vec![old]).await;
    says("desk", Vec::new()).await;
    second.sync().await.unwrap();

    // All of this comes at once to the other, and of the laptop last.
    says("laptop", Vec::new()).await;
    assert_eq!(first.storage().collect_hashes().await, Ok(1));
    let client = storage.client().await.unwrap();
    let again = "SELECT setval('hash_id_seq', 1, false)";
    client.query_one(again, &[]).await.unwrap();
    says("desk", vec![new]).await;
    says("laptop", Vec::new()).await;
    second.sync().await.unwrap();
    for tracker in [&first, &second] {
        let holders = |hash| tracker.directory().older_holders("public", hash);
        assert_eq!(holders(&new), ["desk"]);
        assert!(holders(&old).is_empty());
    }
}

#[tokio::test]
async fn what_one_tracker_is_told_another_one_knows() {
    let Some(server) = server().await else {
        return;
    };
    let url = server.database("shared");
    let open = async || {
        let storage = Postgres::open(&url, None).await.unwrap();
        Tracker::start(Arc::new(storage)).await.unwrap()
    };
    let (first, second) = (open().await, open().await);
    assert_eq!(first.storage().tracker_id(), second.storage().tracker_id());

    let hash: StorePathHash = "17bh691vzkqk8hv1i7xiaqff85b85br3".parse().unwrap();
    let change = |added: Vec<StorePathHash>, removed| OlderChange {
        peer_id: "laptop".to_owned(),
        replaces: false,
        added,
        removed,
        addr: String::new(),
        now: crate::clock::unix_now(),
    };
    let holders = |tracker: &Tracker| tracker.directory().older_holders("public", &hash);
    first
        .announce_older(change(vec![hash], Vec::new()))
        .await
        .unwrap();
    assert_eq!(holders(&first), ["laptop"]);
    assert!(holders(&second).is_empty());
    second.sync().await.unwrap();
    assert_eq!(holders(&second), ["laptop"]);

    second
        .announce_older(change(Vec::new(), vec![hash]))
        .await
        .unwrap();
    first.sync().await.unwrap();
    assert!(holders(&first).is_empty());

    let third = open().await;
    second
        .announce_older(change(vec![hash], Vec::new()))
        .await
        .unwrap();
    let late = crate::clock::unix_now() + 1000.0;
    assert_eq!(second.expire(late).await.unwrap(), 1);
    third.sync().await.unwrap();
    first.sync().await.unwrap();
    assert_eq!(first.fill().older + third.fill().older, 0);
}

#[tokio::test]
async fn a_newer_database_and_a_server_that_is_away_are_said_in_one_line() {
    let Some(server) = server().await else {
        return;
    };
    let url = server.database("newer");
    let storage = Postgres::open(&url, None).await.unwrap();
    assert!(server.psql("newer", "UPDATE peerix_tracker SET version = 99"));
    let error = Postgres::open(&url, None).await.unwrap_err();
    assert!(
        matches!(error, StorageError::Newer { found: 99, .. }),
        "{error}"
    );

    drop(server);
    let error = storage.load().await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)), "{error}");
    let error = Postgres::open(&url, None).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)), "{error}");
}
