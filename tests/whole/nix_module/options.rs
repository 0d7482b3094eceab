//! The options of the modules against the daemon's table of settings and README's tables.

use std::collections::BTreeSet;

use peerix::config::setting::{self, Setting};
use serde_json::{Value, json};

use super::Nixpkgs;
use crate::{
    documents::{assert_generated, cell},
    support::{peer::peerix, run, run_ok, text_of},
};

/// A key of the public cache, to write where a key is wanted.
const KEY: &str = "a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
/// An endpoint id, to write where one is wanted.
const ID: &str = "ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6";

/// Options that are not called as their setting is.
const OTHER_NAMES: &[(&str, &str)] =
    &[("tracker", "trackerUrl"), ("private-key", "privateKeyFile")];

/// Options that say how the daemon is run, or what Nix is told.
const OF_THE_SYSTEM: &[&str] = &[
    "configureNix",
    "connectTimeout",
    "enable",
    "globalCacheTTL",
    "group",
    "openFirewall",
    "package",
    "publicKeyFile",
    "settings",
    "user",
];

/// Options that reach the daemon through the unit, since they name secrets.
const CREDENTIALS: &[&str] = &["privateKeyFile", "swarmSecretFile"];

/// What each option is set to here, in Nix, and what the daemon then has for it.
fn samples() -> Vec<(&'static str, String, Vec<String>)> {
    let one = |name, nix: &str, value: &str| (name, nix.to_owned(), vec![value.to_owned()]);
    let text = |name, value: &str| one(name, &format!("\"{value}\""), value);
    let list = |name, value: &str| one(name, &format!("[ \"{value}\" ]"), value);
    vec![
        text("trackerUrl", "https://tracker.example"),
        list("peers", &format!("{ID}@192.0.2.1:12306")),
        list("allowPeers", ID),
        list("denyPeers", ID),
        text("swarm", "friends"),
        text("announce", "shared"),
        list("relays", "off"),
        text("caFile", "/etc/ssl/own.pem"),
        text("geoipDatabase", "/usr/share/geoip.mmdb"),
        text("irohBind", "0.0.0.0:4000"),
        text("uploadLimit", "5MB"),
        text("uploadLimitPerPeer", "1MB"),
        text("uploadWhen", "unmetered"),
        text("quotaPerDay", "1GB"),
        one("quotaPerMonth", "2000000000", "2000000000"),
        text("blobQuota", "50GiB"),
        one("wireCompression", "3", "3"),
        one("proxyUpstream", "true", "true"),
        list("publicCacheKeys", KEY),
        text("publicKey", KEY),
        one("priority", "50", "50"),
        one("timeout", "2.5", "2.5"),
        one("scanInterval", "0", "0"),
        text("filterMode", "rules"),
        list("filterPatterns", "*-internal-*"),
        one("filterConcurrency", "3", "3"),
        one("noFilter", "true", "true"),
        one("noVerify", "true", "true"),
        list("upstreamCache", "https://a.example"),
        one("allowInsecureHttp", "true", "true"),
        one("lanDiscovery", "true", "true"),
    ]
}

/// The option for a setting: its key, written as Nix writes names.
fn option_of(setting: &Setting) -> String {
    let other = OTHER_NAMES.iter().find(|(flag, _)| *flag == setting.flag);
    if let Some((_, name)) = other {
        return (*name).to_owned();
    }
    let mut words = setting.key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(1);
        name + &initial.to_ascii_uppercase() + rest
    })
}

/// The setting that an option sets.
fn setting_of(option: &str) -> &'static Setting {
    if option == "publicKey" {
        return &setting::TRUSTED_PUBLIC_KEY;
    }
    setting::ALL
        .iter()
        .find(|setting| option_of(setting) == option)
        .unwrap_or_else(|| panic!("{option} is no setting of the daemon"))
}

