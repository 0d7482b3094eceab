//! Which local networks this machine is on, and which addresses belong to them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use netwatch::{
    interfaces::{IpNet, State},
    netmon::Monitor,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::limits;

/// One interface that leads to a local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNetwork {
    /// The interface's name.
    pub name: String,
    /// The interface's index.
    pub index: u32,
    /// Private IPv4 addresses of this machine there, with their networks.
    pub v4: Vec<Ipv4Net>,
    /// IPv6 addresses of this machine there, with their networks.
    pub v6: Vec<Ipv6Net>,
}

/// What the system says of one interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Whether it is up.
    pub is_up: bool,
    /// Its addresses with their networks; none of those that are not valid (yet).
    pub addrs: Vec<ipnet::IpNet>,
}

/// The local networks at the moment, kept up to date. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Networks(watch::Receiver<Arc<Vec<LocalNetwork>>>);

impl LocalNetwork {
    /// Whether `ip` is one of this machine's own there.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.iter().any(|net| net.addr() == ip),
            IpAddr::V6(ip) => self.v6.iter().any(|net| net.addr() == ip),
        }
    }

    /// Whether `ip` lies in the network itself, so that a packet to it passes no router.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => is_private_v4(ip) && self.v4.iter().any(|net| net.contains(&ip)),
            IpAddr::V6(ip) => {
                ip.is_unicast_link_local() || self.v6.iter().any(|net| net.contains(&ip))
            }
        }
    }

    /// Whether a connection to `ip` stays on this network and can be made.
    ///
    /// An IPv6 address that was leased alone is in no network that the machine knows of: those
    /// that are unique to the site are taken for local. Link-local addresses cannot be dialled by
    /// iroh, which drops their zone.
    pub fn is_dialable(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => self.contains(ip),
            IpAddr::V6(v6) => {
                !v6.is_unicast_link_local() && (self.contains(ip) || v6.is_unique_local())
            }
        }
    }
}

impl Networks {
    /// The networks now.
    pub fn now(&self) -> Arc<Vec<LocalNetwork>> {
        self.0.borrow().clone()
    }

    /// The networks now, and no change before the next one counts as news.
    pub fn seen(&mut self) -> Arc<Vec<LocalNetwork>> {
        self.0.borrow_and_update().clone()
    }

    /// Waits for a change; forever once nobody watches any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether `ip` is a host of a local network, or private at least.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        is_private(ip) || self.0.borrow().iter().any(|network| network.contains(ip))
    }

    /// These networks, and none while `hides` says so.
    pub fn hidden_while(
        mut self,
        mut hides: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Self {
        let visible = |networks: Arc<Vec<LocalNetwork>>, is_hidden: bool| match is_hidden {
            true => Arc::default(),
            false => networks,
        };
        let is_hidden = *hides.borrow_and_update();
        let (sender, receiver) = watch::channel(visible(self.seen(), is_hidden));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.changed() => {}
                    changed = hides.changed() => if changed.is_err() {
                        return;
                    },
                }
                let is_hidden = *hides.borrow_and_update();
                let networks = visible(self.seen(), is_hidden);
                sender.send_if_modified(|known| {
                    let is_new = **known != *networks;
                    *known = networks;
                    is_new
                });
            }
        });
        Self(receiver)
    }

    /// Networks that never change, for tests.
    #[cfg(test)]
    pub fn fixed(networks: Vec<LocalNetwork>) -> Self {
        Self(watch::channel(Arc::new(networks)).1)
    }
}

/// Whether no router on the way to the internet passes packets for `ip` on.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    ip.is_private() || ip.is_link_local()
}

/// The local networks among `interfaces`, at most [`limits::INTERFACES`].
///
/// An interface with a public IPv4 address leads to the internet, and counts only as far as it
/// has private addresses too. IPv6 addresses are public everywhere, so where there is no public
/// IPv4 address those count as well.
pub fn local_networks(interfaces: &[Interface]) -> Vec<LocalNetwork> {
    let mut networks: Vec<LocalNetwork> = interfaces
        .iter()
        .filter(|interface| interface.is_up)
        .filter_map(|interface| {
            let mut network = LocalNetwork {
                name: interface.name.clone(),
                index: interface.index,
                v4: Vec::new(),
                v6: Vec::new(),
            };
            let mut is_public = false;
            for addr in &interface.addrs {
                match addr {
                    ipnet::IpNet::V4(net) if net.addr().is_loopback() => return None,
                    ipnet::IpNet::V6(net) if net.addr() == Ipv6Addr::LOCALHOST => return None,
                    ipnet::IpNet::V4(net) if is_private_v4(net.addr()) => network.v4.push(*net),
                    ipnet::IpNet::V4(_) => is_public = true,
                    ipnet::IpNet::V6(net) => network.v6.push(*net),
                }
            }
            if is_public {
                network.v6.retain(|net| is_private(net.addr().into()));
            }
            (!network.v4.is_empty() || !network.v6.is_empty()).then_some(network)
        })
        .collect();
    networks.sort_by_key(|network| network.index);
    networks.truncate(limits::INTERFACES);
    networks
}

