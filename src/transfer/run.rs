//! Runs one transfer: range requests to its providers, storing, SHA-256, and the verdict.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bao_tree::ChunkRanges;
use iroh::EndpointId;
use peerix_store::VerifyError;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::debug;

use super::{
    State, Transfer, Transfers,
    fetch::{self, Batch, Fetched},
    plan::Plan,
};
use crate::{
    limits,
    peer::{peers::Peer, score::Fault},
};

/// Verified batches that wait to be written: what a slow disk may hold up in memory.
const UNWRITTEN_BATCHES: usize = 8;

struct Done {
    peer: Arc<Peer>,
    range: Range<u64>,
    fetched: Fetched,
    took: std::time::Duration,
}

impl Transfers {
    /// Runs `transfer` to its verdict; a stopped one ends as failed.
    pub(super) async fn run(&self, transfer: &Arc<Transfer>, providers: Vec<EndpointId>) {
        let stop = transfer.stop.clone();
        let verdict = tokio::select! {
            () = stop.cancelled() => State::Failed,
            verdict = self.fetch_and_verify(transfer, &providers) => verdict,
        };
        if verdict == State::WrongNar {
            transfer.download.discard().await;
            self.remember_wrong(transfer);
            self.0.lookup.disown(
                transfer.info.path_hash(),
                transfer.info.nar_hash,
                transfer.blob_hash,
                None,
            );
            for peer in providers.iter().filter_map(|id| self.0.peers.get(*id)) {
                self.0.peers.fault(&peer, Fault::WrongNar);
            }
        }
        transfer.state.send_replace(verdict);
        if verdict == State::Verified {
            self.keep(transfer).await;
        }
    }

