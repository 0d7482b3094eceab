//! Narinfos from sources that give whole NARs only: older peers, and the upstream.

use std::{collections::HashSet, pin::pin, time::Instant};

use futures_util::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use peerix_store::{
    PathInfo,
    nix::{NarHash, StorePathHash},
};
use tokio::time::timeout_at;
use tracing::debug;

use super::{
    Lookup,
    trail::{Found, Trail},
};
use crate::{limits, metrics::Fault, transfer::whole::WholeNarSource};

/// When a source is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// Beside all other peers.
    Peers,
    /// Once those said no.
    Everybody,
    /// After all peers.
    Caches,
}

impl Tier {
    pub(super) fn of(source: &dyn WholeNarSource) -> Self {
        match (source.is_peer(), source.asks_everybody()) {
            (true, false) => Self::Peers,
            (true, true) => Self::Everybody,
            (false, _) => Self::Caches,
        }
    }
}

impl Lookup {
    /// What is trusted of the NAR `nar_hash` of a path: from memory, or from a source asked now.
    pub async fn info(&self, path_hash: StorePathHash, nar_hash: NarHash) -> Option<PathInfo> {
        if let Some(claims) = self.remembered(path_hash, nar_hash) {
            return Some(claims.info);
        }
        let deadline = Instant::now() + limits::LOOKUP_ELSEWHERE;
        let mut asked: FuturesUnordered<_> = self
            .0
            .sources
            .iter()
            .map(|source| async { (source.is_peer(), source.path_info(path_hash).await) })
            .collect();
        while let Ok(Some((is_peer, answer))) = timeout_at(deadline.into(), asked.next()).await {
            let info = answer.and_then(|info| self.accept_elsewhere(path_hash, info, is_peer));
            if let Some(info) = info.filter(|info| info.nar_hash == nar_hash) {
                return Some(info);
            }
        }
        None
    }

    /// What `from_peers` finds, or older peers that are asked beside, or else the upstream.
    ///
    /// The upstream is asked once nobody else is left who could answer, or half of the time until
    /// `deadline` is over, and then has [`limits::LOOKUP_ELSEWHERE`].
    pub(super) async fn or_elsewhere(
        &self,
        path_hash: StorePathHash,
        from_peers: impl Future<Output = Option<PathInfo>>,
        deadline: Instant,
        trail: &Trail,
    ) -> Option<PathInfo> {
        let now = Instant::now();
        let patience = deadline.saturating_duration_since(now) / 2;
        let peers = async {
            let older = self.ask_sources(path_hash, Tier::Peers, deadline, trail);
            match first_some(from_peers, older).await {
                Some(found) => Some(found),
                None => {
                    let until = Instant::now() + limits::LOOKUP_ELSEWHERE;
                    self.ask_sources(path_hash, Tier::Everybody, until, trail)
                        .await
                }
            }
        };
        let others = self
            .0
            .sources
            .iter()
            .any(|source| !source.is_peer() && source.tells_nix());
        if !others {
            return peers.await;
        }
        let mut peers = pin!(peers);
        let first = timeout_at((now + patience).into(), &mut peers).await;
        if let Ok(Some(found)) = first {
            return Some(found);
        }
        let until = Instant::now() + limits::LOOKUP_ELSEWHERE;
        let upstream = self.ask_sources(path_hash, Tier::Caches, until, trail);
        match first {
            Ok(_) => upstream.await,
            Err(_) => first_some(peers, upstream).await,
        }
    }

    /// Whether some peer that is a source has each of `paths`.
    pub(super) async fn are_elsewhere(
        &self,
        paths: &HashSet<StorePathHash>,
        deadline: Instant,
    ) -> bool {
        if !self.0.sources.iter().any(|source| source.is_peer()) {
            return paths.is_empty();
        }
        let trail = &Trail::new();
        let all = paths.iter().map(|path_hash| async move {
            let peers = self.ask_sources(*path_hash, Tier::Peers, deadline, trail);
            match peers.await {
                Some(found) => Some(found),
                None => {
                    let until = Instant::now() + limits::LOOKUP_ELSEWHERE;
                    self.ask_sources(*path_hash, Tier::Everybody, until, trail)
                        .await
                }
            }
        });
        let found: Vec<_> = all.collect::<FuturesUnordered<_>>().collect().await;
        found.iter().all(Option::is_some)
    }

    /// The first trusted answer of the sources of `tier`.
    async fn ask_sources(
        &self,
        path_hash: StorePathHash,
        tier: Tier,
        deadline: Instant,
        trail: &Trail,
    ) -> Option<PathInfo> {
        let mut asked: FuturesUnordered<_> = self
            .0
            .sources
            .iter()
            .filter(|source| Tier::of(source.as_ref()) == tier && source.tells_nix())
            .map(|source| source.path_info(path_hash))
            .collect();
        while let Ok(Some(answer)) = timeout_at(deadline.into(), asked.next()).await {
            let info = answer
                .and_then(|info| self.accept_elsewhere(path_hash, info, tier != Tier::Caches));
            if info.is_some() {
                trail.found(match tier {
                    Tier::Peers => Found::OlderPeer,
                    Tier::Everybody => Found::LanPeer,
                    Tier::Caches => Found::Upstream,
                });
                return info;
            }
        }
        None
    }

    /// Remembers what a source said, if it is about this path and trusted.
    fn accept_elsewhere(
        &self,
        path_hash: StorePathHash,
        info: PathInfo,
        is_peer: bool,
    ) -> Option<PathInfo> {
        if info.path_hash() != path_hash {
            debug!("an answer is about another path");
            return None;
        }
        match self.0.trust.accept(info) {
            Ok(info) => {
                self.remember(&info, |_| {});
                Some(info)
            }
            Err(error) => {
                debug!(%error, "an answer is not trusted");
                if is_peer {
                    self.0.metrics.count_fault(Fault::Trust);
                } else {
                    self.0.metrics.count_upstream_fault(Fault::Trust);
                }
                None
            }
        }
    }
}

/// The first of two that is some.
pub(super) async fn first_some<T>(
    first: impl Future<Output = Option<T>>,
    second: impl Future<Output = Option<T>>,
) -> Option<T> {
    let (first, second) = (pin!(first), pin!(second));
    match select(first, second).await {
        Either::Left((Some(found), _)) | Either::Right((Some(found), _)) => Some(found),
        Either::Left((None, other)) => other.await,
        Either::Right((None, other)) => other.await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn one_that_finds_nothing_leaves_it_to_the_other() {
        assert_eq!(first_some(ready(None), ready(Some(1))).await, Some(1));
        assert_eq!(first_some(ready(Some(1)), pending()).await, Some(1));
        assert_eq!(first_some(pending(), ready(Some(1))).await, Some(1));
        assert_eq!(first_some(ready(None), ready(None::<u8>)).await, None);
    }
}
