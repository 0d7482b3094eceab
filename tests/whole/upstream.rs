//! HTTP caches behind the peers: they finish what peers began, and lie no better than peers do.

use std::{
    fs,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{
    http,
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    shapes::add_closure,
    static_cache::{Mood, PORTAL_PAGE, StaticCache},
    text_of,
    tree::Node,
    wait_for,
};

/// Checked while it streams.
const LARGE: u64 = 9_000_000;
/// Checked before its first byte.
const SMALL: u64 = 300_000;

/// A store with signed paths, of which a cache has copies.
struct Origin {
    store: NixStore,
    key: Key,
}

impl Origin {
    fn new() -> Origin {
        Origin {
            store: NixStore::new(),
            key: Key::generate("upstream-1"),
        }
    }

    fn path(&self, name: &str, size: u64) -> String {
        let path = self
            .store
            .add(PathSpec::new(name, Node::random(size, name)));
        self.store.sign(&self.key, &[&path]);
        path
    }

    fn cache(&self, paths: &[&str], compression: &str) -> StaticCache {
        StaticCache::compressed(&self.store, paths, 40, compression)
    }

    /// A peer with these upstreams, which it passes on.
    fn proxy(&self, store: &NixStore, caches: &[&StaticCache]) -> PeerOptions {
        self.behind(store, caches).switch("proxy-upstream")
    }

    /// A peer with these upstreams.
    fn behind(&self, store: &NixStore, caches: &[&StaticCache]) -> PeerOptions {
        let peer = PeerOptions::new(store)
            .trust(&self.key.public)
            .switch("allow-insecure-http");
        caches
            .iter()
            .enumerate()
            .fold(peer, |peer, (index, cache)| match index {
                0 => peer.replace_flag("upstream-cache", &cache.url()),
                _ => peer.flag("upstream-cache", &cache.url()),
            })
    }
}

/// Whether any file below `dir` holds `needle`.
fn holds(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .any(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return holds(&path, needle);
            }
            let bytes = fs::read(&path).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
}

fn upstream_faults(peer: &Peer) -> f64 {
    peer.metric("peerix_upstream_faults_total")
        .expect("a counter")
}

#[test]
fn the_upstream_finishes_what_the_only_provider_began() {
    let origin = Origin::new();
    let path = origin.path("large", 60_000_000);
    let cache = origin.cache(&[&path], "zstd");
    let mut provider = PeerOptions::new(&origin.store)
        .flag("upload-limit", "10MB")
        .start();
    provider.share(&path);
    let b = NixStore::new();
    let receiver = origin.behind(&b, &[&cache]).peer(&provider).start();
    receiver.wait_for_narinfo(&path);
    assert_eq!(cache.nar_requests(), 0);

    let nix = b
        .substitution(&[&path], &[receiver.url()], &[&origin.key.public])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nix-store");
    let received = |peer: &Peer| {
        peer.metric("peerix_bytes_received_total")
            .expect("a counter")
    };
    wait_for("a part of the NAR", || {
        (received(&receiver) > 12_000_000.0).then_some(())
    });
    provider.signal(Signal::KILL);
    let killed = Instant::now();
    let output = nix.wait_with_output().expect("nix-store ends");
    let said = text_of(&output);
    assert!(output.status.success(), "{said}");
    for word in ["retry", "error", "unable", "mismatch"] {
        assert!(!said.contains(word), "{said}");
    }
    println!("finished {:?} after the kill", killed.elapsed());
    b.verify_contents();
    // One request, one answer; and most came from each of the two.
    let metrics = receiver.get("/metrics").text();
    let nar = r#"peerix_http_responses_total{route="nar",code="200"} 1"#;
    assert!(metrics.contains(nar), "{metrics}");
    assert!(!metrics.contains(r#"route="nar",code="206""#), "{metrics}");
    assert!(received(&receiver) < 59_000_000.0);
    let from_upstream = receiver.metric("peerix_upstream_bytes_received_total");
    assert!(from_upstream.expect("a counter") > 59_000_000.0);
    assert_eq!(cache.nar_requests(), 1);
    provider.wait_for_end(Duration::from_secs(10));
}

#[test]
fn without_an_upstream_that_has_it_the_connection_is_cut() {
    let origin = Origin::new();
    let (path, other) = (
        origin.path("large", 60_000_000),
        origin.path("other", SMALL),
    );
    let cache = origin.cache(&[&other], "none");
    let provider = PeerOptions::new(&origin.store)
        .flag("upload-limit", "10MB")
        .start();
    provider.share(&path);
    let b = NixStore::new();
    let receiver = origin.behind(&b, &[&cache]).peer(&provider).start();
    let target = receiver.nar_target(&path);
    let address = receiver.http();
    let reading = std::thread::spawn(move || http::get(address, &target));
    wait_for("a part of the NAR", || {
        let received = receiver.metric("peerix_bytes_received_total");
        (received.expect("a counter") > 12_000_000.0).then_some(())
    });
    provider.signal(Signal::KILL);
    let killed = Instant::now();
    let answer = reading.join().expect("no panic");
    assert!(!answer.complete && answer.body.len() < 60_000_000);
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
}

#[test]
fn nix_gets_a_closure_through_every_compression() {
    let origin = Origin::new();
    let program = add_closure(&origin.store, "program", 3, 2_000_000);
    let large = origin.path("large", LARGE);
    origin.store.sign(&origin.key, &[&program]);
    for compression in ["none", "xz", "zstd", "bzip2", "br"] {
        let cache = origin.cache(&[&program, &large], compression);
        let b = NixStore::new();
        let peer = origin.proxy(&b, &[&cache]).start();
        for path in [&program, &large] {
            b.substitute(path, &[peer.url()], &[&origin.key.public]);
        }
        b.verify_contents();
        assert_eq!(b.dump(&large), origin.store.dump(&large), "{compression}");
        assert_eq!(peer.metric("peerix_bytes_received_total"), Some(0.0));
        assert_eq!(upstream_faults(&peer), 0.0, "{compression}");
    }
}

#[test]
fn without_the_flag_nix_is_not_told_of_what_only_the_upstream_has() {
    let origin = Origin::new();
    let path = origin.path("small", SMALL);
    let cache = origin.cache(&[&path], "none");
    let b = NixStore::new();
    let peer = origin.behind(&b, &[&cache]).start();
    assert_eq!(peer.narinfo(&path).status, 404);
    assert!(cache.requests().is_empty());
}

#[test]
fn a_wrong_nar_of_the_upstream_never_reaches_nix() {
    let origin = Origin::new();
    for (name, size) in [("small", SMALL), ("large", LARGE)] {
        let path = origin.path(name, size);
        let (wrong, right) = (origin.cache(&[&path], "none"), origin.cache(&[&path], "xz"));
        let file = wrong.nar_file(&path);
        let mut bytes = fs::read(&file).expect("a NAR");
        bytes[200_000] ^= 1;
        fs::write(&file, bytes).expect("our own file");
        let b = NixStore::new();
        let peer = origin.proxy(&b, &[&wrong]).start();
        let output = b.try_substitute(&path, &[peer.url()], &[&origin.key.public]);
        assert!(
            !output.status.success() && !b.has(&path),
            "{}",
            text_of(&output)
        );
        let metrics = peer.get("/metrics").text();
        assert!(
            metrics.contains(r#"peerix_upstream_faults_total{kind="wrong_nar"}"#)
                && !metrics.contains(r#"peerix_upstream_faults_total{kind="wrong_nar"} 0"#),
            "{metrics}"
        );
        assert!(!holds(&peer.state_dir().join("blobs"), b"random"));
        assert_eq!(
            fs::read_dir(peer.state_dir().join("blobs"))
                .expect("it")
                .count(),
            0
        );
        // The next cache has the right one.
        b.substitute(&path, &[peer.url(), right.url()], &[&origin.key.public]);
        b.verify_contents();
    }
}

#[test]
fn the_second_upstream_finishes_what_the_first_began() {
    let origin = Origin::new();
    let path = origin.path("large", LARGE);
    let (first, second) = (
        origin.cache(&[&path], "none"),
        origin.cache(&[&path], "zstd"),
    );
    first.set_mood(Mood::Cut(6_000_000));
    let b = NixStore::new();
    let peer = origin.proxy(&b, &[&first, &second]).start();
    let target = peer.nar_target(&path);
    let answer = peer.get(&target);
    assert!(answer.status == 200 && answer.complete);
    assert!(answer.body == origin.store.dump(&path));
    assert_eq!((first.nar_requests(), second.nar_requests()), (1, 1));
    assert!(upstream_faults(&peer) > 0.0);
}

#[test]
fn readers_of_one_path_share_one_fetch_from_the_upstream() {
    let origin = Origin::new();
    let path = origin.path("large", 30_000_000);
    let cache = origin.cache(&[&path], "zstd");
    let b = NixStore::new();
    let peer = origin.proxy(&b, &[&cache]).start();
    let target = peer.nar_target(&path);
    let dumped = origin.store.dump(&path);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = peer.get(&target);
                assert!(answer.complete && answer.body == dumped);
            });
        }
    });
    assert_eq!(cache.nar_requests(), 1);
}

