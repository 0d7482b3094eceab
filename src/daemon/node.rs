//! This machine's node: what the HTTP face and the control socket ask for.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use peerix_gossip::PathHash;
use peerix_store::{
    PathInfo, PathMarker, PauseReason, Store,
    nix::{NarHash, StorePath, StorePathHash, TrustedPublicKey},
};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    asking::Waiting,
    reloading::Reloading,
    reporting::{Held, Look},
    served::Served,
};
use crate::{
    announcing::Trackers,
    config::Mode,
    control::{
        DroppedNar, OperationError, Operations, Progress, ScanSummary, ShareHow, Shared,
        SharedPath, VerifySummary,
    },
    dashboard::View,
    geoip::Countries,
    lookup::Lookup,
    metrics::Metrics,
    offer::{Announce, Filter, OfferPolicy},
    peer::{gate::UploadGate, peers::Peers},
    report::Report,
    share::{self, ShareToken, gc_root::GcRoots},
    state_dir::StateDir,
    substituter::{Audience, NarInfoAnswer, OpenNar, Substituter},
    swarm::{Swarm, SwarmId},
    ticket::{PeerAddr, Ticket},
    transfer::Transfers,
    trust::Trust,
    why::{Event, History, WhyReport},
};

/// How often a scan says how far it is.
const SCAN_REPORT: u64 = 1000;

/// A look at all paths comes at most this many times its own duration after the one before.
const SCAN_SHARE: u32 = 20;

/// How long it is remembered which paths were told one by one, longer than a look at all takes.
const TOLD_AGE: Duration = Duration::from_secs(3600);

/// How many of them at most.
const TOLD_MOST: usize = 64 * 1024;

/// And not sooner than this after it.
const SCAN_PAUSE: Duration = Duration::from_secs(1);

/// Paths that are handed over at once to be hashed.
const HASH_BATCH: usize = 1000;

/// Collects offered paths to be hashed in the background; the rest goes when it is dropped.
struct ToHash {
    store: Store,
    paths: Vec<(StorePathHash, u64)>,
}

impl ToHash {
    fn new(store: Store) -> Self {
        Self {
            store,
            paths: Vec::new(),
        }
    }

    fn push(&mut self, info: &PathInfo) {
        self.paths.push((info.path_hash(), info.nar_size));
        if self.paths.len() >= HASH_BATCH {
            self.store.hash_in_background(&self.paths);
            self.paths.clear();
        }
    }
}

impl Drop for ToHash {
    fn drop(&mut self) {
        self.store.hash_in_background(&self.paths);
    }
}

/// Waits for a moment; forever where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// What a node is made of.
pub(super) struct Parts {
    pub(super) http_address: SocketAddr,
    pub(super) store_uri: String,
    pub(super) store: Store,
    pub(super) endpoint: Endpoint,
    pub(super) peers: Peers,
    pub(super) lookup: Lookup,
    pub(super) transfers: Transfers,
    pub(super) offer: Arc<OfferPolicy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) roots: GcRoots,
    pub(super) no_verify: bool,
    pub(super) gate: UploadGate,
    pub(super) reloading: Reloading,
    pub(super) history: Arc<History>,
    pub(super) trust: Trust,
    pub(super) state_dir: Arc<StateDir>,
    pub(super) served: Served,
    pub(super) mode: Mode,
    pub(super) lan_discovery: bool,
    pub(super) swarm: Option<Swarm>,
    pub(super) trackers: Option<Trackers>,
    pub(super) swarm_id: SwarmId,
    pub(super) filter: Filter,
    pub(super) countries: Countries,
}

/// The running node.
pub(super) struct Node {
    pub(super) parts: Parts,
    /// Shares are recorded in several places: one at a time.
    pub(super) sharing: tokio::sync::Mutex<()>,
    pub(super) offered: AtomicU64,
    /// Paths that the last look at all of them found.
    pub(super) scanned: AtomicU64,
    /// How far a look at all is.
    pub(super) look: Arc<Look>,
    /// What the store was found to hold a moment ago.
    pub(super) held: Held,
    /// What the upstream is to be asked for.
    pub(super) waiting: Arc<Waiting>,
    /// Paths told one by one lately: a look at all that began before may have missed them. One
    /// announcement is made at a time.
    told: tokio::sync::Mutex<VecDeque<(Instant, PathHash)>>,
    /// Less is announced than before, or what else takes a look at all.
    pub(super) look_again: Notify,
}

