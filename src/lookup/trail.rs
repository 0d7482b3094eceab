//! What came of one lookup, for those who want to know why.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};
use std::time::Instant;

use peerix_store::{PathInfo, nix::StorePathHash};

use crate::{
    metrics::{Metrics, Miss, Stage},
    peer::peers::Peer,
    report::{PeerPath, Source},
    stats::{
        self,
        activity::{Action, Event},
    },
};

/// Who knew of a path.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// The own store.
    Here,
    /// A peer.
    Peer(Arc<Peer>),
    /// A peer that speaks the older program's protocols.
    OlderPeer,
    /// One that was asked with a broadcast.
    LanPeer,
    /// An upstream cache.
    Upstream,
}

/// Takes down what happens while a path is looked for.
#[derive(Debug)]
pub(super) struct Trail {
    begun: Instant,
    asked: AtomicUsize,
    connected: AtomicUsize,
    is_late: AtomicBool,
    distrusted: AtomicBool,
    lacks_references: AtomicBool,
    found: Mutex<Option<Found>>,
}

impl Trail {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            asked: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            is_late: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
            lacks_references: AtomicBool::new(false),
            found: Mutex::new(None),
        }
    }

    /// So many peers are asked; how many are connected is only counted where it is none.
    pub(super) fn asks(&self, peers: usize, connected: impl FnOnce() -> usize) {
        self.asked.store(peers, Relaxed);
        if peers == 0 {
            self.connected.store(connected(), Relaxed);
        }
    }

    pub(super) fn is_late(&self) {
        self.is_late.store(true, Relaxed);
    }

    pub(super) fn distrusts(&self) {
        self.distrusted.store(true, Relaxed);
    }

    pub(super) fn lacks_references(&self) {
        self.lacks_references.store(true, Relaxed);
    }

    /// The first one who knew of it counts.
    pub(super) fn found(&self, found: Found) {
        let mut first = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(found);
    }

    fn miss(&self) -> Miss {
        if self.lacks_references.load(Relaxed) {
            Miss::References
        } else if self.distrusted.load(Relaxed) {
            Miss::Untrusted
        } else if self.is_late.load(Relaxed) {
            Miss::Deadline
        } else if self.asked.load(Relaxed) > 0 {
            Miss::Absent
        } else if self.connected.load(Relaxed) > 0 {
            Miss::NobodyClaims
        } else {
            Miss::NoPeers
        }
    }

    /// Counts what came of it and notes it for people.
    pub(super) fn end(&self, metrics: &Metrics, path_hash: StorePathHash, info: Option<&PathInfo>) {
        let took = self.begun.elapsed();
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.clone().filter(|_| info.is_some());
        let stage = match found {
            Some(Found::Here) => Stage::OwnStore,
            _ => Stage::Lookup,
        };
        let substitution = &metrics.substitution;
        substitution.observe(stage, took);
        let (way, source) = match &found {
            None => (None, "miss".to_owned()),
            Some(Found::Here) => (Some(Source::OwnStore), "local".to_owned()),
            Some(Found::Peer(peer)) => {
                let path = peer.path().map_or(PeerPath::Direct, |path| path.kind);
                let id = peer.id().to_string();
                let short = id.get(..8).unwrap_or_default();
                (Some(path.into()), format!("peer:{short}"))
            }
            Some(Found::OlderPeer) => (Some(Source::Direct), "peer:older".to_owned()),
            Some(Found::LanPeer) => (Some(Source::Lan), "lan".to_owned()),
            Some(Found::Upstream) => (Some(Source::Upstream), "upstream".to_owned()),
        };
        let name = info.map_or("", |info| info.store_path.name());
        let mut event = Event::new(
            Action::Check,
            path_hash.to_string(),
            name.to_owned(),
            source,
        );
        event.success = info.is_some();
        event.size = info.map_or(0, |info| info.nar_size);
        event.took_ms = Some(took.as_secs_f64() * 1000.0);
        match way {
            Some(way) => {
                substitution.answers[way].inc();
            }
            None => {
                let miss = self.miss();
                substitution.count_miss(miss);
                event.reason = Some(miss.describe().to_owned());
            }
        }
        if let Some(Found::Peer(peer)) = &found {
            event.peer_id = Some(stats::short(&peer.id().to_string()).to_owned());
        }
        metrics.stats.note(event);
    }
}