    async fn fetch_and_verify(&self, transfer: &Arc<Transfer>, providers: &[EndpointId]) -> State {
        let (batches, mut unwritten) = mpsc::channel::<Batch>(UNWRITTEN_BATCHES);
        let download = transfer.download.clone();
        let writing = tokio::task::spawn_blocking(move || {
            while let Some(batch) = unwritten.blocking_recv() {
                download.write(&batch.parents, &batch.leaves)?;
            }
            Ok::<(), std::io::Error>(())
        });
        let complete = self.fetch_all(transfer, providers, batches).await;
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

    /// Fetches every missing range; false where no provider is left for one.
    async fn fetch_all(
        &self,
        transfer: &Arc<Transfer>,
        providers: &[EndpointId],
        batches: mpsc::Sender<Batch>,
    ) -> bool {
        let missing = byte_ranges(&transfer.download.missing(), transfer.info.nar_size);
        let mut plan = Plan::new(missing);
        let mut providers = self.ranked(providers);
        let mut under_way: JoinSet<Done> = JoinSet::new();
        let mut started = 0usize;
        let mut asked_again = false;
        loop {
            let ahead = transfer
                .read_to
                .load(Ordering::Acquire)
                .saturating_add(limits::READ_AHEAD);
            while under_way.len() < limits::SEGMENTS_IN_FLIGHT
                && let Some(peer) = providers.first().cloned()
                && let Some(range) = plan.take(ahead)
            {
                let fetch = self.clone().fetch_range(
                    transfer.clone(),
                    peer,
                    range,
                    started,
                    batches.clone(),
                );
                under_way.spawn(fetch);
                started += 1;
            }
            if under_way.is_empty() {
                if plan.is_empty() {
                    return true;
                }
                if providers.is_empty() {
                    // Whoever else has it may have appeared since.
                    if asked_again {
                        return false;
                    }
                    asked_again = true;
                    providers = self.new_holders(transfer).await;
                    if providers.is_empty() {
                        return false;
                    }
                    continue;
                }
            }
            tokio::select! {
                Some(done) = under_way.join_next() => {
                    let Ok(done) = done else { return false };
                    if batches.is_closed() {
                        return false;
                    }
                    plan.give_back(done.fetched.delivered..done.range.end);
                    self.judge(transfer, &done, &mut providers);
                }
                () = transfer.read_on.notified() => {}
            }
        }
    }

    async fn fetch_range(
        self,
        transfer: Arc<Transfer>,
        peer: Arc<Peer>,
        range: Range<u64>,
        index: usize,
        batches: mpsc::Sender<Batch>,
    ) -> Done {
        let started = Instant::now();
        let fetched = match self.0.peers.blob_connection(&peer, index).await {
            Ok(connection) => {
                let (hash, size) = (transfer.blob_hash, transfer.info.nar_size);
                fetch::fetch(&connection, hash, size, range.clone(), &batches).await
            }
            Err(fault) => Fetched {
                delivered: range.start,
                fault: Some(fault),
            },
        };
        Done {
            peer,
            range,
            fetched,
            took: started.elapsed(),
        }
    }

    /// Credits or blames the provider of a range.
    fn judge(&self, transfer: &Transfer, done: &Done, providers: &mut Vec<Arc<Peer>>) {
        let received = done.fetched.delivered - done.range.start;
        self.0.metrics.bytes_received.inc_by(received);
        done.peer.score(|score| score.bytes_received += received);
        match done.fetched.fault {
            None => {
                debug!(bytes = received, took = ?done.took, "a range arrived");
                done.peer.score(|score| score.success(None, Instant::now()));
            }
            Some(fault) => {
                // Ranges that were under way with it fail with it: it is blamed once.
                if let Some(at) = providers
                    .iter()
                    .position(|peer| peer.id() == done.peer.id())
                {
                    providers.remove(at);
                    self.0.peers.fault(&done.peer, fault);
                    self.0.lookup.disown(
                        transfer.info.path_hash(),
                        transfer.info.nar_hash,
                        transfer.blob_hash,
                        Some(done.peer.id()),
                    );
                }
            }
        }
    }

    /// Known peers among `ids`, best first.
    fn ranked(&self, ids: &[EndpointId]) -> Vec<Arc<Peer>> {
        let now = Instant::now();
        let mut peers: Vec<Arc<Peer>> = ids.iter().filter_map(|id| self.0.peers.get(*id)).collect();
        peers.sort_by(|a, b| {
            let (a, b) = (a.score(|s| s.value(now)), b.score(|s| s.value(now)));
            b.total_cmp(&a)
        });
        peers
    }

    /// Peers that claim this blob now and are not backed off.
    async fn new_holders(&self, transfer: &Transfer) -> Vec<Arc<Peer>> {
        let path_hash = transfer.info.path_hash();
        let claims = self
            .0
            .lookup
            .claims(path_hash, transfer.info.nar_hash, true)
            .await;
        let claimed = claims.into_iter().flat_map(|claims| claims.ready);
        let ids: Vec<EndpointId> = claimed
            .filter(|(hash, _)| *hash == transfer.blob_hash)
            .flat_map(|(_, ids)| ids)
            .collect();
        self.ranked(&ids)
    }
}

/// The bytes of a blob of `size` bytes that `ranges` of chunks cover.
fn byte_ranges(ranges: &ChunkRanges, size: u64) -> Vec<Range<u64>> {
    let bounds: Vec<u64> = ranges
        .boundaries()
        .iter()
        .map(|chunk| chunk.to_bytes().min(size))
        .chain([size])
        .collect();
    let pairs = bounds.chunks_exact(2);
    pairs
        .map(|pair| pair[0]..pair[1])
        .filter(|range| !range.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use bao_tree::ChunkNum;

    use super::*;

    #[test]
    fn chunk_ranges_become_byte_ranges_within_the_blob() {
        let all = ChunkRanges::all();
        assert_eq!(byte_ranges(&all, 5000), std::slice::from_ref(&(0..5000)));
        let some =
            ChunkRanges::from(ChunkNum(16)..ChunkNum(32)) | ChunkRanges::from(ChunkNum(48)..);
        assert_eq!(byte_ranges(&some, 60_000), [16_384..32_768, 49_152..60_000]);
        assert!(byte_ranges(&ChunkRanges::empty(), 5000).is_empty());
    }
}
