//! Text for people and for programs, on standard output.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime},
};

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

/// Whether to colour what is written to `stream`: on terminals, unless `NO_COLOR` says no;
/// everywhere where `CLICOLOR_FORCE` says so.
pub(super) fn is_coloured(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if is_set("NO_COLOR") {
        return false;
    }
    let is_forced =
        std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    is_forced
        || (stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"))
}

/// Text in a colour, where standard output has any.
pub(super) fn in_colour(colour: Colour, text: &str) -> String {
    match is_coloured(&io::stdout()) {
        true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
        false => text.to_owned(),
    }
}

/// What colours say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// It is well.
    Green = 32,
    /// It is to be looked at.
    Yellow = 33,
    /// It is broken.
    Red = 31,
    /// It matters less.
    Grey = 90,
}

/// Text from elsewhere, without what would move the cursor or end the line.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// A size as people read it.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// A moment so long after 1970, to the second.
pub(super) fn time(since_1970: Duration) -> impl Display {
    let time = SystemTime::UNIX_EPOCH.checked_add(since_1970);
    humantime::format_rfc3339_seconds(time.unwrap_or(SystemTime::UNIX_EPOCH))
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
