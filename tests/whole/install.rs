//! `scripts/install`, below a root of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{ROOT, peer::PEERIX, run_ok};

/// All files and links below `root`, and what is in them; of programs their length.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("our own directory") {
            let path = entry.expect("an entry").path();
            if path.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                found.insert(path, target.into_os_string().into_encoded_bytes());
            } else if path.is_dir() {
                waiting.push(path);
            } else {
                let content = fs::read(&path).expect("a file");
                found.insert(path, content);
            }
        }
    }
    found
}

fn install(root: &Path, arguments: &[&str]) {
    let mut script = Command::new("bash");
    script.arg(Path::new(ROOT).join("scripts/install"));
    run_ok(script.arg("--root").arg(root).args(arguments));
}

#[test]
fn the_install_script_puts_all_in_place_and_takes_it_away_without_a_trace() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let root = home.path();
    let conf = root.join("etc/nix/nix.conf");
    fs::create_dir_all(root.join("etc/nix")).expect("our own directory");
    fs::create_dir_all(root.join("usr/local/bin")).expect("our own directory");
    fs::write(root.join("usr/local/bin/other"), "other").expect("our own directory");
    fs::write(
        &conf,
        "sandbox = false\nextra-substituters = http://other\n",
    )
    .expect("our own directory");
    let before = files(root);

    // Twice is once.
    install(root, &["--binary", PEERIX]);
    install(root, &["--binary", PEERIX]);
    let installed = files(root);
    for name in [
        "usr/local/bin/peerix",
        "usr/local/bin/peerix-iroh",
        "usr/local/bin/peerix-tracker",
        "usr/local/share/bash-completion/completions/peerix",
        "etc/systemd/system/peerix.service",
        "etc/systemd/system/peerix.socket",
        "etc/sysusers.d/peerix.conf",
    ] {
        assert!(installed.contains_key(&root.join(name)), "no {name}");
    }
    let told = String::from_utf8_lossy(&installed[&conf]).into_owned();
    assert_eq!(
        told.matches("extra-substituters = http://127.0.0.1:12304\n")
            .count(),
        1,
        "{told}"
    );
    run_ok(Command::new(root.join("usr/local/bin/peerix-iroh")).arg("--help"));

    // What the daemon has made meanwhile.
    for state in ["var/lib/private/peerix", "etc/peerix"] {
        fs::create_dir_all(root.join(state)).expect("our own directory");
        fs::write(root.join(state).join("file"), "").expect("our own directory");
    }
    install(root, &["--uninstall", "--keep-state"]);
    assert!(root.join("var/lib/private/peerix/file").exists());
    install(root, &["--uninstall"]);
    assert_eq!(files(root), before);
}

#[test]
fn a_nix_conf_that_was_not_there_is_gone_again() {
    let home = tempfile::tempdir().expect("a temporary directory");
    install(home.path(), &["--binary", PEERIX]);
    assert!(home.path().join("etc/nix/nix.conf").exists());
    install(home.path(), &["--uninstall"]);
    assert_eq!(files(home.path()), BTreeMap::new());
}
