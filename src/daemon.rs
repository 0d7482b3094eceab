//! The daemon: one owner for every task, started in order and stopped in reverse.

mod asking;
mod ending;
mod keeping;
mod listen;
mod node;
mod protocols;
mod reloading;
mod reporting;
mod scanning;
mod served;
mod sharing;

pub(crate) use sharing::default_key_name;

pub use reloading::ReadAgain;

use std::{
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use anyhow::Context;
use iroh::address_lookup::MemoryLookup;
use peerix_gossip::Links;
use peerix_store::{Store, nix::StorePathHash};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    ending::{Ending, Part},
    node::{Node, Parts},
    protocols::Protocols,
    reloading::Reloading,
    served::Served,
};
use crate::{
    announcing::{self, Trackers},
    authorities::Authorities,
    config::{Config, Loaded, Mode},
    control::{self, ControlSocket},
    dashboard::Dashboard,
    geoip::Countries,
    http::{self, HttpState, StatusSource},
    lan,
    lookup::{self, Lookup},
    machine,
    metrics::Metrics,
    offer::{Announce, Filter, OfferPolicy, OfferRules, public::PublicPaths},
    peer::{
        self,
        admission::Admission,
        budget::Budgets,
        endpoint::Relays,
        gate::UploadGate,
        older::source::OlderPeers,
        open::OpenConnections,
        peers::{self, Peers, Reach},
        rate::UploadLimits,
        reputation,
    },
    service::Service,
    share,
    signing::{Signing, SigningKey},
    state_dir::StateDir,
    stats,
    swarm::{Swarm, SwarmId},
    transfer::{
        Transfers,
        whole::{WholeNarSource, WholeNarSources},
    },
    trust::Trust,
    upstream::{Upstream, UpstreamConfig},
    why::History,
};

/// The log target of what everybody is to read, however quiet the log is.
pub const NOTICE: &str = "peerix::notice";

