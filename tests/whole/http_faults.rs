//! What anyone can send to the HTTP face.

use std::{
    io::{BufReader, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::support::{
    http::{Answer, connect, exchange, get, read_answer, request},
    nix_store::{Key, NixStore, PathSpec, hash_part},
    peer::{Peer, PeerOptions, fields},
    tree::Node,
};

/// A peer over a store with one signed path.
struct Served {
    store: NixStore,
    path: String,
    peer: Peer,
}

impl Served {
    fn new(size: u64) -> Served {
        let key = Key::generate("own-1");
        let store = NixStore::new();
        let path = store.add(PathSpec::new("served", Node::random(size, "served")));
        store.sign(&key, &[&path]);
        let peer = PeerOptions::new(&store).trust(&key.public).start();
        Served { store, path, peer }
    }

    fn address(&self) -> SocketAddr {
        self.peer.http()
    }

    fn narinfo_target(&self) -> String {
        format!("/{}.narinfo", hash_part(&self.path))
    }
}

fn raw(address: SocketAddr, request: &str) -> Answer {
    exchange(address, request.as_bytes(), false).expect("an HTTP answer")
}

#[test]
fn a_foreign_host_is_turned_away_without_a_word() {
    let served = Served::new(1000);
    let (address, target) = (served.address(), served.narinfo_target());
    let port = address.port();
    for host in [
        "Host: evil.example\r\n".to_owned(),
        format!("Host: evil.example:{port}\r\n"),
        format!("Host: 127.0.0.1.evil.example:{port}\r\n"),
        format!("Host: evil.example\r\nHost: {address}\r\n"),
        "Host: \r\n".to_owned(),
        String::new(),
    ] {
        for method in ["GET", "POST"] {
            let sent = format!("{method} {target} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
            let answer = raw(address, &sent);
            assert!(
                [400, 403, 421].contains(&answer.status),
                "{sent:?}: {answer:?}"
            );
            assert_eq!(answer.body, b"", "{sent:?}");
        }
    }
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        "localhost".to_owned(),
    ] {
        let sent = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(raw(address, &sent).status, 200, "{host}");
    }
}

#[test]
fn pages_of_other_origins_get_nothing() {
    let served = Served::new(1000);
    let address = served.address();
    for target in [&served.narinfo_target(), "/status", "/peers", "/metrics"] {
        for origin in ["https://evil.example", "null"] {
            for method in ["GET", "POST", "OPTIONS"] {
                let answer = request(address, method, target, &[("Origin", origin)]);
                assert!(
                    [403, 404, 405].contains(&answer.status),
                    "{method} {target}: {answer:?}"
                );
                assert_eq!(answer.body, b"");
            }
        }
    }
    let allowed = request(address, "GET", "/nix-cache-info", &[]);
    for answer in [
        allowed,
        request(address, "GET", &served.narinfo_target(), &[]),
    ] {
        for name in answer.headers.keys() {
            assert!(!name.starts_with("access-control-"), "{name}");
        }
    }
}

/// FAULTS H6: who asks is who the socket says, whatever a proxy is said to have seen.
#[test]
fn forwarding_headers_open_nothing() {
    let served = Served::new(1000);
    let address = served.address();
    for name in [
        "X-Forwarded-For",
        "X-Real-IP",
        "Forwarded",
        "X-Forwarded-Host",
    ] {
        let sent = format!(
            "GET /status HTTP/1.1\r\nHost: evil.example\r\n{name}: 127.0.0.1\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(raw(address, &sent).status, 421, "{name}");
    }
    let status = get(address, "/status");
    let policy = status.headers.get("content-security-policy");
    assert!(
        policy.is_some_and(|policy| policy.contains("default-src 'none'")),
        "{status:?}"
    );
}

#[test]
fn no_address_leads_out_of_the_store() {
    let served = Served::new(1000);
    let hash = hash_part(&served.path);
    let long = "a".repeat(20_000);
    let targets = [
        "/%2e%2e/etc/passwd".to_owned(),
        "/../../etc/passwd".to_owned(),
        "//etc/passwd".to_owned(),
        "/nar/../../../etc/passwd".to_owned(),
        "/nar/%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
        format!("/nar/../{hash}.narinfo"),
        format!("/{hash}%00.narinfo"),
        format!("/{hash}.narinfo%00"),
        format!("/{hash}.narinfo/.."),
        format!("/{hash}/.narinfo"),
        format!("//{hash}.narinfo"),
        format!("/{}.narinfo", &hash[1..]),
        format!("/{}.narinfo", hash.to_uppercase()),
        format!(
            "/{}.narinfo",
            hash.replace(|c: char| c.is_ascii_alphabetic(), "e")
        ),
        format!("/{long}.narinfo"),
        format!("/nar/{long}.nar"),
        "/%e6%97%a5%e6%9c%ac.narinfo".to_owned(),
        "/nar/%ff%fe.nar?hash=%00".to_owned(),
        format!("/nar/x.nar?hash={hash}"),
        format!("/nar/{}.nar?hash=../../etc", "0".repeat(52)),
        format!("/nar/{}.nar", "0".repeat(52)),
        "/log/../../etc/passwd".to_owned(),
        "*".to_owned(),
    ];
    for target in &targets {
        let sent = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            served.address()
        );
        let answer = raw(served.address(), &sent);
        assert!(
            (400..500).contains(&answer.status),
            "{target:.80}: {}",
            answer.status
        );
        let text = answer.text();
        for secret in ["root:", "/nix/store", "etc/passwd", hash, "/tmp"] {
            assert!(!text.contains(secret), "{target:.80}: {text}");
        }
    }
    // As bytes that are no address at all.
    for noise in [
        &b"GET /\0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"[..],
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        if let Ok(answer) = exchange(served.address(), noise, false) {
            assert!((400..500).contains(&answer.status), "{noise:?}: {answer:?}");
        }
    }
    assert_eq!(get(served.address(), &served.narinfo_target()).status, 200);
}

#[test]
fn ranges_are_answered_as_http_says() {
    for size in [40_000, 9_000_000] {
        let served = Served::new(size);
        let nar = served.store.dump(&served.path);
        ranges_of(&served.peer, &served.path, &nar);
    }
}

#[test]
fn ranges_are_right_while_the_nar_still_arrives() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("ranged", Node::random(9_000_000, "ranged")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).flag("upload-limit", "3MB").start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();
    let nar = a.dump(&path);
    let target = receiver.nar_target(&path);
    let first = {
        let (address, target) = (receiver.http(), target.clone());
        std::thread::spawn(move || get(address, &target))
    };
    for range in [
        "bytes=5000000-",
        "bytes=0-99",
        "bytes=-100",
        "bytes=8999000-9000050",
    ] {
        let answer = request(receiver.http(), "GET", &target, &[("Range", range)]);
        if answer.status == 206 {
            let (start, end) = content_range(&answer, nar.len());
            assert!(answer.complete);
            assert!(answer.body == nar[start..end], "{range}");
        } else {
            assert!(
                [404, 416].contains(&answer.status),
                "{range}: {}",
                answer.status
            );
        }
    }
    let first = first.join().expect("the reader");
    assert_eq!((first.status, first.complete), (200, true));
    assert!(first.body == nar);
    ranges_of(&receiver, &path, &nar);
}

/// Checks ranges of every kind against the NAR.
fn ranges_of(peer: &Peer, path: &str, nar: &[u8]) {
    let target = peer.nar_target(path);
    let size = nar.len();
    let ask = |range: &str| request(peer.http(), "GET", &target, &[("Range", range)]);
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=0-".to_owned(), 0, size),
        ("bytes=1-1".to_owned(), 1, 2),
        ("bytes=16383-16385".to_owned(), 16_383, 16_386),
        (format!("bytes={}-", size - 1), size - 1, size),
        ("bytes=-1".to_owned(), size - 1, size),
        (format!("bytes=-{}", size + 5), 0, size),
        (format!("bytes=10-{}", size + 5), 10, size),
        (format!("bytes=10-{}", u64::MAX), 10, size),
        (
            format!("bytes={}-{}", size / 2, size / 2 + 30_000),
            size / 2,
            size.min(size / 2 + 30_001),
        ),
    ] {
        let answer = ask(&range);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(content_range(&answer, size), (start, end), "{range}");
        assert!(answer.complete && answer.body == nar[start..end], "{range}");
    }
    for range in [
        format!("bytes={size}-"),
        format!("bytes={}-{}", size + 1, size + 2),
        "bytes=-0".to_owned(),
        "bytes=18446744073709551615-18446744073709551615".to_owned(),
    ] {
        let answer = ask(&range);
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(
            answer.header("content-range"),
            format!("bytes */{size}"),
            "{range}"
        );
    }
    // No range that one answer can give, or none at all: the whole.
    for range in [
        "bytes=0-10,20-30",
        "bytes=0-0,-1",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=",
        "items=0-5",
        "bytes=99999999999999999999999-",
    ] {
        let answer = ask(range);
        match answer.status {
            200 => assert!(answer.complete && answer.body == *nar, "{range}"),
            416 => assert_eq!(
                answer.header("content-range"),
                format!("bytes */{size}"),
                "{range}"
            ),
            other => panic!("{range}: {other}"),
        }
    }
    let head = request(peer.http(), "HEAD", &target, &[]);
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), size.to_string());
    assert_eq!(head.header("accept-ranges"), "bytes");
    let tag = head.header("etag").to_owned();
    assert!(!tag.is_empty());
    for (condition, status) in [(tag.as_str(), 206), ("\"another\"", 200)] {
        let headers = [("Range", "bytes=8-15"), ("If-Range", condition)];
        let answer = request(peer.http(), "GET", &target, &headers);
        assert_eq!(answer.status, status, "If-Range: {condition}");
        let wanted = if status == 206 { &nar[8..16] } else { nar };
        assert!(answer.body == *wanted);
    }
}

