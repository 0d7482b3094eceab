//! A file on its way: continued where it was left, renamed when it is whole.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use peerix_store::nix::NarHash;
use sha2::{Digest, Sha256};

use super::Failure;

/// The beginning of a NAR, and its SHA-256 so far.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// Bytes that are there.
    pub(super) size: u64,
    hasher: Sha256,
}

impl Part {
    /// Opens what an earlier run left of this very NAR, or begins anew.
    pub(super) fn open(
        target: &Path,
        nar_hash: NarHash,
        nar_size: u64,
        bar: &ProgressBar,
    ) -> Result<Self, Failure> {
        let name = target.file_name().ok_or_else(|| {
            Failure::usage(format!("{} is not the name of a file", target.display()))
        })?;
        if target.is_dir() {
            return Err(Failure::failed(format!(
                "{} is a directory: give the name of a file",
                target.display()
            )));
        }
        let mut part_name = OsString::from(".");
        part_name.push(name);
        // Another path's beginning must not be continued.
        part_name.push(format!(".{}.part", nar_hash.nix_base32()));
        let path = target.with_file_name(part_name);
        let failed =
            |error: io::Error| Failure::failed(format!("can't write {}: {error}", path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let in_use = |_| {
            Failure::failed(format!(
                "another `peerix get` is writing {}",
                target.display()
            ))
        };
        file.try_lock().map_err(in_use)?;
        let mut part = Part {
            path: path.clone(),
            file,
            size: 0,
            hasher: Sha256::new(),
        };
        part.hash_what_is_there(nar_size, bar).map_err(failed)?;
        Ok(part)
    }

    fn hash_what_is_there(&mut self, nar_size: u64, bar: &ProgressBar) -> io::Result<()> {
        if self.file.metadata()?.len() > nar_size {
            return self.restart();
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let length = self.file.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..length]);
            self.size += length as u64;
            bar.set_position(self.size);
        }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Sha256::new();
        self.size = 0;
        Ok(())
    }

    /// Keeps what came for the next run; nothing is no file.
    pub(super) fn keep(&self) -> io::Result<()> {
        if self.size == 0 {
            fs::remove_file(&self.path)
        } else {
            self.file.sync_all()
        }
    }

    /// Puts the whole NAR in its place, if it is the right one.
    pub(super) fn finish(self, target: &Path, nar_hash: NarHash) -> Result<(), Failure> {
        let sha256: [u8; 32] = self.hasher.finalize().into();
        if NarHash::from_bytes(sha256) != nar_hash {
            fs::remove_file(&self.path)?;
            return Err(Failure::failed(
                "what came is not the NAR that was asked for (its hash is wrong): it was removed",
            ));
        }
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let directory = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Ok(File::open(directory)?.sync_all()?)
    }
}
