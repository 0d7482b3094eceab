//! Brings NARs from peers to whoever reads them, verified, once for all readers.
//!
//! A transfer fetches one blob into the store as ranges ([`schedule`] says which, and of whom, [`fetch`] gets
//! them) and readers follow it from there, so that memory does not depend on a NAR's size and a
//! second reader costs nothing. The blob hash is only a peer's claim: SHA-256 of the whole
//! decides. What peers don't finish, and what none has, comes whole from other sources ([`whole`]).
//! Up to 4 MiB the NAR is checked before its first byte leaves; above, the last chunk
//! group is withheld until it matches.

mod arriving;
pub mod body;
pub mod fetch;
mod fetching;
pub mod flow;
mod observe;
pub mod provided;
mod report;
mod run;
pub mod schedule;
mod takeover;
pub mod whole;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Instant,
};

use iroh::EndpointId;
use lru::LruCache;
use peerix_store::{
    BlobHash, IncomingNar, PathInfo, Store, StoreError,
    nix::{NarHash, StorePathHash},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use self::{
    arriving::Claim,
    body::{LocalBody, TransferBody},
    provided::Provided,
    whole::WholeNarSources,
};
use crate::{
    limits,
    lookup::{Claims, Holders, Lookup},
    metrics::Metrics,
    peer::peers::Peers,
    substituter::OpenNar,
};

/// Where a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Bytes are arriving, or SHA-256 is not known yet.
    Running,
    /// Every byte is right and in the store.
    Verified,
    /// No provider is left, or the disk failed; what came is right as far as it goes.
    Failed,
    /// The blob was not the NAR that the path's signature names.
    WrongNar,
}

/// One NAR on its way here.
#[derive(Debug)]
pub(crate) struct Transfer {
    info: PathInfo,
    /// What peers claim it to be, where any does.
    claim: Option<Claim>,
    /// The NAR as it comes from one source, once it agrees with what readers were given.
    whole: watch::Sender<Option<IncomingNar>>,
    /// The same, once SHA-256 of it is right.
    verified: OnceLock<IncomingNar>,
    state: watch::Sender<State>,
    read_to: AtomicU64,
    read_on: Notify,
    readers: AtomicUsize,
    stop: CancellationToken,
    begun: Instant,
    /// Who gave anything so far.
    providers: Mutex<Vec<Arc<Provided>>>,
}

/// All transfers of this machine. Cheap to clone.
#[derive(Clone)]
pub struct Transfers(Arc<Inner>);

