//! A NAR from its start, from sources that can't give verified ranges.
//!
//! It is received beside what the peers brought, so that nothing unverified mixes with it. Once it
//! agrees with all that a reader may have been given, readers follow it, in the same response, and
//! SHA-256 of the whole decides before they get the end.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use peerix_store::{BlobHash, IncomingNar, VerifyError};
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tracing::debug;

use super::{
    State, Transfer, Transfers,
    provided::Provided,
    whole::{NarStream, WholeNarHolder},
};
use crate::{limits, metrics::Fault};

/// Why a NAR did not come.
enum Broken {
    /// The holder's fault: the next one is tried.
    Holder(Fault),
    /// This machine's: nobody else could do better.
    Here,
}

/// A NAR that is right.
struct Right {
    nar: IncomingNar,
    blob_hash: BlobHash,
    /// Whether it is what readers were given before.
    agrees: bool,
}

impl Transfers {
    /// Lets the sources of whole NARs finish a transfer, one holder after the other.
    ///
    /// Returned is the state, and whether the blob that peers claimed is not the NAR.
    pub(super) async fn take_over(&self, transfer: &Arc<Transfer>) -> (State, bool) {
        // Where one was wrong, so may be what readers hold of it.
        let mut failed = State::Failed;
        for source in self.0.sources.iter() {
            let received = match source.is_peer() {
                true => &self.0.metrics.bytes_received,
                false => &self.0.metrics.upstream_bytes_received,
            };
            let mut holders = source.holders(&transfer.info).await;
            let tried: Vec<String> = holders.iter().map(|holder| holder.name()).collect();
            let mut asked_again = false;
            holders.reverse();
            while let Some(holder) = match holders.pop() {
                // Those that failed were perhaps the first to answer, and others have it too.
                None if !asked_again && !tried.is_empty() => {
                    asked_again = true;
                    holders = source.holders(&transfer.info).await;
                    holders.retain(|holder| !tried.contains(&holder.name()));
                    holders.pop()
                }
                holder => holder,
            } {
                debug!(holder = holder.name(), path = %transfer.info.path_hash(), "a whole NAR is asked for");
                match self.receive(transfer, &*holder, received).await {
                    Ok(right) => {
                        let claim = transfer.claim.as_ref();
                        let is_lie = claim.is_some_and(|claim| claim.blob_hash != right.blob_hash);
                        let _once = transfer.verified.set(right.nar);
                        let state = if right.agrees {
                            State::Verified
                        } else {
                            State::WrongNar
                        };
                        return (state, is_lie);
                    }
                    Err(Broken::Holder(Fault::WrongNar)) => failed = State::WrongNar,
                    Err(Broken::Holder(_)) => {}
                    Err(Broken::Here) => return (failed, false),
                }
            }
        }
        (failed, false)
    }

    /// Receives the NAR from one holder, and tells it how that went.
    async fn receive(
        &self,
        transfer: &Arc<Transfer>,
        holder: &dyn WholeNarHolder,
        received: &Counter,
    ) -> Result<Right, Broken> {
        let pieces = match holder.open().await {
            Ok(pieces) => pieces,
            Err(fault) => {
                holder.ended(0, Some(fault));
                return Err(Broken::Holder(fault));
            }
        };
        let begun = self.0.store.begin_nar(transfer.info.clone()).await;
        let nar = begun.map_err(|error| {
            tracing::warn!(%error, path = %transfer.info.path_hash(), "not fetched");
            holder.ended(0, None);
            Broken::Here
        })?;
        let arrived = nar.watermark();
        let provided = transfer.provided_by(holder.name(), received);
        provided.comes_from(holder.source(), &self.0.metrics);
        let result = self.follow(transfer, nar, pieces, &provided).await;
        let fault = match &result {
            Err(Broken::Holder(fault)) => Some(*fault),
            Ok(_) | Err(Broken::Here) => None,
        };
        holder.ended(*arrived.borrow(), fault);
        result
    }

