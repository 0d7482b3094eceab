//! Who waits for news of a blob.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::BlobHash;

/// Those who are told when there is more of a blob, or less.
///
/// A blob that nobody observes costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Observers(Arc<Mutex<Observed>>);

type Observed = HashMap<BlobHash, watch::Sender<()>>;

impl Observers {
    /// Observes a blob, which need not be there, from now on.
    pub(crate) fn observe(&self, blob: BlobHash) -> Observer {
        let mut observed = lock(&self.0);
        let told = observed.entry(blob).or_default().subscribe();
        Observer {
            blob,
            told: Some(told),
            observed: self.0.clone(),
        }
    }

    /// Tells those who observe a blob to look again.
    pub(crate) fn tell(&self, blob: BlobHash) {
        if let Some(observers) = lock(&self.0).get(&blob) {
            observers.send_replace(());
        }
    }
}

/// One who observes a blob until dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    blob: BlobHash,
    told: Option<watch::Receiver<()>>,
    observed: Arc<Mutex<Observed>>,
}

impl Observer {
    /// Waits until there was news since it was last called. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if let Some(told) = &mut self.told {
            // The sender stays for as long as anybody observes.
            let _told = told.changed().await;
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let mut observed = lock(&self.observed);
        self.told = None;
        if let Some(observers) = observed.get(&self.blob)
            && observers.receiver_count() == 0
        {
            observed.remove(&self.blob);
        }
    }
}

fn lock(observed: &Mutex<Observed>) -> MutexGuard<'_, Observed> {
    observed.lock().unwrap_or_else(PoisonError::into_inner)
}
