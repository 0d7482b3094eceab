//! Serves blobs on iroh-blobs' own protocol, to any client that speaks it, and in frames that may
//! be compressed on the ALPN of [`wire`].
//!
//! Only what the sharing policy offers is served, whoever knows its hash: the policy is asked
//! before a byte is read. Every chunk group is checked against its outboard before it leaves, so
//! a store path that changed ends the stream instead of sending wrong bytes. Requests for hash
//! sequences and pushes are refused: a NAR is one raw blob.

use std::{io, sync::Arc};

use bao_tree::{
    BlockSize, ChunkRanges,
    io::{outboard::PreOrderMemOutboard, sync::encode_ranges_validated},
};
use bytes::{Bytes, BytesMut};
use iroh::{
    EndpointId,
    endpoint::{Connection, RecvStream, SendStream, VarInt},
    protocol::{AcceptError, ProtocolHandler},
};
use iroh_blobs::protocol::{
    ChunkRangesSeq, ERR_INTERNAL, ERR_LIMIT, ERR_PERMISSION, ObserveItem, Request, RequestType,
};
use peerix_store::{Blob, BlobHash, LocalNar, Store};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc},
    time::timeout,
};
use tracing::{Instrument, debug, debug_span};

use super::{
    budget::Budgets,
    path,
    rate::UploadLimits,
    wire::{self, Compression, pace::Link, writer::Piece},
};
use crate::{limits, metrics::Metrics, offer::OfferPolicy, report::PeerPath, swarm::Swarm};

/// 16 KiB chunk groups, as iroh-blobs has them.
const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

/// The handler of iroh-blobs' ALPN and of the framed one.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

/// What a provider works with.
#[expect(missing_docs, reason = "the types say it")]
pub struct Parts {
    pub store: Store,
    pub offer: Arc<OfferPolicy>,
    pub limits: Arc<UploadLimits>,
    pub compression: Compression,
    pub metrics: Arc<Metrics>,
    /// Hears of NAR bytes that left, by peer.
    pub sent: Box<dyn Fn(EndpointId, u64) + Send + Sync>,
    pub budgets: Budgets,
    /// Its inventories are served besides.
    pub swarm: Option<Swarm>,
}

struct Inner {
    store: Store,
    offer: Arc<OfferPolicy>,
    limits: Arc<UploadLimits>,
    compression: Compression,
    metrics: Arc<Metrics>,
    sent: Box<dyn Fn(iroh::EndpointId, u64) + Send + Sync>,
    budgets: Budgets,
    swarm: Option<Swarm>,
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    inventories: Semaphore,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Provider")
    }
}

/// Why a request was not served to its end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the request does not parse or asks for what is never served")]
    Refused,
    #[error("the blob is not offered")]
    NotOffered,
    #[error("the requester took nothing for {} s", limits::BLOB_WRITE_TIMEOUT.as_secs())]
    Stalled,
    #[error("too many requests are being served, or none is for now")]
    Busy,
    #[error("the requester went away")]
    Gone,
    #[error("reading the blob failed: {0}")]
    Read(String),
}

impl ServeError {
    fn code(&self) -> VarInt {
        match self {
            Self::Refused | Self::NotOffered => ERR_PERMISSION,
            Self::Stalled | Self::Busy => ERR_LIMIT,
            Self::Gone | Self::Read(_) => ERR_INTERNAL,
        }
    }
}

