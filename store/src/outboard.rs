//! The BLAKE3 tree beside a blob: computed while the bytes pass, and read back in order.
//!
//! The format is iroh-blobs' own: pre-order, 64 bytes for each inner node, chunk groups of
//! 16 KiB, no size header.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use bao_tree::{
    BaoTree, TreeNode,
    iter::{BaoChunk, PostOrderChunkIter},
};
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use bytes::Bytes;

use crate::limits;

/// Bytes of one hash pair.
pub(crate) const PAIR: usize = 64;

/// Returns the geometry of a blob of `size` bytes.
pub(crate) fn tree(size: u64) -> BaoTree {
    BaoTree::new(size, limits::CHUNK_GROUP)
}

/// Hashes the subtree of whole chunks that `bytes` are, from chunk `start_chunk` on.
pub(crate) fn hash_subtree(start_chunk: u64, bytes: &[u8], is_root: bool) -> ChainingValue {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start_chunk * blake3::CHUNK_LEN as u64);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Hashes an inner node.
pub(crate) fn hash_parent(
    left: &ChainingValue,
    right: &ChainingValue,
    is_root: bool,
) -> ChainingValue {
    if is_root {
        *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

/// Splits a stored hash pair.
pub(crate) fn split_pair(pair: &[u8; PAIR]) -> (ChainingValue, ChainingValue) {
    let mut halves = [[0; 32]; 2];
    halves[0].copy_from_slice(&pair[..32]);
    halves[1].copy_from_slice(&pair[32..]);
    (halves[0], halves[1])
}

/// Joins two hashes as they are stored.
pub(crate) fn join_pair(left: &ChainingValue, right: &ChainingValue) -> [u8; PAIR] {
    let mut pair = [0; PAIR];
    pair[..32].copy_from_slice(left);
    pair[32..].copy_from_slice(right);
    pair
}

/// A place for hash pairs that come in any order.
#[derive(Debug)]
pub(crate) enum OutboardSink {
    Memory(Vec<u8>),
    File(File),
}

impl OutboardSink {
    fn write(&mut self, at: u64, pair: &[u8; PAIR]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let place = usize::try_from(at)
                    .ok()
                    .and_then(|start| bytes.get_mut(start..start + PAIR))
                    .ok_or(io::ErrorKind::InvalidInput)?;
                place.copy_from_slice(pair);
                Ok(())
            }
            Self::File(file) => file.write_all_at(pair, at),
        }
    }

    /// Reads hash pairs back. Blocks.
    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        match self {
            Self::Memory(bytes) => {
                let place = usize::try_from(range.start)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(len)?))
                    .ok_or(io::ErrorKind::InvalidInput)?;
                Ok(Bytes::copy_from_slice(place))
            }
            Self::File(file) => {
                let mut bytes = Vec::with_capacity(len);
                crate::nar::append_from_file(file, range.start, len, &mut bytes)?;
                Ok(bytes.into())
            }
        }
    }
}

/// Computes blob hash and outboard of a blob whose size is known, as its bytes pass.
#[derive(Debug)]
pub(crate) struct OutboardBuilder {
    tree: BaoTree,
    chunks: PostOrderChunkIter,
    stack: Vec<ChainingValue>,
    sink: OutboardSink,
}

impl OutboardBuilder {
    pub(crate) fn new(size: u64, sink: OutboardSink) -> Self {
        let tree = tree(size);
        Self {
            tree,
            chunks: tree.post_order_chunks_iter(),
            stack: Vec::with_capacity(48),
            sink,
        }
    }

    /// Takes the next bytes: whole chunk groups, but for the end of the blob.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.chunks.next() {
                Some(BaoChunk::Leaf {
                    start_chunk,
                    size,
                    is_root,
                    ..
                }) => {
                    let (group, rest) = bytes
                        .split_at_checked(size)
                        .ok_or(io::ErrorKind::UnexpectedEof)?;
                    self.stack.push(hash_subtree(start_chunk.0, group, is_root));
                    bytes = rest;
                }
                Some(BaoChunk::Parent { node, is_root, .. }) => self.parent(node, is_root)?,
                None => return Err(io::Error::other("more bytes than the blob has")),
            }
        }
        Ok(())
    }

    /// Returns the blob hash and the outboard, once all bytes have passed.
    pub(crate) fn finish(mut self) -> io::Result<(blake3::Hash, OutboardSink)> {
        while let Some(chunk) = self.chunks.next() {
            match chunk {
                BaoChunk::Parent { node, is_root, .. } => self.parent(node, is_root)?,
                BaoChunk::Leaf {
                    size: 0, is_root, ..
                } => {
                    self.stack.push(hash_subtree(0, &[], is_root));
                }
                BaoChunk::Leaf { .. } => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let root = self.stack.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((blake3::Hash::from_bytes(root), self.sink))
    }

    fn parent(&mut self, node: TreeNode, is_root: bool) -> io::Result<()> {
        let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.stack.push(hash_parent(&left, &right, is_root));
        if let Some(index) = self.tree.pre_order_offset(node) {
            self.sink
                .write(index * PAIR as u64, &join_pair(&left, &right))?;
        }
        Ok(())
    }
}

/// A complete outboard.
#[derive(Debug, Clone)]
pub(crate) enum Outboard {
    Memory(Bytes),
    File(Arc<File>),
}

impl Outboard {
    /// Starts reading; cheap where the nodes come in pre-order.
    pub(crate) fn reader(&self, tree: BaoTree) -> OutboardReader {
        OutboardReader {
            outboard: self.clone(),
            tree,
            window: Vec::new(),
            window_start: 0,
        }
    }
}

/// A reader that holds a small window of an outboard file.
#[derive(Debug)]
pub(crate) struct OutboardReader {
    outboard: Outboard,
    tree: BaoTree,
    window: Vec<u8>,
    window_start: u64,
}

impl OutboardReader {
    /// Returns the hash pair of `node`. Blocks.
    pub(crate) fn pair(&mut self, node: TreeNode) -> io::Result<[u8; PAIR]> {
        let at = self
            .tree
            .pre_order_offset(node)
            .and_then(|index| index.checked_mul(PAIR as u64))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if let Outboard::File(file) = &self.outboard {
            let loaded = self.window_start..self.window_start + self.window.len() as u64;
            if !(loaded.contains(&at) && at + PAIR as u64 <= loaded.end) {
                let left = self.tree.outboard_size().saturating_sub(at);
                let len = left.min(limits::OUTBOARD_WINDOW as u64) as usize;
                self.window.clear();
                self.window_start = at;
                crate::nar::append_from_file(file, at, len, &mut self.window)?;
            }
        }
        let (bytes, start) = match &self.outboard {
            Outboard::Memory(bytes) => (&bytes[..], at),
            Outboard::File(_) => (&self.window[..], at - self.window_start),
        };
        usize::try_from(start)
            .ok()
            .and_then(|start| bytes.get(start..)?.first_chunk())
            .copied()
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
