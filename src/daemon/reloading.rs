//! Taking over another configuration while the daemon runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{NOTICE, node::Node};
use crate::{
    config::{Config, Loaded, Shown, reload},
    offer::{Announce, OfferRules},
    peer::{admission::Admission, budget::Budgets, open::OpenConnections, rate::UploadLimits},
    trust::Trust,
};

/// Reads the configuration anew, with flags and variables as they were at the start; fails with a
/// line for a person.
pub type ReadAgain = Arc<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// What a running daemon needs to be configured anew, beside its other parts.
pub(super) struct Reloading {
    pub(super) read: ReadAgain,
    /// The configuration that is in force.
    pub(super) shown: Mutex<Vec<Shown>>,
    pub(super) admission: Admission,
    pub(super) open: OpenConnections,
    pub(super) upload: Arc<UploadLimits>,
    pub(super) budgets: Budgets,
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

impl Node {
    /// Reads the configuration again and takes over what can be, with one line to the log; a
    /// configuration that can't be used changes nothing.
    pub(super) async fn reload(&self) {
        let reloading = &self.parts.reloading;
        let read = reloading.read.clone();
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
            let shown = &reloading.shown;
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
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
        let parts = &self.parts;
        let reloading = &parts.reloading;
        reloading
            .upload
            .replace(config.upload_limit, config.upload_limit_per_peer);
        parts.gate.replace_rules(config.uploads);
        reloading.budgets.replace_hash_per_day(config.hash_per_day);
        parts.trust.replace(config.trusted_public_keys.clone());
        parts.offer.replace(offer_rules(config));
        let admission = &reloading.admission;
        admission.replace(&config.allow_peers, &config.deny_peers);
        reloading.open.close_unless(|id| admission.admits(id));
        for peer in &config.peers {
            parts.peers.add(peer.clone());
        }
        if let Some(swarm) = &parts.swarm {
            swarm.gossip().join_by_hand(config.peers.clone());
        }
        if let Some(trackers) = &parts.trackers {
            trackers.tell_older(config.announce.is_some());
        }
        // The look through the store that follows tells what is announced else.
        if parts.offer.announces() == Announce::None {
            self.announce_nothing().await;
        }
    }
}
