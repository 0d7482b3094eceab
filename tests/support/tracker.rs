//! The built program as a running tracker, and what endpoints say to it.

use std::{
    fs,
    io::{BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use iroh::SecretKey;
use peerix::tracker::api;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    PATIENCE,
    http::{self, Answer},
    peer::peerix,
    wait_for, wait_within,
};

/// A running tracker; killed when dropped.
pub struct Tracker {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
    log: PathBuf,
    flags: Vec<String>,
}

impl Tracker {
    /// Starts one over a database of its own, with these further flags.
    pub fn start(flags: &[&str]) -> Tracker {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Tracker::start_in(directory, flags)
    }

    /// Starts one over `tracker.db` in `directory`, which it keeps.
    pub fn start_in(directory: tempfile::TempDir, flags: &[&str]) -> Tracker {
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let is_said = |flag: &String| flag == "--database" || flag == "--db-path";
        if !flags.iter().any(is_said) {
            let path = directory.path().join("tracker.db");
            flags.extend(["--db-path".to_owned(), path.display().to_string()]);
        }
        let log = directory.path().join("log");
        let child = spawn(directory.path(), &log, &flags);
        let mut tracker = Tracker {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
            log,
            flags,
        };
        tracker.wait_until_ready(PATIENCE);
        tracker
    }

    /// Tries to start one, which ends by itself; returns how, and what it said.
    pub fn fail(directory: &Path, flags: &[&str]) -> (ExitStatus, String) {
        let log = directory.join("failed.log");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut child = spawn(directory, &log, &flags);
        let status = wait_for("the end of the tracker", || child.try_wait().ok()?);
        (status, fs::read_to_string(&log).unwrap_or_default())
    }

    fn wait_until_ready(&mut self, patience: Duration) {
        let told = "listens on http://";
        let log = self.log.clone();
        self.address = wait_within(patience, "the tracker's address", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the tracker ended with {status}\n{}", self.log_text());
            }
            let text = fs::read_to_string(&log).ok()?;
            let (_, rest) = text.rsplit_once(told)?;
            rest.lines().next()?.trim().parse().ok()
        });
    }

    /// Ends it as a service manager does, and starts it again over the same database.
    pub fn restart(&mut self) {
        self.restart_within(PATIENCE);
    }

    /// The same where the database is so large that it takes longer.
    pub fn restart_within(&mut self, patience: Duration) {
        self.stop();
        fs::remove_file(&self.log).expect("the log");
        self.child = spawn(self.directory.path(), &self.log, &self.flags);
        self.wait_until_ready(patience);
    }

    /// Ends it with SIGTERM.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("our own process");
        wait_for("the end of the tracker", || self.child.try_wait().ok()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own process");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory with its database.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `GET target`.
    pub fn get(&self, target: &str) -> Answer {
        http::get(self.address, target)
    }

    /// `GET target`, which answers 200 with JSON.
    pub fn get_json(&self, target: &str) -> Value {
        json_of(&self.get(target), 200)
    }

    /// `POST target` with JSON.
    pub fn post(&self, target: &str, body: &Value) -> Answer {
        self.send("POST", target, &[], body.to_string().as_bytes())
    }

    /// Any request.
    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = http::connect(self.address).expect("a connection");
        stream.write_all(head.as_bytes()).expect("the head");
        stream.write_all(b"\r\n").expect("the head");
        // A server that refuses may do so before it read all.
        let _ = stream.write_all(body);
        http::read_answer(&mut BufReader::new(stream), method == "HEAD").expect("an answer")
    }

    /// The id that announcements name.
    pub fn id(&self) -> String {
        self.get_json("/v1/info")["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// Sends a signed announcement.
    pub fn announce(&self, key: &SecretKey, body: &Value) -> Answer {
        let body = body.to_string();
        let signature = api::sign(key, body.as_bytes());
        self.announce_as(&signature, body.as_bytes())
    }

    /// Sends an announcement with any signature.
    pub fn announce_as(&self, signature: &str, body: &[u8]) -> Answer {
        self.send(
            "POST",
            "/v1/announce",
            &[("Peerix-Signature", signature)],
            body,
        )
    }

    /// A full announcement of `hashes`, to be changed and signed.
    pub fn full(&self, key: &SecretKey, sequence: u64, hashes: &[&str]) -> Value {
        json!({
            "tracker": self.id(), "endpoint": key.public().to_string(), "sequence": sequence,
            "swarm": "public", "relay_url": null, "direct_addrs": ["192.0.2.1:12306"],
            "systems": ["x86_64-linux"], "kind": "full", "added": hashes, "removed": [],
        })
    }
}

/// The JSON of an answer of this status.
pub fn json_of(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("JSON: {}", answer.text()))
}

fn spawn(home: &Path, log: &Path, flags: &[String]) -> Child {
    let output = fs::File::create(log).expect("our own directory");
    peerix(home)
        .env("RUST_BACKTRACE", "1")
        .args(["tracker", "--port", "0"])
        .args(match flags.iter().any(|flag| flag == "--host") {
            true => &[][..],
            false => &["--host", "127.0.0.1"],
        })
        .args(flags)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output)
        .spawn()
        .expect("the built program")
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the tracker's log:\n{}", self.log_text());
        }
    }
}
