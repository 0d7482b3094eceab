//! The downloads that are not whole: those under way, and those that wait to be continued.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
};

use bao_tree::ChunkRanges;

use crate::{
    BlobHash, StoreError, bao,
    download::Inflight,
    index::{Change, PartialRecord},
    nix::{PathInfo, StorePathHash},
    outboard,
    store::Inner,
};

/// All downloads that are not whole, by blob.
#[derive(Debug, Default)]
pub(crate) struct Downloads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    live: HashMap<BlobHash, Weak<Inflight>>,
    resting: HashMap<BlobHash, Resting>,
}

/// A download that nobody works on: two files.
#[derive(Debug, Clone)]
pub(crate) struct Resting {
    /// Length of the blob in bytes.
    pub size: u64,
    /// The chunks that are there; `None` until that is read from the files.
    pub held: Option<ChunkRanges>,
    /// What it is meant to be, where that is known.
    pub info: Option<PathInfo>,
}

/// A download that is not whole, open for reading.
pub(crate) struct OpenPartial {
    pub size: u64,
    pub held: ChunkRanges,
    pub info: Option<PathInfo>,
    pub data: Arc<File>,
    pub outboard: Arc<File>,
}

impl Downloads {
    /// Takes what lies in files, and what the index says of it if it can be believed.
    pub(crate) fn new(
        files: Vec<(BlobHash, u64)>,
        mut records: HashMap<BlobHash, PartialRecord>,
        stopped_cleanly: bool,
    ) -> Self {
        let resting = files
            .into_iter()
            .map(|(blob, size)| {
                let record = records.remove(&blob);
                let held = record.as_ref().filter(|_| stopped_cleanly);
                let resting = Resting {
                    size,
                    held: held.map(PartialRecord::held),
                    info: record.and_then(|record| record.info()),
                };
                (blob, resting)
            })
            .collect();
        Self(Mutex::new(State {
            live: HashMap::new(),
            resting,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the download of a blob under way, or starts one with what rests of it.
    ///
    /// `start` runs under the lock of all downloads: it neither reads the data nor asks for others.
    pub(crate) fn join_or_start(
        &self,
        blob: BlobHash,
        start: impl FnOnce(Option<Resting>) -> Result<Arc<Inflight>, StoreError>,
    ) -> Result<(Arc<Inflight>, bool), StoreError> {
        loop {
            let mut state = self.state();
            // Kept or given up, and still read by somebody: let go of after the lock, which its
            // end takes.
            let mut ended = None;
            if let Some(live) = state.live.get(&blob) {
                match live.upgrade() {
                    Some(live) if !live.has_ended() => return Ok((live, false)),
                    Some(live) => ended = Some(live),
                    // Its last owner is about to say what rests of it.
                    None => {
                        drop(state);
                        thread::yield_now();
                        continue;
                    }
                }
            }
            let started = start(state.resting.get(&blob).cloned());
            if let Ok(started) = &started {
                state.resting.remove(&blob);
                state.live.insert(blob, Arc::downgrade(started));
            }
            drop(state);
            drop(ended);
            return Ok((started?, true));
        }
    }

    /// The download ended; `resting` tells what can be continued.
    pub(crate) fn end(&self, blob: BlobHash, ended: *const Inflight, resting: Option<Resting>) {
        let mut state = self.state();
        let is_it = |live: &Weak<Inflight>| std::ptr::eq(live.as_ptr(), ended);
        if !state.live.get(&blob).is_some_and(is_it) {
            // Another download of the blob has taken its place.
            return;
        }
        state.live.remove(&blob);
        if let Some(resting) = resting {
            state.resting.insert(blob, resting);
        }
    }

    pub(crate) fn live(&self, blob: BlobHash) -> Option<Arc<Inflight>> {
        self.state().live.get(&blob).and_then(Weak::upgrade)
    }

    pub(crate) fn is_live(&self, blob: BlobHash) -> bool {
        self.state().live.contains_key(&blob)
    }

    pub(crate) fn resting(&self, blob: BlobHash) -> Option<Resting> {
        self.state().resting.get(&blob).cloned()
    }

    pub(crate) fn take_resting(&self, blob: BlobHash) -> Option<Resting> {
        self.state().resting.remove(&blob)
    }

    /// What rests, and what is under way in files.
    pub(crate) fn all_resting(&self) -> Vec<(BlobHash, Resting)> {
        let state = self.state();
        let resting = state.resting.iter();
        resting
            .map(|(blob, resting)| (*blob, resting.clone()))
            .collect()
    }

    /// All blobs of which a part is held, or is about to be.
    pub(crate) fn all(&self) -> Vec<BlobHash> {
        let state = self.state();
        state
            .live
            .keys()
            .chain(state.resting.keys())
            .copied()
            .collect()
    }

    fn set_held(&self, blob: BlobHash, held: &ChunkRanges) {
        if let Some(resting) = self.state().resting.get_mut(&blob) {
            resting.held.get_or_insert_with(|| held.clone());
        }
    }

    /// What a blob that is on its way, or of which a part rests, is meant to be.
    pub(crate) fn info_of(&self, blob: BlobHash) -> Option<PathInfo> {
        if let Some(live) = self.live(blob).filter(|live| !live.has_ended()) {
            return live.info().filter(|_| live.is_in_file()).cloned();
        }
        self.resting(blob)?.info
    }

    /// The download of a path's NAR, under way in files or resting.
    pub(crate) fn of_path(&self, path_hash: StorePathHash) -> Option<BlobHash> {
        let is_it = |info: Option<&PathInfo>| info.is_some_and(|i| i.path_hash() == path_hash);
        // Let go of outside of the lock, which their end takes.
        let live: Vec<(BlobHash, Arc<Inflight>)> = {
            let state = self.state();
            let mut resting = state.resting.iter();
            if let Some((blob, _)) = resting.find(|(_, resting)| is_it(resting.info.as_ref())) {
                return Some(*blob);
            }
            let live = state.live.iter();
            live.filter_map(|(blob, live)| Some((*blob, live.upgrade()?)))
                .collect()
        };
        let mut live = live.iter();
        live.find(|(_, live)| live.is_in_file() && is_it(live.info()))
            .map(|(blob, _)| *blob)
    }
}

impl Inner {
    /// Reads what a resting download holds, if that is not known. Blocks for as long as that takes.
    pub(crate) fn check_resting(&self, blob: BlobHash) {
        let Some(resting) = self.downloads.resting(blob) else {
            return;
        };
        if resting.held.is_some() {
            return;
        }
        let outboard_size = outboard::tree(resting.size).outboard_size();
        let opened = self.files.open_partial(blob, resting.size, outboard_size);
        let held = opened.map(|(data, outboard)| {
            let stop = || self.is_stopping();
            bao::held(blob.as_bytes(), resting.size, &data, &outboard, &stop)
        });
        match held {
            Ok(Some(held)) => self.downloads.set_held(blob, &held),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, blob = %blob.fmt_short(), "a partial download is given up");
                self.drop_partial(blob);
            }
        }
    }

    /// Reads what all resting downloads hold. Blocks for as long as that takes.
    pub(crate) fn check_all_resting(&self) {
        for (blob, _) in self.downloads.all_resting() {
            if self.is_stopping() {
                return;
            }
            self.check_resting(blob);
        }
    }

    /// Opens what is held of a blob that is not whole.
    pub(crate) fn open_partial(&self, blob: BlobHash) -> Option<OpenPartial> {
        if let Some(live) = self.downloads.live(blob).filter(|live| !live.has_ended()) {
            return live.open_partial();
        }
        let resting = self.downloads.resting(blob)?;
        let held = resting.held.filter(|held| !held.is_empty())?;
        let outboard_size = outboard::tree(resting.size).outboard_size();
        let opened = self.files.open_partial(blob, resting.size, outboard_size);
        let (data, outboard) = opened.ok()?;
        Some(OpenPartial {
            size: resting.size,
            held,
            info: resting.info,
            data: data.into(),
            outboard: outboard.into(),
        })
    }

    /// The blob of a path of which a part is held, and what is known of the path.
    pub(crate) fn partial_of_path(&self, path_hash: StorePathHash) -> Option<(BlobHash, PathInfo)> {
        let blob = self.downloads.of_path(path_hash)?;
        let partial = self.open_partial(blob)?;
        Some((blob, partial.info?))
    }

    /// Removes a download that nobody works on.
    pub(crate) fn drop_partial(&self, blob: BlobHash) {
        if let Some(resting) = self.downloads.take_resting(blob) {
            self.index.write(Change::RemovePartial { blob });
            self.files.remove_blob(blob, resting.size);
            self.space.remove(blob);
        }
    }
}
