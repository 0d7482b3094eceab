//! The crates depend on each other in one direction.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::run_ok;

#[test]
fn store_and_gossip_know_nothing_of_each_other() {
    let store = dependencies_of("peerix-store");
    let gossip = dependencies_of("peerix-gossip");
    for above in ["peerix", "peerix-gossip"] {
        assert!(!store.contains(above), "peerix-store depends on {above}");
    }
    for above in ["peerix", "peerix-store"] {
        assert!(!gossip.contains(above), "peerix-gossip depends on {above}");
    }
}

#[test]
fn the_store_knows_nothing_of_http_and_the_command_line() {
    let store = dependencies_of("peerix-store");
    for foreign in ["axum", "hyper", "clap", "indicatif", "reqwest"] {
        assert!(
            !store.contains(foreign),
            "peerix-store depends on {foreign}"
        );
    }
}

fn dependencies_of(name: &str) -> BTreeSet<String> {
    let printed = run_ok(
        std::process::Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--no-deps",
                "--offline",
                "--format-version",
                "1",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let metadata: Value = serde_json::from_str(&printed).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == name)
        .unwrap_or_else(|| panic!("no crate {name}"));
    package["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter()
        .filter_map(|dependency| dependency["name"].as_str())
        .map(str::to_owned)
        .collect()
}
