//! Questions to one tracker, who has a path: what waits while some are under way goes together.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use iroh::EndpointAddr;
use peerix_store::nix::StorePathHash;
use tokio::sync::{MutexGuard, mpsc, oneshot};

use super::{http::Site, limits, lock, signed::Speaker};

type Waiting = (StorePathHash, oneshot::Sender<Vec<EndpointAddr>>);

/// Whether a tracker's answers were of use.
#[derive(Debug, Default)]
struct Doubt {
    in_a_row: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Doubt {
    fn is_doubted(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    fn useless(&mut self, now: Instant) {
        let is_same = |last: Instant| now.saturating_duration_since(last) < limits::DOUBT_TOGETHER;
        if self.last.is_some_and(is_same) {
            return;
        }
        self.last = Some(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if let Some(further) = self.in_a_row.checked_sub(limits::DOUBTED_AFTER) {
            self.until = now.checked_add(limits::DOUBTED_FOR * (1 << further.min(7)));
        }
    }
}

/// The questions to one tracker.
#[derive(Debug)]
pub(super) struct Lookups {
    doubt: Mutex<Doubt>,
    queue: mpsc::Sender<Waiting>,
    waiting: tokio::sync::Mutex<mpsc::Receiver<Waiting>>,
    /// Whether somebody asks the tracker what waits.
    taken: AtomicBool,
}

impl Lookups {
    pub(super) fn new() -> Self {
        let (queue, waiting) = mpsc::channel(limits::LOOKUP_QUEUE);
        Self {
            queue,
            waiting: tokio::sync::Mutex::new(waiting),
            taken: AtomicBool::new(false),
            doubt: Mutex::default(),
        }
    }

    /// Whether the tracker is asked at all now.
    pub(super) fn are_taken(&self) -> bool {
        self.is_served() && !lock(&self.doubt).is_doubted(Instant::now())
    }

    fn is_served(&self) -> bool {
        self.taken.load(Ordering::SeqCst)
    }

    /// Notes whether an answer led to the path. One that comes too late does not either.
    pub(super) fn judge(&self, was_of_use: bool) {
        match was_of_use {
            true => *lock(&self.doubt) = Doubt::default(),
            false => lock(&self.doubt).useless(Instant::now()),
        }
    }

    /// Who has the path, as far as the tracker knows; nobody where it can't be asked.
    pub(super) async fn ask(&self, path_hash: StorePathHash) -> Vec<EndpointAddr> {
        let (holders, answer) = oneshot::channel();
        if !self.are_taken() || self.queue.try_send((path_hash, holders)).is_err() {
            return Vec::new();
        }
        // Who served may have gone meanwhile, and have given back what waited before that.
        if !self.is_served() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// Asks the tracker until this is dropped.
    pub(super) async fn serve(&self, site: &Site, speaker: &Speaker, at_once: usize) {
        let at_once = at_once.clamp(1, limits::LOOKUP_PATHS);
        let mut taken = Taken::new(&self.taken, self.waiting.lock().await);
        let mut under_way = FuturesUnordered::new();
        let mut batch: Vec<Waiting> = Vec::new();
        loop {
            tokio::select! {
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                received = taken.waiting.recv_many(&mut batch, at_once),
                    if under_way.len() < limits::LOOKUPS_UNDER_WAY => {
                    if received == 0 {
                        return;
                    }
                    under_way.push(ask(site, speaker, std::mem::take(&mut batch)));
                }
            }
        }
    }
}

async fn ask(site: &Site, speaker: &Speaker, mut batch: Vec<Waiting>) {
    // Who gave up meanwhile needs no answer.
    batch.retain(|(_, holders)| !holders.is_closed());
    if batch.is_empty() {
        return;
    }
    let mut by_path: HashMap<StorePathHash, Vec<oneshot::Sender<_>>> = HashMap::new();
    for (path_hash, holders) in batch {
        by_path.entry(path_hash).or_default().push(holders);
    }
    let paths: Vec<StorePathHash> = by_path.keys().copied().collect();
    match speaker.lookup(site, &paths).await {
        Ok(mut found) => {
            for (path_hash, senders) in by_path {
                let holders = found.remove(&path_hash).unwrap_or_default();
                for sender in senders {
                    let _ = sender.send(holders.clone());
                }
            }
        }
        Err(error) => tracing::debug!(%error, "the tracker could not be asked for paths"),
    }
}

/// Says that questions are taken, and at its end answers those that wait with nothing.
struct Taken<'a> {
    taken: &'a AtomicBool,
    waiting: MutexGuard<'a, mpsc::Receiver<Waiting>>,
}

impl<'a> Taken<'a> {
    fn new(taken: &'a AtomicBool, waiting: MutexGuard<'a, mpsc::Receiver<Waiting>>) -> Self {
        taken.store(true, Ordering::SeqCst);
        Self { taken, waiting }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.taken.store(false, Ordering::SeqCst);
        while self.waiting.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_answered_with_nothing_once_nobody_asks_any_more() {
        let lookups = Lookups::new();
        let path_hash = StorePathHash::from_bytes([1; 20]);
        assert!(lookups.ask(path_hash).await.is_empty());
        let taken = Taken::new(&lookups.taken, lookups.waiting.lock().await);
        let mut asked = Box::pin(lookups.ask(path_hash));
        assert!(futures_util::poll!(&mut asked).is_pending());
        drop(taken);
        assert!(futures_util::poll!(&mut asked).is_ready());
        assert!(lookups.waiting.lock().await.try_recv().is_err());
    }

    #[test]
    fn who_is_of_no_use_three_times_in_a_row_is_left_alone_longer_each_time() {
        let mut doubt = Doubt::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            // Those of one moment count once.
            doubt.useless(now);
            doubt.useless(now + Duration::from_millis(500));
            let pause = doubt
                .until
                .map_or(0, |until| until.saturating_duration_since(now).as_secs());
            pauses.push(pause / 60);
            now += Duration::from_secs(1).max(Duration::from_secs(pause));
            assert!(!doubt.is_doubted(now));
        }
        let minutes = [0, 0, 10, 20, 40, 80, 160, 320, 640, 1280, 1280, 1280];
        assert_eq!(pauses, minutes);
    }
}
