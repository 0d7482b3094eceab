//! Nix's daemon as the source of what is valid, and as the keeper of roots.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use peerix_store::{
    Config, DAEMON_SOCKET, DatabaseError, DatabaseStatus, NixStore, PathInfo, Store, StorePath,
    StorePathHash,
};
use support::{
    NixRoot, PATIENCE, eventually,
    fake_daemon::{Behaviour, FakeDaemon},
    machine::{Daemon, add, nix_store, register_made_up, run_on_machine},
    unknown,
};

/// The store of the machine, read in some way.
async fn open(nix_store: NixStore, state: &Path) -> Store {
    Store::open(Config::new(state, nix_store)).await.unwrap()
}

fn daemon() -> NixStore {
    NixStore::Daemon { socket: None }
}

fn present(path: &str) -> DatabaseStatus {
    DatabaseStatus::Present { path: path.into() }
}

fn parsed(text: &str) -> StorePath {
    StorePath::from_absolute_path(text.as_bytes()).unwrap()
}

fn hash_of(text: &str) -> StorePathHash {
    StorePathHash::from(&parsed(text))
}

async fn all(store: &Store) -> Vec<PathInfo> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let visited = store
        .for_each_path(move |info| {
            sink.lock().unwrap().push(info);
            true
        })
        .await
        .unwrap();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(visited, seen.len() as u64);
    seen.sort_by(|a, b| a.store_path.cmp(&b.store_path));
    seen
}

/// Records with every field set and every field left out.
fn infos() -> Vec<PathInfo> {
    let mut root = NixRoot::new();
    let mut rich = root.build("rich", |path| fs::write(path, "rich").unwrap());
    let plain = root.build("plain", |path| fs::write(path, "plain").unwrap());
    rich.references = [rich.store_path.clone(), plain.store_path.clone()].into();
    rich.deriver = Some(StorePath::from_parts([99; 20], "rich.drv").unwrap());
    rich.signatures = vec!["a-1:AAAA".into(), "b-1:BBBB".into()];
    rich.content_address =
        Some("text:sha256:0j1gxss43im0pg8mxllilqz14l01bpw21rlysi9rr7wlzmak067n".into());
    vec![rich, plain]
}

async fn with_fake(minor: u64, requests: usize) -> (FakeDaemon, Store, Vec<PathInfo>) {
    let infos = infos();
    let fake = FakeDaemon::start(Behaviour {
        minor,
        infos: infos.clone(),
        requests,
    });
    let socket = Some(fake.socket());
    let store = open(NixStore::Daemon { socket }, &fake.dir.path().join("state")).await;
    (fake, store, infos)
}

#[tokio::test]
async fn daemons_of_all_versions_are_understood() {
    for minor in [21, 25, 26, 32, 33, 34, 35, 37, 38, 40] {
        let (fake, store, mut infos) = with_fake(minor, usize::MAX).await;
        let socket = fake.socket();
        assert_eq!(
            store.database_status(),
            present(socket.to_str().unwrap()),
            "1.{minor}"
        );
        let hashes = vec![infos[1].path_hash(), unknown(), infos[0].path_hash()];
        let found = store.path_infos(hashes).await.unwrap();
        assert_eq!(
            found,
            [Some(infos[1].clone()), None, Some(infos[0].clone())]
        );
        infos.sort_by(|a, b| a.store_path.cmp(&b.store_path));
        assert_eq!(all(&store).await, infos, "1.{minor}");
        store.shutdown().await;
    }
}

#[tokio::test]
async fn a_connection_that_the_daemon_closed_is_replaced() {
    // A path takes two requests, so that the connection ends between two paths.
    let (fake, store, infos) = with_fake(34, 2).await;
    for _ in 0..3 {
        let found = store.path_info(infos[0].path_hash()).await.unwrap();
        assert_eq!(found.as_ref(), Some(&infos[0]));
    }
    assert!(fake.connections.load(SeqCst) >= 3);
    // One that ends before the answer is whole each time is an error.
    let hashes: Vec<_> = infos
        .iter()
        .cycle()
        .take(6)
        .map(PathInfo::path_hash)
        .collect();
    let error = store.path_infos(hashes).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Daemon { .. }), "{error:?}");
    store.shutdown().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (fake, store, infos) = with_fake(34, usize::MAX).await;
    let (first, second) = (infos[0].path_hash(), infos[1].path_hash());
    assert!(store.path_info(first).await.unwrap().is_some());
    assert!(store.path_info(second).await.unwrap().is_some());
    assert_eq!(fake.connections.load(SeqCst), 1);
    eventually("closed", async || fake.ended.load(SeqCst) == 1).await;
    assert!(store.path_info(first).await.unwrap().is_some());
    store.shutdown().await;
}

