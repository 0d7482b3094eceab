//! How much a client may ask for: each address, and each endpoint that announces.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::address::Client;
use super::refusal::Refusal;
use crate::tracker::limits;

type Limiter<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>;

/// The requests that were made lately.
pub(super) struct Admission {
    addresses: Limiter<IpAddr>,
    endpoints: Limiter<iroh::EndpointId>,
    clock: DefaultClock,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Admission")
            .field("addresses", &self.addresses.len())
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

impl Admission {
    pub(super) fn new() -> Self {
        Self {
            addresses: RateLimiter::keyed(quota(limits::REQUESTS_PER_ADDRESS)),
            endpoints: RateLimiter::keyed(quota(limits::REQUESTS_PER_ENDPOINT)),
            clock: DefaultClock::default(),
        }
    }

    /// Lets a request of an address in; programs on this machine are let in always.
    pub(super) fn admit_address(&self, client: Client, cost: u32) -> Result<(), Refusal> {
        if client.is_local {
            return Ok(());
        }
        self.admit(&self.addresses, &network_of(client.addr), cost)
    }

    /// Lets an announcement of an endpoint in, whoever sent it.
    pub(super) fn admit_endpoint(
        &self,
        endpoint: &iroh::EndpointId,
        cost: u32,
    ) -> Result<(), Refusal> {
        self.admit(&self.endpoints, endpoint, cost)
    }

    fn admit<K: std::hash::Hash + Eq + Clone>(
        &self,
        limiter: &Limiter<K>,
        key: &K,
        cost: u32,
    ) -> Result<(), Refusal> {
        let cost = NonZeroU32::new(cost).unwrap_or(NonZeroU32::MIN);
        match limiter.check_key_n(key, cost) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(Refusal::TooMany {
                seconds: until.wait_time_from(self.clock.now()).as_secs().max(1),
            }),
            // More than may ever come at once.
            Err(_) => Err(Refusal::TooLarge),
        }
    }

    /// Forgets who was not heard of for so long that it makes no difference.
    pub(super) fn forget_idle(&self) {
        self.addresses.retain_recent();
        self.addresses.shrink_to_fit();
        self.endpoints.retain_recent();
        self.endpoints.shrink_to_fit();
    }
}

fn quota((per_second, at_once): (u32, u32)) -> Quota {
    let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(number(per_second)).allow_burst(number(at_once))
}

/// Whom an address belongs to: an IPv6 customer has 2^64 of them.
pub(super) fn network_of(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => addr,
        IpAddr::V6(addr) => {
            let [a, b, c, d, ..] = addr.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_asks_no_more_than_it_may_and_others_notice_nothing() {
        let admission = Admission::new();
        let client = |text: &str| Client {
            addr: text.parse().unwrap(),
            is_local: false,
        };
        let mut allowed = 0;
        while admission.admit_address(client("2001:db8::1"), 1).is_ok() {
            allowed += 1;
            assert!(allowed < 10 * limits::REQUESTS_PER_ADDRESS.1);
        }
        assert!(allowed >= limits::REQUESTS_PER_ADDRESS.1);
        let neighbour = admission.admit_address(client("2001:db8::ffff:2"), 1);
        assert!(matches!(neighbour, Err(Refusal::TooMany { seconds: 1.. })));
        assert!(admission.admit_address(client("2001:db8:1::1"), 1).is_ok());
    }
}
