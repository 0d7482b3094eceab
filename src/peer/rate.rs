//! Upload limits: a bucket for all peers and one for each, as pure functions of the clock.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use iroh::EndpointId;

use super::gate::{UploadGate, UploadsClosed};
use crate::limits;

/// A rate limit as virtual scheduling: when the bytes so far will have been sent at `rate`.
///
/// A reservation may be larger than the burst; what it exceeds is waited for by the next one, so
/// the long-run rate is exact whatever the sizes are.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u64,
    drained_at: Option<Instant>,
}

impl Bucket {
    /// Makes an idle bucket of `rate` bytes a second (at least 1).
    pub fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            drained_at: None,
        }
    }

    /// Takes `bytes` and returns how long to wait before sending them.
    pub fn reserve(&mut self, bytes: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(limits::BURST).unwrap_or(now);
        let start = self.drained_at.map_or(earliest, |at| at.max(earliest));
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let drained_at = start.checked_add(cost).unwrap_or(start);
        self.drained_at = Some(drained_at);
        drained_at.saturating_duration_since(now)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.drained_at.is_none_or(|at| at <= now)
    }
}

/// Upload limits in force: in all, for each peer, and the default for public addresses.
#[derive(Debug)]
pub struct UploadLimits {
    gate: UploadGate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    all: Option<Bucket>,
    public: Option<Bucket>,
    per_peer: Option<u64>,
    peers: HashMap<Receiver, Bucket>,
}

/// To whom bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// A peer.
    Peer(EndpointId),
    /// A host on the local network that asks over HTTP.
    Host(IpAddr),
}

impl From<EndpointId> for Receiver {
    fn from(id: EndpointId) -> Self {
        Self::Peer(id)
    }
}

impl From<IpAddr> for Receiver {
    fn from(ip: IpAddr) -> Self {
        Self::Host(ip)
    }
}

impl State {
    fn new(all: Option<u64>, per_peer: Option<u64>) -> Self {
        let is_default = all.is_none() && per_peer.is_none();
        Self {
            all: all.map(Bucket::new),
            public: is_default.then(|| Bucket::new(limits::PUBLIC_UPLOAD)),
            per_peer,
            peers: HashMap::new(),
        }
    }
}

impl UploadLimits {
    /// Sets the limits, in bytes a second.
    ///
    /// A limit that is given holds for every peer. Where neither is, public addresses share
    /// [`limits::PUBLIC_UPLOAD`] and loopback and private ones are unlimited.
    /// Nothing at all is sent where `gate` is closed.
    pub fn new(all: Option<u64>, per_peer: Option<u64>, gate: UploadGate) -> Self {
        Self {
            gate,
            state: Mutex::new(State::new(all, per_peer)),
        }
    }

