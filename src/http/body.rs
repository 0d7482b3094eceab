//! What follows the head of a response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use hyper::body::{Body, Frame, SizeHint};

use super::connection::{NarSlot, RequestGuard};
use crate::metrics::{Metrics, Stage};

/// A response's body, which keeps its connection from counting as idle.
pub(super) struct ResponseBody {
    content: Content,
    _request: Option<RequestGuard>,
}

enum Content {
    Empty,
    Full(Bytes),
    Nar(NarBytes),
    /// Texts that come when they come, and have no end.
    Events(BoxStream<'static, Bytes>),
}

impl ResponseBody {
    pub(super) const fn empty() -> Self {
        Self {
            content: Content::Empty,
            _request: None,
        }
    }

    pub(super) const fn full(bytes: Bytes) -> Self {
        Self {
            content: Content::Full(bytes),
            _request: None,
        }
    }

    pub(super) fn events(events: BoxStream<'static, Bytes>) -> Self {
        Self {
            content: Content::Events(events),
            _request: None,
        }
    }

    pub(super) const fn nar(bytes: NarBytes) -> Self {
        Self {
            content: Content::Nar(bytes),
            _request: None,
        }
    }

    /// Holds `request` until the body is sent or dropped.
    pub(super) fn holding(self, request: RequestGuard) -> Self {
        Self {
            _request: Some(request),
            ..self
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Content::Nar(nar) = &mut self.content {
            return nar
                .poll_piece(cx)
                .map(|piece| piece.map(|piece| piece.map(Frame::data)));
        }
        if let Content::Events(events) = &mut self.content {
            let event = ready!(events.poll_next_unpin(cx));
            return Poll::Ready(event.map(|event| Ok(Frame::data(event))));
        }
        match std::mem::replace(&mut self.content, Content::Empty) {
            Content::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Content::Empty | Content::Nar(_) | Content::Events(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl ResponseBody {
    fn left(&self) -> Option<u64> {
        match &self.content {
            Content::Empty => Some(0),
            Content::Full(bytes) => Some(bytes.len() as u64),
            Content::Nar(nar) => Some(nar.left),
            Content::Events(_) => None,
        }
    }
}

/// The bytes of a NAR on their way out, exactly as many as were promised or a cut connection.
pub(super) struct NarBytes {
    pieces: BoxStream<'static, io::Result<Bytes>>,
    left: u64,
    reaches_the_end: bool,
    metrics: Arc<Metrics>,
    asked: Instant,
    has_begun: bool,
    _slot: NarSlot,
}

impl NarBytes {
    /// Sends `length` bytes of what was asked for at `asked`; `reaches_the_end` says that the last one is the NAR's.
    pub(super) fn new(
        pieces: BoxStream<'static, io::Result<Bytes>>,
        length: u64,
        reaches_the_end: bool,
        metrics: Arc<Metrics>,
        asked: Instant,
        slot: NarSlot,
    ) -> Self {
        Self {
            pieces,
            left: length,
            reaches_the_end,
            metrics,
            asked,
            has_begun: false,
            _slot: slot,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        while self.left > 0 {
            let piece = match ready!(self.pieces.poll_next_unpin(cx)) {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            };
            if piece.is_empty() {
                continue;
            }
            // Whoever sends more than there is sends something else.
            let Some(left) = self.left.checked_sub(piece.len() as u64) else {
                return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
            };
            self.left = left;
            let substitution = &self.metrics.substitution;
            if !self.has_begun {
                self.has_begun = true;
                substitution.observe(Stage::FirstByte, self.asked.elapsed());
            }
            self.metrics.http_bytes_sent.inc_by(piece.len() as u64);
            if left == 0 && self.reaches_the_end {
                substitution.observe(Stage::Whole, self.asked.elapsed());
                self.metrics.nars_served.inc();
                self.metrics.served.inc();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        Poll::Ready(None)
    }
}

impl Drop for NarBytes {
    fn drop(&mut self) {
        if self.left > 0 {
            self.metrics.http_bodies_cut.inc();
        }
    }
}
