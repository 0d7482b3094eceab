//! Finds who has a path and what may be told of it: own store, then peers, then trust.

mod elsewhere;
mod explain;
mod trail;

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use iroh::EndpointId;
use lru::LruCache;
use peerix_store::{
    BlobHash, PathInfo, Store,
    nix::{NarHash, StorePathHash},
};
use tokio::time::timeout_at;
use tracing::debug;

use self::trail::{Found, Trail};

use crate::{
    announcing::Trackers,
    limits,
    metrics::Metrics,
    offer::OfferPolicy,
    peer::{
        lookup::{Claim, Mode},
        peers::{Peer, Peers},
        score::Fault,
    },
    swarm::Swarm,
    transfer::whole::WholeNarSources,
    trust::Trust,
};

/// What peers claim of one NAR whose signed fields are trusted.
#[derive(Debug, Clone)]
pub struct Claims {
    /// The trusted fields.
    pub info: PathInfo,
    /// Blob hashes that are claimed for it, each with the peers that claim it. Only one can be
    /// right: providers of differing claims never mix in one transfer.
    pub ready: Vec<(BlobHash, Vec<EndpointId>)>,
    /// Peers that are fetching it themselves, under the blob hash that others claim.
    pub parts: Vec<(EndpointId, BlobHash)>,
    /// Peers that are still hashing it, with the bytes done.
    pub hashing: Vec<(EndpointId, u64)>,
    heard_at: Instant,
}

/// Who has a blob, and whether all of it.
pub type Holders = Vec<(EndpointId, bool)>;

impl Claims {
    /// Who claims to have this blob, those first that have all of it.
    pub fn holders(&self, blob_hash: BlobHash) -> Holders {
        let ready = self.ready.iter().filter(|(hash, _)| *hash == blob_hash);
        let whole = ready.flat_map(|(_, ids)| ids).map(|id| (*id, true));
        let parts = self.parts.iter().filter(|(_, hash)| *hash == blob_hash);
        whole.chain(parts.map(|(id, _)| (*id, false))).collect()
    }
}

/// Looks paths up. Cheap to clone.
#[derive(Clone)]
pub struct Lookup(Arc<Inner>);

struct Inner {
    store: Store,
    peers: Peers,
    trust: Trust,
    offer: Arc<OfferPolicy>,
    metrics: Arc<Metrics>,
    references_assumed: bool,
    sources: WholeNarSources,
    swarm: Option<Swarm>,
    trackers: Option<Trackers>,
    claims: Mutex<LruCache<(StorePathHash, NarHash), Claims>>,
}

/// What a lookup works with.
#[expect(missing_docs, reason = "the types say it")]
pub struct Parts {
    pub store: Store,
    pub peers: Peers,
    pub trust: Trust,
    pub offer: Arc<OfferPolicy>,
    pub metrics: Arc<Metrics>,
    /// An upstream is enabled, so that a path's references can be had there and needn't be asked
    /// for.
    pub references_assumed: bool,
    pub sources: WholeNarSources,
    /// What its inventories tell saves asking.
    pub swarm: Option<Swarm>,
    /// Asked while inventories are not known yet.
    pub trackers: Option<Trackers>,
}

