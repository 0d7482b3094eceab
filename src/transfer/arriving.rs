//! What of one NAR has arrived, wherever it comes from, and what of it may be read.

use std::{io, ops::Range, sync::atomic::Ordering};

use bytes::Bytes;
use peerix_store::{BlobHash, Download, IncomingNar};
use tokio::sync::watch;

use super::{State, Transfer};
use crate::limits;

/// A blob that some peers claim to be the NAR, on its way here in verified ranges.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(super) blob_hash: BlobHash,
    pub(super) download: Download,
}

impl Transfer {
    /// Bytes from the start that are there, in verified ranges or as one source gave them.
    pub(super) fn arrived(&self) -> u64 {
        let claimed = self
            .claim
            .as_ref()
            .map_or(0, |claim| *claim.download.watermark().borrow());
        let whole = self.whole.borrow();
        claimed.max(whole.as_ref().map_or(0, |nar| *nar.watermark().borrow()))
    }

    /// Bytes that may be handed out now: all once verified, else all but the last chunk group.
    pub(super) fn readable(&self) -> u64 {
        let size = self.info.nar_size;
        match *self.state.borrow() {
            State::Verified => size,
            _ if size <= limits::CHECKED_FIRST => 0,
            _ => {
                let withheld = (size - 1) / limits::CHUNK_GROUP * limits::CHUNK_GROUP;
                self.arrived().min(withheld)
            }
        }
    }

    /// What lies in memory of `range`, from its start on. Never blocks.
    pub(super) fn recent(&self, range: Range<u64>) -> Option<Bytes> {
        self.claim.as_ref()?.download.recent(range)
    }

    /// Reads what has arrived, at least one byte and at most to the end of `range`. **Blocks**.
    pub(super) fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let whole = self.whole.borrow().clone();
        let clip = |watermark: u64| range.start..range.end.min(watermark);
        if let Some(nar) = whole {
            let range = clip(*nar.watermark().borrow());
            if !range.is_empty() {
                return nar.read_at(range);
            }
        }
        let claim = self.claim.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let range = clip(*claim.download.watermark().borrow());
        claim.download.read_at(range)
    }

    /// News of this transfer, for one who waits for more of it.
    pub(super) fn news(&self) -> News {
        let whole = self.whole.subscribe();
        let arriving = whole.borrow().as_ref().map(IncomingNar::watermark);
        let claim = self.claim.as_ref();
        News {
            state: self.state.subscribe(),
            claimed: claim.map(|claim| claim.download.watermark()),
            whole,
            arriving,
        }
    }

    /// Whether a reader can still get the NAR from it.
    pub(super) fn is_useful(&self) -> bool {
        matches!(*self.state.borrow(), State::Running | State::Verified)
    }

    pub(super) fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    /// The last reader gone: worth finishing when more than half is there.
    pub(super) fn remove_reader(&self) {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            if self.arrived().saturating_mul(2) < self.info.nar_size {
                self.stop.cancel();
            } else {
                self.read_to.store(u64::MAX, Ordering::Release);
                self.read_on.notify_one();
            }
        }
    }

    pub(super) fn has_read_to(&self, offset: u64) {
        self.read_to.fetch_max(offset, Ordering::AcqRel);
        if let Some(claim) = &self.claim {
            claim.download.has_read_to(offset);
        }
        self.read_on.notify_one();
    }
}

/// Tells when there is more of a transfer, or its state changed.
pub(super) struct News {
    state: watch::Receiver<State>,
    claimed: Option<watch::Receiver<u64>>,
    whole: watch::Receiver<Option<IncomingNar>>,
    arriving: Option<watch::Receiver<u64>>,
}

impl News {
    /// Takes note of all that is known now, and returns the state: what comes later is news.
    pub(super) fn take(&mut self) -> State {
        if self.whole.has_changed().unwrap_or(false) {
            let nar = self.whole.borrow_and_update();
            self.arriving = nar.as_ref().map(IncomingNar::watermark);
        }
        for watermark in [&mut self.claimed, &mut self.arriving]
            .into_iter()
            .flatten()
        {
            watermark.borrow_and_update();
        }
        *self.state.borrow_and_update()
    }

    /// Waits for news; `None` once there can be no more.
    pub(super) async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            changed = self.state.changed() => changed.ok(),
            changed = self.whole.changed() => {
                if changed.is_ok() {
                    self.whole.mark_changed();
                }
                changed.ok()
            }
            () = grows(&mut self.claimed) => Some(()),
            () = grows(&mut self.arriving) => Some(()),
        }
    }
}

/// Waits until a watermark grows; forever where there is none, or none any more.
async fn grows(watermark: &mut Option<watch::Receiver<u64>>) {
    let Some(receiver) = watermark else {
        return std::future::pending().await;
    };
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}
