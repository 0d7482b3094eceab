//! The one thread that writes the index.

use std::{
    io,
    sync::{Arc, PoisonError, mpsc},
    thread,
    time::Instant,
};

use bytes::Bytes;
use redb::{Durability, ReadableTable as _, WriteTransaction};

use super::{
    BLOBS, BlobRecord, DATA, IndexFile, META, OUTBOARDS, PARTIALS, PATHS, PartialRecord,
    PathRecord, Place, SHARES, STOPPED_CLEANLY, ShareRecord, decode, encode, failed,
};
use crate::{BlobHash, StoreError, limits, nix::StorePathHash};

/// One change of the index.
#[derive(Debug)]
pub(crate) enum Change {
    /// A blob is held, and is the NAR of a path.
    PutBlob {
        blob: BlobHash,
        /// The path whose NAR it is, where that is known.
        path: Option<Box<PathRecord>>,
        /// Length in bytes.
        size: u64,
        place: Place,
        /// The outboard, where it is not in a file.
        outboard: Option<Bytes>,
        /// The bytes, for [`Place::Index`].
        data: Option<Bytes>,
        /// Seconds of Unix time.
        used_at: u64,
    },
    /// How far a download has come.
    PutPartial {
        blob: BlobHash,
        partial: Box<PartialRecord>,
    },
    /// Nothing: what came before is on disk when this is acknowledged.
    Sync,
    /// A download is given up.
    RemovePartial { blob: BlobHash },
    /// Downloaded blobs were used.
    Used {
        /// Seconds of Unix time, each.
        blobs: Vec<(BlobHash, u64)>,
    },
    /// All that is kept outside of the index is as the index says, until the next start.
    StoppedCleanly,
    /// The bytes of a downloaded blob are now read from a store path.
    ByReference { blob: BlobHash },
    /// A path no longer has these bytes; answers whether the blob itself went with it.
    RemovePath {
        path_hash: StorePathHash,
        blob: BlobHash,
    },
    /// A blob is no longer held at all.
    RemoveBlob { blob: BlobHash },
    /// A person shared a path.
    PutShare {
        root: StorePathHash,
        share: ShareRecord,
    },
    /// A person took a share back; answers whether there was one.
    RemoveShare { root: StorePathHash },
}

impl Change {
    /// Whether it must be on disk before it is acknowledged.
    ///
    /// What was computed from files that Nix keeps is computed again if it is lost.
    fn is_durable(&self) -> bool {
        match self {
            Self::PutBlob { place, .. } => *place != Place::ByReference,
            Self::PutPartial { .. }
            | Self::RemovePartial { .. }
            | Self::StoppedCleanly
            | Self::Sync
            | Self::ByReference { .. }
            | Self::RemoveBlob { .. }
            | Self::PutShare { .. }
            | Self::RemoveShare { .. } => true,
            Self::RemovePath { .. } | Self::Used { .. } => false,
        }
    }
}

/// A change, and who waits for it.
pub(super) struct Message {
    pub change: Change,
    pub done: Done,
}

/// Hears of the commit.
pub(super) type Done = Box<dyn FnOnce(Result<bool, StoreError>) + Send>;

pub(super) struct Writer {
    send: mpsc::Sender<Message>,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    pub(super) fn spawn(file: Arc<IndexFile>) -> io::Result<Self> {
        let (send, receive) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("peerix-index".into())
            .spawn(move || run(&file, &receive))?;
        Ok(Self { send, thread })
    }

    pub(super) fn send(&self, message: Message) {
        if let Err(mpsc::SendError(message)) = self.send.send(message) {
            (message.done)(Err(StoreError::ShuttingDown));
        }
    }

    pub(super) fn close(self) {
        drop(self.send);
        if self.thread.join().is_err() {
            tracing::error!("the thread that writes the index panicked");
        }
    }
}

