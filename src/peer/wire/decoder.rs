//! Takes frames apart: the answer as a stream of bytes again, in bounded memory.
//!
//! A frame gives at most [`limits::WIRE_FRAME`] bytes and a zstd stream a window of at most what
//! the request was worth, whatever the provider says. What breaks a rule is
//! [`io::ErrorKind::InvalidData`]: only a liar sends it.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::frame::{HEADER, Header, Kind, ZSTD_MAGIC};
use crate::limits;

/// Bytes that decompressing over a window of `window_log` takes, at most.
pub fn memory_of(window_log: u32) -> usize {
    (1 << window_log) + (1 << 20)
}

/// Reads an answer out of the frames that come from `R`.
pub struct Decoder<R> {
    recv: R,
    wire_bytes: u64,
    at: At,
    zstd: Zstd,
}

impl<R> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Where in a frame the stream is.
#[derive(Debug)]
enum At {
    Header(BytesMut),
    Raw {
        left: usize,
    },
    Compressed {
        kind: Kind,
        len: usize,
        payload: BytesMut,
    },
}

impl<R: AsyncRead + Unpin> Decoder<R> {
    /// Reads from `recv` and accepts windows of up to `window_log`.
    pub fn new(recv: R, window_log: u32) -> Self {
        Self {
            recv,
            wire_bytes: 0,
            at: At::Header(BytesMut::new()),
            zstd: Zstd {
                window_log,
                stream: None,
            },
        }
    }

    /// Bytes that came so far, frames' headers included.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// Reads once, and appends to `buffer` what of the answer that gave: nothing yet where it was
    /// a part of a frame. False at the end of the answer.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for a frame that breaks a rule,
    /// [`io::ErrorKind::UnexpectedEof`] where the end comes within one, else the stream's own.
    pub async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<bool> {
        let is_between = matches!(&self.at, At::Header(header) if header.is_empty());
        let came = match &mut self.at {
            At::Header(header) => read_some(&mut self.recv, HEADER - header.len(), header).await?,
            At::Raw { left } => read_some(&mut self.recv, *left, buffer).await?,
            At::Compressed { len, payload, .. } => {
                read_some(&mut self.recv, *len - payload.len(), payload).await?
            }
        };
        self.wire_bytes += came as u64;
        if came == 0 {
            return match is_between {
                true => Ok(false),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        self.go_on(came, buffer)?;
        Ok(true)
    }

    /// Takes note of `came` bytes.
    fn go_on(&mut self, came: usize, buffer: &mut BytesMut) -> io::Result<()> {
        let next = match &mut self.at {
            At::Header(header) => match <[u8; HEADER]>::try_from(&header[..]) {
                Ok(bytes) => {
                    let Header { kind, len } = Header::decode(bytes).ok_or_else(invalid)?;
                    match kind {
                        Kind::Raw => At::Raw { left: len },
                        Kind::Begin | Kind::Continue => At::Compressed {
                            kind,
                            len,
                            payload: BytesMut::new(),
                        },
                    }
                }
                Err(_) => return Ok(()),
            },
            At::Raw { left } => {
                *left -= came;
                if *left > 0 {
                    return Ok(());
                }
                At::Header(BytesMut::new())
            }
            At::Compressed { kind, len, payload } => {
                if payload.len() < *len {
                    return Ok(());
                }
                self.zstd.decode(*kind, payload, buffer)?;
                At::Header(BytesMut::new())
            }
        };
        self.at = next;
        Ok(())
    }
}

/// Appends up to `most` bytes to `buffer`; cancel safe.
async fn read_some<R: AsyncRead + Unpin>(
    recv: &mut R,
    most: usize,
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    recv.take(most as u64).read_buf(buffer).await
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The zstd stream that compressed frames belong to.
struct Zstd {
    window_log: u32,
    stream: Option<DCtx<'static>>,
}

impl Zstd {
    /// Appends what a compressed frame holds to `buffer`.
    fn decode(&mut self, kind: Kind, payload: &[u8], buffer: &mut BytesMut) -> io::Result<()> {
        if kind == Kind::Begin {
            // Legacy and skippable formats begin otherwise: their decoders are never reached.
            if !payload.starts_with(&ZSTD_MAGIC) {
                return Err(invalid());
            }
            // A new one gives back the window of the last one, which may have been larger.
            self.stream = None;
            let mut stream = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
            let window = DParameter::WindowLogMax(self.window_log);
            stream.set_parameter(window).map_err(|_| invalid())?;
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().ok_or_else(invalid)?;
        let start = buffer.len();
        // One more than is allowed, so that more is noticed.
        buffer.resize(start + limits::WIRE_FRAME + 1, 0);
        let came = decompress(stream, payload, &mut buffer[start..]);
        let is_allowed = |came: &usize| (1..=limits::WIRE_FRAME).contains(came);
        let came = came.filter(is_allowed);
        buffer.truncate(start + came.unwrap_or(0));
        came.map(drop).ok_or_else(invalid)
    }
}

/// Decompresses all of `payload` into `out` and returns how much it was.
fn decompress(stream: &mut DCtx<'static>, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut out = OutBuffer::around(out);
    let mut input = InBuffer::around(payload);
    loop {
        let before = (input.pos(), out.pos());
        let hint = stream.decompress_stream(&mut out, &mut input).ok()?;
        if hint == 0 {
            // No stream is ever ended; what follows an end would be parsed as any format.
            return None;
        }
        if before == (input.pos(), out.pos()) {
            break;
        }
    }
    (input.pos() == payload.len()).then_some(out.pos())
}

#[cfg(test)]
mod tests;
