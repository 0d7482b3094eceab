//! Hashing a closure before it is shared.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use peerix_store::{
    HashError, NarState, Store,
    nix::{PathInfo, StorePathHash},
};
use tokio::sync::mpsc;

use super::{ShareError, error::store_error};
use crate::control::Progress;

/// NARs that are hashed at once; the store spreads each over the cores itself.
const HASHED_AT_ONCE: usize = 2;
/// How often progress is told while a single NAR takes long.
const TICK: Duration = Duration::from_millis(200);

/// Hashes every NAR that is not hashed yet.
pub(super) async fn hash_all(
    store: &Store,
    all: &[&PathInfo],
    progress: &mpsc::Sender<Progress>,
) -> Result<(), ShareError> {
    let sizes = all.iter().map(|info| info.nar_size);
    let bytes_total = sizes.fold(0, u64::saturating_add);
    let paths_total = all.len() as u64;
    let (mut paths_done, mut bytes_done) = (0, 0_u64);
    let under_way = UnderWay::default();
    // Owned futures: ones that borrow can't be boxed as `Send`.
    let hashing: Vec<_> = all
        .iter()
        .map(|info| hash(store.clone(), (*info).clone(), under_way.clone()))
        .collect();
    let mut hashing = stream::iter(hashing).buffer_unordered(HASHED_AT_ONCE);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        let bytes_under_way = tokio::select! {
            biased;
            hashed = hashing.try_next() => match hashed? {
                Some(nar_size) => {
                    paths_done += 1;
                    bytes_done = bytes_done.saturating_add(nar_size);
                    0
                }
                None => return Ok(()),
            },
            _ = ticks.tick() => under_way.bytes_done(store).await,
        };
        let bytes_done = bytes_done.saturating_add(bytes_under_way).min(bytes_total);
        // Whoever doesn't read misses some.
        drop(progress.try_send(Progress::Hashing {
            paths_done,
            paths_total,
            bytes_done,
            bytes_total,
        }));
    }
}

/// Hashes one NAR, and returns its size in bytes.
async fn hash(store: Store, info: PathInfo, under_way: UnderWay) -> Result<u64, ShareError> {
    let path_hash = info.path_hash();
    let held = store
        .nar(path_hash)
        .await
        .map_err(store_error(&info.store_path))?;
    // What is held without being in Nix's store can't be hashed again, and was.
    if held.is_some_and(|held| matches!(held.state, NarState::Ready(_))) {
        return Ok(info.nar_size);
    }
    under_way.set().insert(path_hash);
    let hashed = store.hash_nar(path_hash).await;
    under_way.set().remove(&path_hash);
    match hashed {
        Ok(_) => Ok(info.nar_size),
        Err(HashError::Mismatch { .. }) => Err(ShareError::WrongNar {
            path: info.store_path.to_absolute_path(),
        }),
        Err(error) => Err(store_error(&info.store_path)(error)),
    }
}

/// The NARs that are being hashed.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<BTreeSet<StorePathHash>>>);

impl UnderWay {
    fn set(&self) -> MutexGuard<'_, BTreeSet<StorePathHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of them that are done.
    async fn bytes_done(&self, store: &Store) -> u64 {
        let path_hashes: Vec<_> = self.set().iter().copied().collect();
        // For show only.
        let nars = store.nars(path_hashes).await.unwrap_or_default();
        let done = nars.into_iter().flatten().map(|nar| match nar.state {
            NarState::Hashing { done, .. } => done,
            _ => 0,
        });
        done.fold(0, u64::saturating_add)
    }
}
