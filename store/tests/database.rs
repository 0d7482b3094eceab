//! Nix's database: read beside a writer, without write access, when it comes late, and when it
//! is not what it should be.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{collections::BTreeSet, fs, process::Command, time::Instant};

use peerix_store::{
    ClosureError, Config, DatabaseError, DatabaseStatus, NixStore, PathInfo, Store, StorePath,
    StorePathHash,
};
use support::{NixRoot, eventually, register, unknown};

fn path(digest: u8, name: &str) -> StorePath {
    StorePath::from_parts([digest; 20], name).unwrap()
}

/// A made-up path of which there are no files.
fn info(number: u32) -> PathInfo {
    let mut digest = [7; 20];
    digest[..4].copy_from_slice(&number.to_le_bytes());
    PathInfo {
        store_path: StorePath::from_parts(digest, &format!("path-{number}")).unwrap(),
        nar_hash: peerix_store::NarHash::from_bytes([number as u8; 32]),
        nar_size: u64::from(number) + 96,
        references: BTreeSet::new(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
        registration_time: i64::from(number),
    }
}

#[tokio::test]
async fn every_field_is_read_as_nix_wrote_it() {
    let root = NixRoot::new();
    let plain = info(1);
    let mut full = info(2);
    full.references = [plain.store_path.clone(), full.store_path.clone()].into();
    full.deriver = Some(path(9, "full.drv"));
    full.signatures = vec!["a-1:AAAA".into(), "b-2:BBBB".into()];
    full.content_address = Some("fixed:r:sha256:00".into());
    root.register(&plain);
    root.register(&full);
    let store = root.open().await;
    assert_eq!(
        store.database_status(),
        DatabaseStatus::Present {
            path: root.database_path()
        }
    );
    let asked = vec![full.path_hash(), unknown(), plain.path_hash()];
    let found = store.path_infos(asked).await.unwrap();
    assert_eq!(found, [Some(full.clone()), None, Some(plain.clone())]);
    assert_eq!(store.path_info(unknown()).await.unwrap(), None);
    assert_eq!(
        store.physical_path(&plain.store_path),
        root.physical(&plain.store_path)
    );
    assert!(store.gc_roots_dir().ends_with("nix/var/nix/gcroots"));
}

#[tokio::test]
async fn a_malformed_row_is_an_error_and_hides_no_other() {
    let root = NixRoot::new();
    for number in 1..=6 {
        root.register(&info(number));
    }
    let connection = root.connect();
    for (number, change) in [
        (1, "hash = 'sha256:nonsense'"),
        (2, "narSize = null"),
        (3, "narSize = 0"),
        (4, "narSize = -5"),
        (5, "path = path || '/sub'"),
    ] {
        let sql = format!("update ValidPaths set {change} where path = ?1");
        let path = info(number).store_path.to_absolute_path();
        assert_eq!(connection.execute(&sql, [path]).unwrap(), 1);
    }
    let store = root.open().await;
    for number in 1..=5 {
        let found = store.path_info(info(number).path_hash()).await;
        assert!(
            matches!(found, Err(DatabaseError::Malformed { .. })),
            "{found:?}"
        );
    }
    assert_eq!(visit(&store).await, [info(6)]);
}

async fn visit(store: &Store) -> Vec<PathInfo> {
    let (send, receive) = std::sync::mpsc::channel();
    let visited = store.for_each_path(move |info| send.send(info).is_ok());
    let visited = visited.await.unwrap();
    let found: Vec<_> = receive.iter().collect();
    assert_eq!(visited, found.len() as u64);
    found
}

#[tokio::test]
async fn all_paths_are_visited_until_told_to_stop() {
    let root = NixRoot::new();
    let mut connection = root.connect();
    let transaction = connection.transaction().unwrap();
    for number in 0..5000 {
        register(&transaction, &info(number));
    }
    transaction.commit().unwrap();
    let store = root.open().await;
    assert_eq!(visit(&store).await.len(), 5000);
    let mut left = 10;
    let stopped = store.for_each_path(move |_| {
        left -= 1;
        left > 0
    });
    assert_eq!(stopped.await.unwrap(), 10);
}

#[tokio::test]
async fn what_nix_writes_is_seen_while_it_writes() {
    let root = NixRoot::new();
    let store = root.open().await;
    let mut changes = store.changes();
    let before = *changes.borrow_and_update();
    let mut connection = root.connect();
    let transaction = connection.transaction().unwrap();
    register(&transaction, &info(1));
    // Not committed: not valid, and nobody waits for the writer.
    assert_eq!(store.path_info(info(1).path_hash()).await.unwrap(), None);
    transaction.commit().unwrap();
    let found = store.path_info(info(1).path_hash()).await.unwrap();
    assert_eq!(found, Some(info(1)));
    let waited = tokio::time::timeout(support::PATIENCE, changes.wait_for(|now| *now > before));
    waited.await.expect("the change is told").unwrap();
}

#[tokio::test]
async fn a_database_is_taken_up_when_it_appears_and_again_when_it_is_replaced() {
    let root = NixRoot::without_database();
    let store = root.open().await;
    let status = store.database_status();
    assert!(
        matches!(&status, DatabaseStatus::Absent { reason, .. } if reason.contains("no such file")),
        "{status:?}"
    );
    assert_eq!(store.path_info(info(1).path_hash()).await.unwrap(), None);
    assert_eq!(visit(&store).await, []);

    root.make_database();
    root.register(&info(1));
    let found = async |number| store.path_info(info(number).path_hash()).await;
    eventually("taken up", async || {
        found(1).await.is_ok_and(|i| i.is_some())
    })
    .await;

    fs::remove_dir_all(root.database_path().parent().unwrap()).unwrap();
    eventually("gone", async || {
        matches!(store.database_status(), DatabaseStatus::Absent { .. })
    })
    .await;
    root.make_database();
    root.register(&info(2));
    eventually("back", async || found(2).await.is_ok_and(|i| i.is_some())).await;
    assert_eq!(found(1).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_absent_with_a_reason() {
    let root = NixRoot::without_database();
    let database = root.database_path();
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, vec![b'x'; 10_000]).unwrap();
    let store = root.open().await;
    let status = store.database_status();
    assert!(
        matches!(&status, DatabaseStatus::Absent { reason, .. } if reason.contains("not a database")),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_closure_lists_references_first() {
    let root = NixRoot::new();
    let [mut a, mut b, mut c, d] = [1, 2, 3, 4].map(info);
    c.references = [d.store_path.clone(), c.store_path.clone()].into();
    b.references = [d.store_path.clone()].into();
    a.references = [b.store_path.clone(), c.store_path.clone()].into();
    for info in [&d, &c, &b, &a] {
        root.register(info);
    }
    let store = root.open().await;
    let closure = store.closure(vec![a.path_hash()]).await.unwrap();
    let position = |info: &PathInfo| closure.iter().position(|member| member == info).unwrap();
    assert_eq!(closure.len(), 4);
    assert!(position(&d) < position(&b) && position(&d) < position(&c));
    assert_eq!(position(&a), 3);
    let both = store
        .closure(vec![d.path_hash(), a.path_hash()])
        .await
        .unwrap();
    assert_eq!((both.len(), &both[0]), (4, &d));
    let missing = store.closure(vec![a.path_hash(), unknown()]).await;
    assert!(matches!(missing, Err(ClosureError::NotValid { path_hash }) if path_hash == unknown()));
}

#[tokio::test]
async fn a_path_info_takes_less_than_a_millisecond() {
    let root = NixRoot::new();
    let mut connection = root.connect();
    let transaction = connection.transaction().unwrap();
    for number in 0..20_000 {
        register(&transaction, &info(number));
    }
    transaction.commit().unwrap();
    let store = root.open().await;
    let mut times = Vec::new();
    for number in 0..1000 {
        let started = Instant::now();
        let found = store
            .path_info(info(number * 20).path_hash())
            .await
            .unwrap();
        times.push(started.elapsed());
        assert!(found.is_some());
    }
    times.sort();
    println!("path_info: p50 {:?}, p99 {:?}", times[500], times[990]);
    assert!(times[500].as_micros() < 1000, "{:?}", times[500]);
}

/// Runs one of this file's tests as a user who may only read, or says why not.
fn as_nobody(test: &str, root: &NixRoot) -> bool {
    if rustix::process::geteuid().as_raw() != 0 {
        println!("skipped: only root can become a user without write access");
        return false;
    }
    let copy = root.dir.path().join("test-binary");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let state = root.state_dir();
    fs::create_dir_all(&state).unwrap();
    support::make_writable(&state);
    support::make_readable(root.dir.path());
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("NIX_ROOT", root.dir.path())
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            true
        }
        Err(error) => {
            println!("skipped: setpriv cannot be run: {error}");
            false
        }
    }
}

async fn open_as_nobody() -> Store {
    let root = std::path::PathBuf::from(std::env::var_os("NIX_ROOT").unwrap());
    let nix_store = NixStore::Local {
        root: Some(root.clone()),
    };
    Store::open(Config::new(root.join("state"), nix_store))
        .await
        .unwrap()
}

#[test]
fn a_user_who_may_only_read_reads_an_idle_database() {
    let root = NixRoot::new();
    root.register(&info(1));
    // The last connection takes the log with it.
    assert!(!root.database_path().with_extension("sqlite-wal").exists());
    as_nobody("nobody_reads_an_idle_database", &root);
}

#[tokio::test]
#[ignore = "run by a_user_who_may_only_read_reads_an_idle_database"]
async fn nobody_reads_an_idle_database() {
    let store = open_as_nobody().await;
    let status = store.database_status();
    assert!(
        matches!(status, DatabaseStatus::Present { .. }),
        "{status:?}"
    );
    let found = store.path_info(info(1).path_hash()).await.unwrap();
    assert_eq!(found, Some(info(1)));
    assert_eq!(visit(&store).await, [info(1)]);
}

#[test]
fn a_user_who_may_only_read_reads_beside_a_writer_that_shares_its_memory() {
    let root = NixRoot::new();
    // Nix is running: log and shared memory are there, and readable.
    let writer = root.connect();
    register(&writer, &info(1));
    assert!(root.database_path().with_extension("sqlite-shm").exists());
    as_nobody("nobody_reads_an_idle_database", &root);
}

#[test]
fn a_user_who_may_only_read_is_told_when_that_is_not_enough() {
    let root = NixRoot::new();
    root.register(&info(1));
    // A log that only its writer can make sense of.
    let log = root.database_path().with_extension("sqlite-wal");
    fs::write(log, b"left over").unwrap();
    as_nobody("nobody_is_told", &root);
}

#[tokio::test]
#[ignore = "run by a_user_who_may_only_read_is_told_when_that_is_not_enough"]
async fn nobody_is_told() {
    let store = open_as_nobody().await;
    let status = store.database_status();
    assert!(
        matches!(&status, DatabaseStatus::Absent { reason, .. } if reason.contains("daemon")),
        "{status:?}"
    );
    assert_eq!(store.path_info(info(1).path_hash()).await.unwrap(), None);
}

#[tokio::test]
async fn a_chroot_store_that_nix_made_is_read_and_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("a tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), support::content(300_000)).unwrap();
    let nix_store = |arguments: &[&str]| {
        let store = format!("local?root={}", dir.path().display());
        let mut command = Command::new("nix-store");
        command.args(["--store", &store]).args(arguments);
        command.env("NIX_CONFIG", "build-users-group =\nsubstituters =");
        command.env("HOME", dir.path()).output()
    };
    let renamed = dir.path().join("tree");
    fs::rename(&tree, &renamed).unwrap();
    let added = match nix_store(&["--add", renamed.to_str().unwrap()]) {
        Ok(added) => added,
        Err(error) => {
            println!("skipped: nix-store cannot be run here: {error}");
            return;
        }
    };
    assert!(added.status.success(), "{added:?}");
    let logical = String::from_utf8(added.stdout).unwrap();
    let store_path = StorePath::from_absolute_path(logical.trim().as_bytes()).unwrap();
    let config = Config::new(
        dir.path().join("state"),
        NixStore::Local {
            root: Some(dir.path().to_owned()),
        },
    );
    let store = Store::open(config).await.unwrap();
    let path_hash = StorePathHash::from(&store_path);
    let info = store.path_info(path_hash).await.unwrap().unwrap();
    assert_eq!(info.store_path, store_path);
    assert!(
        info.content_address
            .is_some_and(|ca| ca.starts_with("fixed:r:sha256:"))
    );
    let physical = store.physical_path(&store_path);
    assert!(physical.starts_with(dir.path()) && physical.exists());
    // The database names the hash: that it agrees is the proof of the encoding.
    store.hash_nar(path_hash).await.unwrap();
}
