//! The wire format of Nix's worker protocol.
//!
//! Numbers are 64 bits, little-endian; texts are a length, the bytes and zeros up to a multiple of
//! eight. An answer is preceded by what the daemon logs meanwhile, which ends with
//! [`LAST`] or an error.

use std::{
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::limits;

/// The log of an answer has ended; the answer follows.
const LAST: u64 = 0x616c_7473;
/// An error takes the answer's place.
const ERROR: u64 = 0x6378_7470;
/// A line of the log.
const NEXT: u64 = 0x6f6c_6d67;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// Errors are structured from this version of the protocol on.
const STRUCTURED_ERRORS: Version = Version::new(1, 26);

/// A version of the protocol.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u8,
    minor: u8,
}

impl Version {
    pub(crate) const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    pub(super) fn from_number(number: u64) -> Option<Self> {
        let [minor, major] = u16::try_from(number).ok()?.to_le_bytes();
        Some(Self { major, minor })
    }

    pub(super) fn number(self) -> u64 {
        u64::from(u16::from_le_bytes([self.minor, self.major]))
    }

    pub(super) fn major(self) -> u8 {
        self.major
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Nix's daemon did not answer as it should.
#[derive(Debug, Error)]
pub(crate) enum DaemonError {
    /// The connection failed or took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The daemon doesn't speak the protocol as known here.
    #[error("it does not speak Nix's worker protocol as expected: {0}")]
    Protocol(String),
    /// The daemon said that it can't.
    #[error("it answered: {0}")]
    Refused(String),
    /// One path's record is not what Nix writes; the connection is fine.
    #[error("malformed entry for {entry}: {reason}")]
    Malformed {
        /// The path, as far as it can be told.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl DaemonError {
    /// Whether nothing more can be asked over this connection.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Protocol(_))
    }
}

/// A connection, read and written in the protocol's own units.
pub(super) struct Wire<S: Read> {
    stream: BufReader<S>,
    /// A request is sent whole.
    request: Vec<u8>,
}

impl<S: Read + Write> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
            request: Vec::new(),
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    pub(super) fn put_number(&mut self, number: u64) -> &mut Self {
        self.request.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn put_text(&mut self, text: &[u8]) -> &mut Self {
        self.put_number(text.len() as u64);
        self.request.extend_from_slice(text);
        self.request
            .resize(self.request.len().next_multiple_of(8), 0);
        self
    }

    /// Sends what was put.
    pub(super) fn send(&mut self) -> Result<(), DaemonError> {
        let sent = self.stream.get_mut().write_all(&self.request);
        self.request.clear();
        Ok(sent?)
    }

    pub(super) fn number(&mut self) -> Result<u64, DaemonError> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a number that counts what follows.
    pub(super) fn count(&mut self, what: &str, at_most: u64) -> Result<u64, DaemonError> {
        let count = self.number()?;
        if count > at_most {
            return Err(DaemonError::Protocol(format!(
                "{count} {what}, of which {at_most} are the most"
            )));
        }
        Ok(count)
    }

    pub(super) fn bytes(&mut self, at_most: usize) -> Result<Vec<u8>, DaemonError> {
        let length = self.count("bytes of a text", at_most as u64)?;
        let mut bytes = Vec::new();
        self.stream.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.padding(length)?;
        Ok(bytes)
    }

    /// Reads a text; what is not UTF-8 is replaced.
    pub(super) fn text(&mut self) -> Result<String, DaemonError> {
        let bytes = self.bytes(limits::MAX_DAEMON_TEXT)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn padding(&mut self, length: u64) -> Result<(), DaemonError> {
        let mut zeros = [0; 8];
        let missing = &mut zeros[..(length.wrapping_neg() % 8) as usize];
        self.stream.read_exact(missing)?;
        match missing.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(DaemonError::Protocol(
                "a text is not padded by zeros".into(),
            )),
        }
    }

    fn skip_text(&mut self) -> Result<(), DaemonError> {
        let length = self.count("bytes of a log entry", limits::MAX_DAEMON_LOG)?;
        let skipped = io::copy(&mut self.stream.by_ref().take(length), &mut io::sink())?;
        if skipped != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.padding(length)
    }

    fn skip_fields(&mut self) -> Result<(), DaemonError> {
        for _ in 0..self.count("fields of a log entry", limits::MAX_DAEMON_PARTS)? {
            match self.number()? {
                0 => drop(self.number()?),
                1 => self.skip_text()?,
                kind => {
                    return Err(DaemonError::Protocol(format!("a field of kind {kind}")));
                }
            }
        }
        Ok(())
    }

    /// Skips the log up to the answer.
    pub(super) fn skip_log(&mut self, version: Version) -> Result<(), DaemonError> {
        loop {
            match self.number()? {
                LAST => return Ok(()),
                ERROR => return Err(self.error(version)?),
                NEXT => self.skip_text()?,
                START_ACTIVITY => {
                    for _ in 0..3 {
                        self.number()?;
                    }
                    self.skip_text()?;
                    self.skip_fields()?;
                    self.number()?;
                }
                STOP_ACTIVITY => drop(self.number()?),
                RESULT => {
                    self.number()?;
                    self.number()?;
                    self.skip_fields()?;
                }
                other => {
                    return Err(DaemonError::Protocol(format!(
                        "message {other:#x} instead of an answer"
                    )));
                }
            }
        }
    }

    fn error(&mut self, version: Version) -> Result<DaemonError, DaemonError> {
        if version < STRUCTURED_ERRORS {
            let message = self.text()?;
            self.number()?;
            return Ok(DaemonError::Refused(one_line(&message)));
        }
        self.skip_text()?;
        self.number()?;
        self.skip_text()?;
        let message = self.text()?;
        self.no_position()?;
        for _ in 0..self.count("traces of an error", limits::MAX_DAEMON_PARTS)? {
            self.no_position()?;
            self.skip_text()?;
        }
        Ok(DaemonError::Refused(one_line(&message)))
    }

    /// Nix never sends the position in a file to which an error belongs.
    fn no_position(&mut self) -> Result<(), DaemonError> {
        match self.number()? {
            0 => Ok(()),
            _ => Err(DaemonError::Protocol("an error with a position".into())),
        }
    }
}

/// The first line, without the colours of a terminal.
fn one_line(message: &str) -> String {
    let mut line = String::new();
    let mut in_escape = false;
    for character in message.lines().next().unwrap_or_default().chars() {
        match character {
            '\u{1b}' => in_escape = true,
            _ if in_escape => in_escape = !character.is_ascii_alphabetic(),
            _ if character.is_control() => {}
            _ => line.push(character),
        }
    }
    line
}

/// A socket with a deadline for all that is read and written.
pub(super) struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    pub(super) fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    fn remaining(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(too_late()),
            remaining => Ok(Some(remaining)),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.remaining()?)?;
        self.stream.read(buffer).map_err(named)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.remaining()?)?;
        self.stream.write(buffer).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")
}

/// Timeouts of sockets are told as `WouldBlock`.
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => too_late(),
        _ => error,
    }
}

#[cfg(test)]
mod tests;
