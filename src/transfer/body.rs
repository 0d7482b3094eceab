//! What HTTP reads: a local NAR, or a transfer followed as it arrives.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};
use peerix_store::{KeptPath, NarReader};
use prometheus_client::metrics::counter::Counter;

use super::{State, Transfer};
use crate::{limits, substituter::NarBody};

/// A NAR out of the own store.
pub(crate) struct LocalBody {
    pub(crate) reader: NarReader,
    /// Until it is read.
    pub(crate) kept: Option<KeptPath>,
    /// Counts what is read, where it is for a program on this machine.
    pub(crate) counted: Option<Counter>,
}

impl NarBody for LocalBody {
    fn stream(self: Box<Self>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let (kept, counted) = (self.kept, self.counted);
        let pieces = self.reader.stream(range);
        let pieces = pieces.map(move |piece| {
            let _until_the_end = &kept;
            if let (Ok(piece), Some(counted)) = (&piece, &counted) {
                counted.inc_by(piece.len() as u64);
            }
            piece.map_err(io::Error::other)
        });
        pieces.boxed()
    }
}

/// One reader of a transfer; the transfer knows how many it has.
pub(super) struct TransferBody(Arc<Transfer>);

impl TransferBody {
    pub(super) fn new(transfer: Arc<Transfer>) -> Self {
        transfer.add_reader();
        Self(transfer)
    }

    /// Waits until bytes after `offset` may be handed out, and reads some of them.
    async fn next(&self, offset: u64, end: u64) -> io::Result<Bytes> {
        // Whoever resumes far ahead wants what lies there, not what lies before.
        self.0.has_read_to(offset);
        let mut news = self.0.news();
        let readable = loop {
            let now = news.take();
            let readable = self.0.readable();
            if readable > offset {
                break readable;
            }
            match now {
                State::Running | State::Verified => {}
                State::Failed => return Err(cut("no provider is left")),
                State::WrongNar => return Err(cut("the NAR was wrong")),
            }
            news.wait().await.ok_or_else(|| cut("the transfer ended"))?;
        };
        let piece = offset..readable.min(end).min(offset + limits::BODY_PIECE);
        let bytes = match self.0.recent(piece.clone()) {
            Some(bytes) => bytes,
            None => {
                let transfer = self.0.clone();
                let reading = tokio::task::spawn_blocking(move || transfer.read_at(piece));
                reading.await.map_err(io::Error::other)??
            }
        };
        self.0.has_read_to(offset + bytes.len() as u64);
        Ok(bytes)
    }
}

impl Drop for TransferBody {
    fn drop(&mut self) {
        self.0.remove_reader();
    }
}

impl NarBody for TransferBody {
    fn stream(self: Box<Self>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let end = range.end;
        stream::try_unfold((self, range.start), move |(body, offset)| async move {
            if offset >= end {
                return Ok(None);
            }
            let bytes = body.next(offset, end).await?;
            if bytes.is_empty() {
                return Err(cut("the store returned nothing"));
            }
            let next = offset + bytes.len() as u64;
            Ok(Some((bytes, (body, next))))
        })
        .boxed()
    }
}

/// The connection is cut with this: a body never ends short and clean.
fn cut(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, reason)
}