struct Inner {
    store: Store,
    peers: Peers,
    lookup: Lookup,
    metrics: Arc<Metrics>,
    sources: WholeNarSources,
    running: tokio::sync::Mutex<HashMap<StorePathHash, Arc<Transfer>>>,
    wrong: Mutex<LruCache<StorePathHash, ()>>,
    slots: Arc<Semaphore>,
    /// Bytes that somebody else was asked for too, to save time.
    hedged: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Transfers {
    /// Makes transfers that store into `store` what `lookup` finds at `peers`, and at `sources`
    /// where peers don't bring a NAR to its end.
    pub fn new(
        store: Store,
        peers: Peers,
        lookup: Lookup,
        metrics: Arc<Metrics>,
        sources: WholeNarSources,
    ) -> Self {
        let remembered =
            NonZeroUsize::new(limits::WRONG_NARS_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self(Arc::new(Inner {
            store,
            peers,
            lookup,
            metrics,
            sources,
            running: tokio::sync::Mutex::default(),
            wrong: Mutex::new(LruCache::new(remembered)),
            slots: Arc::new(Semaphore::new(limits::TRANSFERS)),
            hedged: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Opens a NAR for reading: a local copy, a transfer under way, or a new one.
    ///
    /// `ranged`: the reader already holds a prefix. After a wrong NAR such a request is a miss,
    /// so that Nix moves on instead of resuming onto wrong bytes. Cancel safe: a transfer that
    /// nobody reads is stopped or finished on its own.
    pub async fn open(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        ranged: bool,
    ) -> Option<OpenNar> {
        {
            // The prefix may be wrong even where the right NAR is here meanwhile.
            let mut wrong = self.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if ranged && wrong.contains(&path_hash) {
                return None;
            }
            wrong.pop(&path_hash);
        }
        if let Some(local) = self.open_local(path_hash, nar_hash).await {
            return Some(local);
        }
        if let Some(transfer) = self.join(path_hash, nar_hash).await
            && let Some(open) = self.read(transfer).await
        {
            return Some(open);
        }
        if let Some(open) = self.open_claimed(path_hash, nar_hash).await {
            return Some(open);
        }
        self.open_whole(path_hash, nar_hash).await
    }

    /// Opens a blob that peers claim to be the NAR.
    async fn open_claimed(&self, path_hash: StorePathHash, nar_hash: NarHash) -> Option<OpenNar> {
        let mut fresh = false;
        for _ in 0..limits::CLAIMS_TRIED {
            let claims = self.ready_claims(path_hash, nar_hash, fresh).await?;
            let Some(blob_hash) = self.best(&claims) else {
                if fresh {
                    return None;
                }
                fresh = true;
                continue;
            };
            let Some(transfer) = self.start(&claims, blob_hash).await else {
                return self.open_local(path_hash, nar_hash).await;
            };
            if let Some(open) = self.read(transfer).await {
                return Some(open);
            }
            self.0.lookup.disown(path_hash, nar_hash, blob_hash, None);
        }
        None
    }

    /// Opens a NAR that only sources of whole NARs have, or bring to its end.
    async fn open_whole(&self, path_hash: StorePathHash, nar_hash: NarHash) -> Option<OpenNar> {
        if self.0.sources.is_empty() {
            return None;
        }
        let info = self.0.lookup.info(path_hash, nar_hash).await?;
        let slot = self.0.slots.clone().acquire_owned().await.ok()?;
        let mut running = self.0.running.lock().await;
        let transfer = match running.get(&path_hash) {
            Some(started) if started.info.nar_hash == nar_hash && started.is_useful() => {
                started.clone()
            }
            _ if self.0.stop.is_cancelled() => return None,
            _ => {
                let transfer = Arc::new(self.transfer(info, None));
                running.insert(path_hash, transfer.clone());
                self.spawn_run(transfer.clone(), Vec::new(), slot);
                transfer
            }
        };
        drop(running);
        self.read(transfer).await
    }

    async fn open_local(&self, path_hash: StorePathHash, nar_hash: NarHash) -> Option<OpenNar> {
        let nar = self.0.store.nar(path_hash).await.ok().flatten()?;
        if nar.info.nar_hash != nar_hash {
            return None;
        }
        let reader = self.0.store.open_nar(path_hash).await.ok()?;
        Some(OpenNar {
            size: reader.size(),
            body: Box::new(LocalBody {
                kept: self.0.store.keep_while_read(&nar),
                reader,
                counted: Some(self.0.metrics.substitution.bytes.own_store.clone()),
            }),
        })
    }

    async fn join(&self, path_hash: StorePathHash, nar_hash: NarHash) -> Option<Arc<Transfer>> {
        let running = self.0.running.lock().await;
        let transfer = running.get(&path_hash)?;
        (transfer.info.nar_hash == nar_hash && transfer.is_useful()).then(|| transfer.clone())
    }

    /// Claims with a blob hash; waits while providers report that they are hashing.
    async fn ready_claims(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        fresh: bool,
    ) -> Option<Claims> {
        let mut claims = self.0.lookup.claims(path_hash, nar_hash, fresh).await;
        let begun = Instant::now();
        let mut progress = (0, begun);
        let mut absences = 0;
        loop {
            match claims {
                Some(claims) if !claims.ready.is_empty() => return Some(claims),
                Some(claims) => {
                    absences = 0;
                    let done = claims.hashing.iter().map(|(_, done)| *done).max()?;
                    if done > progress.0 {
                        progress = (done, Instant::now());
                    }
                    let late = begun.elapsed().saturating_sub(limits::HASHING_STALL);
                    let least = late.as_secs().saturating_mul(limits::HASHING_RATE);
                    if progress.1.elapsed() > limits::HASHING_STALL || progress.0 < least {
                        return None;
                    }
                }
                // One late answer is not the end of a provider that was hashing a moment ago.
                None => {
                    absences += 1;
                    if absences > 3 || progress.0 == 0 {
                        return None;
                    }
                }
            }
            tokio::time::sleep(limits::HASHING_POLL).await;
            claims = self.0.lookup.claims(path_hash, nar_hash, true).await;
        }
    }

    /// The blob hash to believe first: of most claimants, then of the best of them. Who has only
    /// a part vouches for nothing, so that nobody lies at no risk.
    fn best(&self, claims: &Claims) -> Option<BlobHash> {
        let now = Instant::now();
        let score = |providers: &[EndpointId]| {
            providers
                .iter()
                .filter_map(|id| self.0.peers.get(*id))
                .map(|peer| peer.score(|score| score.value(now)))
                .fold(0.0, f64::max)
        };
        let vouched = claims.ready.iter().max_by(|(_, a), (_, b)| {
            let by_count = a.len().cmp(&b.len());
            by_count.then_with(|| score(a).total_cmp(&score(b)))
        });
        vouched.map(|(hash, _)| *hash)
    }

    /// Starts a transfer of `blob_hash`, or joins one that somebody started meanwhile.
    async fn start(&self, claims: &Claims, blob_hash: BlobHash) -> Option<Arc<Transfer>> {
        let path_hash = claims.info.path_hash();
        let slot = self.0.slots.clone().acquire_owned().await.ok()?;
        // What rests of it may have to be read first: others don't wait for that. Who starts the
        // same meanwhile gets the same download.
        let download = match self
            .0
            .store
            .begin_download(claims.info.clone(), blob_hash)
            .await
        {
            Ok(download) => download,
            // Fetched under another name meanwhile: it is a local NAR now.
            Err(StoreError::AlreadyHeld { .. }) => return None,
            Err(error) => {
                tracing::warn!(%error, path = %claims.info.path_hash(), "not fetched");
                return None;
            }
        };
        let mut running = self.0.running.lock().await;
        if let Some(transfer) = running.get(&path_hash)
            && transfer.info.nar_hash == claims.info.nar_hash
            && transfer.is_useful()
        {
            return Some(transfer.clone());
        }
        if self.0.stop.is_cancelled() {
            return None;
        }
        let claim = Claim {
            blob_hash,
            download,
        };
        let transfer = Arc::new(self.transfer(claims.info.clone(), Some(claim)));
        running.insert(path_hash, transfer.clone());
        drop(running);
        self.spawn_run(transfer.clone(), claims.holders(blob_hash), slot);
        Some(transfer)
    }

    fn transfer(&self, info: PathInfo, claim: Option<Claim>) -> Transfer {
        Transfer {
            info,
            claim,
            whole: watch::Sender::new(None),
            verified: OnceLock::new(),
            state: watch::Sender::new(State::Running),
            read_to: AtomicU64::new(0),
            read_on: Notify::new(),
            readers: AtomicUsize::new(0),
            stop: self.0.stop.child_token(),
            begun: Instant::now(),
            providers: Mutex::default(),
        }
    }

    fn spawn_run(&self, transfer: Arc<Transfer>, holders: Holders, slot: OwnedSemaphorePermit) {
        let transfers = self.clone();
        self.0.metrics.substitution.active.inc();
        self.0.tasks.spawn(async move {
            transfers.run(&transfer, holders).await;
            transfers.note_end(&transfer);
            let path_hash = transfer.info.path_hash();
            let mut running = transfers.0.running.lock().await;
            if running
                .get(&path_hash)
                .is_some_and(|now| Arc::ptr_eq(now, &transfer))
            {
                running.remove(&path_hash);
            }
            drop(slot);
        });
    }

    /// Waits until a first byte may be handed out, and opens the transfer for one more reader.
    async fn read(&self, transfer: Arc<Transfer>) -> Option<OpenNar> {
        let size = transfer.info.nar_size;
        let body = TransferBody::new(transfer.clone());
        let mut news = transfer.news();
        loop {
            match news.take() {
                State::Verified => break,
                State::Failed | State::WrongNar => return None,
                State::Running => {}
            }
            if size > limits::CHECKED_FIRST && transfer.readable() > 0 {
                break;
            }
            news.wait().await?;
        }
        Some(OpenNar {
            size,
            body: Box::new(body),
        })
    }

    /// Notes that what arrived for a path was not its NAR.
    fn remember_wrong(&self, transfer: &Transfer) {
        debug!("a blob was not the NAR that its claimants said");
        let path_hash = transfer.info.path_hash();
        let mut wrong = self.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.put(path_hash, ());
    }

    /// How many transfers are under way.
    pub async fn count(&self) -> usize {
        self.0.running.lock().await.len()
    }

    /// Stops every transfer, and waits for them; their readers' connections are cut.
    ///
    /// Cancel safe: they end all the same.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