/// Watches the machine's interfaces until `stop` is cancelled.
///
/// The system tells of most changes; the rest is seen within [`limits::INTERFACES_INTERVAL`].
pub async fn watch(stop: CancellationToken) -> Networks {
    let (sender, receiver) = watch::channel(Arc::new(read().await));
    tokio::spawn(async move {
        use iroh::Watcher as _;
        let monitor = Monitor::new().await.ok();
        // Addresses change in rows, and the system may tell of the first alone.
        let mut looks_soon = 0u32;
        let mut told = monitor.as_ref().map(Monitor::interface_state);
        loop {
            let news = async {
                let is_told = match told.as_mut() {
                    Some(told) => told.updated().await.is_ok(),
                    None => false,
                };
                if !is_told {
                    std::future::pending().await
                }
            };
            let pause = match looks_soon {
                0 => limits::INTERFACES_INTERVAL,
                _ => limits::INTERFACES_SOON,
            };
            looks_soon = looks_soon.saturating_sub(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                () = news => {}
                () = tokio::time::sleep(pause) => {}
            }
            let networks = Arc::new(read().await);
            let has_changed = sender.send_if_modified(|known| {
                let is_new = **known != *networks;
                if is_new {
                    debug!(?networks, "the local networks changed");
                    *known = networks;
                }
                is_new
            });
            if has_changed {
                looks_soon = limits::INTERFACES_LOOKS;
            }
        }
    });
    Networks(receiver)
}

async fn read() -> Vec<LocalNetwork> {
    let state = State::new().await;
    // Asking the system for an index takes any socket.
    let Ok(socket) = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return Vec::new();
    };
    let interfaces: Vec<Interface> = state
        .interfaces
        .values()
        .filter_map(|interface| {
            let index = rustix::net::netdevice::name_to_index(&socket, interface.name()).ok()?;
            let addrs = interface.addrs().filter_map(|addr| match addr {
                IpNet::V4(net) => Some(ipnet::IpNet::V4(net)),
                IpNet::V6 { net, flags, .. } => {
                    let is_usable = !(flags.tentative || flags.duplicated || flags.deprecated);
                    is_usable.then_some(ipnet::IpNet::V6(net))
                }
                #[allow(
                    unreachable_patterns,
                    reason = "further kinds of network are none of ours"
                )]
                _ => None,
            });
            Some(Interface {
                name: interface.name().to_owned(),
                index,
                is_up: interface.is_up(),
                addrs: addrs.collect(),
            })
        })
        .collect();
    local_networks(&interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addrs: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            index: u32::try_from(name.len()).unwrap(),
            is_up: true,
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn loopback_and_public_networks_are_no_local_ones() {
        let networks = local_networks(&[
            interface("lo", &["127.0.0.1/8", "::1/128"]),
            interface("ppp", &["198.51.100.7/32", "2001:db8::1/64"]),
            interface(
                "eth0",
                &["192.168.1.5/24", "2001:db8:1::5/64", "fe80::5/64"],
            ),
            Interface {
                is_up: false,
                ..interface("eth12", &["10.0.0.1/8"])
            },
        ]);
        let names: Vec<&str> = networks.iter().map(|network| &*network.name).collect();
        assert_eq!(names, ["eth0"]);
    }

    #[test]
    fn what_leaves_the_network_is_not_dialled() {
        let networks =
            local_networks(&[interface("eth0", &["192.168.1.5/24", "2001:db8:1::5/64"])]);
        let dialable = |ip: &str| networks[0].is_dialable(ip.parse().unwrap());
        for near in ["192.168.1.9", "2001:db8:1::9", "fd00::9"] {
            assert!(dialable(near), "{near}");
        }
        for far in [
            "192.168.2.9",
            "10.0.0.1",
            "8.8.8.8",
            "2001:db8:2::9",
            "fe80::9",
            "127.0.0.1",
        ] {
            assert!(!dialable(far), "{far}");
        }
    }

    #[tokio::test]
    async fn networks_of_strangers_count_as_none() {
        let network = LocalNetwork {
            name: "wlan0".to_owned(),
            index: 1,
            v4: Vec::new(),
            v6: Vec::new(),
        };
        let (hide, hides) = watch::channel(false);
        let known = Networks::fixed(vec![network]);
        let mut networks = known.hidden_while(hides, CancellationToken::new());
        assert_eq!(networks.seen().len(), 1);
        for (is_hidden, left) in [(true, 0), (false, 1)] {
            hide.send(is_hidden).unwrap();
            networks.changed().await;
            assert_eq!(networks.seen().len(), left);
        }
    }
}
