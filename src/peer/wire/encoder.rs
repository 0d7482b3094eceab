//! Compresses frames: one zstd stream whose window outlives the frame, within a shared memory.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::frame::{HEADER, Header, Kind};
use crate::limits;

/// Logarithms of the chain and the hash table of zstd 1.5's levels 1 to 19, for large sources.
const TABLES: [(u32, u32); 19] = [
    (13, 14),
    (15, 16),
    (16, 17),
    (18, 18),
    (18, 19),
    (18, 19),
    (19, 20),
    (19, 20),
    (20, 21),
    (21, 22),
    (21, 22),
    (22, 23),
    (22, 22),
    (22, 23),
    (23, 23),
    (22, 22),
    (23, 22),
    (23, 22),
    (24, 22),
];

/// The tables of `level`, no larger than a window of `window_log` can fill.
fn tables(level: i32, window_log: u32) -> (u32, u32) {
    let index = usize::try_from(level).unwrap_or(1).clamp(1, TABLES.len()) - 1;
    let (chain, hash) = TABLES[index];
    (chain.min(window_log + 1), hash.min(window_log))
}

/// Bytes that zstd may take for a stream at `level` over a window of `window_log`, at most.
pub fn memory_of(level: i32, window_log: u32) -> usize {
    let (chain, hash) = tables(level, window_log);
    4 * ((1 << chain) + (1 << hash)) + (1 << window_log) + (2 << 20)
}

/// How many threads may compress at this moment.
#[derive(Debug)]
pub struct Workers {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Workers {
    /// Lets `count` threads compress at once.
    pub fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count.max(1)),
            freed: Condvar::new(),
        }
    }

    /// Waits for a turn, `patience` at most.
    fn turn(&self, patience: Duration) -> Option<Turn<'_>> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut free, _) = self
            .freed
            .wait_timeout_while(free, patience, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Turn(self))
    }
}

struct Turn<'a>(&'a Workers);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free += 1;
        self.0.freed.notify_one();
    }
}

/// Compresses the frames of one answer; whatever it can't or need not compress goes raw.
pub struct Encoder {
    window_log: u32,
    memory: Arc<Semaphore>,
    workers: Arc<Workers>,
    stream: Option<Stream>,
    scratch: Vec<u8>,
    /// Frames in a row that did not get smaller.
    poor: u32,
    /// Frames that are not tried now.
    skip: u32,
    compressing: Duration,
}

struct Stream {
    zstd: CCtx<'static>,
    level: i32,
    /// Bytes that went in so far.
    taken: usize,
    _memory: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("level", &self.stream.as_ref().map(|stream| stream.level))
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// Makes one that takes its memory, in KiB, out of `memory`.
    pub fn new(window_log: u32, memory: Arc<Semaphore>, workers: Arc<Workers>) -> Self {
        Self {
            window_log,
            memory,
            workers,
            stream: None,
            scratch: Vec::new(),
            poor: 0,
            skip: 0,
            compressing: Duration::ZERO,
        }
    }

    /// Makes a frame of `buffer`: room for a header, then a payload of 1 byte to
    /// [`limits::WIRE_FRAME`].
    ///
    /// `level` is what to compress at, if at all. Where no thread is free to compress within
    /// `patience`, or memory is short, the frame goes raw. Blocks.
    pub fn encode(
        &mut self,
        mut buffer: BytesMut,
        level: Option<i32>,
        patience: Duration,
    ) -> Bytes {
        if let Some(level) = level
            && let Some(compressed) = self.compress(&buffer[HEADER..], level, patience)
        {
            return compressed;
        }
        let header = Header {
            kind: Kind::Raw,
            len: buffer.len() - HEADER,
        };
        buffer[..HEADER].copy_from_slice(&header.encode());
        buffer.freeze()
    }

    /// The time spent compressing since this was last asked.
    pub fn take_compressing(&mut self) -> Duration {
        std::mem::take(&mut self.compressing)
    }

    fn compress(&mut self, payload: &[u8], level: i32, patience: Duration) -> Option<Bytes> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let workers = self.workers.clone();
        let turn = workers.turn(patience)?;
        let began = Instant::now();
        let compressed = self.run(payload, level);
        self.compressing += began.elapsed();
        drop(turn);
        if compressed.is_none() {
            // Half a frame may be in the stream: it can't go on.
            self.stream = None;
        }
        compressed
    }

    fn run(&mut self, payload: &[u8], level: i32) -> Option<Bytes> {
        let stream = prepare(&mut self.stream, level, self.window_log, &self.memory)?;
        self.scratch
            .resize(HEADER + limits::WIRE_FRAME_COMPRESSED, 0);
        let kind = match stream.taken {
            0 => Kind::Begin,
            _ => Kind::Continue,
        };
        let mut out = OutBuffer::around(&mut self.scratch[HEADER..]);
        let mut input = InBuffer::around(payload);
        while input.pos() < payload.len() {
            let before = (input.pos(), out.pos());
            stream.zstd.compress_stream(&mut out, &mut input).ok()?;
            if before == (input.pos(), out.pos()) {
                return None;
            }
        }
        while stream.zstd.flush_stream(&mut out).ok()? > 0 {
            if out.pos() == out.capacity() {
                return None;
            }
        }
        let len = out.pos();
        stream.taken += payload.len();
        let header = Header { kind, len };
        self.scratch[..HEADER].copy_from_slice(&header.encode());
        self.judge(payload.len(), len);
        Some(Bytes::copy_from_slice(&self.scratch[..HEADER + len]))
    }

    /// What does not compress is tried less and less, but never given up.
    fn judge(&mut self, payload: usize, compressed: usize) {
        if compressed.saturating_mul(32) <= payload.saturating_mul(31) {
            self.poor = 0;
            return;
        }
        self.poor = self.poor.saturating_add(1);
        if let Some(doublings) = self.poor.checked_sub(2) {
            self.skip = (1 << doublings.min(8)).min(limits::WIRE_FRAMES_SKIPPED);
        }
    }
}

/// The stream at hand, or a new one where the level changed and it has gone on for long enough.
fn prepare<'a>(
    stream: &'a mut Option<Stream>,
    level: i32,
    window_log: u32,
    memory: &Arc<Semaphore>,
) -> Option<&'a mut Stream> {
    let keep = stream
        .as_ref()
        .is_some_and(|stream| stream.level == level || stream.taken < limits::WIRE_LEVEL_HELD);
    if !keep {
        *stream = None;
        *stream = begin(level, window_log, memory).or_else(|| begin(1, window_log, memory));
    }
    stream.as_mut()
}

fn begin(level: i32, window_log: u32, memory: &Arc<Semaphore>) -> Option<Stream> {
    let kib = u32::try_from(memory_of(level, window_log) / 1024).ok()?;
    let held = memory.clone().try_acquire_many_owned(kib).ok()?;
    let mut zstd = CCtx::try_create()?;
    let (chain_log, hash_log) = tables(level, window_log);
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log),
        CParameter::ChainLog(chain_log),
        CParameter::HashLog(hash_log),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ] {
        zstd.set_parameter(parameter).ok()?;
    }
    Some(Stream {
        zstd,
        level,
        taken: 0,
        _memory: held,
    })
}

#[cfg(test)]
mod tests;
