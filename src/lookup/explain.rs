//! One lookup, asked for by a person: everybody's answer is waited for and told.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use iroh::EndpointId;
use peerix_gossip::Standing;
use peerix_store::{PathInfo, Source, nix::StorePathHash};
use tokio::time::timeout;

use super::{Lookup, elsewhere::Tier};
use crate::{
    limits,
    peer::{
        lookup::{Claim, Mode},
        peers::Peer,
    },
    transfer::whole::WholeNarSource,
    why::{Answer, Verdict, WhyReport},
};

/// Longest wait for an answer: a person would rather know how late it is than that it is late.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most peers that are told of as not asked.
const UNASKED: usize = 32;

impl Lookup {
    /// Looks a path up as for Nix, and tells what each stage gave. What became of it lately is the
    /// caller's to add.
    ///
    /// Bounded by a few seconds. Cancel safe.
    pub async fn explain(&self, path_hash: StorePathHash) -> WhyReport {
        let mut report = WhyReport {
            hash: path_hash.to_string(),
            ..WhyReport::default()
        };
        let is_own = self.explain_own(path_hash, &mut report).await;
        let named = self.explain_trackers(path_hash, &mut report).await;
        let mut found = self.explain_peers(path_hash, &named, &mut report).await;
        found.extend(self.explain_elsewhere(path_hash, &mut report).await);
        if let Some(info) = found.first() {
            report
                .store_path
                .get_or_insert_with(|| info.store_path.to_absolute_path());
        }
        report.conclusion = match (is_own, found.first()) {
            (true, _) => Verdict::yes("this machine's own copy is told of"),
            (false, None) => Verdict::no(self.why_not(&report)),
            (false, Some(info)) => {
                let candidates = self.may_have(path_hash);
                let deadline = Instant::now() + PATIENCE;
                match self
                    .references_can_be_had(info, &candidates, deadline)
                    .await
                {
                    true => Verdict::yes("somebody has it, and its signature is trusted"),
                    false => Verdict::no(
                        "nobody has one of its references, so that Nix could not use it",
                    ),
                }
            }
        };
        report
    }

    /// The own copy; whether Nix is told of it.
    async fn explain_own(&self, path_hash: StorePathHash, report: &mut WhyReport) -> bool {
        let (store, offer) = (&self.0.store, &self.0.offer);
        let nar = match store.nar(path_hash).await {
            Ok(Some(nar)) => nar,
            Ok(None) => return false,
            Err(error) => {
                report.told_to_nix =
                    Some(Verdict::no(format!("the store can't be asked: {error}")));
                return false;
            }
        };
        let told = offer.told(store, &nar);
        report.store_path = Some(told.store_path.to_absolute_path());
        report.here = Some(
            match nar.source {
                Source::ByReference => "in Nix's store",
                Source::Partial => "in part, still to be fetched",
                _ => "as a download",
            }
            .to_owned(),
        );
        report.offered = Some(offer.explain(store, &nar.info));
        report.announced = offer.is_announced(store, &nar.info);
        let verdict = match self.0.trust.check(&told) {
            Ok(()) => Verdict::yes("its signature, or content address, is trusted here"),
            Err(error) => Verdict::no(error.to_string()),
        };
        let is_told = verdict.yes;
        report.told_to_nix = Some(verdict);
        is_told
    }

    async fn explain_peers(
        &self,
        path_hash: StorePathHash,
        named: &[EndpointId],
        report: &mut WhyReport,
    ) -> Vec<PathInfo> {
        let mut candidates = self.may_have(path_hash);
        // Whom trackers name is asked as well.
        for peer in named.iter().filter_map(|id| self.0.peers.get(*id)) {
            if candidates.iter().all(|other| other.id() != peer.id()) {
                candidates.push(peer);
            }
        }
        let asked = candidates
            .iter()
            .map(|peer| self.explain_peer(peer, path_hash));
        let mut found = Vec::new();
        for (answer, info) in join_all(asked).await {
            report.answers.push(answer);
            found.extend(info);
        }
        let is_asked = |peer: &Arc<Peer>| candidates.iter().any(|other| other.id() == peer.id());
        let unasked = self.0.peers.askable().into_iter();
        for peer in unasked.filter(|peer| !is_asked(peer)).take(UNASKED) {
            let expected = self.expected(&peer, path_hash);
            report.answers.push(Answer {
                who: peer.id().to_string(),
                answer: match expected {
                    Some(_) => "not asked".to_owned(),
                    None => format!("not asked: {} better ones were", limits::LOOKUP_PEERS),
                },
                expected,
                ..Answer::default()
            });
        }
        found
    }

    /// What a peer's inventory says of a path.
    fn expected(&self, peer: &Peer, path_hash: StorePathHash) -> Option<String> {
        let gossip = self.0.swarm.as_ref()?.gossip();
        match gossip.standing(&peer.id(), path_hash.as_bytes()) {
            Standing::MayHave => Some("its inventory has it".to_owned()),
            Standing::Lacks => Some("its inventory lacks it".to_owned()),
            Standing::Doubtful => {
                Some("its inventory can't be had, and it lacked what it was asked for".to_owned())
            }
            Standing::Unknown => None,
        }
    }

