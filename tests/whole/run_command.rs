//! `peerix run`: a daemon for the time of a command.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    nix_store::{Key, NixStore},
    peer::{PEERIX, Peer, PeerOptions},
    run,
    shapes::add_closure,
    text_of, wait_for,
};

/// `peerix run` in the surroundings of `store`, and temporary files in `temporary`.
fn peerix_run(store: &NixStore, temporary: &Path) -> Command {
    let mut command = store.program(PEERIX);
    command
        .env("TMPDIR", temporary)
        .args(["run", "--store", &store.uri(), "--relay", "off"])
        .args(["--iroh-bind", "127.0.0.1:0", "--tracker", "none"])
        .args(["--upstream-cache", "none"]);
    command
}

fn is_empty(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).expect("a directory");
    entries.next().is_none()
}

/// A peer that shares a signed closure of four paths; the last two are the program and the ticket.
fn shared_program(key: &Key) -> (NixStore, Peer, String, String) {
    let a = NixStore::new();
    let program = add_closure(&a, "program", 3, 200_000);
    a.sign(key, &[&program]);
    let sharer = PeerOptions::new(&a).start();
    let ticket = sharer.share(&program);
    (a, sharer, program, ticket)
}

#[test]
fn nix_fetches_from_a_peer_for_the_time_of_a_command() {
    let key = Key::generate("sharer-1");
    let (_a, _sharer, program, ticket) = shared_program(&key);
    let b = NixStore::new();
    let temporary = tempfile::tempdir().expect("a temporary directory");

    let output = run(peerix_run(&b, temporary.path())
        .args(["--peer", &ticket, "--trusted-public-key", &key.public])
        .args(["--", "nix-store", "--store", &b.uri()])
        .args(["--max-jobs", "0", "--realise", &program]));

    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        program,
        "standard output is the command's"
    );
    b.verify_contents();
    assert_eq!(b.closure(&program).len(), 4);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("peerix: "), "{said}");
    assert!(is_empty(temporary.path()), "something was left behind");
}

#[test]
fn a_summary_tells_of_one_command_alone_whatever_the_state_directory_remembers() {
    let key = Key::generate("sharer-1");
    let (_a, _sharer, program, ticket) = shared_program(&key);
    let b = NixStore::new();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let state = temporary.path().join("state");
    let summary_of = |command: &[&str]| -> Value {
        let output = run(peerix_run(&b, temporary.path())
            .arg("--json")
            .arg("--state-dir")
            .arg(&state)
            .args(["--peer", &ticket, "--trusted-public-key", &key.public])
            .arg("--")
            .args(command));
        assert!(output.status.success(), "{}", text_of(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        let summary = said.lines().find(|line| line.starts_with('{'));
        serde_json::from_str(summary.expect("a summary")).expect("JSON")
    };
    let realise = ["nix-store", "--store", &b.uri(), "--max-jobs", "0"];
    let first = summary_of(&[&realise[..], &["--realise", &program]].concat());
    let received = |summary: &Value| summary["received"]["lan"].as_u64();
    assert_eq!(first["nars_received"], 4, "{first}");
    assert!(received(&first) > Some(600_000), "{first}");
    let second = summary_of(&["true"]);
    assert_eq!(second["requests"], 0, "{second}");
    assert_eq!(second["nars_received"], 0, "{second}");
    assert_eq!(received(&second), Some(0), "{second}");
    assert!(second["since"].as_f64() > first["since"].as_f64());
}

#[test]
fn the_exit_is_that_of_the_command() {
    let store = NixStore::new();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let exit = |words: &[&str]| {
        let output = run(peerix_run(&store, temporary.path()).arg("--").args(words));
        output.status.code()
    };
    assert_eq!(exit(&["true"]), Some(0));
    assert_eq!(exit(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(exit(&["sh", "-c", "kill -TERM $$"]), Some(128 + 15));
    assert_eq!(exit(&["there-is-no-such-command"]), Some(127));
    assert_eq!(exit(&["/"]), Some(126));
    let output = run(peerix_run(&store, temporary.path())
        .args(["--peer", "nonsense"])
        .args(["--", "true"]));
    assert_eq!(output.status.code(), Some(125), "{}", text_of(&output));
    assert!(is_empty(temporary.path()), "something was left behind");
}

#[test]
fn the_command_finds_the_daemon_and_what_nix_config_said_before() {
    let store = NixStore::new();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let script = format!("echo \"$NIX_CONFIG\"; '{PEERIX}' status --json");
    let output = run(peerix_run(&store, temporary.path())
        .env("NIX_CONFIG", "cores = 3")
        .args(["--", "sh", "-c", &script]));
    assert!(output.status.success(), "{}", text_of(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    for text in [
        "cores = 3\n",
        "extra-substituters = http://127.0.0.1:",
        "node_id",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn signals_are_passed_on() {
    let store = NixStore::new();
    let temporary = tempfile::tempdir().expect("a temporary directory");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let script = "trap 'exit 9' TERM INT HUP; echo up; while :; do sleep 0.05; done";
        let mut command = peerix_run(&store, temporary.path());
        let mut child = command
            .args(["--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built program");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "up\n");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("our own child");
        let status = wait_for("the command's end", || {
            child.try_wait().expect("our own child")
        });
        assert_eq!(status.code(), Some(9), "{signal:?}");
    }
}
