//! What one peer may make this machine do: connections, lookups, hashing.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use iroh::EndpointId;
use tokio::sync::Semaphore;

use crate::limits;

/// A day, over which allowances are spread.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An amount that may be used in a day: what was used comes back evenly over the day after.
#[derive(Debug, Clone, Copy, Default)]
struct Allowance {
    used: f64,
    at: Option<Instant>,
}

impl Allowance {
    fn left(&self, size: u64, now: Instant) -> f64 {
        let elapsed = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let back = size as f64 * (elapsed.as_secs_f64() / DAY.as_secs_f64());
        size as f64 - (self.used - back).max(0.0)
    }

    /// Takes `amount` if something is left of `size`; the last one may be larger than what is.
    fn take(&mut self, amount: u64, size: u64, now: Instant) -> bool {
        let left = self.left(size, now);
        if left <= 0.0 {
            return false;
        }
        self.used = size as f64 - left + amount as f64;
        self.at = Some(now);
        true
    }
}

#[derive(Debug, Default)]
struct Hashing {
    all: Allowance,
    peers: HashMap<EndpointId, Allowance>,
}

/// The budgets of all peers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budgets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lookups: DefaultKeyedRateLimiter<EndpointId>,
    hash_per_day: AtomicU64,
    hashing: Mutex<Hashing>,
    connections: Mutex<HashMap<EndpointId, Held>>,
}

