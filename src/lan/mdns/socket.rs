//! Sockets that send to and hear one network's multicast group.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tracing::debug;

use crate::lan::networks::LocalNetwork;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Pause after an error of the socket, which may come again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// One family's socket on one network.
pub(super) struct MulticastSocket {
    socket: UdpSocket,
    /// The same, for sending without waiting.
    sender: std::net::UdpSocket,
    group: SocketAddr,
}

/// Opens a socket for each address family that the network has; none where that fails.
pub(super) fn open(network: &LocalNetwork) -> Vec<Arc<MulticastSocket>> {
    let v4 = network
        .v4
        .first()
        .map(|net| open_v4(&network.name, network.index, net.addr()));
    let v6 = (!network.v6.is_empty()).then(|| open_v6(&network.name, network.index));
    let opened = v4.into_iter().chain(v6).filter_map(|socket| match socket {
        Ok(socket) => Some(Arc::new(socket)),
        Err(error) => {
            debug!(%error, interface = network.name, "no mDNS here");
            None
        }
    });
    opened.collect()
}

fn open_v4(name: &str, index: u32, addr: Ipv4Addr) -> io::Result<MulticastSocket> {
    let socket = shared(Domain::IPV4, name)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    // What other programs joined elsewhere is not for this socket.
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4_n(&GROUP_V4, &socket2::InterfaceIndexOrAddress::Index(index))?;
    socket.set_multicast_if_v4(&addr)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(255)?;
    finish(socket, SocketAddr::from((GROUP_V4, PORT)))
}

fn open_v6(name: &str, index: u32) -> io::Result<MulticastSocket> {
    let socket = shared(Domain::IPV6, name)?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
    socket.set_multicast_all_v6(false)?;
    socket.join_multicast_v6(&GROUP_V6, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(true)?;
    socket.set_multicast_hops_v6(255)?;
    finish(socket, SocketAddrV6::new(GROUP_V6, PORT, 0, index).into())
}

/// A socket that shares the mDNS port with the system's own responder.
fn shared(domain: Domain, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Memberships and the outgoing interface are set anyhow; this keeps out what comes in over
    // others. Before Linux 5.7 it takes a capability.
    if let Err(error) = socket.bind_device(Some(interface.as_bytes())) {
        debug!(%error, interface, "a socket is not bound to its interface");
    }
    Ok(socket)
}

fn finish(socket: Socket, group: SocketAddr) -> io::Result<MulticastSocket> {
    socket.set_nonblocking(true)?;
    let socket: std::net::UdpSocket = socket.into();
    Ok(MulticastSocket {
        sender: socket.try_clone()?,
        socket: UdpSocket::from_std(socket)?,
        group,
    })
}

impl MulticastSocket {
    /// Sends to everybody on the network; what cannot be sent now is lost.
    pub(super) fn send(&self, message: &[u8]) {
        if let Err(error) = self.sender.send_to(message, self.group) {
            debug!(%error, group = %self.group, "an mDNS message was not sent");
        }
    }

    /// Receives one message; `None` where the socket is of no use any more.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
        for _ in 0..100 {
            match self.socket.recv_from(buffer).await {
                Ok((length, source)) => return Some((length, source.ip())),
                Err(error) => {
                    debug!(%error, "an mDNS socket failed");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
        None
    }
}