#[test]
fn nothing_of_a_captive_portal_reaches_nix_or_the_store() {
    let origin = Origin::new();
    let (path, large) = (origin.path("small", SMALL), origin.path("large", LARGE));
    let cache = origin.cache(&[&path, &large], "xz");
    let b = NixStore::new();
    let peer = origin.proxy(&b, &[&cache]).start();
    let target = peer.nar_target(&large);
    cache.set_mood(Mood::Portal);
    // Its narinfo is known, its NAR is the portal's page; of the other path nothing is known.
    let answer = peer.get(&target);
    assert_ne!(answer.status, 500);
    assert!(!answer.text().contains("portal"), "{answer:?}");
    assert!(!(answer.status == 200 && answer.complete));
    assert_eq!(peer.narinfo(&path).status, 404);
    let output = b.try_substitute(&path, &[peer.url()], &[&origin.key.public]);
    assert!(!output.status.success());
    assert!(!holds(peer.state_dir(), b"portal"));
    assert!(!PORTAL_PAGE.is_empty() && upstream_faults(&peer) > 0.0);
    // The terms are accepted: it works again by itself.
    cache.set_mood(Mood::Honest);
    peer.wait_for_narinfo(&path);
    b.substitute(&path, &[peer.url()], &[&origin.key.public]);
    b.verify_contents();
}

