//! The tracker itself: what is kept and what is answered from, held together.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use iroh::EndpointId;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, Fill};
use super::limits;
use super::relay::Announced;
use super::storage::{
    Contents, Holding, Lifetimes, OlderChange, OlderNode, Outcome, SignedChange, Storage,
    StorageError,
};

/// Writers of one holder wait for each other, so that memory changes in the order of the database;
/// those of most others go beside them.
const LANES: usize = 64;

/// What is kept of who is there, and what is answered from.
#[derive(Debug)]
pub struct Tracker {
    storage: Arc<dyn Storage>,
    directory: RwLock<Directory>,
    /// Held for reading by who changes one holder, for writing by who changes any.
    changing: tokio::sync::RwLock<()>,
    lanes: Vec<tokio::sync::Mutex<()>>,
    trouble: Mutex<Option<StorageError>>,
}

/// The time, in seconds since 1970.
#[must_use]
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn lifetimes() -> Lifetimes {
    Lifetimes {
        signed: limits::SIGNED_TTL.as_secs_f64(),
        older: limits::OLDER_TTL.as_secs_f64(),
        memory: limits::REMEMBER.as_secs_f64(),
    }
}

impl Tracker {
    /// Reads what is kept.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub async fn start(storage: Arc<dyn Storage>) -> Result<Arc<Self>, StorageError> {
        let tracker = Self {
            directory: RwLock::default(),
            changing: tokio::sync::RwLock::default(),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            trouble: Mutex::default(),
            storage,
        };
        let contents = tracker.storage.load().await?;
        let unknown = tracker.change().take_contents(contents);
        // What others drop in between is not missed.
        if !unknown.is_empty() && !tracker.storage.is_shared() {
            return Err(StorageError::Damaged(format!(
                "{} paths have no hash",
                unknown.len()
            )));
        }
        Ok(Arc::new(tracker))
    }

    /// What is answered from.
    pub fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is answered from, to be changed.
    pub(super) fn change(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        self.directory().fill()
    }

    /// What is wrong with the database, where something is.
    #[must_use]
    pub fn trouble(&self) -> Option<StorageError> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes up a signed announcement. It is taken up as a whole, however soon the caller goes.
    ///
    /// # Errors
    /// Where the database fails, or there is no room; then nothing changed.
    pub async fn announce(self: &Arc<Self>, change: SignedChange) -> Result<Outcome, StorageError> {
        self.require_room(change.added.len())?;
        let lane = lane_of(&change.endpoint);
        self.in_lane(lane, async move |tracker| {
            let outcome = tracker.storage.announce(change).await?;
            tracker.take(&outcome).await?;
            Ok(outcome)
        })
        .await
    }

    /// Takes up what a peer of the older program said of its paths.
    ///
    /// # Errors
    /// As for [`Tracker::announce`].
    pub async fn announce_older(
        self: &Arc<Self>,
        change: OlderChange,
    ) -> Result<Outcome, StorageError> {
        self.require_room(change.added.len())?;
        let lane = lane_of(&change.peer_id);
        self.in_lane(lane, async move |tracker| {
            let outcome = tracker.storage.announce_older(change).await?;
            tracker.take(&outcome).await?;
            Ok(outcome)
        })
        .await
    }

    /// Remembers an iroh node of the older program.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn put_node(self: &Arc<Self>, node: OlderNode) -> Result<(), StorageError> {
        let lane = lane_of(&node.peer_id);
        self.in_lane(lane, async move |tracker| {
            if let Some(holding) = tracker.storage.put_node(node).await? {
                tracker.take_holding(holding, HashMap::new()).await?;
            }
            Ok(())
        })
        .await
    }

    /// Notes how something on the database went, for [`Tracker::trouble`] and the log.
    ///
    /// # Errors
    /// As it was.
    pub fn note<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(_) => {
                if trouble.take().is_some() {
                    tracing::warn!("the tracker's database works again");
                }
            }
            // Too much to do passes by itself, and clients could have it logged at will.
            Err(StorageError::Busy) => {}
            Err(error) => {
                if trouble.as_ref() != Some(error) {
                    tracing::error!("{error}");
                    *trouble = Some(error.clone());
                }
            }
        }
        result
    }

    /// Looks for the silent, for what others wrote and for hashes that nobody has, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut expire = every(limits::EXPIRE_EVERY);
        let mut collect = every(limits::COLLECT_EVERY);
        let mut sync = every(limits::SYNC_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = expire.tick() => {
                    // It is in the log.
                    let _noted = self.note(self.expire(now()).await);
                }
                _ = collect.tick() => {
                    let _noted = self.note(self.storage.collect_hashes().await);
                }
                _ = sync.tick(), if self.storage.is_shared() => {
                    let _noted = self.note(self.sync().await);
                }
            }
        }
    }

    /// Lets go of who was silent for too long.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn expire(&self, now: f64) -> Result<usize, StorageError> {
        let _alone = self.changing.write().await;
        let gone = self.storage.expire(now, lifetimes()).await?;
        let mut directory = self.change();
        for holder in &gone {
            directory.remove(holder);
        }
        directory.forget_empty_swarms();
        Ok(gone.len())
    }

    /// Takes up what other trackers wrote to the same database.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sync(&self) -> Result<(), StorageError> {
        let _alone = self.changing.write().await;
        let mut contents = self.storage.changes().await?;
        let unknown = self.change().take_contents(contents.clone());
        if !unknown.is_empty() {
            contents.hashes = self.storage.hashes(unknown).await?;
            self.change().take_contents(contents);
        }
        Ok(())
    }

    fn require_room(&self, paths: usize) -> Result<(), StorageError> {
        if self.directory().has_room_for(paths) {
            Ok(())
        } else {
            Err(StorageError::Busy)
        }
    }

    /// Does something to one holder, to its end, whoever waits for it.
    async fn in_lane<T, F>(
        self: &Arc<Self>,
        lane: usize,
        work: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let tracker = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _shared = tracker.changing.read().await;
            let _first = match tracker.lanes.get(lane) {
                Some(lane) => Some(lane.lock().await),
                None => None,
            };
            work(Arc::clone(&tracker)).await
        });
        task.await
            .unwrap_or_else(|error| Err(StorageError::Other(error.to_string())))
    }

    async fn take(&self, outcome: &Outcome) -> Result<(), StorageError> {
        let Outcome::Accepted {
            holding, hashes, ..
        } = outcome
        else {
            return Ok(());
        };
        self.take_holding(Holding::clone(holding), hashes.iter().copied().collect())
            .await
    }

    async fn take_holding(
        &self,
        holding: Holding,
        names: HashMap<u32, peerix_store::nix::StorePathHash>,
    ) -> Result<(), StorageError> {
        let unknown = self.change().take(holding.clone(), &names);
        if unknown.is_empty() {
            return Ok(());
        }
        // Another tracker wrote them.
        let hashes = self.storage.hashes(unknown).await?;
        self.change().take_contents(Contents {
            hashes,
            holdings: vec![holding],
        });
        Ok(())
    }
}

impl Announced for Tracker {
    fn is_announced(&self, endpoint: EndpointId) -> BoxFuture<'_, bool> {
        let is_there = self.directory().is_signed_member(&endpoint);
        Box::pin(std::future::ready(is_there))
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn lane_of(key: &impl std::hash::Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % LANES as u64) as usize
}