impl Node {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            sharing: tokio::sync::Mutex::default(),
            offered: AtomicU64::new(0),
            scanned: AtomicU64::new(0),
            look: Arc::default(),
            held: Held::default(),
            waiting: Arc::default(),
            told: Default::default(),
            look_again: Notify::new(),
        }
    }

    pub(super) fn endpoint_id(&self) -> EndpointId {
        self.parts.endpoint.id()
    }

    /// Looks through the store at the start, whenever Nix changed it, and every `interval`, until
    /// stopped.
    ///
    /// New paths are told one by one. What else may have changed takes a look at all, which comes
    /// so seldom that it never takes more than a twentieth of one core.
    pub(super) async fn scan_now_and_then(
        self: Arc<Self>,
        interval: Option<Duration>,
        stop: CancellationToken,
    ) {
        let mut changes = self.parts.store.changes();
        loop {
            changes.mark_unchanged();
            let mut marker = self.parts.store.path_marker().await;
            let (progress, _unheard) = mpsc::channel(1);
            let started = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                scanned = self.scan_store(progress) => if let Err(error) = scanned {
                    tracing::debug!(%error, "the store could not be scanned");
                }
            }
            let earliest = Instant::now() + started.elapsed() * SCAN_SHARE + SCAN_PAUSE;
            let due = interval.map(|interval| Instant::now() + interval);
            let mut wanted_at = due;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = at(wanted_at) => break,
                    () = self.look_again.notified() => {
                        wanted_at = Some(wanted_at.map_or(earliest, |at| at.min(earliest)));
                    }
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if !self.take_added(&mut marker).await {
                            wanted_at = Some(wanted_at.map_or(earliest, |at| at.min(earliest)));
                        }
                    }
                }
            }
        }
    }

    /// Counts the paths that came since `marker`; false where a look at all is needed.
    async fn take_added(&self, marker: &mut Option<PathMarker>) -> bool {
        let Some(since) = *marker else { return false };
        let Some((infos, now)) = self.parts.store.added_since(since).await else {
            return false;
        };
        *marker = Some(now);
        let parts = &self.parts;
        let announced = infos
            .iter()
            .filter(|info| parts.offer.is_announced(&parts.store, info))
            .map(|info| *info.path_hash().as_bytes());
        let announced = announced.collect();
        self.announce_more(announced).await;
        let (offered, rest): (Vec<_>, Vec<_>) = infos
            .into_iter()
            .partition(|info| parts.offer.is_offered(&parts.store, info));
        let asked = rest.into_iter();
        self.waiting
            .push(asked.filter(|info| parts.offer.is_to_be_asked(info)));
        let offered = offered.iter();
        self.count_offered(
            offered
                .map(|info| (info.path_hash(), info.nar_size))
                .collect(),
        )
        .await
    }

    /// Counts paths that are offered from now on, and has them hashed.
    pub(super) async fn count_offered(&self, offered: Vec<(StorePathHash, u64)>) -> bool {
        let more = offered.len() as u64;
        let count = self.offered.fetch_add(more, Ordering::Relaxed);
        let gauge = i64::try_from(count + more).unwrap_or(i64::MAX);
        self.parts.metrics.available_hashes.set(gauge);
        let store = self.parts.store.clone();
        let queued = tokio::task::spawn_blocking(move || store.hash_in_background(&offered));
        queued.await.is_ok()
    }

    /// Counts what is valid and what of it is offered, which is hashed in the background.
    async fn scan_store(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> Result<ScanSummary, OperationError> {
        let started = Instant::now();
        let offer = self.parts.offer.clone();
        let store = self.parts.store.clone();
        let counted = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let counting = counted.clone();
        let announced = Arc::new(Mutex::new(Vec::new()));
        let announcing = announced.clone();
        let mut to_hash = ToHash::new(store.clone());
        let waiting = self.waiting.clone();
        let expected = self.scanned.load(Ordering::Relaxed);
        let looking = self.look.clone().begin();
        let look = self.look.clone();
        let scanned = self.parts.store.for_each_path(move |info| {
            let paths = counting.0.fetch_add(1, Ordering::Relaxed) + 1;
            if offer.is_offered(&store, &info) {
                counting.1.fetch_add(1, Ordering::Relaxed);
                to_hash.push(&info);
            }
            if offer.is_announced(&store, &info) {
                let mut announced = announcing.lock().unwrap_or_else(PoisonError::into_inner);
                announced.push(*info.path_hash().as_bytes());
            }
            if offer.is_to_be_asked(&info) {
                waiting.push([info]);
            }
            if paths.is_multiple_of(SCAN_REPORT) {
                look.is_at(paths);
                let expected = (expected >= paths).then_some(expected);
                let _ = progress.try_send(Progress::Scanning { paths, expected });
            }
            true
        });
        scanned.await.map_err(failed)?;
        self.parts.store.remove_stale().await.map_err(failed)?;
        let announced =
            std::mem::take(&mut *announced.lock().unwrap_or_else(PoisonError::into_inner));
        self.announce(announced, started).await;
        let summary = ScanSummary {
            paths: counted.0.load(Ordering::Relaxed),
            offered: counted.1.load(Ordering::Relaxed),
        };
        self.offered.store(summary.offered, Ordering::Relaxed);
        self.scanned.store(summary.paths, Ordering::Relaxed);
        looking.ended(summary.paths);
        let gauge = i64::try_from(summary.offered).unwrap_or(i64::MAX);
        self.parts.metrics.available_hashes.set(gauge);
        Ok(summary)
    }

    /// Tells swarm and trackers what of this machine's they may know, by a look at all that began
    /// at `started`.
    async fn announce(&self, mut announced: Vec<PathHash>, started: Instant) {
        let announces = self.parts.offer.announces();
        if announces == Announce::None {
            return;
        }
        let mut told = self.told.lock().await;
        told.retain(|(at, _)| at.elapsed() < TOLD_AGE);
        let since = told.iter().filter(|(at, _)| *at >= started);
        announced.extend(since.map(|(_, path_hash)| path_hash));
        announced.extend(self.announced_shares().await);
        if let Some(trackers) = &self.parts.trackers {
            trackers.announce(&announced);
        }
        if let Some(swarm) = &self.parts.swarm {
            swarm.announce(announced, announces == Announce::All).await;
        }
    }

    /// Takes back what swarm and trackers were told.
    pub(super) async fn announce_nothing(&self) {
        let _telling = self.told.lock().await;
        if let Some(trackers) = &self.parts.trackers {
            trackers.announce(&[]);
        }
        if let Some(swarm) = &self.parts.swarm {
            swarm.announce(Vec::<PathHash>::new(), false).await;
        }
    }

    /// Tells swarm and trackers of paths that came, of those that they may know.
    async fn announce_more(&self, more: Vec<PathHash>) {
        if more.is_empty() || self.parts.offer.announces() == Announce::None {
            return;
        }
        let mut told = self.told.lock().await;
        let now = Instant::now();
        told.extend(more.iter().map(|path_hash| (now, *path_hash)));
        let excess = told.len().saturating_sub(TOLD_MOST);
        told.drain(..excess);
        if let Some(trackers) = &self.parts.trackers {
            trackers.announce_more(&more);
        }
        if let Some(swarm) = &self.parts.swarm {
            swarm.announce_more(more).await;
        }
    }

    /// Tells swarm and trackers what was shared just now.
    pub(super) async fn announce_shares(&self) {
        let shared = self.announced_shares().await;
        self.announce_more(shared).await;
    }

    /// What was shared and may be announced: it need not be in Nix's store.
    async fn announced_shares(&self) -> Vec<PathHash> {
        let (store, offer) = (&self.parts.store, &self.parts.offer);
        let mut announced = Vec::new();
        for share in store.shares().await.unwrap_or_default() {
            let members: Vec<StorePathHash> = share.closure.into_iter().collect();
            for nar in store
                .nars(members)
                .await
                .unwrap_or_default()
                .into_iter()
                .flatten()
            {
                if offer.is_announced(store, &nar.info) {
                    announced.push(*nar.info.path_hash().as_bytes());
                }
            }
        }
        announced
    }

    pub(super) fn addresses(&self) -> (Option<String>, Vec<String>) {
        let mut relay = None;
        let mut direct = Vec::new();
        for addr in self.parts.peers.own_addr().addrs {
            match addr {
                TransportAddr::Relay(url) => relay = Some(url.to_string()),
                TransportAddr::Ip(addr) => direct.push(addr.to_string()),
                _ => {}
            }
        }
        (relay, direct)
    }
}