#[test]
fn a_narinfo_of_a_gigabyte_is_a_miss_and_takes_no_memory() {
    let origin = Origin::new();
    let path = origin.path("small", SMALL);
    let cache = origin.cache(&[&path], "none");
    let b = NixStore::new();
    let peer = origin.proxy(&b, &[&cache]).start();
    let before = peer.peak_memory();
    cache.set_mood(Mood::Endless);
    assert_eq!(peer.narinfo(&path).status, 404);
    let counted = || upstream_faults(&peer) > 0.0;
    wait_for("the fault", || counted().then_some(()));
    // What the sockets hold was sent too.
    assert!(cache.bytes_sent() < 32_000_000, "{}", cache.bytes_sent());
    assert!(peer.peak_memory() < before + 32_000_000);
}

#[test]
fn a_decompression_bomb_is_refused_in_bounded_memory() {
    let origin = Origin::new();
    for (name, size) in [("small", SMALL), ("large", LARGE)] {
        let path = origin.path(name, size);
        let cache = origin.cache(&[&path], "zstd");
        let bomb = fs::File::create(cache.nar_file(&path)).expect("our own file");
        let mut encoder = zstd::Encoder::new(bomb, 1).expect("memory");
        for _ in 0..1024 {
            encoder.write_all(&[0; 1 << 20]).expect("our own file");
        }
        encoder.finish().expect("our own file");
        let b = NixStore::new();
        let peer = origin.proxy(&b, &[&cache]).start();
        let target = peer.nar_target(&path);
        let before = peer.peak_memory();
        let answer = peer.get(&target);
        assert!(answer.status == 404 || !answer.complete);
        assert!((answer.body.len() as u64) < size);
        let grown = peer.peak_memory().saturating_sub(before);
        assert!(grown < 64_000_000, "{grown}");
        let received = peer.metric("peerix_upstream_bytes_received_total");
        assert!(received.expect("a counter") < 2.0 * size as f64);
    }
}