fn run(file: &IndexFile, receive: &mpsc::Receiver<Message>) {
    // When what was committed without a sync has to reach the disk.
    let mut sync_at: Option<Instant> = None;
    loop {
        let first = match sync_at {
            None => match receive.recv() {
                Ok(message) => Some(message),
                Err(mpsc::RecvError) => break,
            },
            Some(at) => match receive.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(message) => Some(message),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            },
        };
        let mut batch: Vec<_> = first.into_iter().collect();
        if !batch.is_empty() {
            batch.extend(receive.try_iter().take(limits::MAX_INDEX_BATCH));
        }
        let due = sync_at.is_some_and(|at| at <= Instant::now());
        let durable = due || batch.iter().any(|message| message.change.is_durable());
        let outcome = commit_or_reopen(file, &batch, durable);
        if let Err(error) = &outcome {
            tracing::error!(%error, "the index cannot be written");
        }
        sync_at = match (durable, sync_at) {
            (true, _) => None,
            (false, Some(at)) => Some(at),
            (false, None) => Some(Instant::now() + limits::INDEX_SYNC_DELAY),
        };
        match outcome {
            Ok(answers) => {
                for (message, answer) in batch.into_iter().zip(answers) {
                    (message.done)(Ok(answer));
                }
            }
            Err(error) => {
                for message in batch {
                    (message.done)(Err(error.clone()));
                }
            }
        }
    }
    if sync_at.is_some()
        && let Err(error) = commit(file, &[], true)
    {
        tracing::error!(%error, "the index cannot be written");
    }
}

/// Commits; where that fails, opens the file again, so that a later commit may succeed.
fn commit_or_reopen(
    file: &IndexFile,
    batch: &[Message],
    durable: bool,
) -> Result<Vec<bool>, StoreError> {
    let outcome = commit(file, batch, durable);
    if outcome.is_err() {
        file.reopen().map_err(failed)?;
    }
    outcome
}

fn commit(file: &IndexFile, batch: &[Message], durable: bool) -> Result<Vec<bool>, StoreError> {
    let database = file.database.read();
    let database = database.unwrap_or_else(PoisonError::into_inner);
    let database = database.as_ref().ok_or(StoreError::ShuttingDown)?;
    let mut write = database.begin_write().map_err(failed)?;
    let durability = if durable {
        Durability::Immediate
    } else {
        Durability::None
    };
    write.set_durability(durability).map_err(failed)?;
    let answers = batch
        .iter()
        .map(|message| apply(&write, &message.change))
        .collect::<Result<_, _>>()?;
    write.commit().map_err(failed)?;
    Ok(answers)
}

fn apply(write: &WriteTransaction, change: &Change) -> Result<bool, StoreError> {
    match change {
        Change::PutBlob {
            blob,
            path,
            size,
            place,
            outboard,
            data,
            used_at,
        } => {
            let mut record = blob_record(write, *blob)?
                .unwrap_or_else(|| BlobRecord::new(*size, *place, *used_at));
            // A blob that is also in Nix's store needs no copy, but one that was acknowledged
            // stays until it is moved over.
            if *place != Place::ByReference {
                record.place = *place;
                record.used_at = *used_at;
            }
            if let Some(path) = path {
                let path_hash = put_path(write, path)?;
                record.add_path(path_hash);
            }
            put_blob_record(write, *blob, &record)?;
            if let Some(outboard) = outboard {
                let mut outboards = write.open_table(OUTBOARDS).map_err(failed)?;
                outboards
                    .insert(blob.as_bytes(), outboard.as_ref())
                    .map_err(failed)?;
            }
            if let Some(data) = data {
                let mut table = write.open_table(DATA).map_err(failed)?;
                table
                    .insert(blob.as_bytes(), data.as_ref())
                    .map_err(failed)?;
            }
            remove_partial(write, *blob)?;
            Ok(true)
        }
        Change::PutPartial { blob, partial } => {
            let mut partials = write.open_table(PARTIALS).map_err(failed)?;
            let bytes = encode(&**partial)?;
            partials
                .insert(blob.as_bytes(), bytes.as_slice())
                .map_err(failed)?;
            Ok(true)
        }
        Change::Sync => Ok(true),
        Change::RemovePartial { blob } => remove_partial(write, *blob),
        Change::Used { blobs } => {
            for (blob, used_at) in blobs {
                if let Some(mut record) = blob_record(write, *blob)? {
                    record.used_at = *used_at;
                    put_blob_record(write, *blob, &record)?;
                }
            }
            Ok(true)
        }
        Change::StoppedCleanly => {
            let mut meta = write.open_table(META).map_err(failed)?;
            meta.insert(STOPPED_CLEANLY, 1).map_err(failed)?;
            Ok(true)
        }
        Change::ByReference { blob } => match blob_record(write, *blob)? {
            Some(mut record) => {
                record.place = Place::ByReference;
                put_blob_record(write, *blob, &record)?;
                let mut data = write.open_table(DATA).map_err(failed)?;
                data.remove(blob.as_bytes()).map_err(failed)?;
                Ok(true)
            }
            None => Ok(false),
        },
        Change::RemovePath { path_hash, blob } => {
            let mut paths = write.open_table(PATHS).map_err(failed)?;
            let current = match paths.get(path_hash.as_bytes()).map_err(failed)? {
                Some(value) => Some(decode::<PathRecord>(value.value())?.blob()),
                None => None,
            };
            if current == Some(*blob) {
                paths.remove(path_hash.as_bytes()).map_err(failed)?;
            }
            drop(paths);
            detach(write, *path_hash, *blob)
        }
        Change::RemoveBlob { blob } => {
            let Some(record) = blob_record(write, *blob)? else {
                return Ok(false);
            };
            let mut paths = write.open_table(PATHS).map_err(failed)?;
            for path_hash in record.paths() {
                paths.remove(path_hash.as_bytes()).map_err(failed)?;
            }
            remove_blob(write, *blob)?;
            Ok(true)
        }
        Change::PutShare { root, share } => {
            let mut shares = write.open_table(SHARES).map_err(failed)?;
            let bytes = encode(share)?;
            shares
                .insert(root.as_bytes(), bytes.as_slice())
                .map_err(failed)?;
            Ok(true)
        }
        Change::RemoveShare { root } => {
            let mut shares = write.open_table(SHARES).map_err(failed)?;
            let removed = shares.remove(root.as_bytes()).map_err(failed)?;
            Ok(removed.is_some())
        }
    }
}

