//! The connections that blobs come over: made when they are needed, and kept for a while.

use std::time::Instant;

use iroh::endpoint::Connection;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use super::{BLOB_CONNECTIONS, ConnectFailure, Peer, Peers, lock, peer::Kept};
use crate::{
    limits,
    peer::{
        blobs::{BlobConnection, Frames},
        score::Fault,
        wire::{
            self,
            choice::{self, Wire},
            decoder,
        },
    },
};

impl Peers {
    /// A connection to `peer` for blobs, number `index` of those kept, made where there is none.
    ///
    /// # Errors
    /// The fault that kept it from being made.
    pub async fn blob_connection(&self, peer: &Peer, index: usize) -> Result<Connection, Fault> {
        self.kept(peer, &peer.blobs, index, iroh_blobs::ALPN).await
    }

    /// A connection to `peer` for one request of `bytes` bytes, over the wire that suits the link.
    ///
    /// # Errors
    /// The fault that kept it from being made.
    pub async fn blob_wire(
        &self,
        peer: &Peer,
        index: usize,
        bytes: u64,
    ) -> Result<BlobConnection, Fault> {
        let wire = choice::choose(self.0.wire_compression, &lock(&peer.wire), Instant::now());
        // What a request covers is rounded to chunks at both ends.
        let window_log = wire::window_log(bytes.saturating_add(2048));
        let memory = match wire {
            Wire::Raw => None,
            Wire::Framed => self.decoder_memory(window_log),
        };
        if let Some(memory) = memory {
            match self.kept(peer, &peer.framed, index, wire::ALPN).await {
                Ok(connection) => {
                    let frames = Frames { window_log, memory };
                    return Ok(self.blobs_over(connection, Some(frames), peer));
                }
                Err(Fault::Disconnected) => {
                    // It may not speak it: then it answers on iroh-blobs' own.
                    let connection = self.blob_connection(peer, index).await?;
                    debug!(peer = %peer.id.fmt_short(), "no compressed wire");
                    lock(&peer.wire).refused(Instant::now());
                    return Ok(self.blobs_over(connection, None, peer));
                }
                Err(fault) => return Err(fault),
            }
        }
        let connection = self.blob_connection(peer, index).await?;
        Ok(self.blobs_over(connection, None, peer))
    }

    fn blobs_over(
        &self,
        connection: Connection,
        frames: Option<Frames>,
        peer: &Peer,
    ) -> BlobConnection {
        let (record, metrics) = (peer.wire.clone(), self.0.metrics.clone());
        BlobConnection::new(connection, frames, record, metrics)
    }

    fn decoder_memory(&self, window_log: u32) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(decoder::memory_of(window_log) / 1024).ok()?;
        self.0.decoders.clone().try_acquire_many_owned(kib).ok()
    }

    async fn kept(
        &self,
        peer: &Peer,
        kept: &Kept,
        index: usize,
        alpn: &[u8],
    ) -> Result<Connection, Fault> {
        let mut slot = kept[index % BLOB_CONNECTIONS].lock().await;
        if let Some((connection, used)) = slot.as_mut()
            && connection.close_reason().is_none()
        {
            *used = Instant::now();
            return Ok(connection.clone());
        }
        let connecting = self.connect(peer.id, alpn).await;
        let connection = connecting.map_err(ConnectFailure::fault)?;
        *slot = Some((connection.clone(), Instant::now()));
        Ok(connection)
    }

    /// Lets go of the connections for blobs that nobody was given for a while, for ever: each would
    /// send something every few seconds. Requests that are under way hold their own.
    pub(super) async fn rest(&self, peer: &Peer) {
        loop {
            tokio::time::sleep(limits::BLOB_CONNECTION_IDLE / 2).await;
            for slot in peer.blobs.iter().chain(&peer.framed) {
                // One that is being made is no idle one.
                let Ok(mut slot) = slot.try_lock() else {
                    continue;
                };
                slot.take_if(|(_, used)| used.elapsed() >= limits::BLOB_CONNECTION_IDLE);
            }
        }
    }
}
