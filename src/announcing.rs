//! The daemon's side of trackers: it tells them where this machine is and what it has, and hears
//! from them who else is there.
//!
//! Nothing waits for a tracker. Each is spoken with in a task of its own, again and again with
//! growing pauses while it fails; what it says is a hint at most, bounded in number, and never
//! crowds out what a person configured. A lookup asks trackers only while somebody they named has
//! an inventory that nobody here knows, within the lookup's own deadline.
//!
//! `session.rs` are the rules of what a tracker is told, `found.rs` those of who is taken up of
//! whom it names; `signed.rs` and `older.rs` are the two APIs, `conversation.rs` runs them.

mod backoff;
mod conversation;
mod found;
mod http;
mod limits;
mod lookups;
mod memory;
mod older;
mod session;
mod signed;
mod whereabouts;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use iroh::{Endpoint, EndpointId, RelayUrl};
use peerix_gossip::PathHash;
use peerix_store::nix::StorePathHash;
use tokio::{sync::watch, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug_span};

pub use self::http::TrackerError;
pub(crate) use self::http::client;
use self::{
    found::Found,
    http::Site,
    lookups::Lookups,
    session::{Known, Paths, Session},
    signed::Speaker,
};
use crate::{
    authorities::Authorities,
    config::Relay,
    peer::peers::Peers,
    report::TrackerReport,
    state_dir::StateDir,
    swarm::{self, Swarm, SwarmId},
};

/// How trackers are spoken with.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Options {
    /// URLs of trackers; those beyond [`limits::TRACKERS`] are left out.
    pub urls: Vec<String>,
    pub allow_insecure_http: bool,
    pub authorities: Authorities,
    /// The name under which older trackers list this machine; its endpoint id where there is none.
    pub peer_id: Option<String>,
    /// The swarm, of which trackers are told what others may be told.
    pub swarm_id: SwarmId,
    /// Whether a tracker that knows nothing of signatures may be told of paths.
    pub tell_older: bool,
    /// Whether paths are announced at all, as far as is known now.
    pub tell: bool,
    /// Relays of trackers are used where this says so.
    pub relay: Relay,
}

/// What trackers are spoken with about.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Parts {
    pub endpoint: Endpoint,
    pub peers: Peers,
    pub swarm: Option<Swarm>,
    pub state_dir: Arc<StateDir>,
}

/// The trackers of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trackers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Vec<Tracker>,
    found: Found,
    wanted: watch::Sender<Option<Paths>>,
    speaker: Speaker,
    peer_id: String,
    tell_older: AtomicBool,
    /// Whether a tracker that knows nothing of swarms may list this machine.
    older_may_list: bool,
    relay: Relay,
    allow_insecure_http: bool,
    endpoint: Endpoint,
    state_dir: Arc<StateDir>,
    /// When what trackers know was written down.
    written: Mutex<Option<Instant>>,
}

/// Peers that a tracker says have a path.
#[derive(Debug, Clone)]
pub struct Named {
    tracker: usize,
    /// Who they are.
    pub peers: Vec<EndpointId>,
}

/// One tracker.
#[derive(Debug)]
struct Tracker {
    number: usize,
    url: String,
    site: Site,
    session: Mutex<Session>,
    record: Mutex<Record>,
    lookups: Lookups,
}

/// How it went with a tracker.
#[derive(Debug, Default)]
struct Record {
    /// Whether it has the signed API; `None` until it answered.
    is_signed: Option<bool>,
    last_contact: Option<Instant>,
    error: Option<String>,
    /// Whether a person was told that its certificate is not trusted.
    is_distrust_told: bool,
    /// Peers that it named the last time.
    named: usize,
    relay: Option<TrackersRelay>,
}

/// A relay that a tracker told of.
#[derive(Debug)]
struct TrackersRelay {
    url: RelayUrl,
    /// Whether it is one of this endpoint's because the tracker told of it.
    is_added: bool,
}

