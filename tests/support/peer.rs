//! The built program as a running peer.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    http::{self, Answer},
    nix_store::NixStore,
    run, run_ok, text_of, wait_for, wait_within,
};

/// The built program.
pub const PEERIX: &str = env!("CARGO_BIN_EXE_peerix");

/// How long a daemon may take to answer after its start.
const STARTED: Duration = Duration::from_secs(30);

/// `peerix` with nothing of this machine's settings in its environment.
pub fn peerix(home: &Path) -> Command {
    let mut command = Command::new(PEERIX);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env("NIX_CONF_DIR", home.join("nix"))
        .env("NIX_CONFIG", "trusted-public-keys =");
    command
}

/// How a peer is to be started.
#[derive(Clone)]
pub struct PeerOptions {
    store: String,
    flags: Vec<String>,
    defaults: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl PeerOptions {
    /// A peer over `store` that knows nobody and nothing.
    pub fn new(store: &NixStore) -> PeerOptions {
        PeerOptions {
            store: store.uri(),
            flags: Vec::new(),
            defaults: [
                ("port", "0"),
                ("relay", "off"),
                ("iroh-bind", "127.0.0.1:0"),
                ("tracker", "none"),
                ("upstream-cache", "none"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            environment: Vec::new(),
        }
    }

    /// A peer with nothing configured, as a person starts it.
    pub fn plain(store: &NixStore) -> PeerOptions {
        PeerOptions {
            defaults: Vec::new(),
            ..PeerOptions::new(store)
        }
    }

    /// Gives `--name value` instead of what every test's daemon has.
    pub fn replace_flag(mut self, name: &str, value: &str) -> PeerOptions {
        self.defaults.retain(|(known, _)| known != name);
        if name == "store" {
            self.store = value.to_owned();
            return self;
        }
        self.flag(name, value)
    }

    /// Binds iroh's socket there.
    pub fn iroh_bind(self, address: &str) -> PeerOptions {
        self.replace_flag("iroh-bind", address)
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> PeerOptions {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `--name value`.
    pub fn flag(mut self, name: &str, value: &str) -> PeerOptions {
        self.flags.push(format!("--{name}"));
        self.flags.push(value.to_owned());
        self
    }

    /// Adds `--name`.
    pub fn switch(mut self, name: &str) -> PeerOptions {
        self.flags.push(format!("--{name}"));
        self
    }

    /// Makes `peer` a configured peer.
    pub fn peer(self, peer: &Peer) -> PeerOptions {
        let ticket = peer.ticket();
        self.flag("peer", &ticket)
    }

    /// Trusts narinfos signed by `key`.
    pub fn trust(self, key: &str) -> PeerOptions {
        self.flag("trusted-public-key", key)
    }

    /// Trusts narinfos signed by `key`, and offers paths with such a signature.
    pub fn of_cache(self, key: &str) -> PeerOptions {
        self.trust(key).flag("public-cache-key", key)
    }

    /// Speaks with one tracker, over HTTP.
    pub fn of_tracker(self, tracker: &str) -> PeerOptions {
        self.replace_flag("tracker", tracker)
            .switch("allow-insecure-http")
    }

    /// Starts it in a directory of its own and waits until it answers.
    pub fn start(self) -> Peer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = directory.path().join("state");
        self.start_in(directory, state)
    }

    /// Starts it over a state directory inside `directory`, which it keeps.
    pub fn start_in(self, directory: tempfile::TempDir, state_dir: PathBuf) -> Peer {
        let mut command = self.command(directory.path(), &state_dir);
        let log = directory.path().join("log");
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("our own directory");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("the built program");
        let mut peer = Peer {
            child,
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
            state_dir,
            log,
            options: self,
        };
        peer.wait_until_ready();
        peer
    }

    /// The command line that starts it.
    pub fn command(&self, home: &Path, state_dir: &Path) -> Command {
        let mut command = peerix(home);
        command
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("daemon")
            .arg("--state-dir")
            .arg(state_dir)
            .args(["--store", &self.store])
            .args(&self.flags);
        for (name, value) in &self.defaults {
            command.arg(format!("--{name}")).arg(value);
        }
        command
    }
}

/// A running peer; killed when dropped.
pub struct Peer {
    child: Child,
    http: SocketAddr,
    directory: tempfile::TempDir,
    state_dir: PathBuf,
    log: PathBuf,
    options: PeerOptions,
}

impl Peer {
    fn wait_until_ready(&mut self) {
        let file = self.state_dir.join("http_address");
        self.http = wait_within(STARTED, "the daemon's address", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the daemon ended with {status}\n{}", self.log_text());
            }
            fs::read_to_string(&file).ok()?.trim().parse().ok()
        });
        wait_within(STARTED, "an answer from the daemon", || {
            std::net::TcpStream::connect(self.http).ok()
        });
    }

    /// Where its HTTP face listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its address for Nix.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// All it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `GET target`.
    pub fn get(&self, target: &str) -> Answer {
        http::get(self.http, target)
    }

    /// The narinfo of `store_path`.
    pub fn narinfo(&self, store_path: &str) -> Answer {
        let hash = super::nix_store::hash_part(store_path);
        self.get(&format!("/{hash}.narinfo"))
    }

    /// Waits until this peer answers a narinfo for `store_path`, and returns its fields.
    pub fn wait_for_narinfo(&self, store_path: &str) -> Vec<(String, String)> {
        wait_for("a narinfo", || {
            let answer = self.narinfo(store_path);
            assert!([200, 404].contains(&answer.status), "{answer:?}");
            (answer.status == 200).then(|| fields(&answer.text()))
        })
    }

    /// The target of the NAR of `store_path`, as its narinfo names it.
    pub fn nar_target(&self, store_path: &str) -> String {
        let narinfo = self.wait_for_narinfo(store_path);
        let url = field(&narinfo, "URL").expect("a URL").to_owned();
        format!("/{url}")
    }

    /// `peerix WORDS...` against this daemon.
    pub fn cli(&self, words: &[&str]) -> Command {
        let mut command = peerix(self.directory.path());
        command.args(words).arg("--state-dir").arg(&self.state_dir);
        command
    }

    /// Runs `peerix WORDS...` against this daemon to its end.
    pub fn try_cli(&self, words: &[&str]) -> Output {
        run(&mut self.cli(words))
    }

    /// Runs `peerix WORDS...` against this daemon and returns its standard output.
    pub fn run_cli(&self, words: &[&str]) -> String {
        run_ok(&mut self.cli(words))
    }

    /// Runs `peerix WORDS... --json` against this daemon.
    pub fn json(&self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.push("--json");
        let printed = self.run_cli(&words);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Shares `store_path` and returns the ticket.
    pub fn share(&self, store_path: &str) -> String {
        let printed = self.run_cli(&["share", "--yes", store_path]);
        printed
            .split_whitespace()
            .next_back()
            .expect("a ticket")
            .to_owned()
    }

    /// This endpoint's own ticket.
    pub fn ticket(&self) -> String {
        self.run_cli(&["ticket"]).trim().to_owned()
    }

    /// Makes `other` known to the running daemon.
    pub fn meet(&self, other: &Peer) {
        self.meet_by(&other.ticket());
    }

    /// Makes the peer of a ticket known to the running daemon.
    pub fn meet_by(&self, ticket: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let sockets = vec![self.state_dir.join("control.sock")];
            let client = peerix::control::Client::connect(&sockets)
                .await
                .expect("a daemon");
            client.add_peer(ticket).await.expect("a peer");
        });
    }

    /// What `/status` says.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.get("/status").body).expect("JSON")
    }

