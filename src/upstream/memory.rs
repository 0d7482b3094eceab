//! Narinfos of the upstream, remembered on disk: for use without a network.
//!
//! One redb file of its own, since it may be lost at any time. Writes are collected for a second;
//! what a kill or a power cut takes is asked for again. The oldest go when there are too many.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use peerix_store::nix::StorePathHash;
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::limits;

/// Store path hash -> [`Entry`].
const NARINFOS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("narinfos");
/// When it was remembered, and of which path.
const BY_AGE: TableDefinition<'_, (u64, &[u8; 20]), ()> = TableDefinition::new("by age");

/// Bytes of the file that are held in memory.
const CACHE_BYTES: usize = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Entry {
    cache: String,
    text: Vec<u8>,
    /// Nanoseconds of Unix time.
    at: u64,
}

type Note = (StorePathHash, Entry);

/// The open file, and the task that writes it.
pub(super) struct Memory {
    database: Arc<Database>,
    notes: Mutex<Option<mpsc::Sender<Note>>>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl Memory {
    /// Opens or makes the file; one that can't be read is made anew. **Blocks**, briefly.
    pub(super) fn open(path: &Path) -> Result<Self, redb::Error> {
        let database = open_file(path).or_else(|error| {
            tracing::debug!(%error, "the upstream's narinfos are forgotten");
            std::fs::remove_file(path)?;
            open_file(path)
        })?;
        let database = Arc::new(database);
        let (notes, noted) = mpsc::channel(limits::UPSTREAM_MEMORY_QUEUE);
        let writing = tokio::spawn(write_notes(database.clone(), noted));
        Ok(Self {
            database,
            notes: Mutex::new(Some(notes)),
            writing: Mutex::new(Some(writing)),
        })
    }

    /// What a cache said of a path, and its URL.
    pub(super) async fn get(&self, path_hash: StorePathHash) -> Option<(String, Vec<u8>)> {
        let database = self.database.clone();
        let entry = spawn_blocking(move || read(&database, path_hash));
        let entry = match entry.await {
            Ok(Ok(entry)) => entry?,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a narinfo is not remembered");
                return None;
            }
            Err(_) => return None,
        };
        Some((entry.cache, entry.text))
    }

    /// Remembers what a cache said of a path, soon; not where too much waits.
    pub(super) fn put(&self, path_hash: StorePathHash, cache: &str, text: Vec<u8>) {
        if text.len() > limits::UPSTREAM_REMEMBERED_TEXT {
            return;
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let entry = Entry {
            cache: cache.to_owned(),
            text,
            at: since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        };
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notes) = notes.as_ref() {
            // A full queue: it is asked for again.
            let _ = notes.try_send((path_hash, entry));
        }
    }

    /// Writes what waits.
    pub(super) async fn close(&self) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let writing = self
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writing) = writing {
            let _ = writing.await;
        }
    }
}

fn open_file(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)?;
    let write = database.begin_write()?;
    write.open_table(NARINFOS)?;
    write.open_table(BY_AGE)?;
    write.commit()?;
    Ok(database)
}

fn read(database: &Database, path_hash: StorePathHash) -> Result<Option<Entry>, redb::Error> {
    let table = database.begin_read()?.open_table(NARINFOS)?;
    let entry = table.get(path_hash.as_bytes())?;
    // What can't be read is asked for again.
    Ok(entry.and_then(|entry| postcard::from_bytes(entry.value()).ok()))
}

/// Writes notes until the last sender is gone, those of a second at once.
async fn write_notes(database: Arc<Database>, mut noted: mpsc::Receiver<Note>) {
    while let Some(first) = noted.recv().await {
        let mut batch = vec![first];
        let collect = async {
            while let Some(note) = noted.recv().await {
                batch.push(note);
            }
        };
        // Over or not, it is time.
        let _ = timeout(limits::UPSTREAM_MEMORY_DELAY, collect).await;
        let database = database.clone();
        let written = spawn_blocking(move || write(&database, &batch, limits::UPSTREAM_REMEMBERED));
        if let Ok(Err(error)) = written.await {
            tracing::debug!(%error, "narinfos are not remembered");
        }
    }
}

fn write(database: &Database, batch: &[Note], most: u64) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut narinfos = write.open_table(NARINFOS)?;
        let mut by_age = write.open_table(BY_AGE)?;
        for (path_hash, entry) in batch {
            let key = path_hash.as_bytes();
            let Ok(bytes) = postcard::to_stdvec(entry) else {
                continue;
            };
            let before = narinfos.insert(key, &bytes[..])?;
            let before = before.and_then(|value| postcard::from_bytes::<Entry>(value.value()).ok());
            if let Some(before) = before {
                by_age.remove((before.at, key))?;
            }
            by_age.insert((entry.at, key), ())?;
        }
        while narinfos.len()? > most {
            let Some(oldest) = by_age.pop_first()? else {
                break;
            };
            narinfos.remove(oldest.0.value().1)?;
        }
    }
    write.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(byte: u8, at: u64) -> Note {
        let entry = Entry {
            cache: "https://cache.example".to_owned(),
            text: vec![byte; 10],
            at,
        };
        (StorePathHash::from_bytes([byte; 20]), entry)
    }

    #[tokio::test]
    async fn what_was_remembered_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upstream.redb");
        let path_hash = StorePathHash::from_bytes([1; 20]);
        let memory = Memory::open(&path).unwrap();
        assert!(memory.get(path_hash).await.is_none());
        memory.put(path_hash, "https://cache.example", b"StorePath".to_vec());
        memory.put(
            StorePathHash::from_bytes([2; 20]),
            "https://cache.example",
            vec![0; limits::UPSTREAM_REMEMBERED_TEXT + 1],
        );
        memory.close().await;
        drop(memory);
        let memory = Memory::open(&path).unwrap();
        let (cache, text) = memory.get(path_hash).await.unwrap();
        assert_eq!(
            (&cache[..], &text[..]),
            ("https://cache.example", &b"StorePath"[..])
        );
        assert!(
            memory
                .get(StorePathHash::from_bytes([2; 20]))
                .await
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_file_that_is_none_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upstream.redb");
        std::fs::write(&path, vec![7; 5000]).unwrap();
        let memory = Memory::open(&path).unwrap();
        memory.put(
            StorePathHash::from_bytes([1; 20]),
            "https://cache.example",
            vec![1],
        );
        memory.close().await;
        assert!(
            memory
                .get(StorePathHash::from_bytes([1; 20]))
                .await
                .is_some()
        );
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path().join("upstream.redb")).unwrap();
        write(&database, &[note(1, 10), note(2, 20), note(3, 30)], 10).unwrap();
        // The first is new again.
        write(&database, &[note(1, 40), note(4, 50)], 3).unwrap();
        let held: Vec<bool> = (1..5)
            .map(|byte| {
                read(&database, StorePathHash::from_bytes([byte; 20]))
                    .unwrap()
                    .is_some()
            })
            .collect();
        assert_eq!(held, [true, false, true, true]);
    }
}