fn content_range(answer: &Answer, size: usize) -> (usize, usize) {
    let header = answer.header("content-range").to_owned();
    let (range, of) = header
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
        .unwrap_or_else(|| panic!("{header:?}"));
    assert_eq!(of, size.to_string());
    let (start, last) = range.split_once('-').expect("two ends");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    (number(start), number(last) + 1)
}

#[test]
fn head_says_what_get_says() {
    let served = Served::new(1000);
    let target = served.peer.nar_target(&served.path);
    for target in [
        &served.narinfo_target(),
        &target,
        "/nix-cache-info",
        "/nowhere",
    ] {
        let get = request(served.address(), "GET", target, &[]);
        let head = request(served.address(), "HEAD", target, &[]);
        assert_eq!(head.status, get.status, "{target}");
        for name in ["content-length", "content-type", "etag", "accept-ranges"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {target}");
        }
    }
}

#[test]
fn what_nix_asks_besides_is_a_clean_answer() {
    let served = Served::new(1000);
    let info = get(served.address(), "/nix-cache-info");
    let lines = fields(&info.text());
    let value = |name| crate::support::peer::field(&lines, name);
    assert_eq!(value("StoreDir"), Some("/nix/store"));
    assert_eq!(value("WantMassQuery"), Some("1"));
    assert_eq!(value("Priority"), Some("5"));
    assert_eq!(lines.len(), 3);

    let hash = hash_part(&served.path);
    for target in [
        format!("/log/{hash}-served.drv"),
        format!("/{hash}.ls"),
        format!("/debuginfo/{}", "0".repeat(40)),
        format!("/realisations/sha256:{}!out.doi", "0".repeat(64)),
        "/build-trace-v2/x.doi".to_owned(),
    ] {
        let answer = get(served.address(), &target);
        assert!(
            [200, 404].contains(&answer.status),
            "{target}: {}",
            answer.status
        );
    }
    for target in [served.narinfo_target(), "/nix-cache-info".to_owned()] {
        for method in ["PUT", "DELETE", "PATCH"] {
            let answer = request(
                served.address(),
                method,
                &target,
                &[("Content-Length", "0")],
            );
            assert_eq!(answer.status, 405, "{method} {target}");
        }
    }
}

