//! The crates depend on each other in one direction.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

use crate::support::{ROOT, run_ok, skip};

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

/// `cargo deny check licenses`, for those who have no cargo-deny: the same list, deny.toml.
#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let list = std::fs::read_to_string(Path::new(ROOT).join("deny.toml")).expect("deny.toml");
    let list: toml::Table = list.parse().expect("TOML");
    let licenses = &list["licenses"];
    let words = |value: &toml::Value| -> BTreeSet<String> {
        let array = value.as_array().expect("a list");
        array
            .iter()
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect()
    };
    let allowed = words(&licenses["allow"]);
    let exceptions = licenses["exceptions"].as_array().expect("a list");
    // Of other systems not everything is here, and nothing is fetched for a test.
    let said = run_ok(Command::new("rustc").arg("-vV"));
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.expect("a host");
    let metadata = metadata(&["--locked", "--filter-platform", host]);
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 300, "only {} packages", packages.len());
    for package in packages {
        let (name, license) = (&package["name"], &package["license"]);
        let mut allowed = allowed.clone();
        for exception in exceptions
            .iter()
            .filter(|it| it["crate"].as_str() == name.as_str())
        {
            allowed.extend(words(&exception["allow"]));
        }
        let expression = license.as_str().unwrap_or_default();
        assert!(
            is_allowed(expression, &allowed),
            "{name} is under {license}, which deny.toml does not allow"
        );
    }
}

/// Whether a licence expression of SPDX, with the older `/` for `OR`, can be met by what is allowed.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    // Outside of parentheses OR binds less than AND.
    let parts = |operator: &str| -> Vec<String> {
        let mut parts = vec![String::new()];
        let mut depth = 0_i32;
        let spaced = expression
            .replace('/', " OR ")
            .replace('(', "( ")
            .replace(')', " )");
        for word in spaced.split_whitespace() {
            depth += i32::from(word == "(") - i32::from(word == ")");
            match parts.last_mut() {
                Some(_) if depth == 0 && word == operator => parts.push(String::new()),
                Some(part) => *part = format!("{part} {word}").trim().to_owned(),
                None => {}
            }
        }
        parts
    };
    let (either, all) = (parts("OR"), parts("AND"));
    if either.len() > 1 {
        return either.iter().any(|part| is_allowed(part, allowed));
    }
    if all.len() > 1 {
        return all.iter().all(|part| is_allowed(part, allowed));
    }
    match expression
        .trim()
        .strip_prefix('(')
        .and_then(|it| it.strip_suffix(')'))
    {
        Some(inner) => is_allowed(inner, allowed),
        None => allowed.contains(expression.trim()),
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_has_them() {
    let allowed: BTreeSet<String> = ["MIT", "ISC"].map(str::to_owned).into();
    for met in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "MIT AND ISC",
        "(GPL-3.0 OR MIT) AND ISC",
    ] {
        assert!(is_allowed(met, &allowed), "{met}");
    }
    for not_met in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR ISC) AND GPL-3.0",
        "MIT WITH x",
    ] {
        assert!(!is_allowed(not_met, &allowed), "{not_met}");
    }
}

fn dependencies_of(name: &str) -> BTreeSet<String> {
    let metadata = metadata(&["--no-deps"]);
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

#[test]
fn the_bill_of_materials_names_every_crate_with_licence_and_checksum() {
    if Command::new("jq").arg("--version").output().is_err() {
        return skip("no jq: Debian's is in the package jq");
    }
    let printed = run_ok(Command::new("bash").arg(Path::new(ROOT).join("scripts/sbom")));
    let bill: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().expect("components");
    let has = |name: &str| components.iter().any(|it| it["name"] == name);
    assert!(has("iroh") && has("redb"), "{bill}");
    // What only tests use is no part of it.
    assert!(!has("proptest"), "{bill}");
    for component in components {
        let licence = component["licenses"][0]["expression"].as_str();
        assert!(licence.is_some_and(|it| !it.is_empty()), "{component}");
        let is_ours = component["name"]
            .as_str()
            .is_some_and(|it| it.starts_with("peerix-"));
        assert!(
            is_ours || component["hashes"][0]["content"].is_string(),
            "{component}"
        );
    }
}

/// What Cargo says of the workspace.
fn metadata(arguments: &[&str]) -> Value {
    let printed = run_ok(
        Command::new(env!("CARGO"))
            .args(["metadata", "--offline", "--format-version", "1"])
            .args(arguments)
            .current_dir(ROOT),
    );
    serde_json::from_str(&printed).expect("JSON")
}
