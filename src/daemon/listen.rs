//! Where the HTTP face listens.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens on the loopback address, or on all addresses where the local network is served.
pub(super) async fn open(port: u16, on_the_network: bool) -> anyhow::Result<TcpListener> {
    let listener = if on_the_network {
        open_everywhere(port)
    } else {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
    };
    listener.with_context(|| {
        format!(
            "cannot listen on 127.0.0.1:{port}; is peerix running already? --port chooses another"
        )
    })
}

/// One socket for both address families; for IPv4 alone where the system has no IPv6.
fn open_everywhere(port: u16) -> io::Result<TcpListener> {
    let open = |domain: Domain, addr: SocketAddr| {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    match open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        listener => listener,
    }
}

/// The socket that a service manager listened on before this process was there.
pub(super) fn take_over(
    listener: std::net::TcpListener,
    on_the_network: bool,
) -> anyhow::Result<TcpListener> {
    let address = listener.local_addr()?;
    let port = address.port();
    if !address.ip().is_loopback() && !on_the_network {
        anyhow::bail!(
            "the service manager listens at {address}, which other machines reach: it should be ListenStream=127.0.0.1:{port}"
        );
    }
    if address.ip().is_loopback() && on_the_network {
        tracing::warn!(
            "the service manager listens at {address}: other hosts are not served over HTTP; ListenStream={port} lets them"
        );
    }
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// The address under which programs on this machine reach it.
pub(super) fn way_in(listener: &TcpListener) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())));
    }
    Ok(address)
}
