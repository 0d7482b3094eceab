//! Keeping and recording what is shared, all of it or nothing.

use peerix_store::{
    Store,
    nix::{PathInfo, StorePathHash},
};

use super::{GcRoots, Member, ShareError, error::store_error};

/// Adds roots and records shares; takes back what it did if it can't do all.
pub(super) async fn record_all(
    store: Store,
    roots: GcRoots,
    members: Vec<Member>,
) -> Result<(), ShareError> {
    let mut new_roots = Vec::new();
    let mut new_shares = Vec::new();
    let outcome = async {
        let before = match members.first() {
            Some(member) => store
                .shares()
                .await
                .map_err(store_error(&member.store_path))?,
            None => Vec::new(),
        };
        for member in &members {
            let path = &member.store_path;
            if member.is_in_nix_store {
                if roots.add(path).await? {
                    new_roots.push(path);
                }
                // Nix may have collected it before the root was there.
                let is_left = store
                    .path_info(StorePathHash::from(path))
                    .await
                    .map_err(store_error(path))?
                    .is_some();
                if !is_left {
                    return Err(ShareError::NotValid {
                        path: path.to_absolute_path(),
                    });
                }
            }
            let closure = member.closure.iter().map(PathInfo::path_hash).collect();
            store
                .add_share(path.clone(), closure)
                .await
                .map_err(store_error(path))?;
            if !before.iter().any(|share| share.store_path == *path) {
                new_shares.push(path);
            }
        }
        Ok(())
    };
    let outcome = outcome.await;
    if outcome.is_err() {
        for path in new_shares {
            if let Err(error) = store.remove_share(StorePathHash::from(path)).await {
                tracing::error!(%error, "can't take a share back that failed");
            }
        }
        for path in new_roots {
            if let Err(error) = roots.remove(path) {
                tracing::error!(%error, "can't take a garbage collector root back");
            }
        }
    }
    outcome
}
