//! What can be wrong with a configuration.

use std::path::PathBuf;

/// A configuration that can't be used. Each message is one line: where, what, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file named by `--config` is not there.
    #[error("{}: there is no such configuration file", path.display())]
    MissingFile {
        /// The path that was named.
        path: PathBuf,
    },
    /// A configuration file exists and can't be read.
    #[error("{}: can't read this configuration file: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A configuration file is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser said, on one line.
        message: String,
    },
    /// A key or variable that no setting has.
    #[error("{place}: unknown {what} `{name}`: did you mean {nearest}?")]
    Unknown {
        /// `file:line`, or `environment`.
        place: String,
        /// `key`, `section` or `variable`.
        what: &'static str,
        /// As it was written.
        name: String,
        /// The nearest known one, ready to be shown.
        nearest: String,
    },
    /// A value that its setting can't take.
    #[error("{place}: {reason}")]
    Value {
        /// `file:line: key`, `--flag` or the variable's name.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No state directory was given and none can be derived.
    #[error(
        "no place for the state directory: neither HOME nor XDG_STATE_HOME is set; give --state-dir DIR"
    )]
    NoStateDirectory,
}