    /// Sets other limits from now on, as [`UploadLimits::new`] does.
    pub fn replace(&self, all: Option<u64>, per_peer: Option<u64>) {
        *self.state() = State::new(all, per_peer);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest of the limits that hold for a peer, in bytes a second.
    pub fn slowest(&self, public: bool) -> Option<u64> {
        let state = self.state();
        let rates = [
            state.all.as_ref().map(|b| b.rate),
            state.per_peer,
            state.public.as_ref().filter(|_| public).map(|b| b.rate),
        ];
        rates.into_iter().flatten().min()
    }

    /// The largest piece to send at once, in bytes, so that no piece is a burst of its own.
    pub fn piece(&self, public: bool) -> usize {
        self.slowest(public).map_or(limits::BLOB_PIECE, |rate| {
            usize::try_from(rate / 20)
                .unwrap_or(usize::MAX)
                .clamp(1024, limits::BLOB_PIECE)
        })
    }

    /// Takes `bytes` for `peer` and returns how long to wait before sending them.
    pub fn reserve(
        &self,
        peer: impl Into<Receiver>,
        public: bool,
        bytes: u64,
        now: Instant,
    ) -> Duration {
        let mut state = self.state();
        let mut wait = Duration::ZERO;
        if let Some(bucket) = state.all.as_mut() {
            wait = wait.max(bucket.reserve(bytes, now));
        }
        if public && let Some(bucket) = state.public.as_mut() {
            wait = wait.max(bucket.reserve(bytes, now));
        }
        if let Some(rate) = state.per_peer {
            if state.peers.len() > limits::CONNECTIONS {
                state.peers.retain(|_, bucket| !bucket.is_idle(now));
            }
            let bucket = state
                .peers
                .entry(peer.into())
                .or_insert_with(|| Bucket::new(rate));
            wait = wait.max(bucket.reserve(bytes, now));
        }
        wait
    }

    /// Returns whether anything may be sent now.
    ///
    /// # Errors
    /// [`UploadsClosed`], which says why not.
    pub fn check(&self) -> Result<(), UploadsClosed> {
        self.gate.check()
    }

    /// Waits until `bytes` may be sent to `peer`. Cancel safe: the bytes count as sent.
    ///
    /// # Errors
    /// [`UploadsClosed`] where nothing may be sent now.
    pub async fn wait(
        &self,
        peer: impl Into<Receiver>,
        public: bool,
        bytes: u64,
    ) -> Result<(), UploadsClosed> {
        self.gate.pass(bytes)?;
        self.wait_turn(peer, public, bytes).await;
        Ok(())
    }

    /// The same for bytes that only tell what is here, which no pause holds up.
    ///
    /// # Errors
    /// [`UploadsClosed`] where a quota is used up.
    pub async fn wait_to_tell(
        &self,
        peer: impl Into<Receiver>,
        public: bool,
        bytes: u64,
    ) -> Result<(), UploadsClosed> {
        self.gate.pass_told(bytes)?;
        self.wait_turn(peer, public, bytes).await;
        Ok(())
    }

    async fn wait_turn(&self, peer: impl Into<Receiver>, public: bool, bytes: u64) {
        let wait = self.reserve(peer, public, bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_rate_holds_within_five_percent_over_ten_seconds(
            rate in 10_000u64..200_000_000,
            sizes in proptest::collection::vec(1u64..131_072, 1..32),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate);
            let mut now = start;
            let mut sent = 0u64;
            let end = start + Duration::from_secs(10);
            for i in 0.. {
                // No piece is larger than a twentieth of a second of rate, as `piece` says.
                let size = sizes[i % sizes.len()].min((rate / 20).max(1024));
                now += bucket.reserve(size, now);
                if now > end { break; }
                sent += size;
            }
            let expected = rate * 10;
            prop_assert!(sent <= expected + expected / 20, "{sent} of {expected}");
            prop_assert!(sent >= expected - expected / 20, "{sent} of {expected}");
        }

        #[test]
        fn an_idle_bucket_saves_at_most_one_burst(rate in 10_000u64..200_000_000, idle in 1u64..1000) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate);
            bucket.reserve(1, start);
            let now = start + Duration::from_secs(idle);
            let burst = (rate as f64 * limits::BURST.as_secs_f64()) as u64;
            prop_assert_eq!(bucket.reserve(burst / 2, now), Duration::ZERO);
            prop_assert!(bucket.reserve(burst, now) > Duration::ZERO);
        }
    }

    fn open() -> UploadGate {
        UploadGate::new(Default::default(), Default::default())
    }

    #[test]
    fn a_limit_given_explicitly_holds_for_private_addresses_too() {
        let id = iroh::SecretKey::from_bytes(&[1; 32]).public();
        let now = Instant::now();
        let limits = UploadLimits::new(None, None, open());
        assert_eq!(limits.reserve(id, false, 1 << 30, now), Duration::ZERO);
        assert!(limits.reserve(id, true, 1 << 30, now) > Duration::from_secs(100));
        let limits = UploadLimits::new(Some(1_000_000), None, open());
        assert!(limits.reserve(id, false, 10_000_000, now) > Duration::from_secs(9));
        let limits = UploadLimits::new(None, Some(1_000_000), open());
        assert!(limits.reserve(id, false, 10_000_000, now) > Duration::from_secs(9));
        let other = iroh::SecretKey::from_bytes(&[2; 32]).public();
        assert_eq!(limits.reserve(other, false, 1000, now), Duration::ZERO);
    }
}