/// What one peer holds now.
#[derive(Debug)]
struct Held {
    connections: usize,
    blob_requests: Arc<Semaphore>,
    inventories: Arc<Semaphore>,
    lookup_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Budgets {
    /// Lets peers have `hash_per_day` bytes of NARs hashed in a day, all together.
    pub fn new(hash_per_day: u64) -> Self {
        let each = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(each(limits::LOOKUPS_PER_SECOND))
            .allow_burst(each(limits::LOOKUP_BURST));
        Self(Arc::new(Inner {
            lookups: RateLimiter::keyed(quota),
            hash_per_day: AtomicU64::new(hash_per_day),
            hashing: Mutex::default(),
            connections: Mutex::default(),
        }))
    }

    /// Lets peers have another amount hashed in a day from now on.
    pub fn replace_hash_per_day(&self, bytes: u64) {
        self.0.hash_per_day.store(bytes, Ordering::Relaxed);
    }

    /// Returns whether a NAR of so many bytes may be hashed because `peer` wants it, and counts it.
    pub fn may_hash(&self, peer: EndpointId, nar_size: u64, now: Instant) -> bool {
        let all = self.0.hash_per_day.load(Ordering::Relaxed);
        let each = all / limits::HASHING_SHARES;
        let mut hashing = lock(&self.0.hashing);
        if hashing.peers.len() > limits::PEERS_ACCOUNTED {
            hashing
                .peers
                .retain(|_, allowance| allowance.left(each, now) < each as f64);
        }
        let own = hashing.peers.get(&peer).copied().unwrap_or_default();
        if own.left(each, now) <= 0.0 || !hashing.all.take(nar_size, all, now) {
            return false;
        }
        let own = hashing.peers.entry(peer).or_default();
        own.take(nar_size, each, now)
    }

    /// Takes one of the connections that `peer` may have.
    pub fn connection(&self, peer: EndpointId) -> Option<ConnectionSlot> {
        let mut connections = lock(&self.0.connections);
        let held = connections.entry(peer).or_insert_with(|| Held {
            connections: 0,
            blob_requests: Arc::new(Semaphore::new(limits::BLOB_REQUESTS_PER_PEER)),
            inventories: Arc::new(Semaphore::new(limits::INVENTORIES_PER_PEER)),
            lookup_turn: Arc::default(),
        });
        if held.connections >= limits::CONNECTIONS_PER_PEER {
            return None;
        }
        held.connections += 1;
        Some(ConnectionSlot {
            budgets: self.clone(),
            peer,
            blob_requests: held.blob_requests.clone(),
            inventories: held.inventories.clone(),
            lookup_turn: held.lookup_turn.clone(),
        })
    }
}

/// One connection of a peer, given back when this goes.
#[derive(Debug)]
pub struct ConnectionSlot {
    budgets: Budgets,
    peer: EndpointId,
    blob_requests: Arc<Semaphore>,
    inventories: Arc<Semaphore>,
    lookup_turn: Arc<tokio::sync::Mutex<()>>,
}

impl ConnectionSlot {
    /// Waits until the peer may ask for so many paths in one request.
    ///
    /// Waiting holds one of its few streams, so that who asks for more than its share slows itself
    /// down and nobody else.
    pub async fn lookups(&self, paths: usize) {
        let limiter = &self.budgets.0.lookups;
        if limiter.len() > limits::PEERS_ACCOUNTED {
            // Peers whose budget is whole again need no entry.
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        let cost = u32::try_from(paths)
            .unwrap_or(u32::MAX)
            .saturating_add(limits::LOOKUP_REQUEST_COST)
            .min(limits::LOOKUP_BURST);
        let cost = NonZeroU32::new(cost).unwrap_or(NonZeroU32::MIN);
        // One of its requests waits for the time to come, the others for that one.
        let _turn = self.lookup_turn.lock().await;
        // More than a burst at once is not asked for.
        let _never_refused = limiter.until_key_n_ready(&self.peer, cost).await;
    }

    /// Whose connection it is.
    pub fn peer(&self) -> EndpointId {
        self.peer
    }

    /// The blob requests that this peer may have served at once, over all its connections.
    pub fn blob_requests(&self) -> Arc<Semaphore> {
        self.blob_requests.clone()
    }

    /// The inventories that this peer may be sent at once, over all its connections.
    pub fn inventories(&self) -> Arc<Semaphore> {
        self.inventories.clone()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut connections = lock(&self.budgets.0.connections);
        if let Some(held) = connections.get_mut(&self.peer) {
            held.connections = held.connections.saturating_sub(1);
            if held.connections == 0 {
                connections.remove(&self.peer);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seed: u8) -> EndpointId {
        iroh::SecretKey::from_bytes(&[seed; 32]).public()
    }

    #[test]
    fn one_peer_cannot_use_up_the_hashing_of_all() {
        let budgets = Budgets::new(limits::HASHING_SHARES * 1000);
        let now = Instant::now();
        let granted = (0..1000)
            .filter(|_| budgets.may_hash(id(1), 100, now))
            .count();
        assert_eq!(granted, 10);
        assert!(budgets.may_hash(id(2), 100, now));
    }

    #[test]
    fn all_peers_together_have_a_day_s_budget_and_it_comes_back() {
        let budgets = Budgets::new(10_000);
        let now = Instant::now();
        let granted = |now| {
            (0..100)
                .filter(|n| budgets.may_hash(id(*n), 1000, now))
                .count()
        };
        assert_eq!(granted(now), 10);
        assert_eq!(granted(now + DAY / 2), 5);
        assert_eq!(granted(now + DAY * 2), 10);
    }

    #[test]
    fn connections_of_a_peer_are_counted() {
        let budgets = Budgets::new(0);
        let held: Vec<_> = std::iter::from_fn(|| budgets.connection(id(1))).collect();
        assert_eq!(held.len(), limits::CONNECTIONS_PER_PEER);
        assert!(budgets.connection(id(2)).is_some());
        drop(held);
        assert!(budgets.connection(id(1)).is_some());
    }

    #[test]
    fn a_peer_has_its_share_of_inventories_over_all_its_connections() {
        let budgets = Budgets::new(0);
        let (one, two) = (budgets.connection(id(1)), budgets.connection(id(1)));
        let (one, two) = (one.unwrap().inventories(), two.unwrap().inventories());
        let held: Vec<_> = std::iter::from_fn(|| one.clone().try_acquire_owned().ok()).collect();
        assert_eq!(held.len(), limits::INVENTORIES_PER_PEER);
        assert!(two.try_acquire().is_err());
        let other = budgets.connection(id(2)).unwrap();
        assert!(other.inventories().try_acquire().is_ok());
        const { assert!(limits::INVENTORIES_PER_PEER < limits::INVENTORIES_SENT) };
    }

    #[tokio::test]
    async fn a_peer_that_asks_too_much_waits_and_others_do_not() {
        let budgets = Budgets::new(0);
        let (greedy, modest) = (budgets.connection(id(1)), budgets.connection(id(2)));
        let (greedy, modest) = (greedy.unwrap(), modest.unwrap());
        let burst = limits::LOOKUP_BURST as usize;
        greedy.lookups(burst).await;
        let started = Instant::now();
        modest.lookups(burst).await;
        assert!(started.elapsed() < Duration::from_millis(50));
        let second = budgets.connection(id(1)).unwrap();
        second
            .lookups(limits::LOOKUPS_PER_SECOND as usize / 10)
            .await;
        assert!(started.elapsed() >= Duration::from_millis(80));
    }
}
