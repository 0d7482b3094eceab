//! Sharing by hand: what comes before and after the store knows of it.

use peerix_store::nix::{StorePath, StorePathHash, TrustedPublicKey};
use tokio::sync::mpsc;

use super::node::Node;
use crate::{
    control::{Progress, ShareHow, Shared},
    share::{self, ShareError, ShareToken, TokensError},
    signing::SigningKey,
    ticket::Ticket,
};

impl Node {
    /// Shares `paths` and makes the ticket for them.
    ///
    /// A private share's token is on disk before the share is, so that after any end of this
    /// process it is still private, or not there.
    pub(super) async fn share_paths(
        &self,
        paths: Vec<StorePath>,
        how: ShareHow,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Shared, ShareError> {
        let _one_at_a_time = self.sharing.lock().await;
        let parts = &self.parts;
        let token = how.private.then(ShareToken::generate);
        let mut kept = Vec::new();
        if let Some(token) = token {
            let mut tokens = share::read_tokens(&parts.state_dir)?;
            for path in &paths {
                let root = StorePathHash::from(path);
                kept.push((root, tokens.insert(root, token)));
            }
            share::write_tokens(&parts.state_dir, &tokens)?;
        }
        let shared = share::share(
            &parts.store,
            &parts.offer,
            &parts.roots,
            paths,
            how.yes,
            token,
            &progress,
        );
        let outcome = match shared.await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.restore_tokens(kept).await;
                return Err(error);
            }
        };
        if token.is_none() {
            self.forget_tokens(&outcome.paths)?;
        }
        let key = match outcome.needs_our_key {
            true => self.key_for_shares(how.yes)?,
            false => None,
        };
        let ticket = Ticket {
            key,
            token,
            ..self.own_ticket(outcome.paths.clone())
        };
        let paths = outcome.paths.iter().map(StorePath::to_absolute_path);
        Ok(Shared {
            ticket: ticket.to_string(),
            paths: paths.collect(),
            closure_paths: outcome.closure_paths,
            closure_bytes: outcome.closure_bytes,
        })
    }

    /// The public half of the key that signs what nobody else has signed, made if `make` says so.
    fn key_for_shares(&self, make: bool) -> Result<Option<TrustedPublicKey>, ShareError> {
        let signing = self.parts.offer.signing();
        let existing = signing.public_key();
        if existing.is_some() || !make {
            return Ok(existing);
        }
        let failed = |reason: String| ShareError::Key { reason };
        let key = SigningKey::generate(&default_key_name());
        let key = key.map_err(|error| failed(error.to_string()))?;
        let kept = self.parts.state_dir.set_host_key(&key);
        kept.map_err(|error| failed(error.to_string()))?;
        let public = key.public().clone();
        signing.set_host_key(key);
        Ok(Some(public))
    }

    /// Makes open, or forgets, what was private of `paths`.
    pub(super) fn forget_tokens(&self, paths: &[StorePath]) -> Result<(), TokensError> {
        let mut tokens = share::read_tokens(&self.parts.state_dir)?;
        let roots = || paths.iter().map(StorePathHash::from);
        let before = tokens.len();
        for root in roots() {
            tokens.remove(&root);
        }
        if tokens.len() != before {
            share::write_tokens(&self.parts.state_dir, &tokens)?;
        }
        roots().for_each(|root| self.parts.offer.open_share(root));
        Ok(())
    }

    /// Puts back what was there before a share that came to nothing.
    async fn restore_tokens(&self, kept: Vec<(StorePathHash, Option<ShareToken>)>) {
        if kept.is_empty() {
            return;
        }
        let closures = self.parts.store.shares().await.unwrap_or_default();
        let restore = || {
            let mut tokens = share::read_tokens(&self.parts.state_dir)?;
            for (root, before) in &kept {
                match before {
                    Some(token) => tokens.insert(*root, *token),
                    None => tokens.remove(root),
                };
            }
            share::write_tokens(&self.parts.state_dir, &tokens)
        };
        if let Err(error) = restore() {
            tracing::error!(%error, "a share failed, and its token can't be taken back");
        }
        for (root, before) in kept {
            let mut shares = closures.iter();
            match (
                before,
                shares.find(|share| StorePathHash::from(&share.store_path) == root),
            ) {
                (Some(token), Some(share)) => {
                    let members = share.closure.iter().copied();
                    self.parts.offer.hide_share(root, token, members);
                }
                _ => self.parts.offer.open_share(root),
            }
        }
    }
}

/// This host's name and a number, as Nix's keys are called.
pub(crate) fn default_key_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
        .take(63)
        .collect();
    match host.as_str() {
        "" => "peerix-1".to_owned(),
        host => format!("{host}-1"),
    }
}
