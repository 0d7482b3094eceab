//! The modules for NixOS, nix-darwin and home-manager, evaluated by the real Nix with nixpkgs' own
//! module system, and the units and configuration files that come out of them.

mod elsewhere;
mod files;
mod options;
mod settings;
mod tracker;
mod units;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::support::{
    ROOT,
    peer::{PEERIX, peerix},
    run, skip, text_of,
};

/// nixpkgs' `lib`, and a package directory that holds the built program.
struct Nixpkgs {
    lib: PathBuf,
    directory: tempfile::TempDir,
}

impl Nixpkgs {
    /// `NIXPKGS_LIB`, or a copy beside the checkout; `None`, and said, where there is neither.
    fn find() -> Option<Nixpkgs> {
        let named = std::env::var_os("NIXPKGS_LIB").map(PathBuf::from);
        let beside = Path::new(ROOT)
            .ancestors()
            .skip(1)
            .map(|above| above.join("shared/nixpkgs-lib"));
        let lib = named
            .into_iter()
            .chain(beside)
            .flat_map(|place| [place.join("lib"), place])
            .find(|lib| lib.join("modules.nix").exists());
        let Some(lib) = lib else {
            skip("no nixpkgs lib at $NIXPKGS_LIB: the module can't be evaluated");
            return None;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("bin")).expect("our own directory");
        std::os::unix::fs::symlink(PEERIX, directory.path().join("bin/peerix"))
            .expect("our own directory");
        Some(Nixpkgs { lib, directory })
    }

    /// A machine with `services.peerix = settings`, in Nix.
    fn machine(&self, settings: &str) -> Machine {
        Machine::read(&self.try_machine(settings), settings)
    }

    fn try_machine(&self, settings: &str) -> Output {
        self.try_services(&format!("peerix = {settings};"))
    }

    /// A machine with `services.peerix-tracker = settings`, in Nix.
    fn try_tracker(&self, settings: &str) -> Output {
        self.try_services(&format!("peerix = {{ }}; tracker = {settings};"))
    }

    fn try_services(&self, services: &str) -> Output {
        self.evaluate(&format!(
            "import {ROOT}/tests/nix/machine.nix {{ \
               lib = import {}; module = {ROOT}/module.nix; package = \"{}\"; {services} }}",
            self.lib.display(),
            self.directory.path().display(),
        ))
    }

    /// `services.peerix = settings` where `kind` says: `darwin` or `home`; with more arguments of
    /// `tests/nix/elsewhere.nix`.
    fn elsewhere(&self, kind: &str, settings: &str, arguments: &str) -> Machine {
        let output = self.evaluate(&format!(
            "import {ROOT}/tests/nix/elsewhere.nix {{ \
               lib = import {}; module = {ROOT}/nix/{kind}-module.nix; kind = \"{kind}\"; \
               package = \"{}\"; peerix = {settings}; {arguments} }}",
            self.lib.display(),
            self.directory.path().display(),
        ));
        Machine::read(&output, settings)
    }

    fn evaluate(&self, expression: &str) -> Output {
        run(nix_instantiate(self.directory.path())
            .args(["--eval", "--strict", "--json", "-E", expression]))
    }
}

/// Nix without a store and without this machine's settings.
fn nix_instantiate(home: &Path) -> Command {
    let mut command = Command::new("nix-instantiate");
    command
        .env("HOME", home)
        .env("NIX_CONF_DIR", home)
        .env("NIX_STATE_DIR", home.join("nix"))
        .env("NIX_CONFIG", "build-users-group =")
        .env_remove("NIX_PATH")
        .args(["--store", "dummy://"]);
    command
}

/// What became of one configuration.
struct Machine {
    all: Value,
    settings: String,
}

impl Machine {
    fn read(output: &Output, settings: &str) -> Machine {
        assert!(output.status.success(), "{settings}: {}", text_of(output));
        Machine {
            all: serde_json::from_slice(&output.stdout).expect("JSON"),
            settings: settings.to_owned(),
        }
    }

    fn file(&self) -> &str {
        self.all["file"].as_str().expect("a configuration file")
    }

    fn unit(&self, name: &str) -> &str {
        self.all["units"][name].as_str().expect("a unit")
    }

    fn parsed(&self) -> toml::Table {
        self.file().parse().expect("TOML")
    }

    /// Has the program check the file as it does at its start.
    fn check(&self, home: &Path) -> Output {
        let path = home.join("config.toml");
        fs::write(&path, self.file()).expect("our own directory");
        run(peerix(home).args(["check-config", "--config"]).arg(path))
    }

    /// Fails unless the program takes the file.
    fn assert_accepted(&self, home: &Path) {
        let output = self.check(home);
        let text = text_of(&output);
        assert!(
            output.status.success(),
            "{}: {text}\n{}",
            self.settings,
            self.file()
        );
    }
}
