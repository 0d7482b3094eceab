//! The daemon: one owner for every task, started in order and stopped in reverse.

mod node;
mod sharing;

pub(crate) use sharing::default_key_name;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Context;
use iroh::{address_lookup::MemoryLookup, protocol::Router};
use peerix_store::{Store, nix::StorePathHash};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::node::{Node, Parts};
use crate::{
    config::{Config, WireCompression},
    control::{self, ControlSocket},
    http::{self, HttpState, StatusSource},
    limits,
    lookup::Lookup,
    metrics::Metrics,
    offer::{Announce, Filter, OfferPolicy, OfferRules},
    peer::{
        self,
        admission::Admission,
        budget::Budgets,
        lookup_server::LookupServer,
        older::{
            Older,
            nar::{self, NarServer},
            narinfo::{self, NarInfoServer},
        },
        peers::Peers,
        provider::Provider,
        rate::UploadLimits,
        wire::Compression,
    },
    service::Service,
    share,
    signing::{Signing, SigningKey},
    state_dir::StateDir,
    transfer::{Transfers, whole::WholeNarSources},
    trust::Trust,
};

/// How long the servers may take to finish what they are in the middle of.
const SERVERS_GRACE: Duration = Duration::from_secs(6);

/// Runs the daemon until `stop` is cancelled, then ends everything within ten seconds. `service` is
/// told of both, and its socket is served where it has one.
///
/// # Errors
/// Whatever keeps it from starting, in one line that says what to do; nothing is left running.
pub async fn run(
    config: Config,
    mut service: Service,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // A port in use is told before anything is touched.
    let listener = match service.take_listener() {
        Some(passed) => take_over(passed)?,
        None => listen(config.http_port).await?,
    };
    let http_address = listener.local_addr()?;
    let state_dir = Arc::new(StateDir::open(&config.state_dir)?);
    let signing = signing(&config, &state_dir)?;
    let secret_key = match config.ephemeral_identity {
        true => iroh::SecretKey::generate(),
        false => state_dir.secret_key()?,
    };
    let socket = ControlSocket::bind(&config.control_socket)?;
    let mut store_config = peerix_store::Config::new(&config.state_dir, config.store.clone());
    store_config.blob_quota = config.blob_quota;
    let store = Store::open(store_config).await?;
    if let peerix_store::DatabaseStatus::Absent { path, reason } = store.database_status() {
        tracing::warn!(
            "no Nix database at {} ({reason}): serving what is fetched; one that appears is taken up",
            path.display()
        );
    }
    if config.no_verify {
        tracing::warn!("signatures of what peers send are not checked (no_verify)");
    }

    let metrics = Arc::new(Metrics::new());
    let known = MemoryLookup::new();
    let admission = Admission::new(&config.allow_peers, &config.deny_peers);
    let endpoint = peer::endpoint::bind(
        secret_key,
        &config.relay,
        config.iroh_bind,
        known.clone(),
        admission,
    )
    .await?;
    let trusting = || Trust::new(config.trusted_public_keys.clone(), config.no_verify);
    let trust = trusting();
    let offer = Arc::new(OfferPolicy::new(OfferRules {
        filter: config.filter,
        excluded: config.excluded.clone(),
        public_cache_keys: config.public_cache_keys.clone(),
        // Not what is trusted for the time of a command.
        trust: trusting(),
        signing,
        announce: config.announce.unwrap_or(Announce::All),
    }));
    hide_private_shares(&state_dir, &store, &offer).await?;
    let peers = Peers::new(
        endpoint.clone(),
        known,
        config.timeout,
        config.wire_compression,
        metrics.clone(),
    );
    // Peers first, the upstream last.
    let sources: WholeNarSources = Arc::new([]);
    let lookup = Lookup::new(
        store.clone(),
        peers.clone(),
        trust.clone(),
        offer.clone(),
        metrics.clone(),
        !config.upstream_caches.is_empty(),
        sources.clone(),
    );
    let transfers = Transfers::new(
        store.clone(),
        peers.clone(),
        lookup.clone(),
        metrics.clone(),
        sources,
    );
    let router = router(&config, &endpoint, &store, &offer, &peers, &metrics);
    for peer in &config.peers {
        peers.add(peer.clone());
    }

    let node = Arc::new(Node::new(Parts {
        http_address,
        store_uri: config.store_uri.clone(),
        store: store.clone(),
        endpoint,
        peers: peers.clone(),
        lookup,
        transfers: transfers.clone(),
        offer,
        trust,
        state_dir: state_dir.clone(),
        metrics: metrics.clone(),
        roots: share::gc_roots(&store, config.state_dir.clone(), config.store_uri.clone()),
        no_verify: config.no_verify,
    }));
    let tasks = TaskTracker::new();
    let state = HttpState::new(node.clone(), metrics, node.clone(), config.priority);
    let serving = http::serve(listener, state, stop.clone());
    let ended = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP server ended");
            ended.cancel();
        }
    });
    let controlling = control::serve(socket, node.clone(), stop.clone());
    tasks.spawn(async move {
        if let Err(error) = controlling.await {
            tracing::error!(%error, "the control socket ended");
        }
    });
    tasks.spawn(
        node.clone()
            .scan_now_and_then(config.scan_interval, stop.clone()),
    );

    state_dir.publish_http_address(http_address)?;
    announce_ready(http_address, &node);
    if state_dir.is_new() {
        announce_first_start(&config);
    }
    service.ready();
    service
        .keep_alive(|| StatusSource::health(&*node).0, &stop)
        .await;
    service.stopping();

    // Transfers end first: their readers' connections are cut, and the servers can finish.
    tasks.close();
    transfers.shutdown().await;
    let _ = timeout(SERVERS_GRACE, tasks.wait()).await;
    peers.shutdown().await;
    let _ = timeout(limits::CLOSE_TIMEOUT, router.shutdown()).await;
    store.shutdown().await;
    state_dir.withdraw_http_address()?;
    Ok(())
}

