//! Paths that were shared in private: for those alone who have the ticket.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use iroh::EndpointId;
use lru::LruCache;
use peerix_store::nix::StorePathHash;

use crate::{limits, share::ShareToken};

/// How long a token that a peer showed with a lookup opens the blobs of its share to that peer: each
/// further lookup shows it again.
const GRANT_AGE: Duration = Duration::from_secs(3600);

/// Peers whose tokens are remembered.
const GRANTS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// One private share.
#[derive(Debug)]
struct Private {
    token: ShareToken,
    members: HashSet<StorePathHash>,
}

/// All private shares, by their root, and who has shown which token.
///
/// Blob requests are iroh-blobs' own and carry no token: a peer that showed a token with a lookup is
/// known by its endpoint id, which the handshake of every connection proves.
#[derive(Debug)]
pub(super) struct PrivateShares {
    shares: HashMap<StorePathHash, Private>,
    /// In how many private shares each path is.
    counts: HashMap<StorePathHash, usize>,
    grants: LruCache<EndpointId, Vec<(ShareToken, Instant)>>,
}

impl PrivateShares {
    pub(super) fn new() -> Self {
        Self {
            shares: HashMap::new(),
            counts: HashMap::new(),
            grants: LruCache::new(GRANTS),
        }
    }

    pub(super) fn insert(
        &mut self,
        root: StorePathHash,
        token: ShareToken,
        members: HashSet<StorePathHash>,
    ) {
        self.shares.insert(root, Private { token, members });
        self.count();
    }

    pub(super) fn remove(&mut self, root: StorePathHash) {
        self.shares.remove(&root);
        self.count();
    }

    fn count(&mut self) {
        self.counts.clear();
        for member in self.shares.values().flat_map(|share| &share.members) {
            *self.counts.entry(*member).or_default() += 1;
        }
    }

    /// In how many private shares a path is.
    pub(super) fn count_of(&self, path_hash: StorePathHash) -> usize {
        self.counts.get(&path_hash).copied().unwrap_or_default()
    }

    /// The token of the share of `root`, if that is private.
    pub(super) fn token_of(&self, root: StorePathHash) -> Option<ShareToken> {
        self.shares.get(&root).map(|share| share.token)
    }

    /// Remembers what `peer` has shown; tokens of no share are passed over.
    pub(super) fn grant(&mut self, peer: EndpointId, shown: &[ShareToken], now: Instant) {
        let shown: Vec<(ShareToken, Instant)> = shown
            .iter()
            .filter(|token| self.shares.values().any(|share| share.token == **token))
            .take(limits::LOOKUP_MAX_TOKENS)
            .map(|token| (*token, now))
            .collect();
        if !shown.is_empty() {
            self.grants.put(peer, shown);
        }
    }

    /// Whether `peer` has shown the token of a share that the path is in.
    pub(super) fn opens(
        &mut self,
        peer: EndpointId,
        path_hash: StorePathHash,
        now: Instant,
    ) -> bool {
        if self.count_of(path_hash) == 0 {
            return false;
        }
        let Some(granted) = self.grants.get(&peer) else {
            return false;
        };
        let is_valid = |token: ShareToken| {
            granted.iter().any(|(shown, at)| {
                *shown == token && now.saturating_duration_since(*at) < GRANT_AGE
            })
        };
        self.shares
            .values()
            .any(|share| share.members.contains(&path_hash) && is_valid(share.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seed: u8) -> EndpointId {
        iroh::SecretKey::from_bytes(&[seed; 32]).public()
    }

    fn hash(byte: u8) -> StorePathHash {
        StorePathHash::from_bytes([byte; 20])
    }

    #[test]
    fn a_token_opens_its_own_share_to_the_peer_that_showed_it() {
        let (mine, other) = (ShareToken::generate(), ShareToken::generate());
        let mut shares = PrivateShares::new();
        shares.insert(hash(1), mine, [hash(1), hash(2)].into());
        shares.insert(hash(3), other, [hash(3), hash(2)].into());
        assert_eq!(shares.count_of(hash(2)), 2);
        let now = Instant::now();
        shares.grant(id(1), &[ShareToken::generate()], now);
        assert!(!shares.opens(id(1), hash(1), now));
        shares.grant(id(1), &[mine], now);
        assert!(shares.opens(id(1), hash(1), now) && shares.opens(id(1), hash(2), now));
        assert!(!shares.opens(id(1), hash(3), now) && !shares.opens(id(2), hash(1), now));
        assert!(!shares.opens(id(1), hash(1), now + GRANT_AGE));
        shares.remove(hash(1));
        assert!(!shares.opens(id(1), hash(1), now) && !shares.opens(id(1), hash(2), now));
    }
}
