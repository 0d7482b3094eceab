//! Runs one transfer: fetching, storing, SHA-256, and the verdict.

use std::{collections::HashSet, sync::Arc};

use iroh::EndpointId;
use peerix_store::VerifyError;
use tokio::sync::mpsc;

use super::{State, Transfer, Transfers, fetch::Batch};
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
        let verdict = tokio::select! {
            () = stop.cancelled() => State::Failed,
            verdict = self.fetch_and_verify(transfer, holders) => verdict,
        };
        if verdict == State::WrongNar {
            transfer.download.discard().await;
            self.remember_wrong(transfer);
            let (path_hash, nar_hash) = (transfer.info.path_hash(), transfer.info.nar_hash);
            let blob_hash = transfer.blob_hash;
            // Those that joined later vouched for it too.
            claimants.extend(self.0.lookup.vouchers(path_hash, nar_hash, blob_hash));
            self.0.lookup.disown(path_hash, nar_hash, blob_hash, None);
            for peer in claimants.iter().filter_map(|id| self.0.peers.get(*id)) {
                self.0.peers.fault(&peer, Fault::WrongNar);
            }
        }
        transfer.state.send_replace(verdict);
        if verdict == State::Verified {
            self.keep(transfer).await;
        }
    }

    async fn fetch_and_verify(&self, transfer: &Arc<Transfer>, holders: Holders) -> State {
        let (batches, mut unwritten) = mpsc::channel::<Batch>(UNWRITTEN_BATCHES);
        let download = transfer.download.clone();
        let writing = tokio::task::spawn_blocking(move || {
            while let Some(batch) = unwritten.blocking_recv() {
                download.write(&batch.parents, &batch.leaves)?;
            }
            Ok::<(), std::io::Error>(())
        });
        let complete = self.fetch_all(transfer, holders, batches).await;
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "a download can't be written; is the disk full?");
                self.0.metrics.errors.inc();
                // The room is needed for better things than a part of a NAR.
                transfer.download.discard().await;
                return State::Failed;
            }
            Err(_) => return State::Failed,
        }
        if !complete {
            return State::Failed;
        }
        match transfer.download.verify().await {
            Ok(()) => State::Verified,
            Err(VerifyError::Mismatch { .. }) => State::WrongNar,
            Err(error) => {
                // The disk's fault, not a peer's: all of it is fetched again.
                tracing::error!(%error, path = %transfer.info.store_path, "a download is given up");
                self.0.metrics.errors.inc();
                transfer.download.discard().await;
                State::Failed
            }
        }
    }

    /// Keeps a verified download; readers needn't wait until it is on the disk.
    async fn keep(&self, transfer: &Transfer) {
        if let Err(error) = transfer.download.commit().await {
            tracing::error!(%error, "a download can't be kept");
            self.0.metrics.errors.inc();
            transfer.download.discard().await;
        }
    }
}
