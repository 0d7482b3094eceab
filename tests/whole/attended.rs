//! What is asked of a person on a terminal: a real one, which `script` of util-linux makes.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

use crate::support::{
    nix_store::{NixStore, PathSpec},
    peer::PeerOptions,
    tree::Node,
    wait_for,
};

/// Starts `command` on a terminal of its own; what it writes there comes out of ours.
fn on_a_terminal(command: &Command) -> Child {
    let quoted = |word: &std::ffi::OsStr| {
        let word = word.to_str().expect("UTF-8");
        format!("'{}'", word.replace('\'', "'\\''"))
    };
    let mut line = quoted(command.get_program());
    for argument in command.get_args() {
        line = format!("{line} {}", quoted(argument));
    }
    let mut script = Command::new("script");
    script.env_clear();
    for (name, value) in command.get_envs() {
        script.env(name, value.expect("a value"));
    }
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux")
}

/// Reads what is on the terminal until `text` is there.
fn read_until(terminal: &mut impl Read, text: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    while !seen.contains(text) {
        match terminal.read(&mut buffer) {
            Ok(0) | Err(_) => panic!("`{text}` never came: {seen}"),
            Ok(length) => seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    seen
}

/// Shares what no public cache has, with `answer` to what is asked then; returns the exit code,
/// what was asked and what was said afterwards.
fn answered(answer: &str) -> (Option<i32>, String, String) {
    let store = NixStore::new();
    let path = store.add(PathSpec::new("own", Node::text("own")));
    let peer = PeerOptions::new(&store).start();
    let mut child = on_a_terminal(&peer.cli(&["share", &path]));
    let mut terminal = child.stdout.take().expect("a pipe");
    let question = read_until(&mut terminal, "[y/N]");
    let mut keys = child.stdin.take().expect("a pipe");
    keys.write_all(answer.as_bytes()).expect("a terminal");
    let mut rest = String::new();
    terminal.read_to_string(&mut rest).expect("text");
    let status = wait_for("the command's end", || {
        child.try_wait().expect("our own child")
    });
    assert!(question.contains(&path), "{question}");
    let shared = peer.json(&["shared"]).as_array().map(Vec::len);
    assert_eq!(shared, Some(usize::from(status.success())), "{rest}");
    (status.code(), question, rest)
}

#[test]
fn share_asks_on_a_terminal_and_takes_yes() {
    let (code, question, rest) = answered("y\n");
    assert_eq!(code, Some(0), "{rest}");
    let last = rest.split_whitespace().next_back().unwrap_or_default();
    assert!(last.starts_with("peerix"), "{rest}");
    for text in ["No public cache has these", "a key of this machine is made"] {
        assert!(question.contains(text), "{text}: {question}");
    }
}

#[test]
fn share_asks_on_a_terminal_and_anything_else_is_no() {
    for answer in ["\n", "n\n", "perhaps\n"] {
        let (code, _, rest) = answered(answer);
        assert_eq!(code, Some(4), "{answer:?}: {rest}");
        assert!(rest.contains("nothing was shared"), "{rest}");
    }
}
