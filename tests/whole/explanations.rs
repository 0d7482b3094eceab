//! `peerix why` and `peerix doctor`: what is told when something is not as hoped.

use std::process::Output;

use serde_json::Value;

use crate::support::{
    nix_store::{Key, NixStore, PathSpec},
    peer::{PEERIX, PeerOptions},
    run, text_of,
    tree::Node,
    wait_for,
};

fn reason<'a>(report: &'a Value, verdict: &str) -> &'a str {
    report[verdict]["reason"].as_str().unwrap_or_default()
}

/// What `why` printed, whatever its exit code says.
fn told(output: &Output) -> Value {
    let report = serde_json::from_slice(&output.stdout);
    report.unwrap_or_else(|error| panic!("{error}: {}", text_of(output)))
}

#[test]
fn why_tells_who_has_a_path_and_whom_it_is_given_to() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();

    // Nobody has shared it: it is kept back there, and so not found here.
    let there: Value = wait_for("the peer's refusal", || {
        let output = receiver.try_cli(&["why", "--json", &path]);
        assert_eq!(output.status.code(), Some(6), "{}", text_of(&output));
        let report = told(&sharer.try_cli(&["why", "--json", &path]));
        (!report["recent"].as_array().expect("a list").is_empty()).then_some(report)
    });
    assert_eq!(there["here"], "in Nix's store");
    assert_eq!(there["offered"]["yes"], false);
    assert!(
        reason(&there, "offered").contains("peerix share"),
        "{there}"
    );
    let asked = &there["recent"][0];
    assert_eq!(asked["event"], "asked");
    assert!(
        asked["answer"]
            .as_str()
            .expect("text")
            .starts_with("refused"),
        "{there}"
    );

    sharer.share(&path);
    let here = wait_for("the path", || {
        let output = receiver.try_cli(&["why", "--json", &path]);
        let report = told(&output);
        (output.status.code() == Some(0)).then_some(report)
    });
    assert_eq!(here["store_path"], path.as_str());
    let id = sharer.status()["node_id"].clone();
    let answers = here["answers"].as_array().expect("a list");
    let answer = answers.iter().find(|answer| answer["who"] == id);
    let answer = answer.expect("the sharer's answer");
    assert_eq!(answer["trusted"]["yes"], true, "{here}");
    assert!(answer["took_ms"].is_number());

    // What Nix asked is remembered, and people are told all of it.
    assert_eq!(receiver.narinfo(&path).status, 200);
    let text = receiver.run_cli(&["why", &path]);
    for word in [
        "for Nix",
        "asked now",
        "Nix asked, and was told of it",
        &path,
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn why_names_a_signature_that_is_not_trusted() {
    let key = Key::generate("stranger-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b).peer(&sharer).start();
    wait_for("the verdict", || {
        let output = receiver.try_cli(&["why", "--json", &path]);
        let report = told(&output);
        reason(&report, "conclusion")
            .contains("stranger-1")
            .then_some(())
    });
}

#[test]
fn doctor_finds_what_is_missing_and_what_is_well() {
    let store = NixStore::new();
    let peer = PeerOptions::new(&store).start();
    let state_dir = peer.state_dir().to_str().expect("UTF-8");
    let examine = |words: &[&str]| -> (Option<i32>, Vec<Value>) {
        let output = run(store
            .program(PEERIX)
            .args([
                "doctor",
                "--json",
                "--store",
                &store.uri(),
                "--relay",
                "off",
            ])
            .args(["--tracker", "none", "--upstream-cache", "none"])
            .args(words));
        let findings = serde_json::from_slice(&output.stdout);
        let findings = findings.unwrap_or_else(|error| panic!("{error}: {}", text_of(&output)));
        (output.status.code(), findings)
    };
    let outcome = |findings: &[Value], name: &str| {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        let finding = finding.unwrap_or_else(|| panic!("{name}: {findings:?}"));
        finding["outcome"].as_str().expect("a word").to_owned()
    };

    let (code, findings) = examine(&["--state-dir", state_dir]);
    // The store of a test trusts no key.
    assert_eq!(code, Some(1));
    assert_eq!(outcome(&findings, "trusted keys"), "failure");
    assert_eq!(outcome(&findings, "nix database"), "ok");
    assert_eq!(outcome(&findings, "substituter"), "warning");
    assert_eq!(outcome(&findings, "daemon"), "warning", "it knows nobody");

    // Without a daemon, and with its port taken by somebody else.
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let elsewhere = elsewhere.path().to_str().expect("UTF-8");
    let port = peer.http().port().to_string();
    let (_, findings) = examine(&["--state-dir", elsewhere, "--port", &port]);
    assert_eq!(outcome(&findings, "port"), "failure");
    assert_eq!(outcome(&findings, "nix database"), "ok");
    let text = serde_json::to_string(&findings).expect("JSON");
    assert!(text.contains(&format!("pid {}", peer.pid())), "{text}");
}
