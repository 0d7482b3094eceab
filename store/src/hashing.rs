//! One pass over a NAR: SHA-256 for Nix, BLAKE3 and its tree for peers, on two cores.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    limits,
    nix::NarHash,
    outboard::{OutboardBuilder, OutboardSink},
    source::Cursor,
};

/// What one pass over a NAR gives.
pub(crate) struct Hashed {
    /// SHA-256 of all bytes.
    pub nar_hash: NarHash,
    /// BLAKE3 of all bytes.
    pub blob_hash: blake3::Hash,
    /// The tree.
    pub outboard: OutboardSink,
}

/// Sees the bytes of a pass in order; an error ends the pass.
pub(crate) type Tap<'a> = &'a mut dyn FnMut(Bytes) -> io::Result<()>;

/// Hears how many bytes have been hashed; an error ends the pass.
pub(crate) type Progress<'a> = &'a dyn Fn(u64) -> io::Result<()>;

/// Reads `size` bytes once and hashes them. Blocks for as long as that takes.
pub(crate) fn hash(
    cursor: &mut Cursor,
    size: u64,
    sink: OutboardSink,
    progress: Progress<'_>,
    tap: Option<Tap<'_>>,
) -> io::Result<Hashed> {
    if size <= limits::MAX_SINGLE_THREADED_PASS {
        hash_small(cursor, size, sink, progress, tap)
    } else {
        hash_large(cursor, size, sink, progress, tap)
    }
}

fn hash_small(
    cursor: &mut Cursor,
    size: u64,
    sink: OutboardSink,
    progress: Progress<'_>,
    tap: Option<Tap<'_>>,
) -> io::Result<Hashed> {
    let mut bytes = Vec::with_capacity(size as usize);
    cursor.append(0, size as usize, &mut bytes)?;
    let mut builder = OutboardBuilder::new(size, sink);
    builder.update(&bytes)?;
    let nar_hash = NarHash::from_bytes(Sha256::digest(&bytes).into());
    progress(size)?;
    if let Some(tap) = tap {
        tap(bytes.into())?;
    }
    let (blob_hash, outboard) = builder.finish()?;
    Ok(Hashed {
        nar_hash,
        blob_hash,
        outboard,
    })
}

/// A buffer that both threads and whoever taps the pass read at once.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn hash_large(
    cursor: &mut Cursor,
    size: u64,
    sink: OutboardSink,
    progress: Progress<'_>,
    mut tap: Option<Tap<'_>>,
) -> io::Result<Hashed> {
    let mut builder = OutboardBuilder::new(size, sink);
    thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel::<Arc<Vec<u8>>>(limits::HASH_BUFFERS);
        let sha256 = thread::Builder::new()
            .name("peerix-sha256".into())
            .spawn_scoped(scope, move || {
                let mut hasher = Sha256::new();
                for buffer in receive {
                    hasher.update(&*buffer);
                }
                hasher.finalize()
            })?;
        // Oldest first: a buffer is free again once nobody else holds it.
        let mut buffers: Vec<Arc<Vec<u8>>> = Vec::new();
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(limits::HASH_BUFFER as u64) as usize;
            let mut buffer = free_buffer(&mut buffers);
            match Arc::get_mut(&mut buffer) {
                Some(bytes) => {
                    bytes.clear();
                    cursor.append(offset, len, bytes)?;
                }
                None => return Err(io::Error::other("a buffer is in use")),
            }
            offset += len as u64;
            send.send(buffer.clone())
                .map_err(|_| io::Error::other("the SHA-256 thread ended early"))?;
            builder.update(&buffer)?;
            if let Some(tap) = &mut tap {
                tap(Bytes::from_owner(Shared(buffer.clone())))?;
            }
            buffers.push(buffer);
            progress(offset)?;
        }
        drop(send);
        let digest = sha256
            .join()
            .map_err(|_| io::Error::other("the SHA-256 thread panicked"))?;
        let (blob_hash, outboard) = builder.finish()?;
        Ok(Hashed {
            nar_hash: NarHash::from_bytes(digest.into()),
            blob_hash,
            outboard,
        })
    })
}

/// Takes a buffer that nobody reads any more, or makes one; few are ever made, since the
/// channel is short and a tap holds back whoever feeds it.
fn free_buffer(buffers: &mut Vec<Arc<Vec<u8>>>) -> Arc<Vec<u8>> {
    let free = buffers
        .iter()
        .position(|buffer| Arc::strong_count(buffer) == 1);
    match free {
        Some(index) => buffers.remove(index),
        None => Arc::new(Vec::with_capacity(limits::HASH_BUFFER)),
    }
}