    async fn follow(
        &self,
        transfer: &Arc<Transfer>,
        nar: IncomingNar,
        mut pieces: NarStream,
        provided: &Provided,
    ) -> Result<Right, Broken> {
        let (unwritten, to_write) = mpsc::channel(limits::WHOLE_UNWRITTEN);
        let writer = Writer {
            transfer: transfer.clone(),
            nar: nar.clone(),
            given_to: transfer.arrived(),
            agrees: true,
            published: false,
        };
        let writing = spawn_blocking(move || writer.write(to_write));
        let size = nar.size();
        let mut taken = 0;
        let fault = loop {
            if taken == size {
                break None;
            }
            transfer.wait_for_readers(taken).await;
            match timeout(limits::STALL, pieces.next()).await {
                Ok(Some(Ok(piece))) => {
                    taken += piece.len() as u64;
                    provided.add(piece.len() as u64);
                    if taken > size {
                        break Some(Fault::BadData);
                    }
                    if unwritten.send(piece).await.is_err() {
                        // It tells below why it ended.
                        break None;
                    }
                }
                Ok(Some(Err(error))) => break Some(fault_of(&error)),
                Ok(None) => break Some(Fault::Disconnected),
                Err(_) => break Some(Fault::Silent),
            }
        };
        drop(unwritten);
        let agrees = match writing.await {
            Ok(Ok(agrees)) => agrees,
            Ok(Err(error)) => {
                tracing::error!(%error, "a NAR can't be written; is the disk full?");
                self.0.metrics.errors.inc();
                return Err(Broken::Here);
            }
            Err(_) => return Err(Broken::Here),
        };
        if let Some(fault) = fault {
            return Err(Broken::Holder(fault));
        }
        match nar.verify().await {
            Ok(blob_hash) => Ok(Right {
                nar,
                blob_hash,
                agrees,
            }),
            Err(VerifyError::Mismatch { .. }) => Err(Broken::Holder(Fault::WrongNar)),
            Err(error) => {
                tracing::error!(%error, path = %transfer.info.path_hash(), "a NAR is given up");
                self.0.metrics.errors.inc();
                Err(Broken::Here)
            }
        }
    }
}

impl Transfer {
    /// Waits while more than enough lies ahead of the fastest reader.
    async fn wait_for_readers(&self, arrived: u64) {
        loop {
            let read_to = self.read_to.load(Ordering::Acquire);
            if arrived <= read_to.saturating_add(limits::READ_AHEAD) {
                return;
            }
            self.read_on.notified().await;
        }
    }
}

/// Writes what arrives, and compares it with what readers may have been given.
struct Writer {
    transfer: Arc<Transfer>,
    nar: IncomingNar,
    given_to: u64,
    agrees: bool,
    published: bool,
}

impl Writer {
    /// Returns whether all agreed. Blocks.
    fn write(mut self, mut pieces: mpsc::Receiver<Bytes>) -> io::Result<bool> {
        let mut offset = 0;
        while let Some(piece) = pieces.blocking_recv() {
            if self.agrees && offset < self.given_to {
                self.agrees = self.is_as_given(offset, &piece)?;
            }
            self.nar.append(&piece)?;
            offset += piece.len() as u64;
            if self.agrees && !self.published && offset >= self.given_to {
                self.published = true;
                self.transfer.whole.send_replace(Some(self.nar.clone()));
            }
        }
        Ok(self.agrees)
    }

    fn is_as_given(&self, offset: u64, piece: &[u8]) -> io::Result<bool> {
        let end = self.given_to.min(offset + piece.len() as u64);
        let mut at = offset;
        while at < end {
            let given = self.transfer.read_at(at..end)?;
            let start = (at - offset) as usize;
            if given.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if piece.get(start..start + given.len()) != Some(&given[..]) {
                return Ok(false);
            }
            at += given.len() as u64;
        }
        Ok(true)
    }
}

fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::Silent,
        io::ErrorKind::InvalidData => Fault::BadData,
        _ => Fault::Disconnected,
    }
}
