//! One peer: whether it can be asked, and what became of asking it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use iroh::{EndpointId, endpoint::Connection};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use peerix_store::nix::StorePathHash;

use super::{BLOB_CONNECTIONS, lock};
use crate::{
    limits,
    peer::{
        lookup::{Claim, Mode},
        lookup_client::Wanted,
        score::Score,
        wire::choice::Record,
    },
    share::ShareToken,
};

/// The state of the kept lookup connection of a peer.
#[derive(Debug, Clone)]
pub(in crate::peer) enum Link {
    /// The first attempt is under way: a lookup waits for it within its deadline.
    First,
    /// Lookups are answered over this connection.
    Up(Connection),
    /// Not reachable now; tried again in the background.
    Down,
}

/// One known peer.
#[derive(Debug)]
pub struct Peer {
    pub(super) id: EndpointId,
    pub(in crate::peer) link: watch::Sender<Link>,
    pub(in crate::peer) queue: mpsc::Sender<Wanted>,
    pub(super) silent: AtomicBool,
    /// Deadlines missed in a row, a probe's answer notwithstanding.
    pub(super) misses: AtomicU32,
    pub(super) older: AtomicBool,
    pub(super) other_swarm: AtomicBool,
    pub(super) score: Mutex<Score>,
    pub(super) tokens: Mutex<Vec<ShareToken>>,
    pub(super) blobs: Kept,
    pub(super) framed: Kept,
    pub(super) wire: Arc<Mutex<Record>>,
    pub(super) retry: Notify,
    /// Blob requests that this machine may have under way with it.
    pub(crate) streams: Semaphore,
    pub(super) asked: AtomicUsize,
    /// It is known from elsewhere than the local network and the swarm: it stays.
    pub(super) kept: AtomicBool,
    pub(super) is_probed: AtomicBool,
    pub(super) gone: CancellationToken,
}

/// Connections on one ALPN that are made when they are needed, and when each was given out last.
pub(super) type Kept = [tokio::sync::Mutex<Option<(Connection, Instant)>>; BLOB_CONNECTIONS];

impl Peer {
    /// Counts a request for a blob: they take turns on the connections that are kept.
    pub fn next_stream(&self) -> usize {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    /// The peer's endpoint id.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Reads or changes the record of this peer.
    pub fn score<T>(&self, f: impl FnOnce(&mut Score) -> T) -> T {
        f(&mut lock(&self.score))
    }

    /// Asks for one path; waits for the answer however long it takes (the caller has a deadline).
    ///
    /// Returns `None` where the peer can't be asked or its answer was of no use.
    pub async fn lookup(&self, mode: Mode, path_hash: StorePathHash) -> Option<Claim> {
        if self.is_down() {
            return None;
        }
        let (wanted, answer) = Wanted::new(mode, path_hash);
        self.queue.try_send(wanted).ok()?;
        answer.await.ok()
    }

    /// Shows this token with each lookup from now on: a ticket of this peer's carried it.
    pub fn show_token(&self, token: ShareToken) {
        let mut tokens = lock(&self.tokens);
        tokens.retain(|known| *known != token);
        tokens.push(token);
        if tokens.len() > limits::LOOKUP_MAX_TOKENS {
            // The oldest one goes.
            tokens.remove(0);
        }
    }

    /// Whether a ticket of this peer's carried the token of a private share.
    pub fn has_tokens(&self) -> bool {
        !lock(&self.tokens).is_empty()
    }

    pub(in crate::peer) fn tokens(&self) -> Vec<ShareToken> {
        lock(&self.tokens).clone()
    }

    /// Notes that a lookup's deadline passed without an answer: it is not asked until it answers a
    /// probe, which comes the later the more often that happened.
    pub fn missed_deadline(&self) {
        if !self.silent.swap(true, Ordering::Relaxed) {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        self.retry.notify_one();
    }

    /// How long it is left alone after it missed a deadline before it is probed.
    pub(in crate::peer) fn probe_wait(&self) -> Duration {
        let misses = self.misses.load(Ordering::Relaxed);
        let doubled = limits::PROBE_LEAST * (1 << misses.saturating_sub(1).min(10));
        doubled.min(limits::PROBE_MOST)
    }

    /// Whether it could not be reached last.
    pub fn is_down(&self) -> bool {
        matches!(*self.link.borrow(), Link::Down)
    }

    /// Whether it could not be reached last, or missed several deadlines in a row.
    pub fn is_lost(&self) -> bool {
        self.is_down() || self.misses.load(Ordering::Relaxed) >= limits::MISSES_OF_THE_LOST
    }

    /// Notes that it answered what it was asked, and not a probe alone.
    pub(in crate::peer) fn was_of_use(&self) {
        self.misses.store(0, Ordering::Relaxed);
    }

    pub(in crate::peer) fn answered(&self, latency: Duration) {
        self.silent.store(false, Ordering::Relaxed);
        self.other_swarm.store(false, Ordering::Relaxed);
        self.score(|score| score.success(Some(latency), Instant::now()));
    }

    pub(in crate::peer) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Whether it refused the lookup protocol when it was connected to last.
    pub fn is_older(&self) -> bool {
        self.older.load(Ordering::Relaxed)
    }

    /// Whether it was of another swarm, or without this one's secret, when it was connected to last.
    pub fn is_of_other_swarm(&self) -> bool {
        self.other_swarm.load(Ordering::Relaxed)
    }

    /// Whether a connection to it is open.
    pub fn is_up(&self) -> bool {
        matches!(*self.link.borrow(), Link::Up(_))
    }

    /// Whether nobody but a stranger said so far that it is there: it comes after all others.
    pub(super) fn is_hearsay(&self) -> bool {
        !self.kept.load(Ordering::Relaxed) && matches!(*self.link.borrow(), Link::First)
    }

    pub(super) fn is_askable(&self, now: Instant) -> bool {
        !self.is_silent() && !self.is_down() && !self.score(|score| score.is_backed_off(now))
    }
}