#[tokio::test]
async fn a_socket_that_goes_is_noticed() {
    let (fake, store, infos) = with_fake(34, usize::MAX).await;
    fs::rename(fake.socket(), fake.dir.path().join("moved")).unwrap();
    eventually("absent", async || {
        matches!(store.database_status(), DatabaseStatus::Absent { path, reason }
            if path == fake.socket() && reason.contains("does not run"))
    })
    .await;
    assert_eq!(store.path_info(infos[0].path_hash()).await.unwrap(), None);
    fs::rename(fake.dir.path().join("moved"), fake.socket()).unwrap();
    eventually("present", async || {
        store
            .path_info(infos[0].path_hash())
            .await
            .unwrap()
            .is_some()
    })
    .await;
    store.shutdown().await;
}

#[tokio::test]
async fn a_chroot_store_has_no_daemon_to_hold_roots() {
    let mut root = NixRoot::new();
    let info = root.add_file("file", 10);
    let store = root.open().await;
    assert!(store.add_temp_root(&info.store_path).await.is_none());
    let link = root.dir.path().join("link");
    assert!(!store.add_indirect_root(&link).await.unwrap());
}

macro_rules! on_machine {
    ($($outer:ident => $inner:ident;)+) => {
        $(
            #[test]
            fn $outer() {
                run_on_machine(stringify!($inner));
            }
        )+
    };
}

on_machine! {
    the_daemon_says_what_the_database_says => same_infos;
    changes_are_noticed_and_no_old_answer_is_remembered => changes;
    a_temporary_root_lasts_as_long_as_a_guard => temp_roots;
    an_indirect_root_lasts_as_long_as_its_link => indirect_root;
    auto_asks_the_daemon_where_the_database_cannot_be_read => auto;
    a_daemon_that_comes_goes_and_comes_back_is_taken_up => restarts;
}

#[tokio::test]
#[ignore = "run by the_daemon_says_what_the_database_says"]
async fn same_infos() {
    let derivation = "/nix/home/default.nix";
    let builder = "echo $other $out > $out";
    let text = format!(
        "derivation {{ name = \"built\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-c\" ''{builder}'' ]; other = builtins.toFile \"other\" \"text\"; }}"
    );
    fs::write(derivation, text).unwrap();
    let built = Command::new("nix-build")
        .args(["--no-out-link", derivation])
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let built = String::from_utf8(built.stdout).unwrap().trim().to_owned();
    for key in ["z-1", "a-1"] {
        nix_store(&[
            "--generate-binary-cache-key",
            key,
            "/nix/home/key",
            "/nix/home/pub",
        ]);
        let mut sign = Command::new("nix");
        sign.args([
            "--extra-experimental-features",
            "nix-command",
            "store",
            "sign",
        ]);
        assert!(
            sign.args(["-k", "/nix/home/key", &built])
                .status()
                .unwrap()
                .success()
        );
    }
    add("file", "content");
    register_made_up(20_000);
    let _daemon = Daemon::start();
    let local = open(NixStore::Local { root: None }, Path::new("/nix/home/local")).await;
    let store = open(daemon(), Path::new("/nix/home/daemon")).await;
    assert_eq!(store.database_status(), present(DAEMON_SOCKET));

    let started = Instant::now();
    let listed = all(&store).await;
    let rate = listed.len() as f64 / started.elapsed().as_secs_f64();
    println!(
        "{} infos listed and asked for, {rate:.0} a second",
        listed.len()
    );
    assert!(listed.len() > 20_003);
    assert!(listed == all(&local).await);

    let info = store.path_info(hash_of(&built)).await.unwrap().unwrap();
    assert_eq!((info.references.len(), info.signatures.len()), (2, 2));
    assert!(info.deriver.is_some() && info.content_address.is_none());
    let mut hashes: Vec<_> = listed.iter().step_by(10).map(PathInfo::path_hash).collect();
    hashes.push(unknown());
    let started = Instant::now();
    let found = store.path_infos(hashes.clone()).await.unwrap();
    let rate = hashes.len() as f64 / started.elapsed().as_secs_f64();
    println!("{} infos by hash, {rate:.0} a second", hashes.len());
    assert!(found == local.path_infos(hashes).await.unwrap());
    // The database names the hash: that it agrees is the proof.
    store.hash_nar(hash_of(&built)).await.unwrap();
}

#[tokio::test]
#[ignore = "run by changes_are_noticed_and_no_old_answer_is_remembered"]
async fn changes() {
    let first = add("first", "1");
    let _daemon = Daemon::start();
    let store = open(daemon(), Path::new("/nix/home/state")).await;
    let changes = store.changes();
    for round in 0..5 {
        let name = format!("path-{round}");
        let before = *changes.borrow();
        let path = add(&name, "content");
        // Over the same connection, and before the change is noticed.
        assert!(store.path_info(hash_of(&first)).await.unwrap().is_some());
        assert!(store.path_info(hash_of(&path)).await.unwrap().is_some());
        eventually("a change", async || *changes.borrow() > before).await;
        nix_store(&["--delete", &path]);
        assert_eq!(store.path_info(hash_of(&path)).await.unwrap(), None);
    }
    nix_store(&[
        "--generate-binary-cache-key",
        "k-1",
        "/nix/home/k",
        "/nix/home/k.pub",
    ]);
    let signatures = async || {
        let info = store.path_info(hash_of(&first)).await.unwrap();
        info.unwrap().signatures.len()
    };
    assert_eq!(signatures().await, 0);
    let mut sign = Command::new("nix");
    sign.args([
        "--extra-experimental-features",
        "nix-command",
        "store",
        "sign",
    ]);
    assert!(
        sign.args(["-k", "/nix/home/k", &first])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(signatures().await, 1);
}

/// Whether Nix's garbage collector takes the path away.
fn is_collected(path: &str) -> bool {
    let deleted = Command::new("nix-store")
        .args(["--delete", path])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&deleted.stderr);
    assert!(
        deleted.status.success() || said.contains("still alive"),
        "{said}"
    );
    deleted.status.success()
}

