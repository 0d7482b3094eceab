//! A NAR of this machine, for a reader that wants it now.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};

use crate::{
    Blob, ReadError, StorePathHash,
    blob::blocking_stream,
    limits,
    nar::Layout,
    nix::{NarHash, PathInfo},
    store::{Inner, Store},
};

/// A readable NAR.
///
/// Where its hashes are known, every byte is checked before it leaves. Where they are not, the
/// whole is dumped with SHA-256 beside it: the last chunk group is withheld until that is right,
/// and what was computed is kept.
#[derive(Debug)]
pub struct NarReader {
    size: u64,
    nar_hash: NarHash,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Hashed(Blob),
    Unhashed {
        store: Store,
        path_hash: StorePathHash,
        info: Box<PathInfo>,
        layout: Arc<Layout>,
    },
}

impl NarReader {
    pub(crate) fn hashed(blob: Blob, info: &PathInfo) -> Self {
        Self {
            size: info.nar_size,
            nar_hash: info.nar_hash,
            kind: Kind::Hashed(blob),
        }
    }

    pub(crate) fn unhashed(store: Store, info: PathInfo, layout: Arc<Layout>) -> Self {
        Self {
            size: info.nar_size,
            nar_hash: info.nar_hash,
            kind: Kind::Unhashed {
                store,
                path_hash: info.path_hash(),
                info: Box::new(info),
                layout,
            },
        }
    }

    /// Length of the NAR in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the NAR as Nix registered it.
    #[must_use]
    pub fn nar_hash(&self) -> NarHash {
        self.nar_hash
    }

    /// Streams `range` in order; an error means that the rest is not to be had.
    ///
    /// A part of a NAR that is not hashed yet has it hashed first. Must be called within a tokio
    /// runtime. Dropping the stream ends the read.
    #[must_use]
    pub fn stream(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, ReadError>> {
        match self.kind {
            Kind::Hashed(blob) => blob.read_stream(range).boxed(),
            Kind::Unhashed {
                store,
                info,
                layout,
                ..
            } if range == (0..self.size) => {
                blocking_stream(move |out| dump(&store.0, &info, &layout, out)).boxed()
            }
            Kind::Unhashed {
                store, path_hash, ..
            } => {
                let opened = async move {
                    let failed = |error: &dyn std::error::Error| {
                        ReadError::Missing(io::Error::other(error.to_string()))
                    };
                    let hash = store.hash_nar(path_hash).await;
                    let hash = hash.map_err(|error| failed(&error))?;
                    let blob = store.open_blob(hash).await;
                    Ok(blob.map_err(|error| failed(&error))?.read_stream(range))
                };
                futures_util::stream::once(opened)
                    .flat_map(|opened| match opened {
                        Ok(stream) => stream.boxed(),
                        Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
                    })
                    .boxed()
            }
        }
    }
}

/// Hands out a whole NAR while it is hashed, its last chunk group only once the hash is right.
fn dump(
    store: &Inner,
    info: &PathInfo,
    layout: &Arc<Layout>,
    out: &mut dyn FnMut(Bytes) -> io::Result<()>,
) -> Result<(), ReadError> {
    let withheld_from =
        info.nar_size.saturating_sub(1) / limits::CHUNK_GROUP_BYTES * limits::CHUNK_GROUP_BYTES;
    let mut offset = 0;
    let mut withheld: Vec<Bytes> = Vec::new();
    let mut reader_error = None;
    let hashed = store.hash_layout(
        layout,
        info,
        &|_| Ok(()),
        Some(&mut |mut piece: Bytes| {
            let start = offset;
            offset += piece.len() as u64;
            let passed = withheld_from.saturating_sub(start).min(piece.len() as u64) as usize;
            let tail = piece.split_off(passed);
            if !tail.is_empty() {
                withheld.push(tail);
            }
            if piece.is_empty() {
                return Ok(());
            }
            out(piece).map_err(|error| {
                let kind = error.kind();
                reader_error = Some(error);
                kind.into()
            })
        }),
    );
    if let Some(error) = reader_error {
        return Err(ReadError::Output(error));
    }
    let hashed = hashed.map_err(ReadError::Missing)?;
    if hashed.nar_hash != info.nar_hash {
        store.remember_mismatch(info, &hashed.nar_hash.to_string());
        return Err(ReadError::WrongNar {
            expected: info.nar_hash,
            actual: hashed.nar_hash,
        });
    }
    for piece in withheld {
        out(piece).map_err(ReadError::Output)?;
    }
    if let Err(error) = store.record(info, hashed) {
        // The reader has the right bytes all the same; the hashes are computed again.
        tracing::error!(%error, path = %info.path_hash(), "cannot keep a hash");
    }
    Ok(())
}
