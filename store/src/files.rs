//! The files of a state directory, and the one order in which they become durable.
//!
//! An outboard of a path is written to `tmp/`, synced, renamed, its new directory synced, and only
//! then is the index committed. A download has its name from the start, and is whole once the
//! index says so. After an unclean stop there may be files that the index does not know:
//! [`Files::clean`] removes them, but for downloads that can be continued.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::{NamedTempFile, TempPath};

use crate::{BlobHash, OpenError, StoreError, index::Place, limits};

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

    /// Removes temporary files and those that nobody knows. Blocks.
    ///
    /// `blobs` tells of what the index holds. Returned are the downloads that are not whole.
    pub(crate) fn clean(
        &self,
        blobs: &HashMap<BlobHash, Place>,
    ) -> Result<Vec<(BlobHash, u64)>, OpenError> {
        let mut partials = Vec::new();
        let remove = |dir: &Path, name: &str| -> io::Result<()> {
            tracing::debug!(path = %dir.join(name).display(), "left over file removed");
            fs::remove_file(dir.join(name))
        };
        let failed = |dir: &Path, source| OpenError::StateDir {
            path: dir.to_owned(),
            source,
        };
        for name in file_names(&self.tmp).map_err(|error| failed(&self.tmp, error))? {
            remove(&self.tmp, &name).map_err(|error| failed(&self.tmp, error))?;
        }
        for name in file_names(&self.outboards).map_err(|error| failed(&self.outboards, error))? {
            let hash = blake3::Hash::from_hex(&name).ok().map(BlobHash::from);
            if !hash.is_some_and(|hash| blobs.contains_key(&hash)) {
                remove(&self.outboards, &name).map_err(|error| failed(&self.outboards, error))?;
            }
        }
        let names = file_names(&self.blobs).map_err(|error| failed(&self.blobs, error))?;
        for name in &names {
            let (data, is_outboard) = match name.strip_suffix(OUTBOARD_SUFFIX) {
                Some(data) => (data, true),
                None => (name.as_str(), false),
            };
            let known = parse_data_name(data).filter(|(hash, _)| match blobs.get(hash) {
                Some(Place::File) => true,
                Some(Place::ByReference | Place::Index) => false,
                // Without its outboard, what a data file holds can't be told.
                None => names.contains(&format!("{data}{OUTBOARD_SUFFIX}")) && names.contains(data),
            });
            match known {
                Some(partial) if !is_outboard && !blobs.contains_key(&partial.0) => {
                    partials.push(partial);
                }
                Some(_) => {}
                None => remove(&self.blobs, name).map_err(|error| failed(&self.blobs, error))?,
            }
        }
        Ok(partials)
    }

    /// Makes or opens the files of a download: its data and its outboard, each at its full length.
    pub(crate) fn open_partial(
        &self,
        blob: BlobHash,
        size: u64,
        outboard_size: u64,
    ) -> io::Result<(File, File)> {
        let path = self.data_path(blob, size);
        let open = |path: &Path, len: u64| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.open(path)?;
            // What is not held reads as zeros, and takes no space.
            file.set_len(len)?;
            io::Result::Ok(file)
        };
        // The outboard first: a data file without one is left over.
        let outboard = open(&outboard_path(&path), outboard_size)?;
        let data = open(&path, size)?;
        Ok((data, outboard))
    }

    /// Gives the two temporary files of a download their names. They are neither synced nor is
    /// their directory: until the index knows of them, they are read against each other.
    pub(crate) fn adopt_download(
        &self,
        data: TempPath,
        outboard: TempPath,
        blob: BlobHash,
        size: u64,
    ) -> io::Result<()> {
        let path = self.data_path(blob, size);
        // The outboard first: a data file without one is left over.
        outboard.persist(outboard_path(&path))?;
        data.persist(&path)?;
        Ok(())
    }

    /// Syncs the directory of downloads. Blocks.
    pub(crate) fn sync_blobs_dir(&self) -> io::Result<()> {
        File::open(&self.blobs)?.sync_all()
    }

    /// Writes and syncs a blob's data, which is not too large to be done in one go. Blocks.
    pub(crate) fn write_blob(&self, blob: BlobHash, data: &[u8]) -> Result<(), StoreError> {
        let path = self.data_path(blob, data.len() as u64);
        let file = self.temporary()?;
        let written = file.as_file().write_all(data);
        written.map_err(|error| write_error(file.path(), error))?;
        let synced = file.as_file().sync_data();
        synced.map_err(|error| write_error(file.path(), error))?;
        // Whoever reads an equal blob that is there reads a whole one.
        file.persist(&path)
            .map_err(|error| write_error(&path, error.error))?;
        self.sync_blobs_dir()
            .map_err(|error| write_error(&path, error))
    }

    /// Moves the outboard of a download to where those of paths are, if it is a file. Blocks.
    pub(crate) fn adopt_outboard(&self, blob: BlobHash, size: u64) -> Result<(), StoreError> {
        let from = outboard_path(&self.data_path(blob, size));
        let to = self.outboards.join(blob.to_hex());
        match fs::rename(&from, &to) {
            Ok(()) => File::open(&self.outboards)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| write_error(&to, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(write_error(&to, error)),
        }
    }

    /// The outboard of a download, which its index now holds, is no longer needed.
    pub(crate) fn remove_partial_outboard(&self, blob: BlobHash, size: u64) {
        remove(&outboard_path(&self.data_path(blob, size)));
    }

    /// Free bytes of the state directory's file system beyond what downloads must leave.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.blobs)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(free.saturating_sub((total / 20).min(limits::MAX_DISK_RESERVE)))
    }

    pub(crate) fn blobs_dir(&self) -> &Path {
        &self.blobs
    }

    fn data_path(&self, blob: BlobHash, size: u64) -> PathBuf {
        self.blobs.join(format!("{}-{size}", blob.to_hex()))
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

    /// Opens an outboard of `size` bytes, of a blob of `blob_size`.
    pub(crate) fn open_outboard(
        &self,
        blob: BlobHash,
        blob_size: u64,
        size: u64,
    ) -> io::Result<Arc<File>> {
        let adopted = open_sized(&self.outboards.join(blob.to_hex()), size);
        match adopted {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                open_sized(&outboard_path(&self.data_path(blob, blob_size)), size)
            }
            opened => opened,
        }
    }

    /// Opens a blob's data, of `size` bytes.
    pub(crate) fn open_blob(&self, blob: BlobHash, size: u64) -> io::Result<Arc<File>> {
        open_sized(&self.data_path(blob, size), size)
    }

    /// Removes a blob's data and the outboard beside it, after the index no longer refers to them.
    pub(crate) fn remove_blob(&self, blob: BlobHash, size: u64) {
        let path = self.data_path(blob, size);
        remove(&path);
        remove(&outboard_path(&path));
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
                .map(|metadata| metadata.blocks().saturating_mul(512))
                .sum()
        };
        (sum(&self.outboards), sum(&self.blobs))
    }
}

const OUTBOARD_SUFFIX: &str = ".outboard";

fn outboard_path(data: &Path) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(OUTBOARD_SUFFIX);
    path.into()
}

/// A data file's name says which blob it is, so that it can be continued whatever else is lost.
fn parse_data_name(name: &str) -> Option<(BlobHash, u64)> {
    let (hash, size) = name.split_once('-')?;
    let hash = blake3::Hash::from_hex(hash).ok()?;
    Some((BlobHash::from(hash), size.parse().ok()?))
}

fn file_names(dir: &Path) -> io::Result<HashSet<String>> {
    let mut names = HashSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            // What is not UTF-8 isn't ours.
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
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
