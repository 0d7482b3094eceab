//! What services.peerix comes to: file, firewall, socket, Nix' settings, keys.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::Nixpkgs;
use crate::support::run_ok;

/// Configurations that together set every option.
const MATRIX: &[&str] = &[
    "{ enable = true; }",
    "{ enable = true; trackerUrl = null; }",
    "{ enable = true; trackerUrl = null; upstreamCache = [ \"https://a.example\" \"https://b.example\" ]; }",
    "{ enable = true; lanDiscovery = true; openFirewall = false; }",
    "{ enable = true; filterMode = \"rules\"; filterConcurrency = 3; noFilter = true; noVerify = true; }",
    "{ enable = true; upstreamCache = null; priority = 50; timeout = 2.5; scanInterval = 0; }",
    "{ enable = true; upstreamCache = \"http://cache.example\"; allowInsecureHttp = true; }",
    "{ enable = true; user = \"nobody\"; group = \"nogroup\"; announce = \"shared\"; }",
    "{ enable = true; uploadLimit = \"5MB\"; globalCacheTTL = 60; connectTimeout = 2; }",
    "{ enable = true; uploadLimit = 5000000; configureNix = \"none\"; timeout = 3; }",
    "{ enable = true; privateKeyFile = \"/run/keys/private\"; publicKeyFile = \"/run/keys/public\"; }",
    "{ enable = true; peers = [ \"peerix\\\"quoted\" ]; publicCacheKeys = [ \"a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\" ]; settings.peers = [ ]; }",
    "{ enable = true; publicKey = \"a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\"; }",
    "{ enable = true; settings = { relays = [ \"off\" ]; blob_quota = \"50GiB\"; server.verbose = true; store.priority = null; iroh_bind = \"0.0.0.0:4000\"; }; }",
];

#[test]
fn every_configuration_evaluates_with_every_option_and_the_program_takes_its_file() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    for settings in MATRIX {
        let machine = nixpkgs.machine(settings);
        assert_eq!(machine.all["failed"], json!([]), "{settings}");
        machine.assert_accepted(nixpkgs.directory.path());
    }
}

#[test]
fn a_machine_without_peerix_has_nothing_of_it() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let machine = nixpkgs.machine("{ }");
    assert_eq!(machine.all["file"], Value::Null);
    assert_eq!(machine.all["units"], json!({}));
    assert_eq!(machine.all["nix"], json!({}));
    assert_eq!(machine.all["groups"], json!([]));
    assert_eq!(machine.all["firewall"], json!({ "tcp": [], "udp": [] }));
}

#[test]
fn the_firewall_opens_what_each_mode_needs() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    for (settings, tcp, udp) in [
        ("", json!([]), json!([12306])),
        (
            "trackerUrl = null;",
            json!([12304]),
            json!([12306, 12304, 5353]),
        ),
        (
            "lanDiscovery = true;",
            json!([12304]),
            json!([12306, 12304, 5353]),
        ),
        (
            "settings.mode = \"lan\"; settings.server.port = 99; settings.iroh_bind = \"[::]:98\";",
            json!([99]),
            json!([98, 99, 5353]),
        ),
        (
            "lanDiscovery = true; swarm = \"team\";",
            json!([]),
            json!([12306, 5353]),
        ),
        (
            "trackerUrl = null; openFirewall = false;",
            json!([]),
            json!([]),
        ),
    ] {
        let machine = nixpkgs.machine(&format!("{{ enable = true; {settings} }}"));
        let expected = json!({ "tcp": tcp, "udp": udp });
        assert_eq!(machine.all["firewall"], expected, "{settings}");
    }
}

#[test]
fn the_socket_is_the_local_network_s_in_lan_mode_alone() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    for (settings, listens) in [
        ("", "127.0.0.1:12304"),
        ("settings.server.port = 99;", "127.0.0.1:99"),
        ("trackerUrl = null;", "12304"),
        ("lanDiscovery = true;", "12304"),
        ("lanDiscovery = true; swarm = \"none\";", "12304"),
        ("trackerUrl = null; swarm = \"team\";", "127.0.0.1:12304"),
        (
            "lanDiscovery = true; settings.swarm = \"team\";",
            "127.0.0.1:12304",
        ),
    ] {
        let machine = nixpkgs.machine(&format!("{{ enable = true; {settings} }}"));
        let socket = machine.unit("peerix.socket");
        let line = format!("ListenStream={listens}");
        assert!(socket.lines().any(|has| has == line), "{socket}");
    }
}

#[test]
fn of_nix_only_substituters_and_keys_change() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let key = "a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let nix = |settings: &str| {
        nixpkgs
            .machine(&format!("{{ enable = true; {settings} }}"))
            .all["nix"]
            .clone()
    };
    assert_eq!(
        nix(&format!("publicKey = \"{key}\";")),
        json!({
            "extra-substituters": ["http://127.0.0.1:12304/"],
            "extra-trusted-public-keys": [key],
        })
    );
    assert_eq!(
        nix("settings.server.port = 99;")["extra-substituters"],
        json!(["http://127.0.0.1:99/"])
    );
    assert_eq!(
        nix("configureNix = \"none\"; globalCacheTTL = 1; connectTimeout = 1;"),
        json!({})
    );
    let asked_for = nix("globalCacheTTL = 60; connectTimeout = 2;");
    assert_eq!(asked_for["narinfo-cache-negative-ttl"], 60);
    assert_eq!(asked_for["narinfo-cache-positive-ttl"], 60);
    assert_eq!(asked_for["connect-timeout"], 2);
}