#[test]
fn one_connection_serves_many_requests() {
    let served = Served::new(50_000);
    let nar = served.store.dump(&served.path);
    let nar_target = served.peer.nar_target(&served.path);
    let stream = connect(served.address()).expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut writer = stream;
    for _ in 0..50 {
        for target in [&served.narinfo_target(), &nar_target, "/missing.narinfo"] {
            write!(
                writer,
                "GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n",
                served.address()
            )
            .expect("an open connection");
            let answer = read_answer(&mut reader, false).expect("an answer");
            assert!(answer.complete);
            if target == nar_target {
                assert!(answer.body == nar);
            }
        }
    }
}

/// FAULTS H4.
#[test]
fn slow_and_idle_clients_keep_nobody_out() {
    // As many sockets are open here at once.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _as_many_as_there_are =
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    let served = Served::new(30_000_000);
    let nar_target = served.peer.nar_target(&served.path);
    assert_eq!(get(served.address(), &nar_target).status, 200);
    let mut slow = Vec::new();
    for n in 0..1000 {
        let Ok(mut stream) = connect(served.address()) else {
            break;
        };
        let begun = match n % 3 {
            0 => String::new(),
            1 => "GET /nix-cache-info HTTP/1.1\r\nHost: loc".to_owned(),
            _ => format!("GET {nar_target} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        };
        let _ = stream.write_all(begun.as_bytes());
        slow.push(stream);
    }
    assert!(slow.len() > 900, "{} clients", slow.len());
    let waits = (0..10).map(|_| {
        let asked = Instant::now();
        assert_eq!(get(served.address(), &served.narinfo_target()).status, 200);
        asked.elapsed()
    });
    let waits: Vec<_> = waits.collect();
    println!("new clients beside {} slow ones wait {waits:?}", slow.len());
    // On a busy machine not all of them are as quick as one is.
    let quickest = waits.iter().min().expect("some");
    assert!(*quickest < Duration::from_millis(100), "{waits:?}");
    assert!(
        waits.iter().all(|wait| *wait < Duration::from_secs(2)),
        "{waits:?}"
    );
    let peak = served.peer.peak_memory();
    assert!(peak < 256 << 20, "{peak} bytes");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", served.peer.pid()))
        .expect("our own child")
        .count();
    assert!(descriptors < 512, "{descriptors} descriptors");
}

#[test]
fn headers_without_end_are_cut_off() {
    let served = Served::new(1000);
    let mut sent = format!(
        "GET /nix-cache-info HTTP/1.1\r\nHost: {}\r\n",
        served.address()
    );
    for n in 0..100_000 {
        sent += &format!("X-Filler-{n}: {}\r\n", "x".repeat(50));
    }
    sent += "\r\n";
    if let Ok(answer) = exchange(served.address(), sent.as_bytes(), false) {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
    assert!(served.peer.peak_memory() < 256 << 20);
    assert_eq!(get(served.address(), "/nix-cache-info").status, 200);
}

#[test]
fn the_face_is_on_loopback_only() {
    let served = Served::new(1000);
    assert!(served.address().ip().is_loopback());
    let Some(outside) = outside_address() else {
        return crate::support::skip("this machine has no address but loopback");
    };
    let there = SocketAddr::new(outside, served.address().port());
    assert!(std::net::TcpStream::connect_timeout(&there, Duration::from_secs(2)).is_err());
}

fn outside_address() -> Option<std::net::IpAddr> {
    // Routing alone: no packet leaves.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let served = Served::new(1000);
    served.peer.wait_for_narinfo(&served.path);
    let text = served.peer.get("/metrics").text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{line:?}");
        let is_known = ["peerix_", "iroh_"]
            .iter()
            .any(|name| line.starts_with(name));
        assert!(is_known, "{line:?}");
    }
    assert!(
        served.peer.metric("peerix_requests_total") >= Some(1.0),
        "{text}"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &text).expect("our own file");
    let checked = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(file.path()).expect("our own file"))
        .output();
    match checked {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            crate::support::text_of(&output)
        ),
        Err(_) => crate::support::skip("promtool is not installed"),
    }
}

#[test]
fn status_and_health_tell_how_it_is() {
    let served = Served::new(1000);
    let status = served.peer.status();
    assert_eq!(
        status["node_id"].as_str().map(str::len),
        Some(64),
        "{status}"
    );
    assert_eq!(served.peer.get("/health").status, 200);
    assert_eq!(served.peer.get("/peers").status, 200);
}