/// Runs the daemon until `stop` is cancelled, then ends everything within ten seconds. `service` is
/// told of both, and its socket is served where it has one. At SIGHUP the configuration is read
/// with `read_again`, and what can change does.
///
/// # Errors
/// Whatever keeps it from starting, in one line that says what to do; nothing is left running.
pub async fn run(
    loaded: Loaded,
    read_again: ReadAgain,
    mut service: Service,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Loaded { config, shown, .. } = loaded;
    let swarm_id = config.swarm_id()?;
    // Whoever asks over HTTP proves nothing: a swarm of one's own is not served so.
    let lan_http = config.lan_discovery && swarm_id.is_public();
    // A port in use is told before anything is touched.
    let listener = match service.take_listener() {
        Some(passed) => listen::take_over(passed, lan_http)?,
        None => listen::open(config.http_port, lan_http).await?,
    };
    // The way in for programs on this machine, wherever it listens.
    let http_address = listen::way_in(&listener)?;
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

    let authorities = config.ca_file.as_deref().map(Authorities::load);
    let authorities = authorities.transpose()?.unwrap_or_default();
    let metrics = Arc::new(Metrics::new());
    metrics.stats.read(&state_dir);
    let known = MemoryLookup::new();
    // Gossip dials the addresses that its members tell it, which may be anywhere.
    let takes_part = config.swarm.is_some() && config.mode != Mode::Lan;
    let links = Links::new(swarm_id.name());
    let admission = Admission::new(
        secret_key.public(),
        &config.allow_peers,
        &config.deny_peers,
        swarm_id.secret().cloned(),
    );
    let open = OpenConnections::default();
    let endpoint = peer::endpoint::bind(
        secret_key,
        Relays {
            relays: &config.relay,
            authorities: &authorities,
        },
        config.iroh_bind,
        known.clone(),
        admission.clone(),
        open.clone(),
        links.clone(),
    )
    .await?;
    let swarm = takes_part.then(|| Swarm::start(&swarm_id, &endpoint, links, state_dir.clone()));
    let (swarm, changes) = swarm.unzip();
    let trust = Trust::new(config.trusted_public_keys.clone(), config.no_verify);
    let offer = Arc::new(OfferPolicy::remembering(
        OfferRules {
            signing,
            ..reloading::offer_rules(&config)
        },
        PublicPaths::read(&state_dir),
    ));
    hide_private_shares(&state_dir, &store, &offer).await?;
    let reach = match config.mode {
        Mode::Lan => Reach::LocalNetwork,
        Mode::Auto | Mode::Iroh => Reach::Anywhere,
    };
    let peers = Peers::new(
        endpoint.clone(),
        known,
        open.clone(),
        peers::Options {
            reach,
            connect_timeout: config.timeout,
            wire_compression: config.wire_compression,
            swarm_id: swarm_id.clone(),
        },
        metrics.clone(),
    );
    let gate = UploadGate::new(config.uploads, keeping::uploads(&state_dir));
    gate.observe(gate.machine(), jiff::ZonedDateTime::now().date());
    let upload = Arc::new(UploadLimits::new(
        config.upload_limit,
        config.upload_limit_per_peer,
        gate.clone(),
    ));
    let served = Served::new(
        store.clone(),
        offer.clone(),
        upload.clone(),
        metrics.clone(),
    );
    let tasks = TaskTracker::new();
    let networks = match config.lan_discovery {
        true => {
            let networks = lan::networks::watch(stop.clone()).await;
            Some(networks.hidden_while(gate.among_strangers(), stop.clone()))
        }
        false => None,
    };
    // Peers first, the upstream last.
    let mut sources: Vec<Arc<dyn WholeNarSource>> = Vec::new();
    if swarm_id.is_public() {
        let older = OlderPeers::new(peers.clone(), trust.clone(), metrics.clone());
        sources.push(Arc::new(older));
    }
    if let Some(networks) = &networks {
        let parts = lan::Parts {
            endpoint: endpoint.clone(),
            swarm_id: swarm_id.clone(),
            swarm: swarm.clone(),
            peers: peers.clone(),
            metrics: metrics.clone(),
            holdings: Arc::new(served.clone()),
            trust: trust.clone(),
            http_port: http_address.port(),
            networks: networks.clone(),
        };
        let older = lan::start(parts, &tasks, &stop).context("the local network can't be asked")?;
        sources.extend(older.map(|older| Arc::new(older) as Arc<dyn WholeNarSource>));
    }
    let upstream = upstream(&config, &metrics)?;
    sources.push(Arc::new(upstream.clone()));
    let sources: WholeNarSources = sources.into();
    let trackers = trackers(
        &config,
        authorities,
        &endpoint,
        &peers,
        (swarm_id.clone(), &swarm),
        &state_dir,
    );
    let trackers = trackers
        .map(|(options, parts)| Trackers::start(options, parts, &tasks, &stop))
        .transpose()?;
    let lookup = Lookup::new(lookup::Parts {
        store: store.clone(),
        peers: peers.clone(),
        trust: trust.clone(),
        offer: offer.clone(),
        metrics: metrics.clone(),
        references_assumed: !config.upstream_caches.is_empty(),
        sources: sources.clone(),
        swarm: swarm.clone(),
        trackers: trackers.clone(),
    });
    let transfers = Transfers::new(
        store.clone(),
        peers.clone(),
        lookup.clone(),
        metrics.clone(),
        sources,
    );
    peers.remember(reputation::read(
        &state_dir,
        Instant::now(),
        SystemTime::now(),
    ));
    let history = Arc::new(History::default());
    let budgets = Budgets::new(config.hash_per_day);
    let protocols = Protocols {
        store: &store,
        offer: &offer,
        upload: &upload,
        compression: config.wire_compression,
        budgets: budgets.clone(),
        history: &history,
        peers: &peers,
        metrics: &metrics,
        swarm: &swarm,
        swarm_id: &swarm_id,
        within: networks.clone().filter(|_| config.mode == Mode::Lan),
    };
    let router = protocols.accept_on(&endpoint);
    for peer in &config.peers {
        peers.add(peer.clone());
    }
    if let Some(swarm) = &swarm {
        swarm.gossip().join_by_hand(config.peers.clone());
    }

    let reloading = Reloading {
        read: read_again,
        shown: Mutex::new(shown),
        admission,
        open,
        upload,
        budgets,
    };
    let node = Arc::new(Node::new(Parts {
        reloading,
        history: history.clone(),
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
        served,
        mode: config.mode,
        lan_discovery: config.lan_discovery,
        gate: gate.clone(),
        swarm: swarm.clone(),
        trackers,
        swarm_id,
        filter: config.filter,
        countries: Countries::open(config.geoip_database.as_deref()),
    }));
    let dashboard = Dashboard::new(node.clone(), stop.clone());
    let state = HttpState::new(node.clone(), metrics.clone(), node.clone(), config.priority)
        .on_networks(networks.filter(|_| lan_http))
        .with_dashboard(dashboard);
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
    tasks.spawn(machine::watch(gate.clone(), stop.clone()));
    tasks.spawn(keeping::keep(
        state_dir.clone(),
        gate,
        peers.clone(),
        stop.clone(),
    ));
    tasks.spawn(stats::keeping::keep(
        metrics,
        state_dir.clone(),
        stop.clone(),
    ));
    if !config.upstream_caches.is_empty() && !config.no_verify {
        let upstream = upstream.clone();
        node.waiting.want();
        let (node, stop) = (node.clone(), stop.clone());
        tasks.spawn(async move {
            let asking = node.ask_upstream(Arc::new(upstream), config.filter_concurrency, stop);
            asking.await;
        });
    }
    tasks.spawn(
        node.clone()
            .scan_now_and_then(config.scan_interval, stop.clone()),
    );

    if let (Some(swarm), Some(changes)) = (&swarm, changes) {
        tasks.spawn(swarm.clone().follow(peers.clone(), changes, stop.clone()));
    }

    state_dir.publish_http_address(http_address)?;
    announce_ready(http_address, &node);
    if state_dir.is_new() {
        announce_first_start(&config);
    }
    service.ready(http_address);
    service
        .keep_alive(|| StatusSource::health(&*node).0, &stop)
        .await;
    let ending = Ending::begin();
    service.stopping();

    // Transfers end first: their readers' connections are cut, and the servers can finish.
    ending.of(Part::Transfers, transfers.shutdown()).await;
    tasks.close();
    ending.of(Part::Tasks, tasks.wait()).await;
    let leave = async {
        if let Some(swarm) = &swarm {
            swarm.shutdown().await;
        }
    };
    let goodbyes = async {
        tokio::join!(peers.shutdown(), leave, upstream.shutdown());
    };
    ending.of(Part::Peers, goodbyes).await;
    let closing = async {
        if let Err(error) = router.shutdown().await {
            tracing::debug!(%error, "the router ended");
        }
    };
    ending.of(Part::Endpoint, closing).await;
    ending.of(Part::Store, store.shutdown()).await;
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

/// How trackers are spoken with, if at all.
fn trackers(
    config: &Config,
    authorities: Authorities,
    endpoint: &iroh::Endpoint,
    peers: &Peers,
    (swarm_id, in_swarm): (SwarmId, &Option<Swarm>),
    state_dir: &Arc<StateDir>,
) -> Option<(announcing::Options, announcing::Parts)> {
    let announce = config.announce.unwrap_or(Announce::All);
    let options = announcing::Options {
        urls: config.trackers.clone(),
        allow_insecure_http: config.allow_insecure_http,
        authorities,
        peer_id: config.tracker_peer_id.clone(),
        swarm_id,
        tell: announce != Announce::None,
        tell_older: config.announce.is_some(),
        relay: config.relay.clone(),
    };
    let parts = announcing::Parts {
        endpoint: endpoint.clone(),
        peers: peers.clone(),
        swarm: in_swarm.clone(),
        state_dir: state_dir.clone(),
    };
    (!config.trackers.is_empty()).then_some((options, parts))
}

fn upstream(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Upstream> {
    let memory = config.proxy_upstream && !config.upstream_caches.is_empty();
    let upstream = Upstream::new(
        &UpstreamConfig {
            caches: config.upstream_caches.clone(),
            allow_insecure_http: config.allow_insecure_http,
            tells_nix: config.proxy_upstream,
            memory: memory.then(|| config.state_dir.join("upstream.redb")),
        },
        metrics.clone(),
    )?;
    Ok(upstream)
}

fn announce_ready(http_address: std::net::SocketAddr, node: &Node) {
    tracing::info!(
        target: NOTICE,
        "ready at http://{http_address}, endpoint {}",
        node.endpoint_id()
    );
}

/// Says at the first start what others get to know.
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
    let swarm = match config.swarm.as_ref().filter(|_| config.mode != Mode::Lan) {
        Some(name) => format!("the swarm `{name}`"),
        None => "no swarm".to_owned(),
    };
    let trackers = match config.trackers.as_slice() {
        [] => "no tracker".to_owned(),
        trackers => trackers.join(", "),
    };
    tracing::info!(
        target: NOTICE,
        "offered to peers that ask: {offered}, and what you share by hand; announced: {announced}, to {swarm} and {trackers} (--filter-mode, --announce, --swarm, --tracker)"
    );
}
