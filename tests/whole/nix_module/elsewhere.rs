//! The modules for nix-darwin and home-manager.

use serde_json::{Value, json};

use super::Nixpkgs;

/// Settings that set what differs between the systems.
const WITH_KEYS: &str = "{ enable = true; privateKeyFile = \"/k/private\"; \
    swarmSecretFile = \"/k/secret\"; publicKeyFile = \"/k/public\"; trackerUrl = null; }";

#[test]
fn nix_darwin_runs_the_daemon_under_launchd_as_a_user_of_its_own() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let plain = nixpkgs.elsewhere("darwin", "{ enable = true; }", "");
    assert_eq!(plain.all["failed"], json!([]));
    assert_eq!(plain.all["warnings"], json!([]));
    assert_eq!(
        plain.all["nix"]["extra-substituters"],
        json!(["http://127.0.0.1:12304/"])
    );
    assert_eq!(plain.all["users"]["knownUsers"], json!(["_peerix"]));
    plain.assert_accepted(nixpkgs.directory.path());
    let command = plain.all["launchd"]["peerix"]["serviceConfig"]["ProgramArguments"][2]
        .as_str()
        .expect("a command");
    assert!(
        command.contains("exec /usr/sbin/chroot -u _peerix -g _peerix / "),
        "{command}"
    );
    assert_eq!(
        plain.all["launchd"]["peerix-rescan"]["serviceConfig"]["WatchPaths"],
        json!(["/run/current-system"])
    );

    let keys = nixpkgs.elsewhere("darwin", WITH_KEYS, "");
    let file = keys.parsed();
    assert_eq!(file["signing"]["private_key"].as_str(), Some("/k/private"));
    assert_eq!(file["mode"].as_str(), Some("lan"));
    assert_eq!(keys.all["warnings"].as_array().map(Vec::len), Some(1));
    let other = nixpkgs.elsewhere("darwin", "{ enable = true; user = \"me\"; }", "");
    assert_eq!(other.all["users"]["knownUsers"], json!([]));
    let none = nixpkgs.elsewhere("darwin", "{ }", "");
    assert_eq!(
        (&none.all["launchd"], &none.all["file"]),
        (&json!({}), &Value::Null)
    );
}

#[test]
fn home_manager_runs_a_user_s_own_daemon() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let linux = nixpkgs.elsewhere("home", "{ enable = true; }", "");
    assert_eq!(linux.all["failed"], json!([]));
    let service = &linux.all["systemd"]["services"]["peerix"];
    let started = service["Service"]["ExecStart"].as_str().expect("a command");
    assert!(
        started.contains("/bin/peerix daemon --config 'text:"),
        "{started}"
    );
    assert_eq!(
        linux.all["systemd"]["sockets"]["peerix"]["Socket"]["ListenStream"],
        "127.0.0.1:12304"
    );
    assert_eq!(linux.all["launchd"], json!({}));
    assert_eq!(
        linux.all["nix"]["extra-substituters"],
        json!(["http://127.0.0.1:12304/"])
    );
    // home-manager refuses settings of a Nix that it was not told of.
    let without = nixpkgs.elsewhere("home", "{ enable = true; }", "withNix = false;");
    assert_eq!(without.all["nix"], json!({}));

    let mac = nixpkgs.elsewhere("home", WITH_KEYS, "system = \"darwin\";");
    assert_eq!(mac.all["systemd"], json!({ "services": {}, "sockets": {} }));
    let agent = &mac.all["launchd"]["peerix"]["config"]["ProgramArguments"][2];
    let agent = agent.as_str().expect("a command");
    assert!(agent.contains("key=$(</k/public)"), "{agent}");
    assert!(
        agent.contains("swarm_secret_file = \"/k/secret\""),
        "{agent}"
    );
}