impl Provider {
    /// Makes a provider of what the policy allows out of the store.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            offer,
            limits,
            compression,
            metrics,
            sent,
            budgets,
            swarm,
        } = parts;
        Self(Arc::new(Inner {
            store,
            offer,
            limits,
            compression,
            metrics,
            sent,
            budgets,
            swarm,
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS)),
            requests: Arc::new(Semaphore::new(limits::BLOB_REQUESTS)),
            inventories: Semaphore::new(limits::INVENTORIES_SENT),
        }))
    }

    async fn serve(self, connection: Connection) {
        let Ok(_slot) = self.0.connections.clone().try_acquire_owned() else {
            connection.close(2u32.into(), b"busy");
            return;
        };
        let Some(own) = self.0.budgets.connection(connection.remote_id()) else {
            connection.close(2u32.into(), b"too many connections");
            return;
        };
        let streams = Arc::new(Semaphore::new(limits::BLOB_STREAMS));
        let observers = Arc::new(Semaphore::new(limits::BLOB_OBSERVERS));
        loop {
            let Ok(slot) = streams.clone().acquire_owned().await else {
                return;
            };
            let Ok((mut send, recv)) = connection.accept_bi().await else {
                return;
            };
            let provider = self.clone();
            let connection = connection.clone();
            let observers = observers.clone();
            let (requests, inventories) = (own.blob_requests(), own.inventories());
            let span = debug_span!("blob", peer = %connection.remote_id().fmt_short());
            tokio::spawn(
                async move {
                    let turns = Turns {
                        slot,
                        requests: &requests,
                        inventories: &inventories,
                        observers: &observers,
                    };
                    let serving = provider.serve_stream(&connection, &mut send, recv, turns);
                    if let Err(error) = serving.await {
                        debug!(%error, "request ended early");
                        let _ = send.reset(error.code());
                        // Who means well reads what it asked for: the rest would stall as well.
                        if matches!(error, ServeError::Stalled) {
                            connection.close(error.code(), b"stalled");
                        }
                    }
                }
                .instrument(span),
            );
        }
    }

    async fn serve_stream(
        &self,
        connection: &Connection,
        send: &mut SendStream,
        recv: RecvStream,
        turns: Turns<'_>,
    ) -> Result<(), ServeError> {
        let request = timeout(limits::BLOB_WRITE_TIMEOUT, read_request(recv))
            .await
            .map_err(|_| ServeError::Stalled)??;
        let _own_slot = match request {
            Request::Observe(_) => None,
            _ => Some(turn(turns.requests).await?),
        };
        match request {
            Request::Get(get) => {
                let ranges = single_blob(&get.ranges)?;
                self.send_blob(connection, send, get.hash, ranges, turns.inventories)
                    .await?;
            }
            Request::GetMany(get) => {
                if get.hashes.len() > limits::LOOKUP_MAX_PATHS {
                    return Err(ServeError::Refused);
                }
                let wanted = get.hashes.iter().zip(get.ranges.iter_infinite());
                for (hash, ranges) in wanted {
                    let own = turns.inventories;
                    self.send_blob(connection, send, *hash, ranges.clone(), own)
                        .await?;
                }
            }
            // What is observed is small: it is asked for on iroh-blobs' own ALPN.
            Request::Observe(_) if is_framed(connection) => return Err(ServeError::Refused),
            Request::Observe(observe) => {
                // It lasts, and costs next to nothing: requests for bytes do not wait for it.
                drop(turns.slot);
                let _observer = turns
                    .observers
                    .try_acquire()
                    .map_err(|_| ServeError::Busy)?;
                self.observe(connection, send, observe.hash).await?;
            }
            _ => return Err(ServeError::Refused),
        }
        send.finish().map_err(|_| ServeError::Gone)
    }

    /// Finds an offered blob; what is not offered looks like what is not there.
    async fn offered(
        &self,
        peer: EndpointId,
        hash: BlobHash,
    ) -> Result<(Blob, LocalNar), ServeError> {
        let store = &self.0.store;
        let path_hash = store
            .path_of_blob(hash)
            .await
            .ok_or(ServeError::NotOffered)?;
        let nar = match store.nar(path_hash).await.ok().flatten() {
            Some(nar) => Some(nar),
            None => store.partial_nar(path_hash).await,
        };
        let nar = nar.ok_or(ServeError::NotOffered)?;
        if !self.0.offer.is_offered_to(peer, store, &nar.info) {
            return Err(ServeError::NotOffered);
        }
        let blob = store.open_blob(hash).await;
        Ok((blob.map_err(|_| ServeError::NotOffered)?, nar))
    }

    async fn send_blob(
        &self,
        connection: &Connection,
        send: &mut SendStream,
        hash: BlobHash,
        ranges: ChunkRanges,
        inventories: &Semaphore,
    ) -> Result<(), ServeError> {
        let is_inventory = self.has_inventory(connection, hash);
        if !is_inventory {
            self.0.limits.check().map_err(|_| ServeError::Busy)?;
        }
        let _slot = turn(&self.0.requests).await?;
        let peer = connection.remote_id();
        if is_inventory {
            // Each is in memory while it is sent.
            let _own_turn = turn(inventories).await?;
            let _turn = turn(&self.0.inventories).await?;
            let sending = self.send_inventory(connection, send, hash, ranges);
            return timeout(limits::INVENTORY_TIMEOUT, sending)
                .await
                .map_err(|_| ServeError::Stalled)?;
        }
        let (blob, nar) = self.offered(peer, hash).await?;
        let _kept = self.0.store.keep_while_read(&nar);
        let public = is_public(connection);
        let size = blob.size().to_le_bytes();
        let (pieces, mut encoded) = mpsc::channel::<Piece>(2);
        let piece = self.0.limits.piece(public);
        let read = move |ranges: &ChunkRanges, out: &mut dyn io::Write| {
            blob.encode(ranges, out)
                .map_err(|error| ServeError::Read(error.to_string()))
        };
        let reading = if is_framed(connection) {
            let link = Link {
                rtt: path::of(connection).map(|path| path.rtt),
                limit: self.0.limits.slowest(public),
            };
            let bytes = bytes_in(&ranges, nar.info.nar_size);
            let compression = &self.0.compression;
            let mut out = compression.writer(peer, link, bytes, pieces);
            tokio::task::spawn_blocking(move || {
                io::Write::write_all(&mut out, &size).map_err(|_| ServeError::Gone)?;
                read(&ranges, &mut out)?;
                out.finish().map_err(|_| ServeError::Gone)
            })
        } else {
            write(send, Bytes::copy_from_slice(&size)).await?;
            tokio::task::spawn_blocking(move || {
                let mut out = PieceWriter::new(pieces, piece);
                read(&ranges, &mut out)?;
                out.flush_piece().map_err(|_| ServeError::Gone)
            })
        };
        let mut sent = 0;
        while let Some(Piece { bytes, nar_bytes }) = encoded.recv().await {
            self.send_piece(peer, public, send, bytes, piece).await?;
            self.0.metrics.bytes_sent.inc_by(nar_bytes);
            (self.0.sent)(peer, nar_bytes);
            sent += nar_bytes;
        }
        reading
            .await
            .map_err(|error| ServeError::Read(error.to_string()))??;
        self.0.metrics.nars_served.inc();
        self.0
            .metrics
            .note_served(&nar.info, &peer.to_string(), sent);
        Ok(())
    }

    /// Whether it is an inventory that the swarm was told of: asked for on iroh-blobs' own ALPN alone.
    fn has_inventory(&self, connection: &Connection, hash: BlobHash) -> bool {
        let swarm = self.0.swarm.as_ref();
        !is_framed(connection)
            && swarm.is_some_and(|swarm| swarm.gossip().has_inventory(hash.as_bytes()))
    }

    async fn send_inventory(
        &self,
        connection: &Connection,
        send: &mut SendStream,
        hash: BlobHash,
        ranges: ChunkRanges,
    ) -> Result<(), ServeError> {
        let inventory = self.0.swarm.as_ref();
        let inventory = inventory.and_then(|swarm| swarm.gossip().inventory(hash.as_bytes()));
        let inventory = inventory.ok_or(ServeError::NotOffered)?;
        let (peer, public) = (connection.remote_id(), is_public(connection));
        let piece = self.0.limits.piece(public);
        let size = (inventory.len() as u64).to_le_bytes();
        write(send, Bytes::copy_from_slice(&size)).await?;
        let (pieces, mut encoded) = mpsc::channel::<Piece>(2);
        let encoding = tokio::task::spawn_blocking(move || {
            let outboard = PreOrderMemOutboard::create(&inventory, BLOCK_SIZE);
            let mut out = PieceWriter::new(pieces, piece);
            encode_ranges_validated(&inventory[..], &outboard, &ranges, &mut out)
                .map_err(|error| ServeError::Read(error.to_string()))?;
            out.flush_piece().map_err(|_| ServeError::Gone)
        });
        // Without it nobody knows what is here: no pause of uploads holds it up.
        while let Some(Piece { bytes, .. }) = encoded.recv().await {
            let size = bytes.len() as u64;
            let may_be_sent = self.0.limits.wait_to_tell(peer, public, size).await;
            may_be_sent.map_err(|_| ServeError::Busy)?;
            write(send, bytes).await?;
            self.0.metrics.wire_bytes_sent.inc_by(size);
        }
        encoding
            .await
            .map_err(|error| ServeError::Read(error.to_string()))?
    }

    /// Sends bytes as they are to be on the wire, which is what upload limits count.
    async fn send_piece(
        &self,
        peer: iroh::EndpointId,
        public: bool,
        send: &mut SendStream,
        mut bytes: Bytes,
        most: usize,
    ) -> Result<(), ServeError> {
        while !bytes.is_empty() {
            let now = bytes.split_to(bytes.len().min(most));
            let size = now.len() as u64;
            let may_be_sent = self.0.limits.wait(peer, public, size).await;
            may_be_sent.map_err(|_| ServeError::Busy)?;
            write(send, now).await?;
            self.0.metrics.wire_bytes_sent.inc_by(size);
        }
        Ok(())
    }

    async fn observe(
        &self,
        connection: &Connection,
        send: &mut SendStream,
        hash: BlobHash,
    ) -> Result<(), ServeError> {
        self.may_observe(connection.remote_id(), hash).await?;
        let mut watch = self.0.store.watch_held(hash);
        let mut told = ChunkRanges::empty();
        let mut first = true;
        loop {
            let next = tokio::select! {
                next = watch.next() => next,
                _ = send.stopped() => return Ok(()),
                _ = connection.closed() => return Ok(()),
            };
            let Some((size, held)) = next else {
                return Ok(());
            };
            // What is held in full is all of it, to whoever adds it up.
            let ranges = &held - &told;
            if first || !ranges.is_empty() {
                write(send, observed(size, ranges)?.into()).await?;
            }
            first = false;
            if held.is_all() {
                // A complete blob does not change. The observer is only waited for.
                tokio::select! {
                    _ = send.stopped() => {}
                    _ = connection.closed() => {}
                }
                return Ok(());
            }
            told |= held;
            tokio::time::sleep(limits::OBSERVE_EVERY).await;
        }
    }

    /// Whether what is held of a blob may be told: it is offered, or is on its way and will be.
    async fn may_observe(&self, peer: EndpointId, hash: BlobHash) -> Result<(), ServeError> {
        let store = &self.0.store;
        let coming = store.coming_blob(hash);
        if coming.is_some_and(|info| self.0.offer.is_offered(store, &info)) {
            return Ok(());
        }
        self.offered(peer, hash).await.map(drop)
    }
}

