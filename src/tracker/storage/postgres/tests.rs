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
