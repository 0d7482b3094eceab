//! Runs one transfer: fetching, storing, SHA-256, and the verdict.

use std::{collections::HashSet, sync::Arc};

use iroh::EndpointId;
use peerix_store::VerifyError;
use tokio::sync::mpsc;

use super::{State, Transfer, Transfers, arriving::Claim, fetch::Batch};
use crate::{lookup::Holders, peer::score::Fault};

/// Verified batches that wait to be written: what a slow disk may hold up in memory.
const UNWRITTEN_BATCHES: usize = 8;

impl Transfers {
    /// Runs `transfer` to its verdict; a stopped one ends as failed.
    pub(super) async fn run(&self, transfer: &Arc<Transfer>, holders: Holders) {
        // Who has only a part says what it was told, as we would.
        let whole = holders.iter().filter(|(_, whole)| *whole);
        let mut claimants: HashSet<EndpointId> = whole.map(|(id, _)| *id).collect();
        let stop = transfer.stop.clone();
        let (verdict, is_lie) = tokio::select! {
            () = stop.cancelled() => (State::Failed, false),
            verdict = self.fetch_and_verify(transfer, holders) => verdict,
        };
        if verdict == State::WrongNar {
            self.remember_wrong(transfer);
        }
        if let Some(claim) = transfer.claim.as_ref().filter(|_| is_lie) {
            claim.download.discard().await;
            let (path_hash, nar_hash) = (transfer.info.path_hash(), transfer.info.nar_hash);
            let blob_hash = claim.blob_hash;
            // Those that joined later vouched for it too.
            claimants.extend(self.0.lookup.vouchers(path_hash, nar_hash, blob_hash));
            self.0.lookup.disown(path_hash, nar_hash, blob_hash, None);
            for peer in claimants.iter().filter_map(|id| self.0.peers.get(*id)) {
                self.0.peers.fault(&peer, Fault::WrongNar);
            }
        }
        transfer.state.send_replace(verdict);
        self.keep(transfer, verdict).await;
    }

    /// Returns the state, and whether the claimed blob is known not to be the NAR.
    async fn fetch_and_verify(&self, transfer: &Arc<Transfer>, holders: Holders) -> (State, bool) {
        let Some(claim) = &transfer.claim else {
            return self.take_over(transfer).await;
        };
        match self.fetch_claimed(transfer, claim, holders).await {
            // Others may claim to have it; but what a reader was given can only be finished here.
            State::Failed if transfer.readable() > 0 => self.take_over(transfer).await,
            state => (state, state == State::WrongNar),
        }
    }

    async fn fetch_claimed(
        &self,
        transfer: &Arc<Transfer>,
        claim: &Claim,
        holders: Holders,
    ) -> State {
        let (batches, mut unwritten) = mpsc::channel::<Batch>(UNWRITTEN_BATCHES);
        let download = claim.download.clone();
        let writing = tokio::task::spawn_blocking(move || {
            while let Some(batch) = unwritten.blocking_recv() {
                download.write(&batch.parents, &batch.leaves)?;
            }
            Ok::<(), std::io::Error>(())
        });
        let complete = self.fetch_all(transfer, claim, holders, batches).await;
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "a download can't be written; is the disk full?");
                self.0.metrics.errors.inc();
                // The room is needed for better things than a part of a NAR.
                claim.download.discard().await;
                return State::Failed;
            }
            Err(_) => return State::Failed,
        }
        if !complete {
            return State::Failed;
        }
        match claim.download.verify().await {
            Ok(()) => State::Verified,
            Err(VerifyError::Mismatch { .. }) => State::WrongNar,
            Err(error) => {
                // The disk's fault, not a peer's: all of it is fetched again.
                tracing::error!(%error, path = %transfer.info.path_hash(), "a download is given up");
                self.0.metrics.errors.inc();
                claim.download.discard().await;
                State::Failed
            }
        }
    }

    /// Keeps what is right; readers needn't wait until it is on the disk.
    async fn keep(&self, transfer: &Transfer, verdict: State) {
        let kept = if let Some(nar) = transfer.verified.get() {
            nar.commit().await.map(drop)
        } else if let Some(claim) = transfer
            .claim
            .as_ref()
            .filter(|_| verdict == State::Verified)
        {
            let kept = claim.download.commit().await.map(drop);
            if kept.is_err() {
                claim.download.discard().await;
            }
            kept
        } else {
            return;
        };
        if let Err(error) = kept {
            tracing::error!(%error, "a download can't be kept");
            self.0.metrics.errors.inc();
        }
    }
}
