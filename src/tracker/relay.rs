//! iroh's relay, run beside the tracker: for peers that can't reach each other directly.
//!
//! It passes on what it can't read: packets of connections that the peers encrypt between
//! themselves. With a certificate it also tells peers under which address and port the world sees
//! them (QUIC address discovery), by which two of them behind most kinds of NAT find a direct path.

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iroh::{EndpointId, RelayUrl};
use iroh_relay::server::{
    Access, AccessControl, CertConfig, ClientRateLimit, ClientRequest, ConnectionId, Limits,
    QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig, reloading_resolver,
};

use super::{api::RelayInfo, core::Tracker};
use crate::outgoing::with_causes;

/// Where the relay listens if nothing is said, beside the tracker's 12305.
pub const DEFAULT_ADDRESS: &str = "0.0.0.0:12307";

/// The UDP port for address discovery if nothing is said: iroh takes every relay to have it there.
pub const DEFAULT_QUIC_PORT: u16 = iroh_relay::defaults::DEFAULT_RELAY_QUIC_PORT;

/// Bytes a second that one client may send through the relay: a fast line, so that a few clients
/// don't fill the relay's own.
pub const CLIENT_RATE: NonZeroU32 = NonZeroU32::new(12_500_000).unwrap();

/// Clients that are connected at once: a task and its queues each.
const MAX_CLIENTS: usize = 10_000;

/// Connections of one endpoint at once: iroh keeps one, and another while it makes a new one.
const MAX_CONNECTIONS_PER_ENDPOINT: usize = 4;

/// How often the certificate is read again, so that a renewed one is taken up.
const CERTIFICATE_RELOAD: Duration = Duration::from_secs(3600);

/// How long open connections may take to be closed at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain of certificates, the relay's own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How a relay is to run.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Where it listens.
    pub address: SocketAddr,
    /// The UDP port for address discovery, at the same address, where there is a certificate; 0
    /// takes any free one.
    pub quic_port: u16,
    /// How clients reach it; `None`: under `address`.
    pub url: Option<RelayUrl>,
    /// With one it speaks TLS itself and helps with NATs; without, plain HTTP, for a proxy.
    pub certificate: Option<CertificateFiles>,
    /// Bytes a second that one client may send.
    pub client_rate: NonZeroU32,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// Nobody could be told how to reach it.
    #[error(
        "the relay listens on {address}, which does not say how clients reach it: give --relay-url https://HOST"
    )]
    NoUrl {
        /// Where it would listen.
        address: SocketAddr,
    },
    /// The certificate or its key can't be used.
    #[error("the relay's certificate {} with key {}: {reason}", certificate.display(), key.display())]
    Certificate {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It can't listen.
    #[error("the relay can't listen on {address}: {reason}")]
    Listen {
        /// Where it should.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
}

/// A running relay. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    server: Server,
    url: RelayUrl,
}

impl Relay {
    /// Starts a relay; with `announced` for those endpoints alone that are announced to that tracker.
    ///
    /// # Errors
    /// [`RelayError`] where it can't listen, has no usable certificate or no URL.
    pub async fn start(
        options: RelayOptions,
        announced: Option<Arc<Tracker>>,
    ) -> Result<Self, RelayError> {
        let address = options.address;
        if options.url.is_none() && address.ip().is_unspecified() {
            return Err(RelayError::NoUrl { address });
        }
        let mut relay = RelayConfig::new(address);
        relay.access = Arc::new(Door {
            clients: Clients::default(),
            announced,
        });
        let mut limits = Limits::default();
        limits.client_rx = Some(ClientRateLimit::new(options.client_rate));
        relay.limits = limits;
        let mut config = ServerConfig::default();
        if let Some(files) = &options.certificate {
            let server_config = tls(files).await?;
            let tls = TlsConfig::new(address, CertConfig::Manual { server_config });
            relay.tls = Some(tls);
            // iroh's relay wants a port for plain HTTP beside the one for TLS. Nothing asks there.
            relay.http_bind_addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let quic = SocketAddr::new(address.ip(), options.quic_port);
            config.quic = Some(QuicConfig::new(quic));
        }
        config.relay = Some(relay);
        let server = Server::spawn(config).await;
        let server = server.map_err(|error| RelayError::Listen {
            address,
            reason: with_causes(&error),
        })?;
        let url = match options.url {
            Some(url) => url,
            None => own_url(&server).ok_or(RelayError::NoUrl { address })?,
        };
        Ok(Self { server, url })
    }

    /// What clients are told of it.
    pub fn info(&self) -> RelayInfo {
        RelayInfo {
            url: self.url.clone(),
            quic_port: self.server.quic_addr().map(|addr| addr.port()),
        }
    }

    /// Stops it; bounded.
    pub async fn shutdown(self) {
        let stopping = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.server.shutdown());
        match stopping.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the relay ended"),
            Err(_) => tracing::debug!("the relay's connections were cut"),
        }
    }
}

/// The URL of the address that the relay listens on.
fn own_url(server: &Server) -> Option<RelayUrl> {
    let url = match server.https_addr() {
        Some(addr) => format!("https://{addr}"),
        None => format!("http://{}", server.http_addr()?),
    };
    url.parse().ok()
}

async fn tls(files: &CertificateFiles) -> Result<rustls::ServerConfig, RelayError> {
    let wrong = |reason: String| RelayError::Certificate {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason,
    };
    for file in [&files.certificate, &files.key] {
        std::fs::File::open(file).map_err(|error| wrong(format!("{}: {error}", file.display())))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let resolver = reloading_resolver(
        &provider,
        files.certificate.clone(),
        files.key.clone(),
        CERTIFICATE_RELOAD,
    );
    let resolver = resolver
        .await
        .map_err(|error| wrong(format!("{error:#}")))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(builder.with_no_client_auth().with_cert_resolver(resolver))
}

/// The connections that were let in.
#[derive(Debug, Default)]
struct Clients(Mutex<HashMap<ConnectionId, EndpointId>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, EndpointId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more connection in, unless that would be too many.
    fn take(&self, endpoint: EndpointId, connection: ConnectionId) -> bool {
        let mut clients = self.lock();
        let of_this_one = clients.values().filter(|id| **id == endpoint).count();
        let is_room = clients.len() < MAX_CLIENTS && of_this_one < MAX_CONNECTIONS_PER_ENDPOINT;
        if is_room {
            clients.insert(connection, endpoint);
        }
        is_room
    }
}

/// Lets clients in.
#[derive(Debug)]
struct Door {
    clients: Clients,
    announced: Option<Arc<Tracker>>,
}

impl AccessControl for Door {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let endpoint = request.endpoint_id();
        let deny = |reason: &str| Access::Deny {
            reason: Some(reason.to_owned()),
        };
        if let Some(tracker) = &self.announced
            && !tracker.directory().is_signed_member(&endpoint)
        {
            return deny("this relay is for peers of its tracker: announce first");
        }
        match self.clients.take(endpoint, request.connection_id()) {
            true => Access::Allow,
            false => deny("this relay is full"),
        }
    }

    fn on_disconnect(&self, _endpoint: EndpointId, connection: ConnectionId) {
        self.clients.lock().remove(&connection);
    }
}
