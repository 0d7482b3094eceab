//! Taking over another configuration while the daemon runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use peerix_gossip::PathHash;

use super::{NOTICE, node::Node};
use crate::{
    config::{Config, Loaded, Shown, reload},
    offer::{Announce, OfferPolicy, OfferRules},
    peer::{
        admission::Admission, budget::Budgets, gate::UploadGate, open::OpenConnections,
        peers::Peers, rate::UploadLimits,
    },
    swarm::Swarm,
    trust::Trust,
};

/// Reads the configuration anew, with flags and variables as they were at the start; fails with a
/// line for a person.
pub type ReadAgain = Arc<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// What of a running daemon can be configured anew.
pub(super) struct Reloading {
    pub(super) read: ReadAgain,
    /// The configuration that is in force.
    pub(super) shown: Mutex<Vec<Shown>>,
    pub(super) admission: Admission,
    pub(super) open: OpenConnections,
    pub(super) upload: Arc<UploadLimits>,
    pub(super) gate: UploadGate,
    pub(super) budgets: Budgets,
    pub(super) offer: Arc<OfferPolicy>,
    pub(super) trust: Trust,
    pub(super) peers: Peers,
    pub(super) swarm: Option<Swarm>,
}

impl fmt::Debug for Reloading {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reloading").finish_non_exhaustive()
    }
}

/// What a configuration offers and announces.
pub(super) fn offer_rules(config: &Config) -> OfferRules {
    OfferRules {
        filter: config.filter,
        excluded: config.excluded.clone(),
        // Not what is trusted for the time of a command.
        trust: Trust::new(config.trusted_public_keys.clone(), config.no_verify),
        announce: config.announce.unwrap_or(Announce::All),
        ..OfferRules::public(config.public_cache_keys.clone())
    }
}

impl Reloading {
    /// Reads the configuration again and takes over what can be, with one line to the log; a
    /// configuration that can't be used changes nothing.
    pub(super) async fn reload(&self) {
        let read = self.read.clone();
        let loaded = match tokio::task::spawn_blocking(move || read()).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => {
                tracing::error!(target: NOTICE, "the configuration stays as it was: {error}");
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the configuration could not be read again");
                return;
            }
        };
        let changes = {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            reload::take_over(&mut shown, &loaded.shown)
        };
        self.apply(&loaded.config).await;
        let or_nothing = |names: &[String]| match names {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        tracing::info!(
            target: NOTICE,
            "configuration read again: changed {}; a restart is needed for {}",
            or_nothing(&changes.taken),
            or_nothing(&changes.left)
        );
    }

    async fn apply(&self, config: &Config) {
        self.upload
            .replace(config.upload_limit, config.upload_limit_per_peer);
        self.gate.replace_rules(config.uploads);
        self.budgets.replace_hash_per_day(config.hash_per_day);
        self.trust.replace(config.trusted_public_keys.clone());
        self.offer.replace(offer_rules(config));
        self.admission
            .replace(&config.allow_peers, &config.deny_peers);
        self.open.close_unless(|id| self.admission.admits(id));
        for peer in &config.peers {
            self.peers.add(peer.clone());
        }
        if let Some(swarm) = &self.swarm {
            swarm.gossip().join_by_hand(config.peers.clone());
            if self.offer.announces() == Announce::None {
                // The look through the store that follows tells what is announced else.
                swarm.announce(Vec::<PathHash>::new(), false).await;
            }
        }
    }
}

impl Node {
    /// Takes over what the configuration says by now.
    pub(super) async fn reload(&self) {
        if let Some(reloading) = &self.parts.reloading {
            reloading.reload().await;
        }
    }
}
