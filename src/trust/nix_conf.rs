//! What matters here of Nix's own configuration, read as Nix reads it: the public keys that it
//! trusts first of all.
//!
//! Nix applies the system's `nix.conf` (with what it includes), then the user's files from the
//! least to the most important, then the text of `NIX_CONFIG`. `trusted-public-keys` replaces what
//! was set before, `extra-trusted-public-keys` adds to it. Keys of `secret-key-files`, which Nix
//! trusts too, are not looked at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use peerix_store::nix::TrustedPublicKey;

/// The key of cache.nixos.org, which Nix trusts unless it is told otherwise.
pub const DEFAULT_PUBLIC_KEY: &str =
    "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Longest configuration file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// Most files that one configuration may include; it also ends a circle of them.
const MAX_INCLUDES: usize = 64;

/// Where Nix's configuration is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixConf {
    /// The system's file.
    pub system: PathBuf,
    /// The user's files, the most important first, as in `NIX_USER_CONF_FILES`.
    pub user: Vec<PathBuf>,
    /// Settings as text, as in `NIX_CONFIG`.
    pub inline: Option<String>,
}

/// What a configuration says of public keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredKeys {
    /// The trusted keys, one for each name: as in Nix, the first of a name counts.
    pub keys: Vec<TrustedPublicKey>,
    /// What could not be read or understood, one line each.
    pub problems: Vec<String>,
}

/// Who may do what, and whom Nix asks, as its configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixSettings {
    /// The keys that are trusted.
    pub keys: Vec<TrustedPublicKey>,
    /// The caches that are asked.
    pub substituters: Vec<String>,
    /// Caches that anybody may have the Nix daemon ask.
    pub trusted_substituters: Vec<String>,
    /// Users, and groups as `@name`, whose settings the Nix daemon heeds; `*` is everybody.
    pub trusted_users: Vec<String>,
    /// What could not be read or understood, one line each.
    pub problems: Vec<String>,
}

/// The settings that are read, each with its older names.
const SETTINGS: [(&str, &[&str]); 4] = [
    (KEYS, &["binary-cache-public-keys"]),
    (SUBSTITUTERS, &["binary-caches"]),
    (TRUSTED_SUBSTITUTERS, &["trusted-binary-caches"]),
    (TRUSTED_USERS, &[]),
];
const KEYS: &str = "trusted-public-keys";
const SUBSTITUTERS: &str = "substituters";
const TRUSTED_SUBSTITUTERS: &str = "trusted-substituters";
const TRUSTED_USERS: &str = "trusted-users";

impl NixConf {
    /// Finds the files as Nix does, given a way to look up environment variables.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let system = set("NIX_CONF_DIR").map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
        let user = match variable("NIX_USER_CONF_FILES") {
            Some(files) => split_paths(&files),
            None => {
                let home = set("XDG_CONFIG_HOME")
                    .map(PathBuf::from)
                    .or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
                let shared = set("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
                home.into_iter()
                    .chain(split_paths(&shared))
                    .map(|directory| directory.join("nix/nix.conf"))
                    .collect()
            }
        };
        let inline = variable("NIX_CONFIG").map(|text| text.to_string_lossy().into_owned());
        Self {
            system: system.join("nix.conf"),
            user,
            inline,
        }
    }

    /// Reads the keys. What Nix would refuse to start with is skipped, and named in `problems`.
    #[must_use]
    pub fn trusted_public_keys(&self) -> ConfiguredKeys {
        let NixSettings { keys, problems, .. } = self.settings();
        ConfiguredKeys { keys, problems }
    }

    /// Reads what is to be known of it. What Nix would refuse to start with is skipped, and named
    /// in `problems`.
    #[must_use]
    pub fn settings(&self) -> NixSettings {
        let one = |word: &str| vec![word.to_owned()];
        let mut reader = Reader {
            words: BTreeMap::from([
                (KEYS, one(DEFAULT_PUBLIC_KEY)),
                (SUBSTITUTERS, one("https://cache.nixos.org/")),
                (TRUSTED_USERS, one("root")),
            ]),
            problems: Vec::new(),
            includes_left: MAX_INCLUDES,
        };
        reader.apply_file(&self.system, Missing::IsFine);
        for file in self.user.iter().rev() {
            reader.apply_file(file, Missing::IsFine);
        }
        if let Some(text) = &self.inline {
            reader.apply(text, Path::new("NIX_CONFIG"));
        }
        reader.finish()
    }
}

fn split_paths(joined: &std::ffi::OsStr) -> Vec<PathBuf> {
    std::env::split_paths(joined)
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsFine,
    IsAProblem,
}

struct Reader {
    words: BTreeMap<&'static str, Vec<String>>,
    problems: Vec<String>,
    includes_left: usize,
}

impl Reader {
    fn apply_file(&mut self, path: &Path, missing: Missing) {
        match read_bounded(path) {
            Ok(text) => self.apply(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::IsFine => {
            }
            Err(error) => self.problems.push(format!("{}: {error}", path.display())),
        }
    }

    fn apply(&mut self, text: &str, path: &Path) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match *words.as_slice() {
                [] => {}
                ["include", file] => self.include(path, file, Missing::IsAProblem),
                ["!include", file] => self.include(path, file, Missing::IsFine),
                [name, "=", ref values @ ..] => self.set(name, values),
                _ => self.problems.push(format!(
                    "{}: not a setting: {}",
                    path.display(),
                    line.trim()
                )),
            }
        }
    }

    fn include(&mut self, from: &Path, file: &str, missing: Missing) {
        if self.includes_left == 0 {
            self.problems
                .push(format!("{}: too many includes", from.display()));
            return;
        }
        self.includes_left -= 1;
        let directory = from.parent().unwrap_or(Path::new("/"));
        self.apply_file(&directory.join(file), missing);
    }

    fn set(&mut self, name: &str, values: &[&str]) {
        let (name, extra) = match name.strip_prefix("extra-") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let known = SETTINGS
            .iter()
            .find(|(known, older)| *known == name || older.contains(&name));
        if let Some((name, _)) = known {
            let words = self.words.entry(name).or_default();
            if !extra {
                words.clear();
            }
            words.extend(values.iter().map(|&value| value.to_owned()));
        }
    }

    fn finish(mut self) -> NixSettings {
        let mut keys: Vec<TrustedPublicKey> = Vec::new();
        let mut problems = self.problems;
        for word in &self.words.remove(KEYS).unwrap_or_default() {
            match TrustedPublicKey::parse(word) {
                Ok(key) if keys.iter().any(|known| known.name == key.name) => {}
                Ok(key) => keys.push(key),
                Err(error) => problems.push(format!("trusted-public-keys: {word}: {error}")),
            }
        }
        let mut words = |name| self.words.remove(name).unwrap_or_default();
        NixSettings {
            keys,
            substituters: words(SUBSTITUTERS),
            trusted_substituters: words(TRUSTED_SUBSTITUTERS),
            trusted_users: words(TRUSTED_USERS),
            problems,
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "longer than 1 MiB",
        ));
    }
    // Nix reads bytes; a comment in another encoding must not cost a machine its keys.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
