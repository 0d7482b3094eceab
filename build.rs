//! Says what `--version` prints: the version, and the commit that it was built from.
//!
//! The commit is `PEERIX_COMMIT` where a packager gives it, else that of the checkout in release
//! builds; other builds say `dev`, so that a commit alone compiles nothing anew. Nothing else of the
//! machine gets into it, so the same sources give the same program.

use std::{env, path::Path, process::Command};

/// As many digits of a commit as are shown.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PEERIX_COMMIT");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let named = env::var("PEERIX_COMMIT").ok().filter(|it| is_word(it));
    let commit = match named {
        Some(named) => named.chars().take(DIGITS).collect(),
        None => built_from().unwrap_or_else(|| "dev".to_owned()),
    };
    println!("cargo::rustc-env=PEERIX_VERSION={version}+{commit}");
}

/// The checkout's commit, in release builds; `None` where these are not files of one.
fn built_from() -> Option<String> {
    if env::var("PROFILE").as_deref() != Ok("release") || !Path::new(".git").exists() {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"]).filter(|commit| is_word(commit))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whether it may stand in a version.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
