//! Bytes written in any order, in memory or in a file.

use std::{
    fs::File,
    io::{self, IoSlice},
    mem,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::nar::append_from_file;

/// A fixed number of bytes.
#[derive(Debug)]
pub(super) struct Area {
    size: u64,
    place: Mutex<Option<Place>>,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    /// Taken from memory: still readable.
    Kept(Bytes),
    /// Used without the lock.
    File(Arc<File>),
}

impl Area {
    /// Zeros in memory.
    pub(super) fn in_memory(size: u64) -> Self {
        Self {
            size,
            place: Mutex::new(Some(Place::Memory(vec![0; size as usize]))),
        }
    }

    /// What a file holds, which is `size` bytes long.
    pub(super) fn in_file(file: File, size: u64) -> Self {
        Self {
            size,
            place: Mutex::new(Some(Place::File(Arc::new(file)))),
        }
    }

    /// Bytes in memory that are whole.
    pub(super) fn kept(bytes: Bytes) -> Self {
        Self {
            size: bytes.len() as u64,
            place: Mutex::new(Some(Place::Kept(bytes))),
        }
    }

    /// The same bytes, where they are a file, for another owner; each ends on its own.
    pub(super) fn share(&self) -> Self {
        Self {
            size: self.size,
            place: Mutex::new(self.file().map(Place::File)),
        }
    }

    /// Writes `slices` one after the other from `at` on; nothing, once it is frozen.
    pub(super) fn write(&self, at: u64, slices: &[&[u8]]) -> io::Result<()> {
        let len: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let inside = at.checked_add(len).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match place.as_mut() {
            Some(Place::Memory(bytes)) => {
                let mut start = at as usize;
                for slice in slices {
                    bytes[start..start + slice.len()].copy_from_slice(slice);
                    start += slice.len();
                }
                Ok(())
            }
            Some(Place::File(file)) => {
                let file = file.clone();
                drop(place);
                write_all_at(&file, at, slices)
            }
            // It was whole, so this is what was written before.
            Some(Place::Kept(_)) => Ok(()),
            None => Err(gone()),
        }
    }

    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start > range.end || range.end > self.size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match place.as_ref() {
            Some(Place::Memory(bytes)) => {
                let range = range.start as usize..range.end as usize;
                Ok(Bytes::copy_from_slice(&bytes[range]))
            }
            Some(Place::Kept(bytes)) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Some(Place::File(file)) => {
                let file = file.clone();
                drop(place);
                let len = usize::try_from(range.end - range.start)
                    .map_err(|_| io::ErrorKind::InvalidInput)?;
                let mut bytes = Vec::with_capacity(len);
                append_from_file(&file, range.start, len, &mut bytes)?;
                Ok(bytes.into())
            }
            None => Err(gone()),
        }
    }

    /// All bytes of an area in memory, which can't be written from now on.
    pub(super) fn freeze(&self) -> Option<Bytes> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match place.as_mut()? {
            Place::Memory(bytes) => {
                let bytes = Bytes::from(mem::take(bytes));
                *place = Some(Place::Kept(bytes.clone()));
                Some(bytes)
            }
            Place::Kept(bytes) => Some(bytes.clone()),
            Place::File(_) => None,
        }
    }

    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match place.as_ref()? {
            Place::File(file) => Some(file.clone()),
            Place::Memory(_) | Place::Kept(_) => None,
        }
    }

    /// Ends reading and writing.
    pub(super) fn clear(&self) {
        self.place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the download has ended")
}

/// Most slices that one system call takes.
const MAX_SLICES: usize = 256;

fn write_all_at(file: &File, mut at: u64, slices: &[&[u8]]) -> io::Result<()> {
    for batch in slices.chunks(MAX_SLICES) {
        let vectors: Vec<_> = batch.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut written = loop {
            match rustix::io::pwritev(file, &vectors, at) {
                Ok(written) => break written,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        // A short write is rare: the rest goes slice by slice.
        for slice in batch {
            let done = written.min(slice.len());
            written -= done;
            file.write_all_at(&slice[done..], at + done as u64)?;
            at += slice.len() as u64;
        }
    }
    Ok(())
}
