//! What is told of transfers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use prometheus_client::metrics::counter::Counter;

use super::{State, Transfer, Transfers, provided::Provided};
use crate::{
    limits,
    metrics::Ending,
    report::{ProviderReport, Source, TransferReport},
    stats::{
        self,
        activity::{Action, Event},
    },
};

impl Transfers {
    /// All transfers under way, those that began first first.
    pub async fn report(&self) -> Vec<TransferReport> {
        let running = self.0.running.lock().await.values().cloned().collect();
        let mut running: Vec<Arc<Transfer>> = running;
        running.sort_by_key(|transfer| transfer.begun);
        running.iter().map(|transfer| transfer.report()).collect()
    }

    /// Counts a transfer that ended, and notes what came of it.
    pub(super) fn note_end(&self, transfer: &Transfer) {
        let substitution = &self.0.metrics.substitution;
        substitution.active.dec();
        let ending = match *transfer.state.borrow() {
            State::Verified => Ending::Verified,
            State::WrongNar => Ending::Wrong,
            State::Running | State::Failed => Ending::Failed,
        };
        substitution.count_ending(ending);
        let providers = transfer.providers();
        let mut event = Event::new(
            Action::Download,
            transfer.info.path_hash().to_string(),
            transfer.info.store_path.name().to_owned(),
            providers.first().map_or_else(|| "miss".to_owned(), source),
        );
        event.size = providers.iter().map(|provider| provider.bytes).sum();
        event.success = ending == Ending::Verified;
        event.took_ms = Some(transfer.begun.elapsed().as_secs_f64() * 1000.0);
        let peer = providers.first().filter(|provider| is_id(&provider.name));
        event.peer_id = peer.map(|provider| stats::short(&provider.name).to_owned());
        event.reason = match ending {
            Ending::Verified => others(&providers),
            Ending::Wrong => Some("it was not the NAR that its signature names".to_owned()),
            Ending::Failed if transfer.stop.is_cancelled() => {
                Some("nobody read it any more".to_owned())
            }
            Ending::Failed => Some("nobody was left who has it".to_owned()),
        };
        self.0.metrics.stats.note(event);
    }
}

impl Transfer {
    /// The counter of what `name` gives; `total` counts it too.
    pub(super) fn provided_by(&self, name: String, total: &Counter) -> Arc<Provided> {
        let providers = self.providers.lock();
        let mut providers = providers.unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = providers.iter().find(|known| known.name() == name) {
            return known.clone();
        }
        let provided = Arc::new(Provided::new(name, total.clone()));
        providers.push(provided.clone());
        provided
    }

    /// Who gave how much, those first who gave most.
    fn providers(&self) -> Vec<ProviderReport> {
        let providers = self.providers.lock();
        let providers = providers.unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<_> = providers.iter().map(|provided| provided.report()).collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.bytes));
        reports
    }

    fn report(&self) -> TransferReport {
        let mut providers = self.providers();
        let provider_count = providers.len();
        let given = providers.iter().map(|provider| provider.bytes).sum();
        let rate = providers.iter().map(|provider| provider.rate).sum();
        providers.truncate(limits::PROVIDERS_REPORTED);
        let here = self.claim.as_ref().map_or(0, |claim| {
            // Ranges may arrive ahead of where the first gap is.
            let missing = claim.download.missing();
            let missing = super::observe::bytes_of(&missing, self.info.nar_size);
            let bounds = missing.boundaries().chunks_exact(2);
            let missing: u64 = bounds.map(|range| range[1] - range[0]).sum();
            self.info.nar_size.saturating_sub(missing)
        });
        TransferReport {
            hash: self.info.path_hash().to_string(),
            name: self.info.store_path.name().to_owned(),
            size: self.info.nar_size,
            done: here.max(self.arrived()).min(self.info.nar_size),
            rate,
            readers: self.readers.load(Ordering::Relaxed),
            seconds: self.begun.elapsed().as_secs_f64(),
            providers,
            provider_count,
            given,
        }
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Who gave most, as the older program named it.
fn source(provider: &ProviderReport) -> String {
    match provider.source {
        Some(Source::Upstream) => "upstream".to_owned(),
        _ if is_id(&provider.name) => {
            format!("peer:{}", provider.name.get(..8).unwrap_or_default())
        }
        Some(Source::Lan) => {
            let host = provider.name.rsplit(' ').next().unwrap_or_default();
            format!("lan:{}", host.rsplit_once(':').map_or(host, |(ip, _)| ip))
        }
        _ => format!(
            "peer:{}",
            provider.name.rsplit(' ').next().unwrap_or_default()
        ),
    }
}

fn others(providers: &[ProviderReport]) -> Option<String> {
    let gave = providers.iter().filter(|provider| provider.bytes > 0);
    match gave.count() {
        0 | 1 => None,
        many => Some(format!("from {many} providers at once")),
    }
}
