//! The local network: peers found there, and the older program's protocol.
//!
//! [`networks`] says which local networks this machine is on and follows their changes. [`mdns`]
//! finds peerix peers, which are then spoken with over iroh as all others; [`found`] bounds how
//! many. [`broadcast`] speaks the UDP protocol of the older program in both roles, and [`older`] asks
//! those who answered over HTTP.

pub mod broadcast;
pub mod found;
pub mod limits;
pub mod mdns;
pub mod networks;
pub mod older;

use std::sync::Arc;

use iroh::Endpoint;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{broadcast::Holdings, networks::Networks, older::OlderPeers};
use crate::{
    metrics::Metrics,
    peer::peers::Peers,
    swarm::{Swarm, SwarmId},
    trust::Trust,
};

/// What the tasks of the local network are made of.
pub struct Parts {
    /// The endpoint that is announced.
    pub endpoint: Endpoint,
    /// The swarm that it is of.
    pub swarm_id: SwarmId,
    /// This machine in that swarm, which is joined through whoever is found.
    pub swarm: Option<Swarm>,
    /// Where found peers go.
    pub peers: Peers,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the own store offers.
    pub holdings: Arc<dyn Holdings>,
    /// Who is believed.
    pub trust: Trust,
    /// Port of the HTTP server, and of the UDP protocol.
    pub http_port: u16,
    /// The networks to take part on.
    pub networks: Networks,
}

/// Starts both tasks in `tasks`, to run until `stop` is cancelled; the second in the public swarm
/// alone, since the older program knows of no other.
///
/// # Errors
/// Where no HTTP client can be made.
pub fn start(
    parts: Parts,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> reqwest::Result<Option<OlderPeers>> {
    tasks.spawn(mdns::run(
        parts.endpoint,
        (parts.swarm_id.told_to_others(), parts.swarm),
        parts.peers,
        parts.metrics.clone(),
        parts.networks.clone(),
        stop.clone(),
    ));
    if !parts.swarm_id.is_public() {
        return Ok(None);
    }
    let client = older::client()?;
    let (questions, broadcast) = broadcast::start(
        parts.http_port,
        parts.holdings,
        parts.metrics,
        parts.networks,
        stop.clone(),
    );
    tasks.spawn(broadcast);
    Ok(Some(OlderPeers::new(questions, client, parts.trust)))
}
