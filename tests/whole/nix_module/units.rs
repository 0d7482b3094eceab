//! The units, as Debian's systemd judges them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{Machine, Nixpkgs, ROOT};
use crate::support::{run, skip, text_of};

/// What systemd may find fault with in a unit at most, in tenths, of 100.
const EXPOSURE: &str = "15";

/// Whether systemd can be asked; says why where it can't.
fn systemd_is_here() -> bool {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if version.is_err() {
        skip("no systemd-analyze: Debian's is in the package systemd");
    }
    version.is_ok()
}

/// Fails unless systemd understands all units, and finds `service` well hardened.
fn assert_right_and_hardened(units: &[PathBuf], service: &Path) {
    let verified = run(Command::new("systemd-analyze").arg("verify").args(units));
    let text = text_of(&verified);
    assert!(verified.status.success() && text.is_empty(), "{text}");
    let secure = run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .args(["--threshold", EXPOSURE])
        .arg(service));
    assert!(secure.status.success(), "{}", text_of(&secure));
}

/// Writes the units of a machine to files.
fn written(machine: &Machine, directory: &Path) -> Vec<PathBuf> {
    let units = machine.all["units"].as_object().expect("units");
    let write = |(name, text): (&String, &Value)| {
        let path = directory.join(name);
        fs::write(&path, text.as_str().expect("text")).expect("our own directory");
        path
    };
    units.iter().map(write).collect()
}

#[test]
fn the_units_are_right_and_hardened() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    if !systemd_is_here() {
        return;
    }
    for settings in [
        "{ enable = true; }",
        "{ enable = true; trackerUrl = null; user = \"daemon\"; group = \"daemon\"; \
           privateKeyFile = \"/run/key\"; swarmSecretFile = \"/run/secret\"; }",
    ] {
        let machine = nixpkgs.machine(settings);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let units = written(&machine, directory.path());
        assert_eq!(units.len(), 4, "{units:?}");
        assert_right_and_hardened(&units, &directory.path().join("peerix.service"));

        let unit = machine.unit("peerix.service");
        for line in [
            "Type=notify",
            "Requires=peerix.socket",
            "StateDirectory=peerix",
            "RuntimeDirectory=peerix",
        ] {
            assert!(unit.lines().any(|has| has == line), "no {line}: {unit}");
        }
        assert!(
            unit.contains("ExecReload=/usr/bin/kill -HUP $MAINPID"),
            "{unit}"
        );
        let watches = machine.unit("peerix-rescan.path");
        assert!(
            watches.contains("PathChanged=/run/current-system"),
            "{watches}"
        );
        let rescan = machine.unit("peerix-rescan.service");
        assert!(rescan.contains("reload peerix.service"), "{rescan}");
    }
}

#[test]
fn the_tracker_s_unit_is_right_and_hardened() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    if !systemd_is_here() {
        return;
    }
    for settings in [
        "{ enable = true; }",
        "{ enable = true; dbPath = \"/tmp/tracker.db\"; user = \"daemon\"; relay = \"0.0.0.0:1\"; }",
    ] {
        let machine = Machine::read(&nixpkgs.try_tracker(settings), settings);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let units = written(&machine, directory.path());
        assert_eq!(units.len(), 1, "{units:?}");
        assert_right_and_hardened(&units, &directory.path().join("peerix-tracker.service"));
    }
}

/// The lines of a unit's section that say what it must not do.
fn kept_from(unit: &str) -> Vec<&str> {
    let is_about_that = |line: &&str| {
        let key = line.split('=').next().unwrap_or_default();
        key.starts_with("Protect")
            || key.starts_with("Private")
            || key.starts_with("Restrict")
            || key.starts_with("SystemCall")
            || key.ends_with("Capabilities")
            || [
                "CapabilityBoundingSet",
                "DevicePolicy",
                "DynamicUser",
                "KeyringMode",
                "LockPersonality",
                "MemoryDenyWriteExecute",
                "NoNewPrivileges",
                "ProcSubset",
                "RemoveIPC",
                "StateDirectoryMode",
                "UMask",
            ]
            .contains(&key)
    };
    let mut lines: Vec<&str> = unit.lines().filter(is_about_that).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_units_of_other_distributions_are_as_those_of_nixos() {
    let contrib = Path::new(ROOT).join("contrib/systemd");
    let read = |name: &str| fs::read_to_string(contrib.join(name)).expect("a file of ours");
    let service = read("peerix.service");
    if systemd_is_here() {
        // Where the program is not installed, systemd would rather have one that is there.
        let directory = tempfile::tempdir().expect("a temporary directory");
        let copies: Vec<PathBuf> = ["peerix.service", "peerix.socket"]
            .into_iter()
            .map(|name| {
                let copy = directory.path().join(name);
                let text = read(name).replace("/usr/local/bin/peerix", "/bin/true");
                fs::write(&copy, text).expect("our own directory");
                copy
            })
            .collect();
        assert_right_and_hardened(&copies, &copies[0]);
    }
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let machine = nixpkgs.machine("{ enable = true; }");
    assert_eq!(
        kept_from(&service),
        kept_from(machine.unit("peerix.service"))
    );
}