fn failed(error: impl std::fmt::Display) -> OperationError {
    OperationError::Failed {
        message: error.to_string(),
    }
}

impl Substituter for Node {
    fn narinfo(&self, path_hash: StorePathHash) -> BoxFuture<'_, Option<NarInfoAnswer>> {
        async move {
            let begun = Instant::now();
            let found = self.parts.lookup.narinfo(path_hash).await;
            let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
            let event = Event::Looked {
                found: found.is_some(),
                took_ms,
            };
            self.parts.history.note(path_hash, event);
            if found.is_none() {
                self.parts.metrics.cache_misses.inc();
            }
            found.map(|info| NarInfoAnswer { info })
        }
        .boxed()
    }

    fn open_nar(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        ranged: bool,
    ) -> BoxFuture<'_, Option<OpenNar>> {
        async move {
            let opened = self.parts.transfers.open(path_hash, nar_hash, ranged).await;
            let found = opened.is_some();
            self.parts.history.note(path_hash, Event::Opened { found });
            opened
        }
        .boxed()
    }

    fn local(
        &self,
        path_hash: StorePathHash,
        audience: Audience,
    ) -> BoxFuture<'_, Option<PathInfo>> {
        self.parts.served.info(path_hash, audience).boxed()
    }

    fn open_local(
        &self,
        path_hash: StorePathHash,
        audience: Audience,
    ) -> BoxFuture<'_, Option<OpenNar>> {
        self.parts.served.open(path_hash, audience).boxed()
    }
}

