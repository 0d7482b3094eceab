//! A client's socket, with a limit on how long it may take nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::Activity;

/// A socket whose writes fail once the client has not taken a byte for the stall timeout.
pub(crate) struct ClientStream {
    socket: TcpStream,
    activity: Arc<Activity>,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    is_blocked: bool,
}

impl ClientStream {
    pub(crate) fn new(socket: TcpStream, activity: Arc<Activity>, stall_timeout: Duration) -> Self {
        Self {
            socket,
            activity,
            stall_timeout,
            stalled: None,
            is_blocked: false,
        }
    }

    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.is_blocked {
                self.is_blocked = false;
                self.activity.moved();
            }
            return written;
        }
        let deadline = Instant::now() + self.stall_timeout;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !self.is_blocked {
            self.is_blocked = true;
            self.activity.blocked();
            stalled.as_mut().reset(deadline);
        }
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
