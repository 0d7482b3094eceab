//! Room for clients: which connections are open, what they do, and which one goes when a new one
//! needs its place.
//!
//! A server with a plain cap can be filled by clients that do nothing. Here the newest is let in
//! at the cost of the one that idled longest, or of one that takes nothing of what is sent to it.
//! Nix's next request on a connection that went this way comes on a new one.

use std::collections::HashMap;
use std::error::Error;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::TokioTimer;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::HttpLimits;
use crate::metrics::Metrics;

/// How often a place is looked for again while nobody gives one up.
const RETRY: Duration = Duration::from_millis(50);

/// The smallest buffer that hyper can work with.
const SMALLEST_HEAD: usize = 8 * 1024;

/// The open connections of a server.
pub(crate) struct Connections {
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    closed: Notify,
    bodies: Arc<Semaphore>,
    limits: HttpLimits,
    metrics: Arc<Metrics>,
    started: Instant,
    next_id: AtomicU64,
}

/// What one connection is doing.
pub(crate) struct Activity {
    connections: Arc<Connections>,
    id: u64,
    idle_since: Since,
    blocked_since: Since,
    sends_nar: AtomicBool,
    evicted: CancellationToken,
}

/// Since when something is so, in milliseconds of the server's life; 0 if it is not so.
#[derive(Default)]
struct Since(AtomicU64);

impl Since {
    fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&since| since > 0)
    }
}

impl Connections {
    pub(crate) fn new(limits: HttpLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            closed: Notify::new(),
            bodies: Arc::new(Semaphore::new(limits.nar_bodies)),
            limits,
            metrics,
            started: Instant::now(),
            next_id: AtomicU64::new(0),
        })
    }

    /// Waits for a place for one more connection, and makes one where that is possible.
    pub(crate) async fn admit(self: &Arc<Self>) -> Admitted {
        loop {
            if let Some(activity) = self.try_admit() {
                return Admitted(activity);
            }
            // Closing a connection that was seen as open wakes this, or the next turn does.
            let _ = timeout(RETRY, self.closed.notified()).await;
        }
    }

    fn try_admit(self: &Arc<Self>) -> Option<Arc<Activity>> {
        let now = self.now();
        let mut open = self.open();
        if open.len() >= self.limits.connections {
            let victim = open
                .values()
                .filter_map(|activity| Some((activity.idle_since.get()?, activity.id)))
                .min()
                .map(|(_, id)| id)
                .or_else(|| self.longest_blocked(&open, now, |_| true))?;
            self.evict(&mut open, victim);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity {
            connections: Arc::clone(self),
            id,
            idle_since: Since::default(),
            blocked_since: Since::default(),
            sends_nar: AtomicBool::new(false),
            evicted: CancellationToken::new(),
        });
        activity.idle_since.set(now);
        open.insert(id, Arc::clone(&activity));
        self.metrics.http_connections.inc();
        Some(activity)
    }

    /// Cuts the NAR that has been taken from least recently, if that is long enough ago.
    fn make_room_for_a_nar(&self) {
        let mut open = self.open();
        let sends_nar = |activity: &Activity| activity.sends_nar.load(Ordering::Relaxed);
        if let Some(victim) = self.longest_blocked(&open, self.now(), sends_nar) {
            self.evict(&mut open, victim);
        }
    }

    fn longest_blocked(
        &self,
        open: &HashMap<u64, Arc<Activity>>,
        now: u64,
        is_candidate: impl Fn(&Activity) -> bool,
    ) -> Option<u64> {
        let patience = u64::try_from(self.limits.evictable_after.as_millis()).unwrap_or(u64::MAX);
        open.values()
            .filter(|activity| is_candidate(activity))
            .filter_map(|activity| Some((activity.blocked_since.get()?, activity.id)))
            .filter(|&(since, _)| now.saturating_sub(since) >= patience)
            .min()
            .map(|(_, id)| id)
    }

    fn evict(&self, open: &mut HashMap<u64, Arc<Activity>>, id: u64) {
        if let Some(victim) = open.remove(&id) {
            victim.evicted.cancel();
            self.metrics.http_connections.dec();
            self.metrics.http_connections_evicted.inc();
        }
    }

    fn close(&self, id: u64) {
        if self.open().remove(&id).is_some() {
            self.metrics.http_connections.dec();
        }
        self.closed.notify_one();
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        elapsed.saturating_add(1)
    }
}

impl Activity {
    /// Resolves when the connection must go.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Says that a request is being answered until the guard goes.
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.idle_since.clear();
        RequestGuard(Arc::clone(self))
    }

    /// Says that the client takes nothing more for now.
    pub(super) fn blocked(&self) {
        self.blocked_since.set(self.connections.now());
    }

    /// Says that the client took something.
    pub(super) fn moved(&self) {
        self.blocked_since.clear();
    }

    /// Waits for the right to send one NAR, and takes it from a client that does not read where
    /// none is free.
    pub(super) async fn nar_slot(self: &Arc<Self>) -> NarSlot {
        let bodies = &self.connections.bodies;
        let permit = match Arc::clone(bodies).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let mut acquire = pin!(Arc::clone(bodies).acquire_owned());
                loop {
                    self.connections.make_room_for_a_nar();
                    if let Ok(permit) = timeout(RETRY, &mut acquire).await {
                        // The semaphore is never closed.
                        break permit.ok();
                    }
                }
            }
        };
        self.sends_nar.store(true, Ordering::Relaxed);
        NarSlot {
            activity: Arc::clone(self),
            _permit: permit,
        }
    }
}

/// The place of an open connection, given back when this goes.
pub(crate) struct Admitted(Arc<Activity>);

impl Deref for Admitted {
    type Target = Arc<Activity>;

    fn deref(&self) -> &Arc<Activity> {
        &self.0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.connections.close(self.0.id);
    }
}

/// Keeps a connection from counting as idle.
pub(crate) struct RequestGuard(Arc<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.idle_since.set(self.0.connections.now());
    }
}

/// The right to send one NAR.
pub(super) struct NarSlot {
    activity: Arc<Activity>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for NarSlot {
    fn drop(&mut self) {
        self.activity.sends_nar.store(false, Ordering::Relaxed);
    }
}
/// The protocol as all servers here speak it.
pub(crate) fn protocol(limits: &HttpLimits) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    // The size bounds what is read ahead. A piece of a body is one buffer of its own, passed to
    // `writev` as it is, however large.
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_size.max(SMALLEST_HEAD));
    protocol
}

/// Serves a connection until it ends, its place is needed, or `stop` is cancelled and what is under
/// way has ended.
pub(crate) async fn drive<I, S, B>(
    serving: http1::Connection<I, S>,
    activity: &Activity,
    stop: &CancellationToken,
) where
    I: Read + Write + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut serving = pin!(serving);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP connection broke");
                }
                break;
            }
            () = activity.evicted() => break,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
