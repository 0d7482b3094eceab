//! The compressed wire: iroh-blobs' answers in frames that may be zstd, on an ALPN of its own.
//!
//! A request is iroh-blobs' own, byte for byte, and what comes back is its answer cut into
//! [`frame`]s, each raw or compressed. So a blob hash stays that of the raw NAR, and every chunk
//! group is verified after decompression as on iroh-blobs' own ALPN.
//!
//! Two sides decide. The requester takes the framed wire or the raw one, by what it measured of
//! the peer ([`choice`]). The provider decides frame by frame whether to compress and how hard
//! ([`pace`]), by how fast the link drains beside how fast it compresses: a frame that is not
//! worth it goes raw and costs its header of four bytes. [`encoder`] and [`writer`] are the
//! provider's, [`decoder`] the requester's; neither holds more than `limits.rs` says.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use iroh::EndpointId;
use lru::LruCache;
use tokio::sync::{Semaphore, mpsc};

use crate::{config::WireCompression, limits};

pub mod choice;
pub mod decoder;
pub mod encoder;
pub mod frame;
pub mod pace;
pub mod writer;

use self::{
    encoder::{Encoder, Workers},
    pace::{Link, Pace},
    writer::{FrameWriter, Piece, Tempo},
};

/// The protocol's name on the wire, for the public swarm.
pub const ALPN: &[u8] = b"peerix/blobs-zstd/1";

/// Logarithm of the window for an answer of about `bytes` bytes: no larger than is of use.
pub fn window_log(bytes: u64) -> u32 {
    let needed = bytes.max(1).next_power_of_two().trailing_zeros();
    needed.clamp(limits::WIRE_WINDOW_LOG_LEAST, limits::WIRE_WINDOW_LOG)
}

/// The provider's side for all peers: one memory, one set of workers, one pace for each peer.
#[derive(Debug)]
pub struct Compression {
    setting: WireCompression,
    memory: Arc<Semaphore>,
    workers: Arc<Workers>,
    paces: Mutex<LruCache<EndpointId, Arc<Mutex<Pace>>>>,
}

impl Compression {
    /// Makes the provider's side for this setting.
    pub fn new(setting: WireCompression) -> Self {
        let remembered = NonZeroUsize::new(limits::CONNECTIONS).unwrap_or(NonZeroUsize::MIN);
        let memory = match setting {
            WireCompression::Level(level) => {
                let one = encoder::memory_of(i32::from(level), limits::WIRE_WINDOW_LOG);
                limits::WIRE_ENCODER_MEMORY.max(limits::WIRE_ENCODERS_LEAST * one)
            }
            WireCompression::Auto | WireCompression::Off => limits::WIRE_ENCODER_MEMORY,
        };
        Self {
            setting,
            memory: Arc::new(Semaphore::new(memory / 1024)),
            workers: Arc::new(Workers::new(limits::wire_workers())),
            paces: Mutex::new(LruCache::new(remembered)),
        }
    }

    /// A writer that frames an answer of about `bytes` bytes to `peer` and sends it to `pieces`.
    ///
    /// It blocks, so it belongs on a thread that may.
    pub fn writer(
        &self,
        peer: EndpointId,
        link: Link,
        bytes: u64,
        pieces: mpsc::Sender<Piece>,
    ) -> FrameWriter {
        let tempo = match self.setting {
            WireCompression::Off => Tempo::Raw,
            WireCompression::Level(level) => Tempo::Fixed(i32::from(level)),
            WireCompression::Auto => {
                let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
                let pace = paces.get_or_insert(peer, || Arc::new(Mutex::new(Pace::new(link))));
                Tempo::Measured(pace.clone())
            }
        };
        let encoder = Encoder::new(window_log(bytes), self.memory.clone(), self.workers.clone());
        FrameWriter::new(pieces, encoder, tempo)
    }
}