    async fn explain_peer(
        &self,
        peer: &Arc<Peer>,
        path_hash: StorePathHash,
    ) -> (Answer, Option<PathInfo>) {
        let begun = Instant::now();
        let claim = timeout(PATIENCE, peer.lookup(Mode::Narinfo, path_hash)).await;
        let mut answer = Answer {
            who: peer.id().to_string(),
            expected: self.expected(peer, path_hash),
            took_ms: Some(begun.elapsed().as_secs_f64() * 1000.0),
            ..Answer::default()
        };
        let Ok(claim) = claim else {
            answer.answer = "nothing in time".to_owned();
            return (answer, None);
        };
        let Some(claim) = claim else {
            answer.answer = match peer.is_older() {
                true => "it speaks the older program's protocols alone".to_owned(),
                false => "it could not be asked".to_owned(),
            };
            return (answer, None);
        };
        answer.answer = match &claim {
            Claim::Absent => "absent: it lacks the path, or does not offer it".to_owned(),
            Claim::NotNow => "not now: it is paused, or out of its budget".to_owned(),
            Claim::Ready { .. } => "ready".to_owned(),
            Claim::Part { .. } => "it is fetching it itself".to_owned(),
            Claim::Hashing { done, total, .. } => format!("hashing, {done} of {total} bytes"),
        };
        let info = match claim {
            Claim::Absent | Claim::NotNow => None,
            Claim::Ready { info, .. } | Claim::Part { info, .. } | Claim::Hashing { info, .. } => {
                info
            }
        };
        let Some(info) = info else {
            return (answer, None);
        };
        let (verdict, info) = self.judge(*info);
        answer.trusted = Some(verdict);
        (answer, info)
    }

    fn judge(&self, info: PathInfo) -> (Verdict, Option<PathInfo>) {
        match self.0.trust.accept(info) {
            Ok(info) => (
                Verdict::yes("signed by a trusted key, or proved by its content address"),
                Some(info),
            ),
            Err(error) => (Verdict::no(error.to_string()), None),
        }
    }

    /// Whom trackers name.
    async fn explain_trackers(
        &self,
        path_hash: StorePathHash,
        report: &mut WhyReport,
    ) -> Vec<EndpointId> {
        let Some(trackers) = &self.0.trackers else {
            return Vec::new();
        };
        let begun = Instant::now();
        let named = trackers.who_has(path_hash, begun + PATIENCE).await;
        let named = named.map(|named| named.peers).unwrap_or_default();
        let ids: Vec<String> = named.iter().map(|id| id.fmt_short().to_string()).collect();
        report.answers.push(Answer {
            who: "trackers".to_owned(),
            answer: match ids.as_slice() {
                [] => "they name nobody who has it".to_owned(),
                ids => format!("they name {}", ids.join(", ")),
            },
            took_ms: Some(begun.elapsed().as_secs_f64() * 1000.0),
            ..Answer::default()
        });
        named
    }

    async fn explain_elsewhere(
        &self,
        path_hash: StorePathHash,
        report: &mut WhyReport,
    ) -> Vec<PathInfo> {
        let asked = self.0.sources.iter().map(|source| async move {
            let begun = Instant::now();
            let info = timeout(PATIENCE, source.path_info(path_hash)).await;
            let mut answer = Answer {
                who: name_of(source.as_ref()).to_owned(),
                took_ms: Some(begun.elapsed().as_secs_f64() * 1000.0),
                ..Answer::default()
            };
            let info = match info {
                Err(_) => {
                    answer.answer = "nothing in time".to_owned();
                    None
                }
                Ok(None) => {
                    answer.answer = "absent".to_owned();
                    None
                }
                Ok(Some(info)) => {
                    answer.answer = "it has it".to_owned();
                    let (verdict, info) = self.judge(info);
                    answer.trusted = Some(verdict);
                    info.filter(|_| source.tells_nix())
                }
            };
            if !source.tells_nix() {
                answer.expected = Some(
                    "not told to Nix, which asks it itself (without --proxy-upstream)".to_owned(),
                );
            }
            (answer, info)
        });
        let mut found = Vec::new();
        for (answer, info) in join_all(asked).await {
            report.answers.push(answer);
            found.extend(info);
        }
        found
    }

    /// What a miss is due to, the most telling reason first.
    fn why_not(&self, report: &WhyReport) -> String {
        if let Some(verdict) = report.told_to_nix.as_ref().filter(|verdict| !verdict.yes) {
            return format!("it is here, and not told of: {}", verdict.reason);
        }
        let distrusted = report
            .answers
            .iter()
            .find_map(|answer| answer.trusted.as_ref().filter(|verdict| !verdict.yes));
        if let Some(verdict) = distrusted {
            return verdict.reason.clone();
        }
        if self.0.peers.count().0 == 0 {
            return "no peer is known: `peerix get TICKET`, --peer, --tracker or --lan-discovery make some known".to_owned();
        }
        if self.0.peers.count().1 == 0 {
            return "no peer is connected".to_owned();
        }
        "nobody who could be asked has it, or offers it".to_owned()
    }
}

fn name_of(source: &dyn WholeNarSource) -> &'static str {
    match Tier::of(source) {
        Tier::Peers => "peers of the older program",
        Tier::Everybody => "the local network, as the older program asks it",
        Tier::Caches => "upstream caches",
    }
}
