//! Which way packets to a peer take.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use iroh::{TransportAddr, endpoint::Connection};

use crate::report::PeerPath;

/// The path that a connection uses now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// What kind it is.
    pub kind: PeerPath,
    /// The peer's socket, unless a relay is in between.
    pub direct: Option<SocketAddr>,
    /// The peer's socket, or the relay, as text.
    pub address: String,
    /// The round trip.
    pub rtt: Duration,
}

/// The path that `connection` uses; `None` while none is chosen.
pub fn of(connection: &Connection) -> Option<Path> {
    let paths = connection.paths();
    let selected = paths.iter().find(|path| path.is_selected())?;
    let rtt = selected.rtt();
    let path = match selected.remote_addr() {
        TransportAddr::Ip(socket) => Path {
            kind: kind_of(socket.ip()),
            direct: Some(*socket),
            address: socket.to_string(),
            rtt,
        },
        TransportAddr::Relay(url) => Path {
            kind: PeerPath::Relayed,
            direct: None,
            address: url.to_string(),
            rtt,
        },
        other => Path {
            kind: PeerPath::Direct,
            direct: None,
            address: format!("{other:?}"),
            rtt,
        },
    };
    Some(path)
}

/// The kind of a path straight to `ip`.
#[must_use]
pub fn kind_of(ip: IpAddr) -> PeerPath {
    match is_private(ip) {
        true => PeerPath::Lan,
        false => PeerPath::Direct,
    }
}

/// Whether `ip` is this machine's or on a network of its own.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_the_local_networks() {
        for (ip, kind) in [
            ("127.0.0.1", PeerPath::Lan),
            ("10.1.2.3", PeerPath::Lan),
            ("192.168.1.7", PeerPath::Lan),
            ("::1", PeerPath::Lan),
            ("::ffff:10.0.0.1", PeerPath::Lan),
            ("fe80::1", PeerPath::Lan),
            ("fd00::1", PeerPath::Lan),
            ("1.1.1.1", PeerPath::Direct),
            ("172.32.0.1", PeerPath::Direct),
            ("::ffff:8.8.8.8", PeerPath::Direct),
            ("2001:db8::1", PeerPath::Direct),
            ("2606:4700::1111", PeerPath::Direct),
        ] {
            assert_eq!(kind_of(ip.parse().unwrap()), kind, "{ip}");
        }
    }
}
