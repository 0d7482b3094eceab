//! The files of a state directory, and the one order in which they become durable.
//!
//! Write to `tmp/`, sync the file, rename it, sync its new directory, and only then commit the
//! index. Nothing else in this crate renames. After an unclean stop there may be files that the
//! index does not know; [`Files::clean`] removes them.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::NamedTempFile;

use crate::{BlobHash, OpenError, StoreError};

/// The directories beside the index.
#[derive(Debug)]
pub(crate) struct Files {
    outboards: PathBuf,
    blobs: PathBuf,
    tmp: PathBuf,
}

impl Files {
    /// Makes the directories. Blocks.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let files = Self {
            outboards: state_dir.join("outboards"),
            blobs: state_dir.join("blobs"),
            tmp: state_dir.join("tmp"),
        };
        for dir in [&files.outboards, &files.blobs, &files.tmp] {
            fs::create_dir_all(dir).map_err(|source| OpenError::StateDir {
                path: dir.clone(),
                source,
            })?;
        }
        Ok(files)
    }

    /// Removes temporary files and those that the index does not know. Blocks.
    pub(crate) fn clean(&self, known: &HashSet<BlobHash>) -> Result<(), OpenError> {
        for dir in [&self.tmp, &self.outboards, &self.blobs] {
            let failed = |source| OpenError::StateDir {
                path: dir.clone(),
                source,
            };
            for entry in fs::read_dir(dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let is_known = dir != &self.tmp
                    && entry
                        .file_name()
                        .to_str()
                        .and_then(|name| blake3::Hash::from_hex(name).ok())
                        .is_some_and(|hash| known.contains(&BlobHash::from(hash)));
                if !is_known && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    tracing::debug!(path = %entry.path().display(), "left over file removed");
                    fs::remove_file(entry.path()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a temporary file, gone when dropped.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, StoreError> {
        NamedTempFile::new_in(&self.tmp).map_err(|error| write_error(&self.tmp, error))
    }

    /// Syncs an outboard and gives it its name. Blocks.
    pub(crate) fn keep_outboard(
        &self,
        file: NamedTempFile,
        blob: BlobHash,
    ) -> Result<(), StoreError> {
        keep(file, &self.outboards, blob)
    }

    /// Syncs a blob's data and gives it its name. Blocks.
    pub(crate) fn keep_blob(&self, file: NamedTempFile, blob: BlobHash) -> Result<(), StoreError> {
        keep(file, &self.blobs, blob)
    }

    /// Opens an outboard of `size` bytes.
    pub(crate) fn open_outboard(&self, blob: BlobHash, size: u64) -> io::Result<Arc<File>> {
        open_sized(&self.outboards.join(blob.to_hex()), size)
    }

    /// Opens a blob's data, of `size` bytes.
    pub(crate) fn open_blob(&self, blob: BlobHash, size: u64) -> io::Result<Arc<File>> {
        open_sized(&self.blobs.join(blob.to_hex()), size)
    }

    /// Removes a blob's data, after the index no longer refers to it.
    pub(crate) fn remove_blob(&self, blob: BlobHash) {
        remove(&self.blobs.join(blob.to_hex()));
    }

    /// Removes a blob's outboard, after the index no longer refers to it.
    pub(crate) fn remove_outboard(&self, blob: BlobHash) {
        remove(&self.outboards.join(blob.to_hex()));
    }

    /// Bytes on disk of outboards and of blobs. Blocks.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let sum = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .filter_map(|entry| entry.metadata().ok())
                .map(|metadata| metadata.len())
                .sum()
        };
        (sum(&self.outboards), sum(&self.blobs))
    }
}

fn keep(file: NamedTempFile, dir: &Path, blob: BlobHash) -> Result<(), StoreError> {
    let path = dir.join(blob.to_hex());
    let failed = |error| write_error(&path, error);
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed)
}

pub(crate) fn write_error(path: &Path, error: io::Error) -> StoreError {
    StoreError::Write {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

fn open_sized(path: &Path, size: u64) -> io::Result<Arc<File>> {
    let file = File::open(path)?;
    if file.metadata()?.len() == size {
        Ok(Arc::new(file))
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} does not have {size} bytes", path.display()),
        ))
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a file"),
    }
}
