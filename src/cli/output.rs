//! Text for people and for programs, on standard output.

use std::io::{self, IsTerminal, Write};

use bytesize::ByteSize;
use serde::Serialize;

use super::Failure;

/// Writes `value` as JSON to standard output.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    line(&text)
}

/// Writes a line to standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Writes a hint to standard error.
pub(super) fn hint(text: &str) {
    // A hint that nobody can read is no failure.
    let _unread = writeln!(io::stderr(), "{text}");
}

/// A size as people read it.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// `1 path`, `2 paths`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Whether somebody is there to be asked.
pub(super) fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a yes-or-no question on the terminal; anything but yes is no.
pub(super) fn ask(question: &str) -> Result<bool, Failure> {
    write!(io::stderr(), "{question} [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}
