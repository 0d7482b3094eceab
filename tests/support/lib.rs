//! What the whole-program tests and benchmarks share: real Nix stores, running peers, caches, and
//! providers that lie.

#![allow(
    dead_code,
    reason = "each of the two crates that include this uses a part of it"
)]

#[path = "../../gossip/tests/swarm/hostile.rs"]
pub mod gossip_hostile;
pub mod hostile;
pub mod http;
pub mod http_server;
#[path = "../../gossip/tests/swarm/loopback.rs"]
pub mod loopback;
pub mod nat;
pub mod network;
pub mod nix_store;
pub mod older;
pub mod older_peer;
pub mod older_tracker;
pub mod peer;
pub mod postgres;
pub mod relay;
pub mod shapes;
pub mod small_disk;
pub mod static_cache;
pub mod swarm_member;
pub mod tracker;
pub mod tree;

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

/// How long a condition may take to come true before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it yields something, and panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, condition)
}

/// Polls `condition` until it yields something, and panics with `what` after `patience`.
pub fn wait_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says on the test's output why it proves nothing on this machine.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
}

/// Makes TLS work in this process; every test that uses iroh calls it.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The repository's root.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs `command` and returns what it printed, or panics with all of it.
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}",
        output.status,
        text_of(&output)
    );
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("can't run {command:?}: {error}"))
}

/// Both streams of a finished process.
pub fn text_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
