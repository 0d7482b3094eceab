//! SHA-256 of a download, as it arrives.

use std::{
    io,
    sync::{Arc, Weak, atomic::Ordering},
};

use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task::spawn_blocking};

use super::Inflight;
use crate::{VerifyError, bao, limits, nix::NarHash};

impl Inflight {
    /// Whether a data file is no longer what was written to it.
    async fn is_rotten(self: &Arc<Self>) -> bool {
        let inflight = self.clone();
        let checked = spawn_blocking(move || {
            let (data, outboard) = (inflight.data.file()?, inflight.outboard.file()?);
            let (root, size) = (inflight.blob, inflight.tree.size());
            let stop = || inflight.store.is_stopping();
            let held = bao::held(root.as_bytes(), size, &data, &outboard, &stop)?;
            Some(inflight.contiguous(&held) != size)
        });
        checked.await.ok().flatten().unwrap_or(false)
    }

    /// Adds what arrived between two offsets to the hash. Blocks.
    fn hash(&self, hasher: &mut Sha256, mut from: u64, to: u64) -> io::Result<()> {
        while from < to {
            let end = if let Some(piece) = self.recent.get(from) {
                let wanted = usize::try_from(to - from).unwrap_or(usize::MAX);
                let piece = &piece[..piece.len().min(wanted)];
                hasher.update(piece);
                from + piece.len() as u64
            } else {
                let next = self.recent.next_after(from).unwrap_or(to);
                let end = to.min(next).min(from + limits::DOWNLOAD_HASH_STEP);
                hasher.update(self.data.read(from..end)?);
                end
            };
            from = end;
        }
        self.hashed.store(to, Ordering::Release);
        self.pass();
        Ok(())
    }
}

/// Hashes a download as it arrives, until it is whole, discarded or dropped.
pub(super) async fn follow(inflight: Weak<Inflight>, mut arrived: watch::Receiver<u64>) {
    let mut hasher = Sha256::new();
    let mut hashed = 0;
    loop {
        let to = *arrived.borrow_and_update();
        let Some(download) = inflight.upgrade() else {
            return;
        };
        let size = download.tree.size();
        if to - hashed >= limits::DOWNLOAD_HASH_STEP || to == size {
            let step = spawn_blocking(move || {
                let outcome = download.hash(&mut hasher, hashed, to);
                (outcome, hasher, download)
            });
            let Ok((outcome, updated, download)) = step.await else {
                return;
            };
            hasher = updated;
            hashed = to;
            let verdict = match outcome {
                Err(error) => Err(VerifyError::Io(Arc::new(error))),
                Ok(()) if hashed == size => {
                    let Some(expected) = download.info().map(|info| info.nar_hash) else {
                        return;
                    };
                    let actual = NarHash::from_bytes(hasher.finalize_reset().into());
                    if actual == expected {
                        Ok(())
                    } else if download.is_rotten().await {
                        Err(VerifyError::Io(Arc::new(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "the disk gave other bytes than it was given",
                        ))))
                    } else {
                        Err(VerifyError::Mismatch { expected, actual })
                    }
                }
                Ok(()) => continue,
            };
            download.set_verdict(verdict);
            return;
        }
        drop(download);
        if arrived.changed().await.is_err() {
            return;
        }
    }
}
