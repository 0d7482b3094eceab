//! Binds the one iroh endpoint of this machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use iroh::{
    Endpoint, RelayMap, RelayMode, SecretKey,
    address_lookup::MemoryLookup,
    endpoint::{BindOpts, PortmapperConfig, presets},
};

use peerix_gossip::Links;

use super::{admission::Admission, open::OpenConnections};
use crate::{authorities::Authorities, config::Relay};

/// The UDP port that the firewall opens for iroh.
pub const DEFAULT_PORT: u16 = 12306;

/// Why the endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address given cannot be bound.
    #[error("cannot bind iroh's socket to {addr}: {reason}; choose another with --iroh-bind")]
    Address {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// No socket at all could be bound.
    #[error("cannot bind iroh's socket: {reason}")]
    Any {
        /// What the system said.
        reason: String,
    },
}

/// Which relays are used, and whose certificates they may have.
#[derive(Debug, Clone, Copy)]
pub struct Relays<'a> {
    /// Which; those of trackers are added when trackers tell of them.
    pub relays: &'a Relay,
    /// Authorities trusted beside the usual ones.
    pub authorities: &'a Authorities,
}

/// Binds the endpoint; without `bind` on [`DEFAULT_PORT`], or any free port where that is taken.
///
/// `known` is where addresses of peers are put that tickets and configuration name; `admission`
/// says with whom connections are made at all, and `open` hears
/// of each.
///
/// # Errors
/// [`BindError`] where no socket can be bound.
pub async fn bind(
    secret_key: SecretKey,
    relays: Relays<'_>,
    bind: Option<SocketAddr>,
    known: MemoryLookup,
    admission: Admission,
    open: OpenConnections,
    links: Links,
) -> Result<Endpoint, BindError> {
    let builder = || {
        let builder = match relays.relays {
            Relay::Default => Endpoint::builder(presets::N0),
            Relay::Tracker => {
                Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Custom(RelayMap::empty()))
            }
            Relay::Off => Endpoint::builder(presets::Minimal)
                .relay_mode(RelayMode::Disabled)
                .portmapper_config(PortmapperConfig::Disabled),
            Relay::Custom(urls) => Endpoint::builder(presets::Minimal)
                .relay_mode(RelayMode::custom(urls.iter().cloned())),
        };
        builder
            .secret_key(secret_key.clone())
            .ca_tls_config(relays.authorities.for_iroh())
            .address_lookup(known.clone())
            .hooks(admission.clone())
            .hooks(open.clone())
            .hooks(links.clone())
    };
    if let Some(addr) = bind {
        let reason = |error: &dyn std::fmt::Display| BindError::Address {
            addr,
            reason: error.to_string(),
        };
        let builder = builder()
            .clear_ip_transports()
            .bind_addr(addr)
            .map_err(|error| reason(&error))?;
        return builder.bind().await.map_err(|error| reason(&error));
    }
    let default_port = builder()
        .clear_ip_transports()
        .bind_addr(SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)))
        .and_then(|builder| {
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
            builder.bind_addr_with_opts(v6, BindOpts::default().set_is_required(false))
        });
    if let Ok(builder) = default_port
        && let Ok(endpoint) = builder.bind().await
    {
        return Ok(endpoint);
    }
    builder().bind().await.map_err(|error| BindError::Any {
        reason: error.to_string(),
    })
}