impl Trackers {
    /// Starts to speak with trackers, in `tasks`, until `stop`: then they are told goodbye.
    ///
    /// # Errors
    /// [`TrackerError`] for a URL that is none, or without TLS.
    pub fn start(
        options: Options,
        parts: Parts,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, TrackerError> {
        let client = http::client(options.allow_insecure_http, &options.authorities)?;
        let mut known = memory::read(&parts.state_dir);
        let mut urls = options.urls;
        urls.truncate(limits::TRACKERS);
        let all = urls.iter().enumerate().map(|(number, url)| {
            // The older program had one tracker.
            let older = || match number {
                0 => memory::read_older(&parts.state_dir),
                _ => None,
            };
            let known = known.remove(url);
            Ok(Tracker {
                number,
                url: url.clone(),
                site: Site::new(url, client.clone())?,
                session: Mutex::new(Session::new(known.or_else(older))),
                record: Mutex::default(),
                lookups: Lookups::new(),
            })
        });
        let all: Vec<Tracker> = all.collect::<Result<_, TrackerError>>()?;
        let id = parts.endpoint.id();
        let trackers = Self(Arc::new(Inner {
            found: Found::new(parts.peers, parts.swarm, all.len()),
            // Where nothing is announced, that is known from the start.
            wanted: watch::Sender::new((!options.tell).then(|| Paths::from([]))),
            speaker: Speaker {
                key: parts.endpoint.secret_key().clone(),
                swarm: options.swarm_id.told_to_others(),
                systems: vec![swarm::system()],
            },
            peer_id: options.peer_id.unwrap_or_else(|| id.to_string()),
            tell_older: AtomicBool::new(options.tell_older),
            older_may_list: options.swarm_id.is_public(),
            relay: options.relay,
            allow_insecure_http: options.allow_insecure_http,
            endpoint: parts.endpoint,
            state_dir: parts.state_dir,
            written: Mutex::default(),
            all,
        }));
        for number in 0..trackers.0.all.len() {
            let span = debug_span!("tracker", url = %trackers.0.all[number].url);
            let speaking = conversation::run(trackers.0.clone(), number, stop.clone());
            tasks.spawn(speaking.instrument(span));
        }
        Ok(trackers)
    }

    /// Tells trackers what is announced from now on, and that it is all.
    pub fn announce(&self, paths: &[PathHash]) {
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        paths.dedup();
        let paths = Paths::from(paths);
        self.0.wanted.send_if_modified(|wanted| {
            let is_news = wanted.as_ref() != Some(&paths);
            *wanted = Some(paths);
            is_news
        });
    }

    /// Says whether a tracker that knows nothing of signatures may be told of paths from now on.
    pub fn tell_older(&self, may: bool) {
        self.0.tell_older.store(may, Ordering::Relaxed);
    }

    /// Tells trackers of paths that came.
    pub fn announce_more(&self, more: &[PathHash]) {
        if more.is_empty() {
            return;
        }
        self.0.wanted.send_if_modified(|wanted| {
            // Before the first look at all, these are part of it.
            let Some(before) = wanted else { return false };
            let mut paths = before.to_vec();
            paths.extend(more);
            paths.sort_unstable();
            paths.dedup();
            let is_news = before.len() != paths.len();
            *wanted = Some(paths.into());
            is_news
        });
    }

    /// Whether asking trackers for a path may tell what nobody here knows.
    pub fn may_know_more(&self) -> bool {
        self.0.all.iter().any(|tracker| tracker.lookups.are_taken()) && self.0.found.any_unknown()
    }

    /// Asks trackers who has a path, and takes those peers up. Waits for the first that knows
    /// somebody, until all have answered, or until `deadline`. What became of it is to be told by
    /// [`Trackers::judge`].
    pub async fn who_has(&self, path_hash: StorePathHash, deadline: Instant) -> Option<Named> {
        let mut silent: HashSet<usize> = HashSet::new();
        let mut asked: FuturesUnordered<_> = FuturesUnordered::new();
        for tracker in self.0.all.iter().filter(|it| it.lookups.are_taken()) {
            silent.insert(tracker.number);
            asked.push(async {
                let holders = tracker.lookups.ask(path_hash).await;
                (tracker.number, holders)
            });
        }
        loop {
            match timeout_at(deadline.into(), asked.next()).await {
                Ok(Some((tracker, holders))) => {
                    silent.remove(&tracker);
                    if !holders.is_empty() {
                        let peers = self.0.found.having(holders);
                        return Some(Named { tracker, peers });
                    }
                }
                Ok(None) => return None,
                Err(_) => {
                    for tracker in silent {
                        self.0.all[tracker].lookups.judge(false);
                    }
                    return None;
                }
            }
        }
    }

    /// Notes whether one of those named had the path: a tracker that is wrong time after time is
    /// not asked for a while.
    pub fn judge(&self, named: &Named, had: bool) {
        if let Some(tracker) = self.0.all.get(named.tracker) {
            tracker.lookups.judge(had);
        }
    }

    /// How it goes with each tracker.
    pub fn describe(&self) -> Vec<TrackerReport> {
        let all = self.0.all.iter();
        all.map(|tracker| {
            let record = tracker.record();
            TrackerReport {
                url: tracker.url.clone(),
                signed: record.is_signed,
                seconds_since_contact: record.last_contact.map(|at| at.elapsed().as_secs()),
                announced_paths: tracker.session().announced(),
                named_peers: record.named,
                relay_url: record.relay.as_ref().map(|relay| relay.url.to_string()),
                error: record.error.clone(),
            }
        })
        .collect()
    }
}

impl Inner {
    /// Writes down what trackers know, unless that was done a short time ago.
    fn remember_now_and_then(self: &Arc<Self>) {
        let is_due = |at: Instant| at.elapsed() >= limits::REMEMBER_EVERY;
        if lock(&self.written).is_none_or(is_due) {
            let inner = self.clone();
            tokio::task::spawn_blocking(move || inner.remember());
        }
    }

    /// Writes down what trackers know, for the next start. Blocks.
    fn remember(&self) {
        let mut written = lock(&self.written);
        *written = Some(Instant::now());
        let all = self.all.iter();
        let known: HashMap<String, Known> = all
            .filter_map(|tracker| Some((tracker.url.clone(), tracker.session().known()?.clone())))
            .collect();
        memory::write(&self.state_dir, &known);
    }
}

impl Tracker {
    fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
