//! services.peerix-tracker.

use serde_json::{Value, json};

use super::{Machine, Nixpkgs};
use crate::support::{peer::peerix, run, text_of};

/// Configurations that together set every option.
const MATRIX: &[&str] = &[
    "{ enable = true; }",
    "{ enable = true; port = 99; host = \"127.0.0.1\"; openFirewall = false; }",
    "{ enable = true; dbPath = \"/srv/100%/tracker.db\"; user = \"somebody\"; }",
    "{ enable = true; databaseFile = \"/run/keys/database\"; requireSigned = true; }",
    "{ enable = true; relay = \"0.0.0.0:443\"; relayUrl = \"https://relay.example\"; \
       relayCertificateFile = \"/run/c\"; relayKeyFile = \"/run/k\"; \
       trustedProxies = [ \"10.0.0.0/24\" ]; extraFlags = [ \"--verbose\" ]; }",
];

#[test]
fn every_option_of_the_tracker_reaches_its_command() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let help = run(peerix(nixpkgs.directory.path()).args(["tracker", "--help"]));
    let help = text_of(&help);
    let expected: [&[&str]; 5] = [
        &[
            "--host=0.0.0.0",
            "--port=12305",
            "--db-path=/var/lib/peerix-tracker/tracker.db",
        ],
        &["--host=127.0.0.1", "--port=99"],
        &["--db-path=/srv/100%%/tracker.db"],
        &["--require-signed"],
        &[
            "--relay=0.0.0.0:443",
            "--relay-url=https://relay.example",
            "--trusted-proxy=10.0.0.0/24",
            "--verbose",
        ],
    ];
    for (settings, flags) in MATRIX.iter().zip(expected) {
        let machine = Machine::read(&nixpkgs.try_tracker(settings), settings);
        assert_eq!(machine.all["failed"], json!([]), "{settings}");
        let command = machine.all["exec"]["peerix-tracker"].as_str();
        let command = command.expect("a command");
        for flag in flags {
            assert!(command.contains(flag), "{flag}: {command}");
            let name = flag.split('=').next().unwrap_or_default();
            assert!(help.contains(name), "{name} is not a flag: {help}");
        }
    }
}

#[test]
fn a_tracker_s_database_is_where_it_may_write_and_its_url_stays_a_secret() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let tracker = |settings: &str| Machine::read(&nixpkgs.try_tracker(settings), settings);
    let elsewhere = "dbPath = \"/srv/tracker.db\";";
    let refused = tracker(&format!("{{ enable = true; {elsewhere} }}"));
    assert_eq!(refused.all["failed"].as_array().map(Vec::len), Some(1));
    let taken = tracker(&format!("{{ enable = true; {elsewhere} user = \"a\"; }}"));
    assert_eq!(taken.all["failed"], json!([]));
    let unit = taken.unit("peerix-tracker.service");
    assert!(unit.contains("ReadWritePaths=/srv\n"), "{unit}");

    let secret = tracker("{ enable = true; databaseFile = \"/run/keys/database\"; }");
    let unit = secret.unit("peerix-tracker.service");
    assert!(
        unit.contains("LoadCredential=database:/run/keys/database\n"),
        "{unit}"
    );
    let script = secret.all["exec"]["peerix-tracker"].as_str();
    let script = script.expect("a script");
    assert!(
        script.contains("PEERIX_TRACKER_DATABASE=$(<") && !script.contains("--db-path"),
        "{script}"
    );
}

#[test]
fn the_tracker_s_firewall_opens_its_own_ports_alone() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    for (settings, tcp, udp) in [
        ("", json!([12305]), json!([])),
        ("relay = \"[::]:443\";", json!([12305, 443]), json!([])),
        (
            "relay = \"[::]:443\"; relayCertificateFile = \"/c\"; relayKeyFile = \"/k\";",
            json!([12305, 443]),
            json!([7842]),
        ),
        (
            "openFirewall = false; relay = \"[::]:443\";",
            json!([]),
            json!([]),
        ),
    ] {
        let settings = format!("{{ enable = true; {settings} }}");
        let machine = Machine::read(&nixpkgs.try_tracker(&settings), &settings);
        assert_eq!(machine.all["firewall"], json!({ "tcp": tcp, "udp": udp }));
        // It is a service of its own.
        assert_eq!(machine.all["file"], Value::Null);
        assert_eq!(machine.all["nix"], json!({}));
    }
}
