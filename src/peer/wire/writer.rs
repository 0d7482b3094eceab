//! Cuts an answer into frames and hands them to the task that sends them.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::{
    encoder::Encoder,
    frame::HEADER,
    pace::{Pace, Sample},
};
use crate::limits;

/// Bytes for the wire.
#[derive(Debug)]
pub struct Piece {
    /// As they are sent.
    pub bytes: Bytes,
    /// How many they were before compression.
    pub nar_bytes: u64,
}

/// Who says how hard to compress.
#[derive(Debug)]
pub enum Tempo {
    /// Nobody: all goes raw.
    Raw,
    /// The user: this level, whatever the link.
    Fixed(i32),
    /// What is measured of the link to this peer.
    Measured(Arc<Mutex<Pace>>),
}

/// Collects what is written into frames; blocks while the link does not take them.
#[derive(Debug)]
pub struct FrameWriter {
    pieces: mpsc::Sender<Piece>,
    encoder: Encoder,
    tempo: Tempo,
    buffer: BytesMut,
    frame_bytes: usize,
    /// When the last frame was handed over.
    worked_since: Instant,
    starved: Starved,
}

impl FrameWriter {
    /// Makes one that sends to `pieces`.
    pub fn new(pieces: mpsc::Sender<Piece>, encoder: Encoder, tempo: Tempo) -> Self {
        let now = Instant::now();
        if let Tempo::Measured(pace) = &tempo {
            lock(pace).begin(now);
        }
        let mut writer = Self {
            pieces,
            encoder,
            tempo,
            buffer: BytesMut::new(),
            frame_bytes: 0,
            worked_since: now,
            starved: Starved::new(now),
        };
        writer.begin_frame();
        writer
    }

    /// Sends what is left; without it the end of the answer would be missing.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] where nobody sends any more.
    pub fn finish(mut self) -> io::Result<()> {
        self.send_frame()
    }

    fn begin_frame(&mut self) {
        self.frame_bytes = match &self.tempo {
            Tempo::Measured(pace) => lock(pace).frame_bytes(),
            Tempo::Raw | Tempo::Fixed(_) => limits::WIRE_FRAME,
        };
        self.buffer = BytesMut::with_capacity(HEADER + self.frame_bytes);
        self.buffer.extend_from_slice(&[0; HEADER]);
    }

    fn send_frame(&mut self) -> io::Result<()> {
        let nar_bytes = (self.buffer.len() - HEADER) as u64;
        if nar_bytes == 0 {
            return Ok(());
        }
        // What the user asked for is waited for; else the next frame may have more luck.
        let (level, patience) = match &self.tempo {
            Tempo::Raw => (None, Duration::ZERO),
            Tempo::Fixed(level) => (Some(*level), limits::BLOB_WRITE_TIMEOUT),
            Tempo::Measured(pace) => (lock(pace).level(), limits::WIRE_TURN),
        };
        let frame = std::mem::take(&mut self.buffer);
        let bytes = self.encoder.encode(frame, level, patience);
        let wire_bytes = bytes.len() as u64;
        let handed_over = Instant::now();
        self.pieces
            .blocking_send(Piece { bytes, nar_bytes })
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let now = Instant::now();
        if let Tempo::Measured(pace) = &self.tempo {
            let sample = Sample {
                worked: handed_over - self.worked_since,
                compressing: self.encoder.take_compressing(),
                starved: self.starved.since_last(now),
                waited: now - handed_over,
                nar_bytes,
                wire_bytes,
            };
            lock(pace).note(sample, now);
        }
        self.worked_since = now;
        self.begin_frame();
        Ok(())
    }
}

impl io::Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = HEADER + self.frame_bytes - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.send_frame()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if let Tempo::Measured(pace) = &self.tempo {
            lock(pace).end();
        }
    }
}

fn lock(pace: &Mutex<Pace>) -> std::sync::MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long this thread was ready to run without a processor, as Linux tells it.
#[derive(Debug)]
struct Starved {
    asked: Instant,
    before: Duration,
}

impl Starved {
    /// Asking costs two microseconds or ten: it is done now and then.
    const INTERVAL: Duration = Duration::from_millis(50);

    fn new(now: Instant) -> Self {
        Self {
            asked: now,
            before: Self::in_all(),
        }
    }

    fn since_last(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.asked) < Self::INTERVAL {
            return Duration::ZERO;
        }
        self.asked = now;
        let in_all = Self::in_all();
        in_all.saturating_sub(std::mem::replace(&mut self.before, in_all))
    }

    /// Zero where it is not told.
    fn in_all() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = text.split_whitespace().nth(1);
        Duration::from_nanos(waited.and_then(|ns| ns.parse().ok()).unwrap_or(0))
    }
}