impl Lookup {
    /// Makes a lookup over the store, the peers and the sources.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            peers,
            trust,
            offer,
            metrics,
            references_assumed,
            sources,
            swarm,
            trackers,
        } = parts;
        let remembered = NonZeroUsize::new(limits::CLAIMS_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self(Arc::new(Inner {
            store,
            peers,
            trust,
            offer,
            metrics,
            references_assumed,
            sources,
            swarm,
            trackers,
            claims: Mutex::new(LruCache::new(remembered)),
        }))
    }

    /// The fields of a path for Nix, trusted, or `None`: a miss.
    ///
    /// Bounded by the peers' deadline. Cancel safe.
    pub async fn narinfo(&self, path_hash: StorePathHash) -> Option<PathInfo> {
        let trail = Trail::new();
        let found = self.follow(path_hash, &trail).await;
        trail.end(&self.0.metrics, path_hash, found.as_ref());
        found
    }

    async fn follow(&self, path_hash: StorePathHash, trail: &Trail) -> Option<PathInfo> {
        match self.0.store.nar(path_hash).await {
            Ok(Some(nar)) => {
                let info = self.0.offer.told(&self.0.store, &nar);
                match self.0.trust.check(&info) {
                    Ok(()) => {
                        self.0.metrics.cache_hits.inc();
                        trail.found(Found::Here);
                        return Some(info);
                    }
                    Err(error) => debug!(%error, "our own copy is not told of"),
                }
            }
            Ok(None) => {}
            Err(error) => debug!(%error, "the store could not be asked"),
        }
        let candidates = self.may_have(path_hash);
        let trackers = self.0.trackers.as_ref();
        let trackers = trackers.filter(|trackers| trackers.may_know_more());
        let deadline = match trackers {
            // A round trip to a tracker and a connection to whom it names.
            Some(_) => limits::LOOKUP_DEADLINE_FIRST,
            None => self.0.peers.deadline(&candidates),
        };
        let deadline = Instant::now() + deadline;
        trail.asks(candidates.len(), || self.0.peers.count().1);
        let mode = Mode::Narinfo;
        let from_known = self.ask(&candidates, path_hash, mode, None, deadline, trail);
        let from_named = self.ask_named(trackers, &candidates, path_hash, deadline, trail);
        let from_peers = elsewhere::first_some(from_known, from_named);
        let info = self
            .or_elsewhere(path_hash, from_peers, deadline, trail)
            .await?;
        let candidates = match trackers {
            // Those whom trackers named are among them now.
            Some(_) => self.may_have(path_hash),
            None => candidates,
        };
        if !self
            .references_can_be_had(&info, &candidates, deadline)
            .await
        {
            debug!("a reference can't be had: the path is not told of");
            trail.lacks_references();
            return None;
        }
        Some(info)
    }

    /// The peers to ask for a path: not those that are known to lack it.
    fn may_have(&self, path_hash: StorePathHash) -> Vec<Arc<Peer>> {
        match &self.0.swarm {
            Some(swarm) => swarm.candidates(&self.0.peers, path_hash),
            None => self.0.peers.candidates(),
        }
    }

    /// Asks those peers of which trackers say that they have the path.
    async fn ask_named(
        &self,
        trackers: Option<&Trackers>,
        asked: &[Arc<Peer>],
        path_hash: StorePathHash,
        deadline: Instant,
        trail: &Trail,
    ) -> Option<PathInfo> {
        let trackers = trackers?;
        let named = trackers.who_has(path_hash, deadline).await?;
        let is_asked = |id: &EndpointId| asked.iter().any(|peer| peer.id() == *id);
        let ids = named.peers.iter().filter(|id| !is_asked(id));
        let peers: Vec<Arc<Peer>> = ids.filter_map(|id| self.0.peers.get(*id)).collect();
        if peers.is_empty() {
            return None;
        }
        trail.asks(asked.len() + peers.len(), || 0);
        let asking = self.ask(&peers, path_hash, Mode::Narinfo, None, deadline, trail);
        let found = asking.await;
        trackers.judge(&named, found.is_some());
        found
    }

    /// The same for a path that somebody has: also those who got, or are getting, it a moment ago.
    fn may_have_by_now(&self, path_hash: StorePathHash) -> Vec<Arc<Peer>> {
        let mut candidates = self.may_have(path_hash);
        for peer in self.0.peers.candidates() {
            if candidates.iter().all(|other| other.id() != peer.id()) {
                candidates.push(peer);
            }
        }
        candidates.truncate(limits::LOOKUP_PEERS);
        candidates
    }

    /// What peers claim of the NAR `nar_hash` of a path, from memory or asked now.
    pub async fn claims(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        fresh: bool,
    ) -> Option<Claims> {
        if !fresh
            && let Some(claims) = self.remembered(path_hash, nar_hash)
            && !claims.ready.is_empty()
            && claims.heard_at.elapsed() < limits::CLAIM_AGE
        {
            return Some(claims);
        }
        self.forget_holders(path_hash, nar_hash);
        let candidates = self.may_have_by_now(path_hash);
        let deadline = Instant::now() + self.0.peers.deadline(&candidates);
        self.ask(
            &candidates,
            path_hash,
            Mode::WantedNow,
            Some(nar_hash),
            deadline,
            &Trail::new(),
        )
        .await?;
        let claims = self.remembered(path_hash, nar_hash)?;
        (!claims.ready.is_empty() || !claims.hashing.is_empty()).then_some(claims)
    }

    /// Who is remembered to vouch for this blob hash.
    pub fn vouchers(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        blob: BlobHash,
    ) -> Vec<EndpointId> {
        let claims = self.remembered(path_hash, nar_hash);
        let holders = claims.map_or_else(Vec::new, |claims| claims.holders(blob));
        let whole = holders.into_iter().filter(|(_, whole)| *whole);
        whole.map(|(id, _)| id).collect()
    }

    /// Who has this blob now: every answer is waited for, within the deadline.
    pub async fn holders_now(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        blob: BlobHash,
    ) -> Holders {
        let candidates = self.may_have_by_now(path_hash);
        let deadline = Instant::now() + self.0.peers.deadline(&candidates);
        self.0.metrics.peer_requests.inc_by(candidates.len() as u64);
        let asked = candidates.iter().map(|peer| async move {
            let answer = peer.lookup(Mode::WantedNow, path_hash);
            let claim = timeout_at(deadline.into(), answer).await.ok()??;
            let whole = match claim {
                Claim::Ready { blob_hash, .. } if blob_hash == blob => true,
                Claim::Part { blob_hash, .. } if blob_hash == blob => false,
                _ => return None,
            };
            let info = self.note(peer, claim)?;
            (info.nar_hash == nar_hash).then_some((peer.id(), whole))
        });
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    /// Drops who is remembered to have a NAR: the next request asks again.
    fn forget_holders(&self, path_hash: StorePathHash, nar_hash: NarHash) {
        if let Some(claims) = self.memory().get_mut(&(path_hash, nar_hash)) {
            claims.ready.clear();
            claims.parts.clear();
            claims.hashing.clear();
        }
    }

    /// Drops one claim that turned out wrong, or a provider that could not keep it.
    pub fn disown(
        &self,
        path_hash: StorePathHash,
        nar_hash: NarHash,
        blob: BlobHash,
        who: Option<EndpointId>,
    ) {
        if let Some(claims) = self.memory().get_mut(&(path_hash, nar_hash)) {
            for (claimed, providers) in &mut claims.ready {
                if *claimed == blob {
                    providers.retain(|id| who.is_some_and(|gone| gone != *id));
                }
            }
            claims.ready.retain(|(_, providers)| !providers.is_empty());
            claims
                .parts
                .retain(|(id, claimed)| *claimed != blob || who.is_some_and(|gone| gone != *id));
        }
    }

    fn remembered(&self, path_hash: StorePathHash, nar_hash: NarHash) -> Option<Claims> {
        self.memory().get(&(path_hash, nar_hash)).cloned()
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, LruCache<(StorePathHash, NarHash), Claims>> {
        self.0.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks peers at once; the first trusted answer wins, later ones are noted as holders.
    async fn ask(
        &self,
        candidates: &[Arc<Peer>],
        path_hash: StorePathHash,
        mode: Mode,
        wanted: Option<NarHash>,
        deadline: Instant,
        trail: &Trail,
    ) -> Option<PathInfo> {
        let asked_at = Instant::now();
        let mut silent: HashSet<EndpointId> = candidates.iter().map(|peer| peer.id()).collect();
        let mut asked: FuturesUnordered<_> = candidates
            .iter()
            .cloned()
            .map(|peer| async move {
                let claim = peer.lookup(mode, path_hash).await;
                (peer, claim)
            })
            .collect();
        self.0.metrics.peer_requests.inc_by(candidates.len() as u64);
        loop {
            match timeout_at(deadline.into(), asked.next()).await {
                Ok(Some((peer, claim))) => {
                    silent.remove(&peer.id());
                    let is_part = matches!(claim, Some(Claim::Part { .. }));
                    let says_yes = claim.as_ref().is_some_and(Claim::is_there);
                    let Some(info) =
                        claim.and_then(|claim| self.take(&peer, path_hash, claim, asked_at))
                    else {
                        if says_yes {
                            trail.distrusts();
                        }
                        continue;
                    };
                    // To fetch it, somebody must vouch for the blob hash.
                    let vouched = mode != Mode::WantedNow || !is_part;
                    if !vouched || wanted.is_some_and(|nar_hash| nar_hash != info.nar_hash) {
                        continue;
                    }
                    trail.found(Found::Peer(peer.clone()));
                    if !asked.is_empty() {
                        let lookup = self.clone();
                        tokio::spawn(async move {
                            while let Some((peer, claim)) = asked.next().await {
                                claim.and_then(|claim| {
                                    lookup.take(&peer, path_hash, claim, asked_at)
                                });
                            }
                        });
                    }
                    return Some(info);
                }
                Ok(None) => return None,
                Err(_) => {
                    self.0.metrics.substitution.deadlines.inc();
                    trail.is_late();
                    for peer in candidates.iter().filter(|peer| silent.contains(&peer.id())) {
                        self.0.metrics.count_fault(Fault::Silent);
                        peer.missed_deadline();
                    }
                    return None;
                }
            }
        }
    }

    /// Remembers trusted fields; who has the NAR is added by the caller.
    fn remember<T>(&self, info: &PathInfo, note: impl FnOnce(&mut Claims) -> T) -> T {
        let mut memory = self.memory();
        let claims = memory.get_or_insert_mut((info.path_hash(), info.nar_hash), || Claims {
            info: info.clone(),
            ready: Vec::new(),
            parts: Vec::new(),
            hashing: Vec::new(),
            heard_at: Instant::now(),
        });
        note(claims)
    }

    /// As [`Self::note`], and the swarm learns whether the peer's inventory was right.
    fn take(
        &self,
        peer: &Peer,
        path_hash: StorePathHash,
        claim: Claim,
        asked: Instant,
    ) -> Option<PathInfo> {
        let is_absent = claim == Claim::Absent;
        let info = self.note(peer, claim);
        // What is not told now, or is not trusted here, shows no inventory to be wrong.
        if let Some(swarm) = &self.0.swarm
            && (is_absent || info.is_some())
        {
            swarm.answered(peer, path_hash, info.is_some(), asked);
        }
        info
    }

    /// Remembers a claim if its fields are trusted, and returns them.
    fn note(&self, peer: &Peer, claim: Claim) -> Option<PathInfo> {
        let (info, blob_hash, part, done) = match claim {
            Claim::Absent | Claim::NotNow => return None,
            Claim::Hashing { done, info, .. } => (*info?, None, None, done),
            Claim::Ready { blob_hash, info } => (*info?, Some(blob_hash), None, 0),
            Claim::Part { blob_hash, info } => (*info?, None, Some(blob_hash), 0),
        };
        let info = match self.0.trust.accept(info) {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, peer = %peer.id().fmt_short(), "an answer is not trusted");
                self.0.metrics.count_fault(Fault::Trust);
                return None;
            }
        };
        let id = peer.id();
        self.remember(&info, |claims| {
            claims.heard_at = Instant::now();
            claims.hashing.retain(|(other, _)| *other != id);
            for (_, providers) in &mut claims.ready {
                providers.retain(|other| *other != id);
            }
            claims.ready.retain(|(_, providers)| !providers.is_empty());
            claims.parts.retain(|(other, _)| *other != id);
            if let Some(hash) = part {
                claims.parts.push((id, hash));
                return;
            }
            let Some(hash) = blob_hash else {
                claims.hashing.push((id, done));
                return;
            };
            let mut ready = claims.ready.iter_mut();
            match ready.find(|(claimed, _)| *claimed == hash) {
                Some((_, providers)) => providers.push(id),
                None => claims.ready.push((hash, vec![id])),
            }
        });
        Some(info)
    }

    /// Whether Nix could get each reference: held here, or at a peer by one second batch.
    async fn references_can_be_had(
        &self,
        info: &PathInfo,
        candidates: &[Arc<Peer>],
        deadline: Instant,
    ) -> bool {
        if self.0.references_assumed {
            return true;
        }
        let others = info
            .references
            .iter()
            .filter(|path| **path != info.store_path);
        let wanted: Vec<StorePathHash> = others.map(StorePathHash::from).collect();
        let Ok(held) = self.0.store.nars(wanted.clone()).await else {
            return false;
        };
        let mut missing: HashSet<StorePathHash> = wanted
            .into_iter()
            .zip(held)
            .filter_map(|(path_hash, nar)| nar.is_none().then_some(path_hash))
            .filter(|path_hash| {
                let claims = |swarm: &Swarm| swarm.claims(*path_hash);
                !self.0.swarm.as_ref().is_some_and(claims)
            })
            .collect();
        let mut asked: FuturesUnordered<_> = missing
            .iter()
            .flat_map(|path_hash| {
                candidates
                    .iter()
                    .map(move |peer| (*path_hash, peer.clone()))
            })
            .map(|(path_hash, peer)| async move {
                (path_hash, peer.lookup(Mode::Presence, path_hash).await)
            })
            .collect();
        while !missing.is_empty() {
            match timeout_at(deadline.into(), asked.next()).await {
                Ok(Some((path_hash, Some(claim)))) if claim.is_there() => {
                    missing.remove(&path_hash);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let elsewhere = self.are_elsewhere(&missing, deadline).await;
        missing.is_empty() || elsewhere
    }
}
