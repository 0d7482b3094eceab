//! Which paths of this machine may be served to peers, and which of them are announced.

mod explain;
mod private;
pub mod public;
pub mod rules;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use iroh::EndpointId;
use lru::LruCache;
use peerix_store::nix::{PathInfo, StorePathHash, TrustedPublicKey};
use peerix_store::{LocalNar, Source, Store};

use self::private::PrivateShares;
use self::public::PublicPaths;
use self::rules::Patterns;
use crate::narinfo::{fingerprint, well_formed_signatures};
use crate::share::ShareToken;
use crate::signing::Signing;
use crate::trust::{Trust, is_signed_by};

/// Verdicts remembered, about 70 bytes each: a store of 100,000 paths fits, so that going through
/// all of it again checks no signature twice.
const REMEMBERED_VERDICTS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// What is offered without being shared by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// What a public cache has.
    PublicCaches,
    /// What somebody vouches for: a key that this machine trusts, its own, a content address or
    /// the upstream.
    Vouched,
    /// Every path of the store, private ones too.
    Everything,
}

/// What is told to swarm and tracker of what is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// All of it.
    All,
    /// What a person shared.
    Shared,
    /// Nothing.
    None,
}

/// What the policy is made from.
#[derive(Clone, Debug)]
pub struct OfferRules {
    /// What is offered without being shared.
    pub filter: Filter,
    /// Names that are not offered unless they are shared.
    pub excluded: Patterns,
    /// Keys of public caches.
    pub public_cache_keys: Vec<TrustedPublicKey>,
    /// Who vouches for paths besides, with [`Filter::Vouched`].
    pub trust: Trust,
    /// The keys that this machine signs with; one that signs all vouches for all.
    pub signing: Signing,
    /// What is announced.
    pub announce: Announce,
}

impl OfferRules {
    /// Offers, and announces, what these keys signed, and nothing else.
    #[must_use]
    pub fn public(public_cache_keys: Vec<TrustedPublicKey>) -> Self {
        Self {
            filter: Filter::PublicCaches,
            excluded: Patterns::default(),
            public_cache_keys,
            trust: Trust::new(Vec::new(), false),
            signing: Signing::default(),
            announce: Announce::All,
        }
    }
}

/// Decides what is offered: what a public cache has, and what a person shared by hand.
///
/// The question is asked for every request of a peer, so verdicts are remembered. They depend on
/// what Nix's database says of the path alone; a share is looked up each time, so that an unshared
/// path is refused from the next request on.
pub struct OfferPolicy {
    rules: RwLock<Arc<OfferRules>>,
    signing: Signing,
    verdicts: Mutex<LruCache<VerdictKey, bool>>,
    private: Mutex<PrivateShares>,
    public: PublicPaths,
}

/// The start of a hash over all that a verdict depends on.
type VerdictKey = [u8; 16];

impl OfferPolicy {
    /// Offers by `rules`.
    #[must_use]
    pub fn new(rules: OfferRules) -> Self {
        Self::remembering(rules, PublicPaths::default())
    }

    /// Offers by `rules` and by what an upstream said of paths before.
    #[must_use]
    pub fn remembering(rules: OfferRules, public: PublicPaths) -> Self {
        let verdicts = Mutex::new(LruCache::new(REMEMBERED_VERDICTS));
        Self {
            signing: rules.signing.clone(),
            rules: RwLock::new(Arc::new(rules)),
            verdicts,
            private: Mutex::new(PrivateShares::new()),
            public,
        }
    }

    /// Offers by other rules from now on; the keys to sign with stay as they are.
    pub fn replace(&self, rules: OfferRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.verdicts().clear();
    }

    fn rules(&self) -> Arc<OfferRules> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    /// Returns whether any peer may have this path.
    #[must_use]
    pub fn is_offered(&self, store: &Store, info: &PathInfo) -> bool {
        self.rules().filter == Filter::Everything
            || self.is_shared_openly(store, info.path_hash())
            || self.is_offered_unasked(info)
    }

    /// Returns whether this peer may have this path: it is offered, or the peer has shown the token
    /// of a private share that it is in.
    #[must_use]
    pub fn is_offered_to(&self, peer: EndpointId, store: &Store, info: &PathInfo) -> bool {
        self.is_offered(store, info) || self.private().opens(peer, info.path_hash(), Instant::now())
    }

    /// Returns whether swarm and tracker may be told that this machine has the path. What was
    /// shared in private never is.
    #[must_use]
    pub fn is_announced(&self, store: &Store, info: &PathInfo) -> bool {
        match self.rules().announce {
            Announce::All => self.is_offered(store, info),
            Announce::Shared => self.is_shared_openly(store, info.path_hash()),
            Announce::None => false,
        }
    }

    /// What is announced of what is offered.
    #[must_use]
    pub fn announces(&self) -> Announce {
        self.rules().announce
    }

