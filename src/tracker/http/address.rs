//! Whose request it is.
//!
//! The older tracker believed everybody who sent `X-Real-IP` or `X-Forwarded-For`. Here a proxy is
//! believed that runs on this machine or that the operator named. Of the addresses that it forwards,
//! the last that is not such a proxy's counts, since those before it are what the client says. A
//! proxy may set one of both headers and pass on the other as the client wrote it: where they name
//! different addresses, neither counts but the proxy's own.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The address at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct From(pub(super) IpAddr);

/// The address that a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) addr: IpAddr,
    /// Whether it is a program on this machine that speaks for itself.
    pub(super) is_local: bool,
}

impl Client {
    pub(super) fn of(from: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Self {
        let from = from.to_canonical();
        let is_proxy = |addr: &IpAddr| {
            addr.is_loopback() || proxies.iter().any(|network| network.contains(addr))
        };
        let forwarded = match is_proxy(&from) {
            true => Forwarded::of(headers, is_proxy),
            false => Forwarded::default(),
        };
        Self {
            addr: forwarded.client.unwrap_or(from),
            is_local: from.is_loopback() && !forwarded.is_there,
        }
    }
}

/// What a proxy says of a client's address.
#[derive(Default)]
struct Forwarded {
    is_there: bool,
    /// The address, where it is said and beyond doubt.
    client: Option<IpAddr>,
}

impl Forwarded {
    fn of(headers: &HeaderMap, is_proxy: impl Fn(&IpAddr) -> bool) -> Self {
        let addresses = |name: &str| -> Option<Vec<IpAddr>> {
            let texts = headers.get_all(name).iter();
            let addresses = texts
                .filter_map(|value| value.to_str().ok())
                .flat_map(|list| list.split(','))
                .filter_map(|text| text.trim().parse::<IpAddr>().ok())
                .map(|addr| addr.to_canonical());
            headers.contains_key(name).then(|| addresses.collect())
        };
        let last = |chain: &Vec<IpAddr>| {
            let last = chain.iter().rev().find(|addr| !is_proxy(addr));
            last.or(chain.first()).copied()
        };
        let chain = addresses("x-forwarded-for");
        let real = addresses("x-real-ip");
        let is_there = chain.is_some() || real.is_some();
        let (chain, real) = (chain.as_ref().and_then(last), real.as_ref().and_then(last));
        let client = match (chain, real) {
            // A proxy before the last one is none that a client is behind.
            (Some(chain), Some(real)) if chain == real || is_proxy(&real) => Some(chain),
            (Some(_), Some(_)) => None,
            (chain, real) => chain.or(real),
        };
        Self { is_there, client }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(from: &str, headers: &[(&'static str, &str)], proxies: &[&str]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
        Client::of(from.parse().unwrap(), &headers, &proxies)
            .addr
            .to_string()
    }

    #[test]
    fn a_stranger_is_not_believed_what_it_says_of_its_address() {
        let forged = [("x-real-ip", "192.0.2.9"), ("x-forwarded-for", "192.0.2.9")];
        assert_eq!(client("198.51.100.1", &forged, &[]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &forged, &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &forged, &["10.0.0.0/8"]), "192.0.2.9");
        assert_eq!(client("::ffff:127.0.0.1", &forged, &[]), "192.0.2.9");
    }

    #[test]
    fn of_a_chain_the_last_that_is_no_proxy_counts() {
        let chain = [("x-forwarded-for", "203.0.113.7, 192.0.2.9, 10.0.0.2")];
        assert_eq!(client("127.0.0.1", &chain, &["10.0.0.0/8"]), "192.0.2.9");
        assert_eq!(client("127.0.0.1", &chain, &[]), "10.0.0.2");
    }

    #[test]
    fn what_a_client_wrote_beside_what_the_proxy_says_is_not_believed() {
        let real = ("x-real-ip", "192.0.2.9");
        let chain = ("x-forwarded-for", "203.0.113.7, 192.0.2.9");
        assert_eq!(client("127.0.0.1", &[real], &[]), "192.0.2.9");
        assert_eq!(client("127.0.0.1", &[real, chain], &[]), "192.0.2.9");
        for forged in [
            [("x-real-ip", "198.51.100.1"), chain],
            [real, ("x-forwarded-for", "198.51.100.1")],
        ] {
            assert_eq!(client("127.0.0.1", &forged, &[]), "127.0.0.1");
        }
        // The proxy before this one is what this one saw.
        let seen = ("x-real-ip", "10.0.0.2");
        let chain = ("x-forwarded-for", "192.0.2.9, 10.0.0.2");
        let proxies = ["10.0.0.0/8"];
        assert_eq!(client("127.0.0.1", &[seen, chain], &proxies), "192.0.2.9");
    }

    #[test]
    fn a_proxy_that_says_nothing_that_can_be_read_is_not_on_its_own_errand() {
        for (name, value) in [("x-real-ip", "unknown"), ("x-forwarded-for", "")] {
            let headers = [(name.parse().unwrap(), value.parse().unwrap())];
            let headers: HeaderMap = headers.into_iter().collect();
            let client = Client::of("127.0.0.1".parse().unwrap(), &headers, &[]);
            assert!(!client.is_local, "{name}: {value}");
        }
    }

    #[test]
    fn a_program_on_this_machine_speaks_for_itself() {
        let nobody = HeaderMap::new();
        let client = Client::of("127.0.0.1".parse().unwrap(), &nobody, &[]);
        assert!(client.is_local);
    }
}
