//! Whose request it is.
//!
//! The older tracker believed everybody who sent `X-Real-IP` or `X-Forwarded-For`. Here a proxy is
//! believed that runs on this machine or that the operator named; of the addresses that it forwards,
//! the last that is not such a proxy's counts, since those before it are what the client says.

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
        if is_proxy(&from)
            && let Some(addr) = forwarded(headers, is_proxy)
        {
            return Self {
                addr,
                is_local: false,
            };
        }
        Self {
            addr: from,
            is_local: from.is_loopback(),
        }
    }
}

fn forwarded(headers: &HeaderMap, is_proxy: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let text = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
    };
    let address = |text: &str| text.trim().parse::<IpAddr>().ok().map(|a| a.to_canonical());
    if let Some(addr) = text("x-real-ip").next().and_then(address) {
        return Some(addr);
    }
    let chain: Vec<IpAddr> = text("x-forwarded-for")
        .flat_map(|list| list.split(','))
        .filter_map(address)
        .collect();
    let last = chain.iter().rev().find(|addr| !is_proxy(addr));
    last.or(chain.first()).copied()
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
    fn a_program_on_this_machine_speaks_for_itself() {
        let nobody = HeaderMap::new();
        let client = Client::of("127.0.0.1".parse().unwrap(), &nobody, &[]);
        assert!(client.is_local);
    }
}