#[tokio::test]
#[ignore = "run by a_temporary_root_lasts_as_long_as_a_guard"]
async fn temp_roots() {
    let (a, b) = (add("a", "a"), add("b", "b"));
    let (path_a, path_b) = (parsed(&a), parsed(&b));
    let daemon = Daemon::start();
    // The database is read, and the daemon asked for roots.
    let store = open(NixStore::Local { root: None }, Path::new("/nix/home/state")).await;
    let (guard_a, guard_b) =
        tokio::join!(store.add_temp_root(&path_a), store.add_temp_root(&path_b));
    let (guard_a, guard_b) = (guard_a.unwrap(), guard_b.unwrap());
    assert_eq!(guard_a.store_path(), &path_a);
    assert!(!is_collected(&a) && !is_collected(&b));
    drop(guard_a);
    assert!(!is_collected(&b));
    drop(guard_b);
    eventually("collected", async || is_collected(&a)).await;
    eventually("collected", async || is_collected(&b)).await;

    let c = add("c", "c");
    let guard = store.add_temp_root(&parsed(&c)).await.unwrap();
    assert!(!is_collected(&c));
    drop(daemon);
    let started = Instant::now();
    drop(guard);
    assert!(store.add_temp_root(&parsed(&c)).await.is_none());
    assert!(started.elapsed() < Duration::from_secs(5));
    let _again = Daemon::start();
    assert!(store.add_temp_root(&parsed(&c)).await.is_some());
}

#[tokio::test]
#[ignore = "run by an_indirect_root_lasts_as_long_as_its_link"]
async fn indirect_root() {
    let path = add("a", "a");
    let link = Path::new("/nix/home/link");
    std::os::unix::fs::symlink(&path, link).unwrap();
    let _daemon = Daemon::start();
    let store = open(daemon(), Path::new("/nix/home/state")).await;
    assert!(store.add_indirect_root(link).await.unwrap());
    assert!(!is_collected(&path));
    fs::remove_file(link).unwrap();
    assert!(is_collected(&path));
}

#[test]
#[ignore = "run by auto_asks_the_daemon_where_the_database_cannot_be_read"]
fn auto() {
    if !Path::new("/usr/bin/setpriv").exists() {
        println!("skipped: no setpriv");
        return;
    }
    add("a", "content");
    fs::set_permissions("/nix/var/nix/db", fs::Permissions::from_mode(0o700)).unwrap();
    let _daemon = Daemon::start();
    let state = Path::new("/nix/home/nobody");
    fs::create_dir(state).unwrap();
    support::make_writable(state);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "auto_as_nobody", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
#[ignore = "run by auto"]
async fn auto_as_nobody() {
    let store = open(NixStore::Auto, Path::new("/nix/home/nobody/state")).await;
    assert_eq!(store.database_status(), present(DAEMON_SOCKET));
    let infos = all(&store).await;
    assert_eq!(infos.len(), 1);
    assert!(store.add_temp_root(&infos[0].store_path).await.is_some());
    store.hash_nar(infos[0].path_hash()).await.unwrap();
}

#[tokio::test]
#[ignore = "run by a_daemon_that_comes_goes_and_comes_back_is_taken_up"]
async fn restarts() {
    let path = add("a", "content");
    let store = open(daemon(), Path::new("/nix/home/state")).await;
    assert!(
        matches!(store.database_status(), DatabaseStatus::Absent { path, reason }
            if path == Path::new(DAEMON_SOCKET) && reason.contains("does not run"))
    );
    for _ in 0..2 {
        let running = Daemon::start();
        let started = Instant::now();
        eventually("present", async || {
            store.path_info(hash_of(&path)).await.unwrap().is_some()
        })
        .await;
        assert!(started.elapsed() < PATIENCE);
        drop(running);
        eventually("absent", async || {
            matches!(store.database_status(), DatabaseStatus::Absent { .. })
        })
        .await;
    }
    // The system's store without a daemon is read as its database.
    let auto = open(NixStore::Auto, Path::new("/nix/home/auto")).await;
    assert_eq!(auto.database_status(), present("/nix/var/nix/db/db.sqlite"));
    assert!(auto.path_info(hash_of(&path)).await.unwrap().is_some());
}
