//! The Nix files as such.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Machine, Nixpkgs, nix_instantiate};
use crate::{
    documents,
    support::{ROOT, run_ok, text_of},
};

#[test]
fn every_nix_file_parses() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for file in [
        "default.nix",
        "flake.nix",
        "module.nix",
        "package.nix",
        "nix/check-module.nix",
        "nix/daemon-config.nix",
        "nix/darwin-module.nix",
        "nix/hardening.nix",
        "nix/home-module.nix",
        "nix/options.nix",
        "nix/tracker-module.nix",
        "nix/two-machines.nix",
        "nix/with-tracker.nix",
        "tests/nix/elsewhere.nix",
        "tests/nix/machine.nix",
    ] {
        run_ok(
            nix_instantiate(home.path())
                .arg("--parse")
                .arg(Path::new(ROOT).join(file)),
        );
    }
}

#[test]
fn the_flake_has_what_it_says() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let output = nixpkgs.evaluate(&format!(
        "let \
           lib = import {}; \
           pkgs = {{ callPackage = _: _: {{ name = \"peerix\"; type = \"derivation\"; meta.mainProgram = \"peerix\"; outPath = \"/peerix\"; }}; }}; \
           nixpkgs = {{ inherit lib; legacyPackages = lib.genAttrs lib.systems.flakeExposed (_: pkgs); }}; \
           self = (import {ROOT}/flake.nix).outputs {{ inherit self nixpkgs; }}; \
           files = lib.mapAttrs (_: toString); \
         in {{ \
           names = lib.attrNames self; \
           systems = lib.attrNames self.packages; \
           packages = lib.attrNames self.packages.x86_64-linux; \
           program = self.apps.aarch64-darwin.default.program; \
           modules = map files [ self.nixosModules self.darwinModules self.homeModules ]; \
           overlay = (self.overlays.default pkgs {{ }}).peerix.name; \
         }}",
        nixpkgs.lib.display()
    ));
    assert!(output.status.success(), "{}", text_of(&output));
    let flake: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let module = |name: &str| {
        let file = format!("{ROOT}/{name}");
        json!({ "default": file, "peerix": file })
    };
    assert_eq!(
        flake,
        json!({
            "names": [
                "apps", "checks", "darwinModules", "devShells", "homeModules", "nixosModules",
                "overlays", "packages",
            ],
            "systems": ["aarch64-darwin", "aarch64-linux", "x86_64-darwin", "x86_64-linux"],
            "packages": ["default", "peerix"],
            "program": "/peerix/bin/peerix",
            "modules": [
                module("module.nix"), module("nix/darwin-module.nix"), module("nix/home-module.nix"),
            ],
            "overlay": "peerix",
        })
    );
}

/// Blocks that configure something are what a person pastes: each is evaluated, and what it makes of
/// the daemon's configuration has to be taken by the daemon.
#[test]
fn every_configuration_in_the_documents_evaluates() {
    let Some(nixpkgs) = Nixpkgs::find() else {
        return;
    };
    let mut seen = 0;
    for (path, text) in documents::documents() {
        for block in documents::blocks(&text, "nix") {
            if !block.contains("services.peerix") || block.contains("inputs.") {
                continue;
            }
            let services = format!(
                "peerix = ({{ {block} }}).services.peerix or {{ }}; \
                 tracker = ({{ {block} }}).services.peerix-tracker or {{ }};"
            );
            let machine = Machine::read(&nixpkgs.try_services(&services), block);
            assert_eq!(machine.all["failed"], json!([]), "{}", path.display());
            if machine.all["file"].is_string() {
                machine.assert_accepted(nixpkgs.directory.path());
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} configurations were found");
}

/// The files of a crate's sources that stand in `directory` and below.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory of ours");
    entries
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Nix builds from the files that package.nix lists and no others.
#[test]
fn the_package_is_built_from_all_that_the_program_includes() {
    let root = Path::new(ROOT);
    let package = fs::read_to_string(root.join("package.nix")).expect("a file of ours");
    let listed: Vec<PathBuf> = package
        .lines()
        .filter_map(|line| line.trim().strip_prefix("./"))
        .map(|name| root.join(name))
        .collect();
    let mut seen = 0;
    for source in sources(&root.join("src")) {
        let text = fs::read_to_string(&source).expect("a source");
        for part in text.split("include_").skip(1) {
            let named = part.split('"').nth(1).unwrap_or_default();
            if !named.starts_with("../") {
                continue;
            }
            let mut path = source.parent().unwrap_or(root).to_owned();
            for component in Path::new(named).components() {
                match component {
                    Component::ParentDir => {
                        path.pop();
                    }
                    other => path.push(other),
                }
            }
            let is_listed = listed.iter().any(|from| path.starts_with(from));
            assert!(is_listed, "package.nix lacks {}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 0, "nothing is included");
}