impl Operations for Node {
    fn status(&self) -> BoxFuture<'_, Value> {
        async move {
            let mut status = serde_json::to_value(self.node_report()).unwrap_or_default();
            if let Ok(stats) = self.parts.store.stats().await {
                status["store"] = json!({
                    "hashed": stats.hashed,
                    "by_reference": stats.by_reference,
                    "files": stats.files,
                    "inline": stats.inline,
                    "blob_bytes": stats.blob_bytes,
                    "outboard_bytes": stats.outboard_bytes,
                    "shares": stats.shares,
                });
            }
            status["transfers"] = json!(self.parts.transfers.count().await);
            status
        }
        .boxed()
    }

    fn peers(&self) -> BoxFuture<'_, Value> {
        async move { serde_json::to_value(self.peers_report()).unwrap_or_default() }.boxed()
    }

    fn shared(&self) -> BoxFuture<'_, Result<Vec<SharedPath>, OperationError>> {
        async move {
            let shares = self.parts.store.shares().await.map_err(failed)?;
            let rows = shares.into_iter().map(|share| SharedPath {
                store_path: share.store_path.to_absolute_path(),
                shared_at: share
                    .shared_at
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |age| age.as_secs()),
                closure_paths: share.closure.len() as u64,
                private: self
                    .parts
                    .offer
                    .share_token((&share.store_path).into())
                    .is_some(),
            });
            Ok(rows.collect())
        }
        .boxed()
    }

    fn ticket(&self) -> BoxFuture<'_, String> {
        async move { self.own_ticket(Vec::new()).to_string() }.boxed()
    }

    fn share(
        &self,
        paths: Vec<StorePath>,
        how: ShareHow,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<Shared, OperationError>> {
        async move {
            let shared = self.share_paths(paths, how, progress).await?;
            self.announce_shares().await;
            Ok(shared)
        }
        .boxed()
    }

    fn unshare(&self, paths: Vec<StorePath>) -> BoxFuture<'_, Result<(), OperationError>> {
        async move {
            let _one_at_a_time = self.sharing.lock().await;
            share::unshare(&self.parts.store, &self.parts.roots, &paths).await?;
            self.forget_tokens(&paths)?;
            self.look_again.notify_one();
            Ok(())
        }
        .boxed()
    }

    fn trust(
        &self,
        key: TrustedPublicKey,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        async move {
            let _lease = self.parts.trust.lease(key);
            let _heard = progress.send(Progress::Trusted).await;
            std::future::pending().await
        }
        .boxed()
    }

    fn add_peer(
        &self,
        peer: PeerAddr,
        token: Option<ShareToken>,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        async move {
            let refused = |message| OperationError::Refused { message };
            let ours = self.parts.swarm_id.name();
            let addr = peer.of_swarm(ours);
            let addr = addr.map_err(|error| refused(error.to_string()))?;
            let id = addr.id;
            if let Some(swarm) = &self.parts.swarm {
                swarm.gossip().join_by_hand(vec![addr.clone()]);
            }
            if !self.parts.peers.add(addr) {
                return Err(refused(
                    "that ticket is this machine's own: nothing is to be fetched".into(),
                ));
            }
            if let (Some(peer), Some(token)) = (self.parts.peers.get(id), token) {
                peer.show_token(token);
            }
            self.parts
                .peers
                .connected(id, Instant::now() + CONNECT_WAIT)
                .await;
            match self.parts.peers.get(id) {
                Some(peer) if peer.is_of_other_swarm() => Err(refused(format!(
                    "that peer is there and is not of {}: its swarm or its swarm's secret is another (--swarm, --swarm-secret-file)",
                    self.parts.swarm_id
                ))),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn scan(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<ScanSummary, OperationError>> {
        self.scan_store(progress).boxed()
    }

    fn report(&self) -> BoxFuture<'_, Report> {
        View::report(self)
    }

    fn why(&self, path_hash: StorePathHash) -> BoxFuture<'_, WhyReport> {
        async move {
            let mut report = self.parts.lookup.explain(path_hash).await;
            report.recent = self.parts.history.of(path_hash);
            report
        }
        .boxed()
    }

    fn reload(&self) -> BoxFuture<'_, ()> {
        Node::reload(self).boxed()
    }

    fn pause(&self, pause: bool) -> BoxFuture<'_, ()> {
        async move { self.parts.store.pause_background(pause) }.boxed()
    }

    fn pause_uploads(&self, seconds: Option<u64>) -> BoxFuture<'_, ()> {
        async move { self.parts.gate.pause(seconds) }.boxed()
    }

    fn resume_uploads(&self) -> BoxFuture<'_, ()> {
        async move { self.parts.gate.resume() }.boxed()
    }

    fn verify(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<VerifySummary, OperationError>> {
        async move {
            let report = self.parts.store.verify(move |so_far| {
                // Whoever doesn't read misses some.
                let _ = progress.try_send(Progress::Verifying {
                    blobs_done: so_far.blobs_done,
                    blobs_total: so_far.blobs_total,
                    bytes_done: so_far.bytes_done,
                    bytes_total: so_far.bytes_total,
                });
            });
            let report = report.await.map_err(failed)?;
            let dropped = report.dropped.iter().map(|dropped| DroppedNar {
                store_path: dropped.path.as_ref().map(StorePath::to_absolute_path),
                blob_hash: dropped.blob.to_string(),
                reason: dropped.reason.clone(),
            });
            Ok(VerifySummary {
                right: report.right,
                bytes: report.bytes,
                dropped: dropped.collect(),
            })
        }
        .boxed()
    }

    fn forget(&self, paths: Vec<StorePath>) -> BoxFuture<'_, Result<Vec<String>, OperationError>> {
        async move {
            let store = &self.parts.store;
            if let Some(shared) = paths.iter().find(|path| store.is_shared((*path).into())) {
                return Err(OperationError::Refused {
                    message: format!("{shared} is shared: `peerix unshare` takes it back first"),
                });
            }
            let mut known = Vec::new();
            for path in &paths {
                if store.forget_path(path.into()).await.map_err(failed)? {
                    known.push(path.to_absolute_path());
                }
            }
            Ok(known)
        }
        .boxed()
    }

    fn store_stats(&self) -> BoxFuture<'_, Result<Value, OperationError>> {
        async move {
            let stats = self.parts.store.stats().await.map_err(failed)?;
            let background = self.parts.store.background();
            let paused = background.paused.map(|reason| match reason {
                PauseReason::Asked => "on request",
                PauseReason::Battery => "on battery",
                PauseReason::Busy => "while others wait for hashes",
                _ => "for now",
            });
            Ok(json!({
                "hashed": stats.hashed,
                "by_reference": stats.by_reference,
                "in_files": stats.files,
                "in_index": stats.in_index,
                "partial": stats.partial,
                "in_memory": stats.inline,
                "memory_bytes": stats.inline_bytes,
                "downloads_bytes": stats.blob_bytes,
                "quota_bytes": stats.quota_bytes,
                "outboards_bytes": stats.outboard_bytes,
                "index_bytes": stats.index_bytes,
                "shares": stats.shares,
                "to_hash": background.paths_left,
                "to_hash_bytes": background.bytes_left,
                "hashed_in_background": background.paths_done,
                "hashing_paused": paused,
                "hashing_done_in": background
                    .time_left
                    .map(|left| humantime::format_duration(Duration::from_secs(left.as_secs())).to_string()),
            }))
        }
        .boxed()
    }

    fn http_address(&self) -> SocketAddr {
        self.parts.http_address
    }

    fn store_uri(&self) -> String {
        self.parts.store_uri.clone()
    }
}

/// How long `get` waits for the ticket's peer before it asks Nix to try.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

impl Node {
    /// A ticket of this machine for these paths.
    pub(super) fn own_ticket(&self, paths: Vec<StorePath>) -> Ticket {
        Ticket::new(self.own_addr(), paths).in_swarm(self.parts.swarm_id.name())
    }

    pub(super) fn own_addr(&self) -> EndpointAddr {
        let mut addr = self.parts.peers.own_addr();
        if addr.addrs.is_empty() {
            let sockets = self.parts.endpoint.bound_sockets();
            addr.addrs
                .extend(sockets.into_iter().map(TransportAddr::Ip));
        }
        addr
    }
}