    /// Returns what is told of a path that this machine holds: its fields, with the signatures that
    /// it came with, those that an upstream has for it, and our own, where there is a key for it.
    #[must_use]
    pub fn told(&self, store: &Store, nar: &LocalNar) -> PathInfo {
        match nar.source {
            Source::ByReference => {
                let is_shared = store.is_shared(nar.info.path_hash());
                let mut info = nar.info.clone();
                for signature in self.public.signatures(&info).unwrap_or_default() {
                    if !info.signatures.contains(&signature) {
                        info.signatures.push(signature);
                    }
                }
                self.signing.sign(info, is_shared)
            }
            // What was fetched is somebody else's word.
            _ => nar.info.clone(),
        }
    }

    /// The keys that this machine signs with.
    #[must_use]
    pub fn signing(&self) -> &Signing {
        &self.signing
    }

    /// Keeps a share for those who show `token`. To be told before the store learns of the share.
    pub fn hide_share(
        &self,
        root: StorePathHash,
        token: ShareToken,
        members: impl IntoIterator<Item = StorePathHash>,
    ) {
        let members = members.into_iter().chain([root]).collect();
        self.private().insert(root, token, members);
    }

    /// Makes a share one for everybody, or forgets that it was one. To be told after the store has.
    pub fn open_share(&self, root: StorePathHash) {
        self.private().remove(root);
    }

    /// The token of the share of `root`, if that is private.
    #[must_use]
    pub fn share_token(&self, root: StorePathHash) -> Option<ShareToken> {
        self.private().token_of(root)
    }

    /// Remembers the tokens that `peer` has shown.
    pub fn grant(&self, peer: EndpointId, shown: &[ShareToken]) {
        if !shown.is_empty() {
            self.private().grant(peer, shown, Instant::now());
        }
    }

    fn is_shared_openly(&self, store: &Store, path_hash: StorePathHash) -> bool {
        store.share_count(path_hash) > self.private().count_of(path_hash)
    }

    fn private(&self) -> MutexGuard<'_, PrivateShares> {
        self.private.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a public cache has the path: it signed exactly these fields, or an upstream
    /// said so lately, of just this NAR hash.
    #[must_use]
    pub fn is_public(&self, info: &PathInfo) -> bool {
        self.is_signed_publicly(info) || self.public.signatures(info).is_some()
    }

    fn is_signed_publicly(&self, info: &PathInfo) -> bool {
        !info.signatures.is_empty()
            && self.remembered(0, info, |rules| {
                is_signed_by(info, &rules.public_cache_keys)
            })
    }

    /// Returns whether an upstream is to be asked for the path: nobody has signed it, nothing else
    /// proves that it may be offered, and nothing is known of the upstream's answer.
    ///
    /// What somebody else signed is somebody else's: its hash is not told to a public cache.
    #[must_use]
    pub fn is_to_be_asked(&self, info: &PathInfo) -> bool {
        let is_signed = || well_formed_signatures(&info.signatures).next().is_some();
        let rules = self.rules();
        let is_proven = match rules.filter {
            Filter::Everything => true,
            Filter::PublicCaches => false,
            Filter::Vouched => self.is_vouched_for(info),
        };
        !is_proven
            && !is_signed()
            && self.public.is_due(info)
            && !rules.excluded.match_name_of(&info.store_path)
    }

    /// What upstreams said of paths.
    #[must_use]
    pub fn public_paths(&self) -> &PublicPaths {
        &self.public
    }

    fn is_offered_unasked(&self, info: &PathInfo) -> bool {
        let rules = self.rules();
        let is_excluded = || rules.excluded.match_name_of(&info.store_path);
        match rules.filter {
            Filter::Everything => true,
            Filter::PublicCaches => self.is_public(info) && !is_excluded(),
            Filter::Vouched => {
                !is_excluded() && (self.is_public(info) || self.is_vouched_for(info))
            }
        }
    }

    fn is_vouched_for(&self, info: &PathInfo) -> bool {
        self.signing.signs_all()
            || self.remembered(1, info, |rules| rules.trust.check(info).is_ok())
    }

    fn remembered(
        &self,
        question: u8,
        info: &PathInfo,
        answer: impl FnOnce(&OfferRules) -> bool,
    ) -> bool {
        let key = verdict_key(question, info);
        if let Some(&verdict) = self.verdicts().get(&key) {
            return verdict;
        }
        let rules = self.rules();
        let verdict = answer(&rules);
        let mut verdicts = self.verdicts();
        // Rules that came meanwhile forget all verdicts once this lock is free.
        if Arc::ptr_eq(&rules, &self.rules()) {
            verdicts.put(key, verdict);
        }
        verdict
    }

    fn verdicts(&self) -> MutexGuard<'_, LruCache<VerdictKey, bool>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verdict_key(question: u8, info: &PathInfo) -> VerdictKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[question]);
    hasher.update(fingerprint(info).as_bytes());
    let content_address = info.content_address.as_deref().unwrap_or_default();
    for text in info
        .signatures
        .iter()
        .map(String::as_str)
        .chain([content_address])
    {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests;
