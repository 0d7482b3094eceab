//! Names that are not offered: shell-style patterns over the base name of a store path.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use peerix_store::nix::StorePath;

/// What `--filter-mode rules` never offers: parts of a system's configuration, and what sounds
/// like a secret. The list is that of older peerix.
pub const BUILT_IN: &[&str] = &[
    "*-nixos-system-*",
    "*-etc-*",
    "*-nixos-*-config",
    "*-unit-*.service",
    "*-system-path",
    "*-booted-system",
    "*-toplevel",
    "*-activation-script-*",
    "*-systemd-*",
    "*-sops-nix-*",
    "*-agenix-*",
    "*-secret-*",
    "*-secrets-*",
    "*-password-*",
    "*-private-key-*",
    "*-credentials-*",
    "*.key",
    "*.pem",
    "*-home-manager-*",
    "*-home-files-*",
];

/// Most patterns that a configuration may give: each is tried on every path of the store.
pub const MAX_PATTERNS: usize = 256;

/// Longest pattern, in bytes: a store path's name has at most 211.
pub const MAX_PATTERN_LENGTH: usize = 256;

/// A pattern that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a pattern of names: {reason}")]
pub struct PatternError {
    /// The pattern, shortened.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Patterns of names, `*`, `?` and `[a-z]` as a shell has them, case-sensitive, over the whole base
/// name, hash included.
#[derive(Clone, Debug, Default)]
pub struct Patterns(GlobSet);

impl Patterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// [`PatternError`] for the first that can't be used.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, PatternError> {
        let failed = |pattern: &str, reason: String| PatternError {
            pattern: pattern.chars().take(80).collect(),
            reason,
        };
        if let Some(excess) = patterns.get(MAX_PATTERNS) {
            let reason = format!("more than {MAX_PATTERNS} are given");
            return Err(failed(excess.as_ref(), reason));
        }
        let mut set = GlobSetBuilder::new();
        for pattern in patterns.iter().map(AsRef::as_ref) {
            if pattern.len() > MAX_PATTERN_LENGTH {
                let reason = format!("it is longer than {MAX_PATTERN_LENGTH} characters");
                return Err(failed(pattern, reason));
            }
            // Braces and backslashes mean themselves, as for fnmatch.
            let literal = pattern.replace('{', "[{]").replace('}', "[}]");
            let glob = GlobBuilder::new(&literal)
                .backslash_escape(false)
                .literal_separator(false)
                .build()
                .map_err(|error| failed(pattern, error.kind().to_string()))?;
            set.add(glob);
        }
        let set = set.build();
        set.map(Self)
            .map_err(|error| failed("", error.kind().to_string()))
    }

    /// The patterns that are always there with `--filter-mode rules`, and `further` ones.
    ///
    /// # Errors
    /// [`PatternError`] for the first of `further` that can't be used.
    pub fn with_built_in<P: AsRef<str>>(further: &[P]) -> Result<Self, PatternError> {
        let all: Vec<&str> = BUILT_IN
            .iter()
            .copied()
            .chain(further.iter().map(AsRef::as_ref))
            .collect();
        Self::new(&all)
    }

    /// Returns whether one of them matches.
    #[must_use]
    pub fn match_name_of(&self, store_path: &StorePath) -> bool {
        !self.0.is_empty() && self.0.is_match(store_path.to_basename())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(patterns: &Patterns, name: &str) -> bool {
        patterns.match_name_of(&StorePath::from_parts([7; 20], name).unwrap())
    }

    #[test]
    fn built_in_rules_hide_what_they_always_hid() {
        let rules = Patterns::with_built_in::<&str>(&[]).unwrap();
        for hidden in [
            "nixos-system-laptop-24.05",
            "etc-fstab",
            "unit-sshd.service",
            "db-password-file",
            "server.key",
            "server.pem",
            "home-manager-path",
        ] {
            assert!(matched(&rules, hidden), "{hidden}");
        }
        for offered in ["hello-2.12", "Etc-fstab", "key", "fetch-1.0", "server.keys"] {
            assert!(!matched(&rules, offered), "{offered}");
        }
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        let matches = |pattern: &str, name: &str| {
            let patterns = Patterns::new(&[pattern]).unwrap();
            matched(&patterns, name)
        };
        assert!(matches("*-hello-?.12", "hello-2.12"));
        assert!(!matches("*-hello-?.12", "hello-10.12"));
        assert!(matches("*-[hw]ello", "hello"));
        assert!(matches("*-[!x]ello", "hello"));
        // The hash is part of the name, and the whole name has to match.
        assert!(!matches("hello", "hello"));
        assert!(!matches("*-HELLO", "hello"));
        assert!(!matches("*-{hello,world}", "hello"));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let error = Patterns::new(&["*-a", "[b"]).unwrap_err();
        assert_eq!(error.pattern, "[b");
        assert!(Patterns::new(&["x".repeat(257)]).is_err());
        assert!(Patterns::new(&vec!["*-a"; 257]).is_err());
    }
}
