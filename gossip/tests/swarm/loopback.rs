//! An endpoint on loopback that reaches nothing else.

use std::net::SocketAddr;

use iroh::{
    Endpoint, RelayMode,
    endpoint::{Builder, PortmapperConfig, presets},
};

/// One that is bound to a free port of `address`, without a relay.
pub fn builder(address: [u8; 4]) -> Builder {
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr(SocketAddr::from((address, 0)))
        .expect("a local address")
}

/// The same on 127.0.0.1.
pub fn loopback() -> Builder {
    builder([127, 0, 0, 1])
}