/// Writes a path, and takes it from the blob it had before.
fn put_path(write: &WriteTransaction, path: &PathRecord) -> Result<StorePathHash, StoreError> {
    let path_hash = path.path_hash().ok_or_else(|| StoreError::Index {
        reason: "a path without a name cannot be kept".into(),
    })?;
    let replaced = {
        let mut paths = write.open_table(PATHS).map_err(failed)?;
        let bytes = encode(path)?;
        let previous = paths
            .insert(path_hash.as_bytes(), bytes.as_slice())
            .map_err(failed)?;
        previous
            .map(|value| decode::<PathRecord>(value.value()))
            .transpose()?
    };
    if let Some(replaced) = replaced
        && replaced.blob() != path.blob()
    {
        detach(write, path_hash, replaced.blob())?;
    }
    Ok(path_hash)
}

fn remove_partial(write: &WriteTransaction, blob: BlobHash) -> Result<bool, StoreError> {
    let mut partials = write.open_table(PARTIALS).map_err(failed)?;
    let removed = partials.remove(blob.as_bytes()).map_err(failed)?;
    Ok(removed.is_some())
}

/// Takes a path from a blob, and the blob with its last one; returns whether it went.
fn detach(
    write: &WriteTransaction,
    path_hash: StorePathHash,
    blob: BlobHash,
) -> Result<bool, StoreError> {
    let Some(mut record) = blob_record(write, blob)? else {
        return Ok(false);
    };
    record.remove_path(path_hash);
    if record.paths().next().is_none() {
        remove_blob(write, blob)?;
        return Ok(true);
    }
    put_blob_record(write, blob, &record)?;
    Ok(false)
}

fn blob_record(write: &WriteTransaction, blob: BlobHash) -> Result<Option<BlobRecord>, StoreError> {
    let blobs = write.open_table(BLOBS).map_err(failed)?;
    let value = blobs.get(blob.as_bytes()).map_err(failed)?;
    value.map(|value| decode(value.value())).transpose()
}

fn put_blob_record(
    write: &WriteTransaction,
    blob: BlobHash,
    record: &BlobRecord,
) -> Result<(), StoreError> {
    let mut blobs = write.open_table(BLOBS).map_err(failed)?;
    let bytes = encode(record)?;
    blobs
        .insert(blob.as_bytes(), bytes.as_slice())
        .map_err(failed)?;
    Ok(())
}

fn remove_blob(write: &WriteTransaction, blob: BlobHash) -> Result<(), StoreError> {
    let mut blobs = write.open_table(BLOBS).map_err(failed)?;
    blobs.remove(blob.as_bytes()).map_err(failed)?;
    let mut outboards = write.open_table(OUTBOARDS).map_err(failed)?;
    outboards.remove(blob.as_bytes()).map_err(failed)?;
    let mut data = write.open_table(DATA).map_err(failed)?;
    data.remove(blob.as_bytes()).map_err(failed)?;
    Ok(())
}
