//! Sharing by hand: a store path and its closure, hashed, kept from Nix's garbage collector and
//! offered to whoever asks.

use std::path::PathBuf;

use peerix_store::{
    Store,
    nix::{PathInfo, StorePath, StorePathHash},
};
use tokio::sync::mpsc;

use crate::{
    control::Progress, narinfo::well_formed_signatures, offer::OfferPolicy,
    trust::proven_content_address,
};

mod error;
pub mod gc_root;
mod hashing;
mod record;
mod token;
mod tokens;

pub use error::ShareError;
use error::store_error;
use gc_root::GcRoots;
use hashing::hash_all;
use record::record_all;
pub use token::ShareToken;
pub use tokens::{TokensError, read_tokens, write_tokens};

/// What was shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The paths that were asked for.
    pub paths: Vec<StorePath>,
    /// Paths in their closures, themselves included.
    pub closure_paths: u64,
    /// Bytes of the closures' NARs.
    pub closure_bytes: u64,
    /// Whether something in it is signed by this machine alone.
    pub needs_our_key: bool,
}

/// Whether nobody has signed a path yet, so that nobody else's Nix would take it.
fn is_unsigned(info: &PathInfo) -> bool {
    well_formed_signatures(&info.signatures).next().is_none()
        && proven_content_address(info).is_none()
}

/// One path to share, with what it needs.
struct Member {
    store_path: StorePath,
    closure: Vec<PathInfo>,
    is_in_nix_store: bool,
}

/// Shares `paths` with their closures: hashes every NAR, adds garbage collector roots, records
/// the shares. All of them or none.
///
/// Without `yes`, closure members that the policy doesn't offer anyway are a reason not to share,
/// and so is a key that would have to be made. With `token`, only who shows it is given them.
///
/// Cancel safe: until the hashing is done nothing has been recorded, after that the rest runs to
/// its end in a task of its own.
///
/// # Errors
/// [`ShareError`]; nothing was shared then, and no root is left.
pub async fn share(
    store: &Store,
    offer: &OfferPolicy,
    roots: &GcRoots,
    paths: Vec<StorePath>,
    yes: bool,
    token: Option<ShareToken>,
    progress: &mpsc::Sender<Progress>,
) -> Result<Outcome, ShareError> {
    let mut members = Vec::with_capacity(paths.len());
    for path in &paths {
        members.push(member(store, path).await?);
    }
    let mut all: Vec<&PathInfo> = members.iter().flat_map(|member| &member.closure).collect();
    all.sort_by_key(|info| info.path_hash());
    all.dedup_by_key(|info| info.path_hash());
    let needs_our_key = all.iter().any(|info| is_unsigned(info));
    if !yes {
        let unconfirmed: Vec<_> = all
            .iter()
            .filter(|info| !offer.is_offered(store, info))
            .collect();
        if !unconfirmed.is_empty() {
            let has_key = offer.signing().public_key().is_some();
            return Err(ShareError::Unconfirmed {
                makes_key: !has_key && unconfirmed.iter().any(|info| is_unsigned(info)),
                paths: unconfirmed
                    .iter()
                    .map(|info| info.store_path.to_absolute_path())
                    .collect(),
            });
        }
    }
    hash_all(store, &all, progress).await?;
    let outcome = Outcome {
        paths,
        closure_paths: all.len() as u64,
        closure_bytes: all
            .iter()
            .map(|info| info.nar_size)
            .fold(0, u64::saturating_add),
        needs_our_key,
    };
    for member in &members {
        let root = StorePathHash::from(&member.store_path);
        if let Some(token) = token {
            // Before the store knows of the share: it is never an open one, not for a moment.
            offer.hide_share(root, token, member.closure.iter().map(PathInfo::path_hash));
        }
    }
    let recording = tokio::spawn(record_all(store.clone(), roots.clone(), members));
    match recording.await {
        Ok(recorded) => recorded.map(|()| outcome),
        Err(source) => Err(ShareError::Store {
            path: "recording the share".to_owned(),
            source: Box::new(source),
        }),
    }
}

/// Takes `paths` back: they are offered no longer, unless a public cache signed them, and Nix may
/// collect them. All of them or none.
///
/// # Errors
/// [`ShareError::NotShared`] if one of them is not; nothing was changed then.
pub async fn unshare(
    store: &Store,
    roots: &GcRoots,
    paths: &[StorePath],
) -> Result<(), ShareError> {
    let first = paths.first().cloned();
    let shares = match first {
        Some(first) => store.shares().await.map_err(store_error(&first))?,
        None => return Ok(()),
    };
    if let Some(path) = paths
        .iter()
        .find(|path| !shares.iter().any(|share| share.store_path == **path))
    {
        return Err(ShareError::NotShared {
            path: path.to_absolute_path(),
        });
    }
    for path in paths {
        store
            .remove_share(StorePathHash::from(path))
            .await
            .map_err(store_error(path))?;
        roots.remove(path)?;
    }
    Ok(())
}

async fn member(store: &Store, path: &StorePath) -> Result<Member, ShareError> {
    let not_valid = || ShareError::NotValid {
        path: path.to_absolute_path(),
    };
    let path_hash = StorePathHash::from(path);
    let in_database = store
        .path_info(path_hash)
        .await
        .map_err(store_error(path))?;
    let is_in_nix_store = in_database.is_some();
    let info = match in_database {
        Some(info) => info,
        None => {
            store
                .nar(path_hash)
                .await
                .map_err(store_error(path))?
                .ok_or_else(not_valid)?
                .info
        }
    };
    // Another name under the same hash is another path.
    if info.store_path != *path {
        return Err(not_valid());
    }
    let closure = store
        .closure(vec![path_hash])
        .await
        .map_err(store_error(path))?;
    Ok(Member {
        store_path: path.clone(),
        closure,
        is_in_nix_store,
    })
}

/// Where the roots of a daemon's shares go.
pub fn gc_roots(store: &Store, state_dir: PathBuf, store_uri: String) -> GcRoots {
    GcRoots::new(store.gc_roots_dir(), state_dir, store_uri).with_daemon_of(store.clone())
}

#[cfg(test)]
mod tests;
