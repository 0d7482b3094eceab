//! The dashboard in a browser: `tests/browser/dashboard.mjs` drives it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use peerix::dashboard::events::MAX_PAGES;
use serde_json::json;

use crate::support::{
    PATIENCE,
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions},
    run, run_ok, skip,
    tree::Node,
    wait_for,
};

/// A path's name that wants to be markup.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";

/// The path that two peers give at 2 MB a second each.
const SLOW_SIZE: u64 = 60_000_000;

/// Small paths that are there before.
const SMALL: [&str; 4] = [
    "hello-2.12.1",
    "jq-1.7.1",
    "ripgrep-14.1.0",
    "sqlite-3.46.1",
];

/// The browser's program and Node, or why there is none.
fn browser() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let chromium = std::env::split_paths(&path)
        .map(|directory| directory.join("chromium"))
        .find(|program| program.is_file());
    let chromium = chromium.ok_or("there is no chromium")?;
    let mut version = Command::new("node");
    version.args(["-p", "process.versions.node.split('.')[0]"]);
    let version = version.output().map_err(|_| "there is no node")?;
    let version = String::from_utf8_lossy(&version.stdout);
    match version.trim().parse::<u32>() {
        Ok(20..) => Ok(chromium),
        _ => Err(format!("Node {} is older than 20", version.trim())),
    }
}

/// The folder of the browser's tests, with what they need.
fn driver() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    if !folder.join("node_modules/playwright-core").is_dir() {
        let mut install = Command::new("npm");
        install.args(["ci", "--no-audit", "--no-fund"]);
        run_ok(install.current_dir(&folder));
    }
    folder
}

/// A peer that gives `paths`, which it did not build.
fn provider(key: &Key, paths: &[PathSpec]) -> (NixStore, Peer, Vec<String>) {
    let store = NixStore::new();
    let added: Vec<String> = paths.iter().map(|path| store.add(path.clone())).collect();
    let added_paths: Vec<&str> = added.iter().map(String::as_str).collect();
    store.sign(key, &added_paths);
    let peer = PeerOptions::new(&store)
        .trust(&key.public)
        .flag("upload-limit", "2MB")
        .start();
    for path in &added {
        peer.share(path);
    }
    (store, peer, added)
}

#[test]
fn the_dashboard_works_in_a_browser() {
    let chromium = match browser() {
        Ok(chromium) => chromium,
        Err(reason) => return skip(&reason),
    };
    let folder = driver();
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    fs::create_dir_all(&pictures).expect("a folder");

    let key = Key::generate("trusted-1");
    let mut paths: Vec<PathSpec> = SMALL
        .iter()
        .map(|name| PathSpec::new(name, Node::random(400_000, name)))
        .collect();
    paths.push(PathSpec::new(
        "firefox-128.0.3",
        Node::random(SLOW_SIZE, "firefox"),
    ));
    let (_a, one, added) = provider(&key, &paths);
    let (_b, other, _) = provider(&key, &paths);
    let (slow, small) = added.split_last().expect("paths");

    let store = NixStore::new();
    for name in ["coreutils-9.5", "bash-5.2p32"] {
        let path = store.add(PathSpec::new(name, Node::random(100_000, name)));
        store.sign(&key, &[&path]);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let state_dir = directory.path().join("state");
    fs::create_dir(&state_dir).expect("a state directory");
    // What the older program kept is taken over, whatever it says.
    let kept = json!({ "activity_log": [{
        "time": 1_700_000_000.0, "action": "check", "hash": "0".repeat(32), "name": HOSTILE,
        "source": "local", "success": true, "size": 1,
    }] });
    fs::write(state_dir.join("stats.json"), kept.to_string()).expect("statistics");
    let options = PeerOptions::new(&store)
        .trust(&key.public)
        .flag("public-cache-key", &key.public)
        .peer(&one)
        .peer(&other);
    let ours = options.clone().start_in(directory, state_dir.clone());
    ours.meet(&one);
    ours.meet(&other);
    ours.wait_for_narinfo(slow);
    let port = ours.http().port().to_string();

    let narinfo = |path: &str| format!("/{}.narinfo", hash_part(path));
    let given = json!({
        "url": ours.url(),
        "chromium": chromium,
        "id": ours.status()["node_id"],
        "small": small.iter().map(|path| narinfo(path)).collect::<Vec<_>>(),
        "slow": narinfo(slow),
        "missing": format!("/{}.narinfo", "1".repeat(32)),
        "hostile": HOSTILE,
        "pictures": pictures,
    });
    let mut command = Command::new("node");
    command
        .args(["dashboard.mjs", &given.to_string()])
        .current_dir(&folder);
    let mut driving = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node");
    let mut answers = driving.stdin.take().expect("its input");
    let told = BufReader::new(driving.stdout.take().expect("its output"));
    let mut daemon = Daemon::Running(Box::new(ours));
    for line in told.lines() {
        let line = line.expect("text");
        daemon = match (line.as_str(), daemon) {
            ("stop", Daemon::Running(peer)) => Daemon::Stopped(peer.into_directory()),
            ("start", Daemon::Stopped(directory)) => {
                let options = options.clone().replace_flag("port", &port);
                Daemon::Running(Box::new(options.start_in(directory, state_dir.clone())))
            }
            (_, daemon) => {
                println!("{line}");
                daemon
            }
        };
        if ["stop", "start"].contains(&line.as_str()) {
            answers.write_all(b"done\n").expect("its input");
        }
    }
    let status = driving.wait().expect("our own child");
    assert!(
        status.success(),
        "see above, and target/screenshots/dashboard-failed.png"
    );
}

/// The daemon, or what is left of it between two of its lives.
enum Daemon {
    Running(Box<Peer>),
    Stopped(tempfile::TempDir),
}

/// Opens the news of a daemon, and returns the status line with the connection.
fn open_news(peer: &Peer) -> (String, BufReader<TcpStream>) {
    let mut socket = TcpStream::connect(peer.http()).expect("a daemon");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = format!(
        "GET /dashboard/events HTTP/1.1\r\nHost: {}\r\n\r\n",
        peer.http()
    );
    socket.write_all(request.as_bytes()).expect("a request");
    let mut socket = BufReader::new(socket);
    let mut status = String::new();
    socket.read_line(&mut status).expect("an answer");
    (status, socket)
}

#[test]
fn sixteen_dashboards_are_told_news_and_one_more_when_one_is_closed() {
    let store = NixStore::new();
    let peer = PeerOptions::new(&store).start();
    let mut open: Vec<_> = (0..MAX_PAGES).map(|_| open_news(&peer)).collect();
    for (status, socket) in &mut open {
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        let mut lines = socket.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("data: {")), "no news");
    }
    let (status, _) = open_news(&peer);
    assert!(status.starts_with("HTTP/1.1 503"), "{status}");
    open.pop();
    wait_for("room for one more dashboard", || {
        let (status, _) = open_news(&peer);
        status.starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn the_page_is_what_its_sources_make() {
    if browser().is_err() {
        return skip("there is no Node that is new enough");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = run(Command::new("scripts/dashboard")
        .arg("--check")
        .current_dir(root));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