/// The keys to sign with, each read once.
fn signing(config: &Config, state_dir: &StateDir) -> anyhow::Result<Signing> {
    let configured = config.private_key.as_deref().map(SigningKey::load);
    Ok(Signing::new(configured.transpose()?, state_dir.host_key()?))
}

/// Tells the policy which shares need a token, before anybody asks for one.
async fn hide_private_shares(
    state_dir: &StateDir,
    store: &Store,
    offer: &OfferPolicy,
) -> anyhow::Result<()> {
    let tokens = share::read_tokens(state_dir)?;
    for share in store.shares().await? {
        let root = StorePathHash::from(&share.store_path);
        if let Some(token) = tokens.get(&root) {
            offer.hide_share(root, *token, share.closure);
        }
    }
    Ok(())
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| {
            format!("cannot listen on 127.0.0.1:{port}; is peerix running already? --port chooses another")
        })
}

/// The socket that a service manager listened on before this process was there.
fn take_over(listener: std::net::TcpListener) -> anyhow::Result<TcpListener> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        anyhow::bail!(
            "the service manager listens at {address}, which other machines reach: it should be ListenStream=127.0.0.1:{}",
            address.port()
        );
    }
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

fn router(
    config: &Config,
    endpoint: &iroh::Endpoint,
    store: &Store,
    offer: &Arc<OfferPolicy>,
    peers: &Peers,
    metrics: &Arc<Metrics>,
) -> Router {
    let upload = Arc::new(UploadLimits::new(
        config.upload_limit,
        config.upload_limit_per_peer,
    ));
    let budgets = Budgets::new(config.hash_per_day);
    let counting = peers.clone();
    let sent = move |id, bytes| counting.sent(id, bytes);
    let provider = Provider::new(
        store.clone(),
        offer.clone(),
        upload.clone(),
        Compression::new(config.wire_compression),
        metrics.clone(),
        budgets.clone(),
        sent.clone(),
    );
    let lookups = LookupServer::new(store.clone(), offer.clone(), metrics.clone(), budgets);
    let older = Older::new(store.clone(), offer.clone(), upload, metrics.clone(), sent);
    let mut router = Router::builder(endpoint.clone());
    if config.wire_compression != WireCompression::Off {
        router = router.accept(peer::wire::ALPN, provider.clone());
    }
    router = router
        .accept(iroh_blobs::ALPN, provider)
        .accept(peer::lookup::ALPN, lookups);
    for name in narinfo::ALPNS {
        router = router.accept(name, NarInfoServer(older.clone()));
    }
    for name in nar::ALPNS {
        router = router.accept(name, NarServer(older.clone()));
    }
    router.spawn()
}

#[expect(
    clippy::print_stderr,
    reason = "the one line that says where it listens"
)]
fn announce_ready(http_address: std::net::SocketAddr, node: &Node) {
    eprintln!(
        "peerix: ready at http://{http_address}, endpoint {}",
        node.endpoint_id()
    );
}

/// Says at the first start what others get to know.
#[expect(
    clippy::print_stderr,
    reason = "what a person should know from the start"
)]
fn announce_first_start(config: &Config) {
    let offered = match config.filter {
        Filter::PublicCaches => "what a public cache has",
        Filter::Vouched => "what is signed or verified, but for names that sound private",
        Filter::Everything => "EVERY path of the store",
    };
    let announced = match config.announce.unwrap_or(Announce::All) {
        Announce::All => "all of it",
        Announce::Shared => "what you share",
        Announce::None => "nothing",
    };
    let trackers = match config.trackers.as_slice() {
        [] => "no tracker".to_owned(),
        trackers => trackers.join(", "),
    };
    eprintln!(
        "peerix: offered to peers that ask: {offered}, and what you share by hand; announced: {announced}, to the peers of this machine and {trackers} (--filter-mode, --announce, --tracker)"
    );
}