#[test]
fn every_option_reaches_the_daemon() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let samples = samples();
    let defaults = nixpkgs.machine("{ }");
    let options = defaults.all["options"]["peerix"]["values"].as_object();
    let options: BTreeSet<&str> = options
        .expect("options")
        .keys()
        .map(String::as_str)
        .collect();
    let tried = samples.iter().map(|(name, ..)| *name);
    let known: BTreeSet<&str> = tried
        .chain(OF_THE_SYSTEM.iter().copied())
        .chain(CREDENTIALS.iter().copied())
        .collect();
    assert_eq!(
        options, known,
        "each option has a sample here, or a reason for none"
    );

    let home = nixpkgs.directory.path();
    let path = home.join("config.toml");
    for (name, nix, expected) in samples {
        let setting = setting_of(name);
        let machine = nixpkgs.machine(&format!("{{ enable = true; {name} = {nix}; }}"));
        std::fs::write(&path, machine.file()).expect("our own directory");
        let checked = run(peerix(home)
            .args(["check-config", "--json", "--config"])
            .arg(&path));
        assert!(checked.status.success(), "{name}: {}", text_of(&checked));
        let shown: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
        let (section, key) = setting.place();
        let of_the_setting = |shown: &&Value| shown["section"] == section && shown["key"] == key;
        let settings = shown.as_array().expect("settings");
        let shown = settings.iter().find(of_the_setting);
        let shown = shown.unwrap_or_else(|| panic!("{name} is not shown"));
        let origin = shown["origin"].as_str().expect("an origin");
        assert!(origin.contains("config.toml"), "{name}: {shown}");
        let values = shown["values"].as_array().expect("values");
        for value in expected {
            assert!(values.contains(&json!(value)), "{name}: {shown}");
        }
    }
}

#[test]
fn settings_reaches_the_daemon_for_what_has_no_option() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let machine = nixpkgs.machine(
        "{ enable = true; settings.hash_per_day = \"none\"; settings.store.uri = \"daemon\"; }",
    );
    let home = nixpkgs.directory.path();
    let path = home.join("config.toml");
    std::fs::write(&path, machine.file()).expect("our own directory");
    let shown = run_ok(peerix(home).args(["check-config", "--config"]).arg(&path));
    for line in ["hash_per_day = \"none\" ", "uri = \"daemon\" "] {
        let found = shown.lines().find(|shown| shown.starts_with(line));
        assert!(
            found.is_some_and(|it| it.contains("config.toml")),
            "{shown}"
        );
    }
}

/// A default as Nix writes it.
fn in_nix(value: &Value) -> String {
    match value {
        Value::Array(list) if list.is_empty() => "[ ]".to_owned(),
        Value::Object(map) if map.is_empty() => "{ }".to_owned(),
        // Nix prints a float without what it does not need.
        other => other.to_string(),
    }
}

#[test]
fn the_readme_lists_every_option_with_its_default() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let machine = nixpkgs.machine("{ }");
    for service in ["peerix", "peerix-tracker"] {
        let of = &machine.all["options"][service];
        let rows = of["descriptions"].as_object().expect("descriptions");
        let rows = rows.iter().map(|(name, description)| {
            let default = match of["defaults"].get(name) {
                Some(default) => format!("`{}`", in_nix(default)),
                None => "this version".to_owned(),
            };
            let description = description.as_str().expect("a description");
            // The first sentence; the rest is for who reads the option itself.
            let sentence = description.split_inclusive(". ").next().unwrap_or_default();
            let sentence = description
                .split_once(".\n")
                .map_or(sentence, |(first, _)| {
                    if first.len() < sentence.len() {
                        first
                    } else {
                        sentence
                    }
                });
            let what = sentence.trim().trim_end_matches('.');
            format!("| `{name}` | {} | {} |\n", cell(&default), cell(what))
        });
        let table = format!(
            "| option | default | what |\n|---|---|---|\n{}",
            rows.collect::<String>()
        );
        assert_generated("README.md", &format!("services.{service}"), &table);
    }
}
