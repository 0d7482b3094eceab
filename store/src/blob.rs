//! A blob that is held here, open for reading.

use std::{
    io::{self, Write},
    ops::Range,
    sync::{Arc, Weak},
};

use bao_tree::{ChunkRanges, io::mixed::EncodedItem};
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::{
    BlobHash, ReadError,
    bao::{Items, Verifier},
    limits,
    nix::StorePathHash,
    outboard::Outboard,
    source::ByteSource,
    store::Inner,
};

/// An open blob; clones share it, and each read has its own position.
///
/// What Nix deletes while it is open reads as [`ReadError::Missing`]. A blob whose bytes are gone
/// or wrong is dropped from the store at the first read that shows it.
#[derive(Debug, Clone)]
pub struct Blob(Arc<BlobInner>);

#[derive(Debug)]
pub(crate) struct BlobInner {
    pub hash: BlobHash,
    pub size: u64,
    pub path_hash: Option<StorePathHash>,
    pub source: ByteSource,
    pub outboard: Outboard,
    /// The chunks that are there, of a blob that is not whole.
    pub held: Option<ChunkRanges>,
    pub store: Weak<Inner>,
}

impl Blob {
    pub(crate) fn new(inner: BlobInner) -> Self {
        Self(Arc::new(inner))
    }

    /// The BLAKE3 hash of the bytes.
    #[must_use]
    pub fn hash(&self) -> BlobHash {
        self.0.hash
    }

    /// The chunks that were there when it was opened; all of a blob that is whole.
    ///
    /// Reading others ends with [`ReadError::Missing`] or [`ReadError::Mismatch`].
    #[must_use]
    pub fn held(&self) -> ChunkRanges {
        self.0.held.clone().unwrap_or_else(ChunkRanges::all)
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// A store path whose NAR this is, where one is known.
    #[must_use]
    pub fn path_hash(&self) -> Option<StorePathHash> {
        self.0.path_hash
    }

    /// Writes the bao encoding of `ranges` as iroh-blobs sends it, without its size header.
    ///
    /// Pre-order hash pairs and leaves of 16 KiB, each checked before it is written. Ranges past
    /// the end ask for the last chunk. **Blocks**: for a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Missing`] and [`ReadError::Mismatch`] drop the blob from the store; what was
    /// written before is right. [`ReadError::Output`] if `out` fails.
    pub fn encode(&self, ranges: &ChunkRanges, out: &mut dyn Write) -> Result<(), ReadError> {
        self.checked(self.verifier().encode(ranges, out))
    }

    /// Hands out the bytes of `range` in order, each checked against the tree.
    ///
    /// Pieces have up to 256 KiB. **Blocks**: for a blocking thread. An error of `out` ends the
    /// read.
    ///
    /// # Errors
    /// As [`Blob::encode`], and [`ReadError::OutOfBounds`] for a range past the end.
    pub fn read_verified(
        &self,
        range: Range<u64>,
        out: &mut dyn FnMut(Bytes) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        self.checked(self.verifier().read_range(range, out))
    }

    /// Streams what [`Blob::read_verified`] hands out, read on a blocking thread a little ahead.
    ///
    /// Must be called within a tokio runtime. Dropping the stream ends the read.
    pub fn read_stream(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + use<> {
        let blob = self.clone();
        let read: Produce = Box::new(move |out| blob.read_verified(range, out));
        blocking_stream(read)
    }

    /// Whether every chunk was there when it was opened.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.held.is_none()
    }

    /// Starts to encode `ranges` piece by piece, as [`Blob::encode`] does at once.
    pub(crate) fn items(&self, ranges: ChunkRanges) -> BlobItems {
        BlobItems {
            items: Items::new(self.verifier(), ranges),
            blob: self.clone(),
        }
    }

    fn verifier(&self) -> Verifier {
        let blob = &*self.0;
        Verifier::new(
            blob.hash.as_bytes(),
            blob.size,
            blob.source.cursor(),
            &blob.outboard,
        )
    }

    fn checked(&self, outcome: Result<(), ReadError>) -> Result<(), ReadError> {
        if let Err(error @ (ReadError::Missing(_) | ReadError::Mismatch { .. })) = &outcome
            // What is not there yet does not speak against what is.
            && self.0.held.is_none()
            && let Some(store) = self.0.store.upgrade()
        {
            store.demote(self.0.hash, self.0.path_hash, &self.0.source, error);
        }
        outcome
    }
}

/// An encoding under way.
pub(crate) struct BlobItems {
    blob: Blob,
    items: Items,
}

impl BlobItems {
    /// Appends the items of the next piece, and returns whether there may be more. Blocks.
    ///
    /// What was appended before an error is right. Errors are those of [`Blob::encode`].
    pub(crate) fn next_piece(&mut self, out: &mut Vec<EncodedItem>) -> Result<bool, ReadError> {
        let mut more = false;
        let outcome = self.items.next_piece(out).map(|answer| more = answer);
        self.blob.checked(outcome).map(|()| more)
    }
}

/// Hands out pieces until it is done.
type Produce =
    Box<dyn FnOnce(&mut dyn FnMut(Bytes) -> io::Result<()>) -> Result<(), ReadError> + Send>;

/// Streams what `produce` hands out on a blocking thread, through a short channel.
pub(crate) fn blocking_stream<F>(
    produce: F,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + use<F>
where
    F: FnOnce(&mut dyn FnMut(Bytes) -> io::Result<()>) -> Result<(), ReadError> + Send + 'static,
{
    let (send, receive) = mpsc::channel(limits::READ_AHEAD_PIECES);
    let _detached = tokio::task::spawn_blocking(move || {
        let outcome = produce(&mut |piece| {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            send.blocking_send(Ok(piece)).map_err(gone)
        });
        if let Err(error) = outcome {
            // Where the reader is gone there is nobody to tell.
            let _ = send.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(receive, async |mut receive| {
        let item = receive.recv().await?;
        Some((item, receive))
    })
}