impl ProtocolHandler for Provider {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        // A panic in a handler would end the router: it stays in a task of its own.
        let task = tokio::spawn(self.clone().serve(connection));
        let _ = task.await;
        Ok(())
    }
}

/// What one request has to have a turn in.
struct Turns<'a> {
    /// A stream of its connection.
    slot: OwnedSemaphorePermit,
    /// Blob requests of its peer.
    requests: &'a Semaphore,
    /// Inventories that its peer is sent.
    inventories: &'a Semaphore,
    /// Observers of its connection.
    observers: &'a Semaphore,
}

/// Waits for a turn, and not for long.
async fn turn(slots: &Semaphore) -> Result<SemaphorePermit<'_>, ServeError> {
    timeout(limits::BLOB_TURN, slots.acquire())
        .await
        .map_err(|_| ServeError::Busy)?
        .map_err(|_| ServeError::Gone)
}

/// Reads a request of bounded size: one byte for its type, then postcard up to the end.
async fn read_request(mut recv: RecvStream) -> Result<Request, ServeError> {
    let bytes = recv
        .read_to_end(limits::BLOB_MAX_REQUEST)
        .await
        .map_err(|_| ServeError::Refused)?;
    let kind = bytes.first().ok_or(ServeError::Refused)?;
    let kind: RequestType =
        postcard::from_bytes(std::slice::from_ref(kind)).map_err(|_| ServeError::Refused)?;
    match kind {
        RequestType::Get | RequestType::GetMany | RequestType::Observe => {
            postcard::from_bytes(&bytes).map_err(|_| ServeError::Refused)
        }
        _ => Err(ServeError::Refused),
    }
}

