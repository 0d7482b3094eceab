//! How far one range request is, told between its task and the schedule without a lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::provided::Provided;
use crate::limits;

/// The state of one range request.
#[derive(Debug)]
pub struct Flow {
    started: Instant,
    delivered: AtomicU64,
    end: AtomicU64,
    /// Microseconds from `started` on, plus one; 0 while nothing is waited for.
    waits_since: AtomicU64,
    received: Arc<Provided>,
    /// Cancelled when nothing more is wanted.
    pub(super) ended: CancellationToken,
}

impl Flow {
    /// The flow of a request for the bytes from `start` to `end`; `received` counts them.
    pub fn new(start: u64, end: u64, received: Arc<Provided>) -> Self {
        Self {
            started: Instant::now(),
            delivered: AtomicU64::new(start),
            end: AtomicU64::new(end),
            waits_since: AtomicU64::new(0),
            received,
            ended: CancellationToken::new(),
        }
    }

    /// End of what was delivered.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    /// How long the provider has been waited for without a byte.
    pub fn silent(&self) -> Duration {
        match self.waits_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self
                .started
                .elapsed()
                .saturating_sub(Duration::from_micros(since - 1)),
        }
    }

    /// Ends the request at `end`, or where it is if that is further.
    pub fn cut(&self, end: u64) {
        self.end.fetch_min(end, Ordering::AcqRel);
        if self.is_past_end() {
            self.ended.cancel();
        }
    }

    /// The provider is waited for from now on.
    pub fn waits(&self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.waits_since.store(micros + 1, Ordering::Relaxed);
    }

    /// Waits until nothing is wanted any more, and a while longer for what was received.
    pub(super) async fn gave_up(&self) {
        self.ended.cancelled().await;
        tokio::time::sleep(limits::SCHEDULE_TICK).await;
    }

    pub(super) fn waits_no_more(&self) {
        self.waits_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn deliver(&self, to: u64) {
        let before = self.delivered.fetch_max(to, Ordering::AcqRel);
        self.received.add(to.saturating_sub(before));
    }

    pub(super) fn is_past_end(&self) -> bool {
        self.delivered() >= self.end.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn provided() -> Arc<Provided> {
        Arc::new(Provided::new("peer".into(), Counter::default()))
    }

    #[test]
    fn a_cut_behind_what_was_delivered_ends_it_and_one_ahead_does_not() {
        let flow = Flow::new(100, 1000, provided());
        flow.deliver(300);
        flow.cut(500);
        assert!(!flow.ended.is_cancelled());
        flow.deliver(500);
        assert!(flow.is_past_end());
        flow.cut(0);
        assert!(flow.ended.is_cancelled());
        assert_eq!(flow.received.bytes(), 400);
    }

    #[test]
    fn silence_counts_only_while_something_is_waited_for() {
        let flow = Flow::new(0, 1, provided());
        assert_eq!(flow.silent(), Duration::ZERO);
        flow.waits();
        while flow.silent().is_zero() {
            std::hint::spin_loop();
        }
        flow.waits_no_more();
        assert_eq!(flow.silent(), Duration::ZERO);
    }
}
