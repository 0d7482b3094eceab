//! Asks one peer for a blob, over the wire that suits it, and counts what comes.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::BytesMut;
use iroh::endpoint::{Connection, RecvStream};
use iroh_blobs::protocol::{GetRequest, Request};
use tokio::{io::AsyncReadExt as _, sync::OwnedSemaphorePermit};

use super::{
    path,
    score::Fault,
    wire::{
        choice::{Record, Wire},
        decoder::Decoder,
    },
};
use crate::{metrics::Metrics, report::PeerPath};

/// Bytes that may come uncounted, so that counting costs nothing.
const UNCOUNTED: u64 = 64 * 1024;

/// A connection to a peer for one request.
#[derive(Debug)]
pub struct BlobConnection {
    connection: Connection,
    frames: Option<Frames>,
    meter: Meter,
}

/// What decompressing an answer may take.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) window_log: u32,
    pub(super) memory: OwnedSemaphorePermit,
}

impl From<Connection> for BlobConnection {
    /// A connection on iroh-blobs' own ALPN whose bytes are nobody's to count.
    fn from(connection: Connection) -> Self {
        Self {
            connection,
            frames: None,
            meter: Meter::new(Wire::Raw, None),
        }
    }
}

impl BlobConnection {
    pub(super) fn new(
        connection: Connection,
        frames: Option<Frames>,
        record: Arc<Mutex<Record>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let wire = match frames {
            Some(_) => Wire::Framed,
            None => Wire::Raw,
        };
        Self {
            connection,
            frames,
            meter: Meter::new(wire, Some((record, metrics))),
        }
    }

    /// How packets travel over it now, where that is known.
    #[must_use]
    pub fn path(&self) -> Option<PeerPath> {
        path::of(&self.connection).map(|path| path.kind)
    }

    /// Sends a request and returns the answer to come.
    ///
    /// # Errors
    /// [`Fault::Disconnected`] where the connection was lost.
    pub async fn get(self, request: GetRequest) -> Result<Incoming, Fault> {
        let (mut send, recv) = self
            .connection
            .open_bi()
            .await
            .map_err(|_| Fault::Disconnected)?;
        let bytes = postcard::to_stdvec(&Request::Get(request)).map_err(|_| Fault::Refused)?;
        send.write_all(&bytes)
            .await
            .map_err(|_| Fault::Disconnected)?;
        send.finish().map_err(|_| Fault::Disconnected)?;
        let (stream, memory) = match self.frames {
            None => (Stream::Raw(recv), None),
            Some(Frames { window_log, memory }) => {
                let decoder = Decoder::new(recv, window_log);
                (Stream::Framed(Box::new(decoder)), Some(memory))
            }
        };
        Ok(Incoming {
            stream,
            meter: self.meter,
            _memory: memory,
        })
    }
}

/// iroh-blobs' answer to a request, decompressed.
#[derive(Debug)]
pub struct Incoming {
    stream: Stream,
    meter: Meter,
    _memory: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Stream {
    Raw(RecvStream),
    Framed(Box<Decoder<RecvStream>>),
}

impl Incoming {
    /// Reads once, and appends to `buffer` what of the answer that gave: nothing yet where it was
    /// a part of a frame. False at the end of the answer. Cancel safe.
    ///
    /// # Errors
    /// The stream's own, and those of [`Decoder::read_buf`].
    pub async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<bool> {
        let before = buffer.len();
        let more = match &mut self.stream {
            Stream::Raw(recv) => {
                let came = recv.read_buf(buffer).await?;
                self.meter.wire_bytes += came as u64;
                came > 0
            }
            Stream::Framed(decoder) => {
                let more = decoder.read_buf(buffer).await?;
                self.meter.wire_bytes = decoder.wire_bytes();
                more
            }
        };
        self.meter.received(buffer.len() - before);
        Ok(more)
    }
}

type Counts = (Arc<Mutex<Record>>, Arc<Metrics>);

/// Counts an answer for the peer's record and the metrics.
#[derive(Debug)]
struct Meter {
    wire: Wire,
    counts: Option<Counts>,
    wire_bytes: u64,
    wire_counted: u64,
    nar_uncounted: u64,
}

impl Meter {
    fn new(wire: Wire, counts: Option<Counts>) -> Self {
        if let Some((record, _)) = &counts {
            lock(record).begin(Instant::now());
        }
        Self {
            wire,
            counts,
            wire_bytes: 0,
            wire_counted: 0,
            nar_uncounted: 0,
        }
    }

    fn received(&mut self, nar_bytes: usize) {
        self.nar_uncounted += nar_bytes as u64;
        if self.nar_uncounted >= UNCOUNTED {
            self.count(Instant::now());
        }
    }

    fn count(&mut self, now: Instant) {
        let wire_bytes = self.wire_bytes - self.wire_counted;
        self.wire_counted = self.wire_bytes;
        let nar_bytes = std::mem::take(&mut self.nar_uncounted);
        if let Some((record, metrics)) = &self.counts {
            metrics.wire_bytes_received.inc_by(wire_bytes);
            lock(record).received(self.wire, wire_bytes, nar_bytes, now);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let now = Instant::now();
        self.count(now);
        if let Some((record, _)) = &self.counts {
            lock(record).end(now);
        }
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
