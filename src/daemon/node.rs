//! This machine's node: what the HTTP face and the control socket ask for.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use peerix_gossip::PathHash;
use peerix_store::{
    PathInfo, PauseReason, Store,
    nix::{NarHash, StorePath, StorePathHash, TrustedPublicKey},
};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

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
    offer::{Filter, OfferPolicy},
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
    pub(super) told: tokio::sync::Mutex<VecDeque<(Instant, PathHash)>>,
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

pub(super) fn failed(error: impl std::fmt::Display) -> OperationError {
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