#[test]
fn a_first_download_serves_the_rest_of_the_fleet() {
    let origin = Origin::new();
    let program = add_closure(&origin.store, "program", 2, 5_000_000);
    origin.store.sign(&origin.key, &[&program]);
    let cache = origin.cache(&[&program], "xz");
    let (b, c) = (NixStore::new(), NixStore::new());
    let first = origin
        .proxy(&b, &[&cache])
        .flag("public-cache-key", &origin.key.public)
        .start();
    b.substitute(&program, &[first.url()], &[&origin.key.public]);
    drop(cache);
    let second = PeerOptions::new(&c)
        .trust(&origin.key.public)
        .peer(&first)
        .start();
    second.wait_for_narinfo(&program);
    c.substitute(&program, &[second.url()], &[&origin.key.public]);
    c.verify_contents();
    assert!(second.metric("peerix_bytes_received_total") > Some(10_000_000.0));
}

#[test]
fn what_the_upstream_said_is_known_offline_after_a_restart() {
    let origin = Origin::new();
    let (fetched, asked) = (origin.path("large", LARGE), origin.path("asked", SMALL));
    let cache = origin.cache(&[&fetched, &asked], "zstd");
    let b = NixStore::new();
    let mut peer = origin.proxy(&b, &[&cache]).start();
    let target = peer.nar_target(&fetched);
    assert!(peer.get(&target).complete);
    peer.wait_for_narinfo(&asked);
    wait_for("the NAR to be kept", || {
        (peer.json(&["store", "stats"])["in_files"] == 1).then_some(())
    });
    peer.stop();
    cache.set_mood(Mood::Silent);
    let requests = cache.requests().len();
    let peer = peer.restart();
    assert_eq!(peer.narinfo(&asked).status, 200);
    assert_eq!(peer.narinfo(&fetched).status, 200);
    let answer = peer.get(&target);
    assert!(answer.complete && answer.body == origin.store.dump(&fetched));
    assert_eq!(cache.requests().len(), requests);
}

#[test]
fn a_dead_upstream_costs_a_miss_nothing_after_the_first() {
    let origin = Origin::new();
    let cache = origin.cache(&[&origin.path("small", SMALL)], "none");
    cache.set_mood(Mood::Silent);
    let b = NixStore::new();
    let peer = origin.proxy(&b, &[&cache]).start();
    let narinfo = |n: u8| {
        let hash = char::from(b'a' + n)
            .to_string()
            .repeat(32)
            .replace(['e', 'o', 't', 'u'], "z");
        let started = Instant::now();
        assert_eq!(peer.get(&format!("/{hash}.narinfo")).status, 404);
        started.elapsed()
    };
    let first = narinfo(0);
    assert!(first < Duration::from_secs(1), "{first:?}");
    let mut taken: Vec<Duration> = (1..21).map(narinfo).collect();
    taken.sort();
    // One of them may have been let through to try again.
    let usual = taken[taken.len() / 2];
    assert!(usual < Duration::from_millis(100), "{taken:?}");
}