/// What is held, as iroh-blobs tells it: behind its length, a postcard varint.
fn observed(size: u64, ranges: ChunkRanges) -> Result<Vec<u8>, ServeError> {
    let item = ObserveItem { size, ranges };
    let body = postcard::to_stdvec(&item).map_err(|_| ServeError::Refused)?;
    let mut frame = postcard::to_stdvec(&(body.len() as u64)).map_err(|_| ServeError::Refused)?;
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The ranges of a request for one raw blob.
fn single_blob(ranges: &ChunkRangesSeq) -> Result<ChunkRanges, ServeError> {
    match ranges.as_single() {
        Some((0, ranges)) => Ok(ranges.clone()),
        _ => Err(ServeError::Refused),
    }
}

/// Bytes of a blob of `size` bytes that `ranges` cover.
fn bytes_in(ranges: &ChunkRanges, size: u64) -> u64 {
    let bounds = ranges.boundaries().iter();
    let bounds: Vec<u64> = bounds.map(|chunk| chunk.to_bytes().min(size)).collect();
    bounds
        .chunks(2)
        .map(|pair| pair.get(1).copied().unwrap_or(size) - pair[0])
        .sum()
}

fn is_framed(connection: &Connection) -> bool {
    // A swarm's name may follow.
    connection.alpn().starts_with(wire::ALPN)
}

async fn write(send: &mut SendStream, bytes: Bytes) -> Result<(), ServeError> {
    timeout(limits::BLOB_WRITE_TIMEOUT, send.write_chunk(bytes))
        .await
        .map_err(|_| ServeError::Stalled)?
        .map_err(|_| ServeError::Gone)
}

/// Whether the connection leads to a public address, directly or through a relay.
pub(crate) fn is_public(connection: &Connection) -> bool {
    path::of(connection).is_none_or(|path| path.kind != PeerPath::Lan)
}

/// Collects what the encoder writes into pieces and hands them to the stream's task.
struct PieceWriter {
    pieces: mpsc::Sender<Piece>,
    piece: usize,
    buffer: BytesMut,
}

impl PieceWriter {
    fn new(pieces: mpsc::Sender<Piece>, piece: usize) -> Self {
        Self {
            pieces,
            piece,
            buffer: BytesMut::with_capacity(piece),
        }
    }

    fn flush_piece(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(self.piece));
        let piece = Piece {
            nar_bytes: full.len() as u64,
            bytes: full.freeze(),
        };
        self.pieces
            .blocking_send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.piece - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() >= self.piece {
            self.flush_piece()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_ranges_are_counted_within_the_blob() {
        use bao_tree::ChunkNum;
        assert_eq!(bytes_in(&ChunkRanges::all(), 5000), 5000);
        assert_eq!(bytes_in(&ChunkRanges::empty(), 5000), 0);
        let some = ChunkRanges::from(ChunkNum(1)..ChunkNum(3)) | ChunkRanges::from(ChunkNum(4)..);
        assert_eq!(bytes_in(&some, 5000), 2048 + 904);
        assert_eq!(bytes_in(&ChunkRanges::from(ChunkNum(9)..), 5000), 0);
    }

    #[test]
    fn only_single_blobs_are_served() {
        assert!(single_blob(&ChunkRangesSeq::root()).is_ok());
        assert!(single_blob(&ChunkRangesSeq::all()).is_err());
        assert!(single_blob(&ChunkRangesSeq::verified_child_sizes()).is_err());
    }
}
