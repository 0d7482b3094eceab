//! Large answers of a tracker: who takes them slowly keeps nobody out.

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::json;

use super::support::{
    http::{connect, read_answer, read_head},
    tracker::Tracker,
};

/// The memory that all large answers share.
const ROOM: usize = 64 * 1024 * 1024;

/// An answer that was asked for and is not read.
struct Unread {
    status: u16,
    length: usize,
    body: BufReader<TcpStream>,
}

/// Asks for the list of nodes in the name of an address, and reads no more than the head.
fn ask(tracker: &Tracker, from: &str) -> Unread {
    let mut stream = connect(tracker.address()).expect("a connection");
    let request = format!("GET /iroh/peers HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {from}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request");
    let mut body = BufReader::new(stream);
    let (status, headers) = read_head(&mut body).expect("an answer");
    let length = headers["content-length"].parse().expect("a length");
    Unread {
        status,
        length,
        body,
    }
}

impl Unread {
    /// Reads what comes of it, and says whether that was all.
    fn comes_whole(mut self) -> bool {
        let mut body = vec![0; self.length];
        self.body.read_exact(&mut body).is_ok()
    }
}

/// Announces so many nodes with such long addresses that their list is large.
fn announce_nodes(tracker: &Tracker) {
    let stream = connect(tracker.address()).expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut writer = stream;
    let addrs: Vec<String> = (0..32).map(|n| format!("{n:0128}")).collect();
    for node in 0..2000 {
        let node = format!("node-{node}");
        let body = json!({ "node_id": node, "peer_id": node, "direct_addrs": addrs }).to_string();
        let length = body.len();
        let request = format!(
            "POST /iroh/announce HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        writer.write_all(request.as_bytes()).expect("the request");
        let answer = read_answer(&mut reader, false).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn who_takes_large_answers_slowly_keeps_nobody_out() {
    let tracker = Tracker::start(&[]);
    announce_nodes(&tracker);
    let first = ask(&tracker, "198.51.100.1");
    assert_eq!(first.status, 200);
    assert!(first.length > 4 * 1024 * 1024, "{}", first.length);
    // One address has one of them at a time.
    assert_eq!(ask(&tracker, "198.51.100.1").status, 429);

    // More addresses than there is room for: those that came first make room.
    let fit = ROOM / first.length;
    let mut held = vec![first];
    for last in 2..=fit + 2 {
        let next = ask(&tracker, &format!("198.51.100.{last}"));
        assert_eq!(next.status, 200, "of address {last}");
        held.push(next);
    }
    assert!(!held.remove(0).comes_whole(), "the first was not cut");
    assert!(held.pop().is_some_and(Unread::comes_whole));
    // Nobody who looks something up waits for any of that.
    let hash = "17bh691vzkqk8hv1i7xiaqff85b85br3";
    let found = tracker.post("/v1/lookup", &json!({ "hashes": [hash] }));
    assert_eq!(found.status, 200);
    assert!(ask(&tracker, "203.0.113.1").comes_whole());
    // Who was cut may ask again.
    assert!(ask(&tracker, "198.51.100.1").comes_whole());
}
