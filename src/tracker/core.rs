//! The tracker itself: what is kept and what is answered from, held together.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use peerix_store::nix::StorePathHash;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::api::AnnounceKind;
use super::directory::{Directory, Fill};
use super::limits;
use super::storage::{
    HolderKey, Holding, Lifetimes, OlderChange, OlderNode, Outcome, SignedChange, Storage,
    StorageError,
};
use crate::clock::unix_now;

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
    /// What could not be taken up for want of names, and is tried again.
    owed: Mutex<Vec<Holding>>,
    trouble: Mutex<Option<Trouble>>,
}

/// What is wrong with the database.
#[derive(Debug)]
struct Trouble {
    error: StorageError,
    /// When it was seen last.
    last: Instant,
    /// Whether something was written since.
    is_over: bool,
}

fn lifetimes() -> Lifetimes {
    Lifetimes {
        signed: limits::SIGNED_TTL.as_secs_f64(),
        older: limits::OLDER_TTL.as_secs_f64(),
        memory: limits::REMEMBER.as_secs_f64(),
        transfers: limits::TRANSFERS_TTL.as_secs_f64(),
    }
}

impl Tracker {
    /// Reads what is kept.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub async fn start(storage: Arc<dyn Storage>) -> Result<Arc<Self>, StorageError> {
        let (directory, unknown) = Directory::of(storage.load().await?);
        // What others drop in between is not missed.
        if !unknown.is_empty() && !storage.is_shared() {
            return Err(StorageError::Damaged(format!(
                "{} paths have no hash",
                unknown.len()
            )));
        }
        Ok(Arc::new(Self {
            directory: RwLock::new(directory),
            changing: tokio::sync::RwLock::default(),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            owed: Mutex::default(),
            trouble: Mutex::default(),
            storage,
        }))
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
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = trouble.as_ref()?;
        let lasts = !trouble.is_over && trouble.last.elapsed() < limits::TROUBLE_LASTS;
        lasts.then(|| trouble.error.clone())
    }

    /// Takes up a signed announcement. It is taken up as a whole, however soon the caller goes.
    ///
    /// # Errors
    /// Where the database fails, or there is no room; then nothing changed.
    pub async fn announce(self: &Arc<Self>, change: SignedChange) -> Result<Outcome, StorageError> {
        let key = HolderKey::Signed(change.endpoint);
        self.require_room(&key, &change.added, change.kind == AnnounceKind::Full)?;
        let lane = lane_of(&key);
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
        let key = HolderKey::Older(change.peer_id.clone());
        self.require_room(&key, &change.added, change.replaces)?;
        let lane = lane_of(&key);
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
        let lane = lane_of(&HolderKey::Older(node.peer_id.clone()));
        self.in_lane(lane, async move |tracker| {
            if let Some(holding) = tracker.storage.put_node(node).await? {
                tracker.take_up(vec![holding], &HashMap::new()).await?;
            }
            Ok(())
        })
        .await
    }

    /// Notes how reading from the database went, for [`Tracker::trouble`] and the log.
    ///
    /// # Errors
    /// As it was.
    pub fn note<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        self.note_as(result, false)
    }

    /// Notes how writing to the database went: where it did, whatever was wrong with it is over.
    ///
    /// # Errors
    /// As it was.
    pub fn note_written<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        self.note_as(result, true)
    }

    fn note_as<T>(
        &self,
        result: Result<T, StorageError>,
        is_written: bool,
    ) -> Result<T, StorageError> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(_) => {
                if let Some(known) = trouble.as_mut() {
                    known.is_over |= is_written;
                }
                // Not sooner: what fails now and then would fill the log.
                let is_past = |known: &mut Trouble| known.last.elapsed() >= limits::TROUBLE_LASTS;
                if trouble.take_if(is_past).is_some() {
                    tracing::warn!("the tracker's database works again");
                }
            }
            // Too much to do passes by itself, and clients could have it logged at will; the others
            // are theirs.
            Err(StorageError::Busy | StorageError::TooManyPaths | StorageError::Unfit(_)) => {}
            Err(error) => {
                let kind = std::mem::discriminant(error);
                let is_known = trouble
                    .as_ref()
                    .is_some_and(|known| std::mem::discriminant(&known.error) == kind);
                if !is_known {
                    tracing::error!("{error}");
                }
                *trouble = Some(Trouble {
                    error: error.clone(),
                    last: Instant::now(),
                    is_over: false,
                });
            }
        }
        result
    }

    /// Looks for the silent, for what others wrote and for what nobody needs, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut expire = every(limits::EXPIRE_EVERY);
        let mut tidy = every(limits::TIDY_EVERY);
        let mut collect = every(limits::COLLECT_EVERY);
        let mut sync = every(limits::SYNC_EVERY);
        loop {
            // What fails is in the log.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = expire.tick() => {
                    let _noted = self.note(self.expire(unix_now()).await);
                }
                _ = collect.tick() => {
                    let _noted = self.note(self.collect().await);
                }
                _ = tidy.tick() => {
                    let hashes = self.storage.tidy(unix_now(), lifetimes(), limits::KEPT).await;
                    let used = self.fill().paths;
                    let most = used.saturating_mul(2).saturating_add(limits::UNUSED_HASHES);
                    if self.note(hashes).is_ok_and(|hashes| hashes > most) {
                        let _noted = self.note(self.collect().await);
                    }
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
        // Who announces itself in between has a higher revision, and stays.
        let gone = self.storage.expire(now, lifetimes()).await?;
        for holder in &gone {
            self.change().remove(holder);
        }
        self.change().forget_empty_swarms();
        Ok(gone.len())
    }

    /// Drops hashes that nobody has.
    async fn collect(&self) -> Result<u64, StorageError> {
        // A number that is free again must not mean another path to somebody who is on the way
        // from the database to memory.
        let _alone = self.changing.write().await;
        self.storage.collect_hashes().await
    }

    /// Takes up what other trackers wrote to the same database.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sync(&self) -> Result<(), StorageError> {
        let _alone = self.changing.write().await;
        let mut holdings = std::mem::take(&mut *self.owed());
        match self.storage.changes().await {
            Ok(changes) => holdings.extend(changes.holdings),
            Err(error) => {
                self.owed().extend(holdings);
                return Err(error);
            }
        }
        // A number may have been given to another path: nobody has the old one any more.
        for holding in &holdings {
            self.change().let_go(holding);
        }
        self.take_up(holdings, &HashMap::new()).await
    }

    /// Takes up holders, asking for the names of paths that are not known; where that fails they
    /// are owed.
    async fn take_up(
        &self,
        holdings: Vec<Holding>,
        names: &HashMap<u32, StorePathHash>,
    ) -> Result<(), StorageError> {
        let mut unknown = Vec::new();
        let mut nameless = Vec::new();
        for holding in holdings {
            let missing = self.change().take(holding.clone(), names);
            if !missing.is_empty() {
                unknown.extend(missing);
                nameless.push(holding);
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        unknown.sort_unstable();
        unknown.dedup();
        // Other trackers wrote them.
        match self.storage.hashes(unknown).await {
            Ok(hashes) => {
                let names = hashes.into_iter().collect();
                for holding in nameless {
                    // What has no name even now went in between.
                    self.change().take(holding, &names);
                }
                Ok(())
            }
            Err(error) => {
                if self.storage.is_shared() {
                    self.owed().extend(nameless);
                }
                Err(error)
            }
        }
    }

    fn owed(&self) -> MutexGuard<'_, Vec<Holding>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn require_room(
        &self,
        key: &HolderKey,
        added: &[StorePathHash],
        replaces: bool,
    ) -> Result<(), StorageError> {
        if self.directory().has_room_for(key, added, replaces) {
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
        let names = hashes.iter().copied().collect();
        self.take_up(vec![Holding::clone(holding)], &names).await
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn lane_of(key: &HolderKey) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % LANES as u64) as usize
}
