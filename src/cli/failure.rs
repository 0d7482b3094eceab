//! How a command ends when it doesn't end well.

use std::io::{self, Write};

use crate::{
    config::ConfigError,
    control::{ClientError, OperationError},
};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It did what was asked.
    Done,
    /// It failed.
    Failed,
    /// It was used wrongly.
    Usage,
    /// No daemon answers.
    NoDaemon,
    /// A person has to say yes first.
    Unconfirmed,
    /// The daemon says no.
    Refused,
    /// There is no such thing.
    NotFound,
    /// With the exit code of a command that it ran.
    Like(u8),
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NoDaemon => 3,
            Exit::Unconfirmed => 4,
            Exit::Refused => 5,
            Exit::NotFound => 6,
            Exit::Like(code) => code,
        }
    }
}

/// A command's failure: an exit code, and one line for a person.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// Nothing where nobody is left to read it.
    message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        // A message from elsewhere may have lines of its own.
        let message = message
            .into()
            .split('\n')
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        Failure { exit, message }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Failure::new(Exit::Failed, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub(super) fn with_exit(self, exit: Exit) -> Self {
        Failure { exit, ..self }
    }

    /// Writes the line to standard error.
    pub(super) fn print(&self) {
        if !self.message.is_empty() {
            // Nobody reads it if it fails.
            let _unread = writeln!(io::stderr(), "peerix: {}", self.message);
        }
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // `peerix shared | head -1` got all that it wanted.
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, ""),
            _ => Failure::failed(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::failed(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoDaemon { .. } => Exit::NoDaemon,
            ClientError::Operation(OperationError::Unconfirmed { .. }) => Exit::Unconfirmed,
            ClientError::Operation(OperationError::Refused { .. }) => Exit::Refused,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}