#[test]
fn in_lan_mode_only_an_upstream_that_was_named_is_used() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    for (settings, upstream) in [
        ("", "https://cache.nixos.org"),
        ("upstreamCache = null;", "none"),
        ("trackerUrl = null;", "none"),
        (
            "trackerUrl = null; upstreamCache = \"https://cache.nixos.org\";",
            "https://cache.nixos.org",
        ),
    ] {
        let file = nixpkgs
            .machine(&format!("{{ enable = true; {settings} }}"))
            .parsed();
        assert_eq!(
            file["store"]["upstream_cache"].as_str(),
            Some(upstream),
            "{settings}"
        );
        assert_eq!(
            file.get("mode").and_then(toml::Value::as_str),
            settings.contains("trackerUrl").then_some("lan")
        );
    }
}

#[test]
fn the_tracker_is_passed_on() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    for (settings, tracker) in [
        ("", Some("https://sophronesis.dev/peerix")),
        (
            "trackerUrl = \"https://tracker.example\";",
            Some("https://tracker.example"),
        ),
        ("trackerUrl = null;", None),
    ] {
        let file = nixpkgs
            .machine(&format!("{{ enable = true; {settings} }}"))
            .parsed();
        let section = file.get("tracker");
        let url = section.and_then(|section| section.get("url"));
        assert_eq!(url.and_then(toml::Value::as_str), tracker, "{settings}");
    }
}

#[test]
fn settings_stand_above_the_options_they_repeat() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let machine = nixpkgs.machine(
        "{ enable = true; priority = 7; timeout = 4.0; settings.server.priority = 9; \
           settings.blob_quota = \"1 GiB\\n\\\"\\\\\"; }",
    );
    let file = machine.parsed();
    assert_eq!(file["server"]["priority"].as_integer(), Some(9));
    assert_eq!(file["blob_quota"].as_str(), Some("1 GiB\n\"\\"));
    for wrong in [
        "{ enable = true; unheardOf = 1; }",
        "{ enable = true; filterMode = \"all\"; }",
        "{ enable = true; settings.a.b.c = 1; }",
        "{ enable = true; settings.a = x: x; }",
    ] {
        assert!(!nixpkgs.try_machine(wrong).status.success(), "{wrong}");
    }
    for refused in [
        "{ enable = true; swarmSecretFile = \"/run/secret\"; }",
        "{ enable = true; settings.server.port = 0; }",
        "{ enable = true; settings.state_dir = \"/srv\"; }",
    ] {
        let failed = &nixpkgs.machine(refused).all["failed"];
        assert_eq!(failed.as_array().map(Vec::len), Some(1), "{refused}");
    }
}

#[test]
fn keys_stay_out_of_the_store() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let home = nixpkgs.directory.path();
    let key = "a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    fs::write(home.join("public"), format!("{key}\n")).expect("our own directory");
    let public = home.join("public").display().to_string();

    // A file of the configuration is known now.
    let now = nixpkgs.machine(&format!("{{ enable = true; publicKeyFile = {public}; }}"));
    assert_eq!(now.all["nix"]["extra-trusted-public-keys"], json!([key]));
    let trusted = &now.parsed()["trusted_public_keys"];
    assert_eq!(trusted.as_array().map(Vec::len), Some(1));
    assert_eq!(now.all["warnings"], json!([]));

    // One of run time is not, though it can be read here.
    let later = nixpkgs.machine(&format!(
        "{{ enable = true; publicKeyFile = \"{public}\"; privateKeyFile = \"/run/keys/private\"; \
            settings.trusted_public_keys = [ \"b-1:it's\" ]; }}"
    ));
    let everything = later.all.to_string();
    assert!(!everything.contains(key), "{everything}");
    assert_eq!(later.all["warnings"].as_array().map(Vec::len), Some(1));
    let unit = later.unit("peerix.service");
    assert!(
        unit.contains("LoadCredential=private-key:/run/keys/private\n"),
        "{unit}"
    );
    assert!(
        unit.contains("Environment=PEERIX_PRIVATE_KEY=%d/private-key\n"),
        "{unit}"
    );
    assert!(
        unit.contains(&format!("LoadCredential=public-key:{public}\n")),
        "{unit}"
    );

    // The unit reads it when it starts, and passes it beside the others.
    let script = later.all["exec"]["peerix"].as_str().expect("a script");
    let script = script.strip_prefix("script:").expect("a script");
    let credentials = home.join("credentials");
    fs::create_dir(&credentials).expect("our own directory");
    fs::rename(home.join("public"), credentials.join("public-key")).expect("our own directory");
    fs::remove_file(home.join("bin/peerix")).expect("our own directory");
    fs::write(home.join("bin/peerix"), "#!/bin/sh\nprintf '<%s>' \"$@\"\n")
        .expect("our own directory");
    run_ok(Command::new("chmod").arg("+x").arg(home.join("bin/peerix")));
    let said = run_ok(
        Command::new("bash")
            .args(["-c", script])
            .env("CREDENTIALS_DIRECTORY", &credentials),
    );
    assert_eq!(
        said,
        format!(
            "<daemon><--config></etc/peerix/config.toml><--trusted-public-key><{key}>\
             <--trusted-public-key><b-1:it's>"
        )
    );

    // As a path it would be copied into the store by being named.
    let secret = format!("{{ enable = true; privateKeyFile = {public}; }}");
    assert!(!nixpkgs.try_machine(&secret).status.success());
}
