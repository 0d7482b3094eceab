//! Closures through the real Nix, from a peer against a static HTTP cache.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::{
    measure::{median, row, seconds, table},
    own_store::tree_of,
    peer::receiver,
    support::{
        nix_store::{Key, NixStore, PathSpec},
        peer::PeerOptions,
        run_ok,
        tree::Node,
        wait_for,
    },
};

/// Runs of each way.
const RUNS: usize = 5;

/// 200 paths and 2 GB.
pub fn run_large() {
    let store = NixStore::new();
    let paths = add_realistic(&store);
    run(
        &store,
        paths.last().expect("paths"),
        "A closure of 200 paths and 2 GB, by the real Nix",
        1.6,
    );
}

/// 1,000 paths under 10 KiB.
pub fn run_small() {
    let store = NixStore::new();
    let mut specs: Vec<PathSpec> = Vec::new();
    for n in 0..999u64 {
        let before = references(&specs, n as usize, 3);
        let node = Node::random(100 + n * 7919 % 9_500, &format!("small {n}"));
        specs.push(PathSpec::new(&format!("small-{n}"), node).with_references(&before));
    }
    let all: Vec<String> = specs.iter().map(PathSpec::store_path).collect();
    let last = PathSpec::new("small-all", Node::text("all")).with_references(&all);
    specs.push(last);
    let paths = store.add_all(specs);
    run(
        &store,
        paths.last().expect("paths"),
        "1,000 paths under 10 KiB, by the real Nix",
        2.0,
    );
}

fn run(store: &NixStore, root: &str, title: &str, at_most: f64) {
    let key = Key::generate("bench-1");
    store.sign(&key, &[root]);
    let Some(nginx) = Nginx::start(store, root) else {
        println!("\n### {title}\n\nskipped: nginx is not installed");
        return;
    };
    let provider = PeerOptions::new(store).start();
    provider.share(root);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=RUNS {
        let b = NixStore::new();
        let begun = Instant::now();
        b.substitute(root, std::slice::from_ref(&nginx.url), &[&key.public]);
        let by_nginx = begun.elapsed().as_secs_f64();
        let expected = b.closure(root).len();
        drop(b);

        let (c, peer) = receiver(&provider, &key);
        peer.wait_for_narinfo(root);
        let begun = Instant::now();
        c.substitute(root, &[peer.url()], &[&key.public]);
        let by_peer = begun.elapsed().as_secs_f64();
        assert_eq!(c.closure(root).len(), expected);
        // The first round fills the page cache.
        if round > 0 {
            theirs.push(by_nginx);
            ours.push(by_peer);
        }
    }
    table(title, &["from", "median", "ratio", "all runs"]);
    let all = |times: &[f64]| {
        times
            .iter()
            .map(|t| seconds(*t))
            .collect::<Vec<_>>()
            .join(", ")
    };
    row(&[
        "nginx over an uncompressed `file://` cache".to_owned(),
        seconds(median(&theirs)),
        "1".to_owned(),
        all(&theirs),
    ]);
    row(&[
        "a peer".to_owned(),
        seconds(median(&ours)),
        format!(
            "**{:.2}** (at most {at_most})",
            median(&ours) / median(&theirs)
        ),
        all(&ours),
    ]);
}

/// About 200 paths and 2 GB: NARs from 200 bytes to 500 MB, half of them under 80 KB, a third trees.
pub fn add_realistic(store: &NixStore) -> Vec<String> {
    let mut specs: Vec<PathSpec> = Vec::new();
    for n in 0..199usize {
        let size = match n {
            50 => 500_000_000,
            90 => 300_000_000,
            100 | 110 | 120 => 160_000_000,
            n if n % 10 == 3 => 20_000_000 + n as u64 * 80_000,
            n if n % 10 == 7 => 1_000_000 + n as u64 * 50_000,
            n => 200 + (n as u64 * 7919 % 1000) * 120,
        };
        let node = match n % 3 {
            0 if size > 100_000 => tree_of((size / 40_000).clamp(10, 3_000) as usize, size),
            _ => Node::random(size, &format!("realistic {n}")),
        };
        let before = references(&specs, n, 4);
        specs.push(PathSpec::new(&format!("realistic-{n}"), node).with_references(&before));
    }
    let all: Vec<String> = specs.iter().map(PathSpec::store_path).collect();
    specs.push(PathSpec::new("realistic-all", Node::text("all")).with_references(&all));
    store.add_all(specs)
}

/// Up to `most` earlier paths, the same for the same `n`.
fn references(specs: &[PathSpec], n: usize, most: usize) -> Vec<String> {
    let mut references: Vec<String> = (0..n % (most + 1))
        .filter_map(|k| specs.get((n * 31 + k * 17) % specs.len().max(1)))
        .map(PathSpec::store_path)
        .collect();
    references.sort();
    references.dedup();
    references
}

/// nginx over a flat copy of a closure.
struct Nginx {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Nginx {
    fn start(store: &NixStore, root: &str) -> Option<Nginx> {
        if Command::new("nginx")
            .arg("-v")
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = directory.path().join("cache");
        let target = format!("file://{}?compression=none", cache.display());
        run_ok(store.nix(&["copy", "--to", &target]).arg(root));
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let at = directory.path().display();
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let configuration = format!(
            "daemon off; {user} worker_processes 2; pid {at}/pid; error_log {at}/error;
            events {{ worker_connections 256; }}
            http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
                client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                server {{ listen 127.0.0.1:{port}; root {}; }} }}",
            cache.display()
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).expect("our own directory");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        wait_for("nginx", || std::net::TcpStream::connect(address).ok());
        Some(Nginx {
            child,
            url: format!("http://{address}"),
            _directory: directory,
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