    /// Waits until it knows the inventories of so many others of its swarm.
    pub fn wait_for_inventories(&self, count: u64) {
        wait_for("the inventories of the others", || {
            (self.status()["swarm"]["inventories"] == count).then_some(())
        });
    }

    /// The sum of all samples of a metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").text();
        let mut sum = None;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            if rest.starts_with(['{', ' ']) {
                let value: f64 = rest.rsplit(' ').next()?.parse().ok()?;
                sum = Some(sum.unwrap_or(0.0) + value);
            }
        }
        sum
    }

    /// Peak resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line
            .and_then(|line| line.split_whitespace().nth(1))
            .expect("a figure");
        kib.parse::<u64>().expect("a figure") * 1024
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("our own child");
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the process to end.
    pub fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        wait_within(patience, "the daemon's end", || {
            self.child.try_wait().expect("our own child")
        })
    }

    /// Kills it without a warning.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as an init system does and checks how it went; returns how long it took.
    pub fn stop(&mut self) -> Duration {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait_for_end(Duration::from_secs(15));
        let taken = asked.elapsed();
        assert!(status.success(), "ended with {status}\n{}", self.log_text());
        self.assert_no_panic();
        taken
    }

    /// Kills it and starts it again over the same state.
    pub fn restart(self) -> Peer {
        let (options, state_dir) = (self.options.clone(), self.state_dir.clone());
        options.start_in(self.into_directory(), state_dir)
    }

    /// Kills it and returns the directory that holds its state.
    pub fn into_directory(mut self) -> tempfile::TempDir {
        self.kill();
        let _ = fs::remove_file(self.state_dir.join("http_address"));
        let other = tempfile::tempdir().expect("a temporary directory");
        std::mem::replace(&mut self.directory, other)
    }

    /// How many peers it is connected to.
    pub fn connected_peers(&self) -> usize {
        self.metric("peerix_peers_connected").unwrap_or(0.0) as usize
    }

    /// Fails where the log tells of a panic.
    pub fn assert_no_panic(&self) {
        let log = self.log_text();
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("log of peer {}:\n{}", self.http, self.log_text());
        } else {
            self.assert_no_panic();
        }
    }
}

/// The lines of a narinfo.
pub fn fields(narinfo: &str) -> Vec<(String, String)> {
    narinfo
        .lines()
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("not a field: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        })
        .collect()
}

/// The value of a narinfo's field.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

/// Runs `command`, which must fail with one line that contains each of `words`.
pub fn fails_saying(command: &mut Command, words: &[&str]) {
    let output = run(command);
    let text = text_of(&output);
    assert!(!output.status.success(), "{command:?} succeeded: {text}");
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines = errors
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    assert_eq!(lines, 1, "{command:?} said more than one line: {text}");
    for word in words {
        assert!(
            text.contains(word),
            "{command:?} doesn't say {word:?}: {text}"
        );
    }
}
