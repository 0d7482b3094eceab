//! Brings NARs from peers to whoever reads them, verified, once for all readers.
//!
//! A transfer fetches one blob into the store as ranges ([`schedule`] says which, and of whom, [`fetch`] gets
//! them) and readers follow it from there, so that memory does not depend on a NAR's size and a
//! second reader costs nothing. The blob hash is only a peer's claim: SHA-256 of the whole
//! decides. Up to 4 MiB the NAR is checked before its first byte leaves; above, the last chunk
//! group is withheld until it matches.

pub mod body;
pub mod fetch;
mod fetching;
pub mod flow;
mod observe;
mod run;
pub mod schedule;
pub mod whole;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use iroh::EndpointId;
use lru::LruCache;
use peerix_store::{
    BlobHash, Download, PathInfo, Store, StoreError,
    nix::{NarHash, StorePathHash},
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use self::{
    body::{LocalBody, TransferBody},
    whole::WholeNarSources,
};
use crate::{
    limits,
    lookup::{Claims, Lookup},
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
    blob_hash: BlobHash,
    download: Download,
    state: watch::Sender<State>,
    read_to: AtomicU64,
    read_on: Notify,
    readers: AtomicUsize,
    stop: CancellationToken,
}

/// All transfers of this machine. Cheap to clone.
#[derive(Clone)]
pub struct Transfers(Arc<Inner>);

struct Inner {
    store: Store,
    peers: Peers,
    lookup: Lookup,
    metrics: Arc<Metrics>,
    #[expect(dead_code, reason = "the takeover by whole NARs reads it")]
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
        if let Some(local) = self.open_local(path_hash, nar_hash).await {
            return Some(local);
        }
        {
            let mut wrong = self.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if ranged && wrong.contains(&path_hash) {
                return None;
            }
            wrong.pop(&path_hash);
        }
        if let Some(transfer) = self.join(path_hash, nar_hash).await {
            return self.read(transfer).await;
        }
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
        let mut progress = (0, Instant::now());
        let mut absences = 0;
        loop {
            match claims {
                Some(claims) if !claims.ready.is_empty() => return Some(claims),
                Some(claims) => {
                    absences = 0;
                    let done = claims.hashing.iter().map(|(_, done)| *done).max()?;
                    if done != progress.0 {
                        progress = (done, Instant::now());
                    } else if progress.1.elapsed() > limits::HASHING_STALL {
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
                tracing::warn!(%error, path = %claims.info.store_path, "not fetched");
                return None;
            }
        };
        let transfer = Arc::new(Transfer {
            info: claims.info.clone(),
            blob_hash,
            download,
            state: watch::Sender::new(State::Running),
            read_to: AtomicU64::new(0),
            read_on: Notify::new(),
            readers: AtomicUsize::new(0),
            stop: self.0.stop.child_token(),
        });
        running.insert(path_hash, transfer.clone());
        drop(running);
        let holders = claims.holders(blob_hash);
        let transfers = self.clone();
        let task = transfer.clone();
        self.0.tasks.spawn(async move {
            transfers.run(&task, holders).await;
            let mut running = transfers.0.running.lock().await;
            if running
                .get(&path_hash)
                .is_some_and(|now| Arc::ptr_eq(now, &task))
            {
                running.remove(&path_hash);
            }
            drop(slot);
        });
        Some(transfer)
    }

    /// Waits until a first byte may be handed out, and opens the transfer for one more reader.
    async fn read(&self, transfer: Arc<Transfer>) -> Option<OpenNar> {
        let size = transfer.info.nar_size;
        let body = TransferBody::new(transfer.clone());
        let mut state = transfer.state.subscribe();
        let mut watermark = transfer.download.watermark();
        loop {
            match *state.borrow_and_update() {
                State::Verified => break,
                State::Failed | State::WrongNar => return None,
                State::Running => {}
            }
            if size > limits::CHECKED_FIRST && *watermark.borrow_and_update() > 0 {
                break;
            }
            tokio::select! {
                changed = state.changed() => changed.ok()?,
                changed = watermark.changed() => if changed.is_err() {
                    state.changed().await.ok()?;
                },
            }
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

    /// Stops every transfer; their readers' connections are cut.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, self.0.tasks.wait()).await;
    }
}

impl Transfer {
    /// Bytes that may be handed out now: all once verified, else all but the last chunk group.
    fn readable(&self) -> u64 {
        let size = self.info.nar_size;
        match *self.state.borrow() {
            State::Verified => size,
            _ if size <= limits::CHECKED_FIRST => 0,
            _ => {
                let withheld = (size - 1) / limits::CHUNK_GROUP * limits::CHUNK_GROUP;
                (*self.download.watermark().borrow()).min(withheld)
            }
        }
    }

    /// Whether a reader can still get the NAR from it.
    fn is_useful(&self) -> bool {
        matches!(*self.state.borrow(), State::Running | State::Verified)
    }

    fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    /// The last reader gone: worth finishing when more than half is there.
    fn remove_reader(&self) {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            let arrived = *self.download.watermark().borrow();
            if arrived.saturating_mul(2) < self.info.nar_size {
                self.stop.cancel();
            } else {
                self.read_to.store(u64::MAX, Ordering::Release);
                self.read_on.notify_one();
            }
        }
    }

    fn has_read_to(&self, offset: u64) {
        self.read_to.fetch_max(offset, Ordering::AcqRel);
        self.download.has_read_to(offset);
        self.read_on.notify_one();
    }
}
