//! Reads a blob against its outboard: as the bao encoding of iroh-blobs, or as plain bytes.
//!
//! No byte leaves before the chunk group it lies in has been checked against the blob hash.

use std::{
    fs::File,
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt as _,
};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges, ChunkRangesRef,
    io::{round_up_to_chunks_groups, sync::truncate_ranges},
    iter::BaoChunk,
};
use blake3::hazmat::ChainingValue;
use bytes::Bytes;

use crate::{
    ReadError, limits,
    outboard::{self, OutboardReader, hash_parent, hash_subtree, join_pair, split_pair},
    source::Cursor,
};

/// Chunks of 1,024 bytes in one chunk group.
const GROUP_CHUNKS: u64 = 1 << limits::CHUNK_GROUP.chunk_log();

/// Level of tree nodes below which a verified read takes a subtree as one piece.
const PIECE_LEVEL: u8 = (limits::READ_PIECE / blake3::CHUNK_LEN).trailing_zeros() as u8;

mod items;

pub(crate) use items::Items;

/// One walk over a blob and its tree.
pub(crate) struct Verifier {
    tree: BaoTree,
    cursor: Cursor,
    outboard: OutboardReader,
    /// Hashes that the nodes still to come must have.
    expected: Vec<ChainingValue>,
}

impl Verifier {
    pub(crate) fn new(
        root: &[u8; 32],
        size: u64,
        cursor: Cursor,
        outboard: &outboard::Outboard,
    ) -> Self {
        let tree = outboard::tree(size);
        Self {
            tree,
            cursor,
            outboard: outboard.reader(tree),
            expected: vec![*root],
        }
    }

    /// Writes the bao encoding of `ranges`, without the size header. Blocks.
    pub(crate) fn encode(
        mut self,
        ranges: &ChunkRangesRef,
        out: &mut dyn Write,
    ) -> Result<(), ReadError> {
        let tree = self.tree;
        let ranges = truncate_ranges(ranges, tree.size());
        let mut buffer = Vec::with_capacity(limits::READ_PIECE);
        let mut buffer_start = 0;
        let mut partial = Vec::new();
        for chunk in tree.ranges_pre_order_chunks_iter_ref(ranges, 0) {
            match chunk {
                BaoChunk::Parent {
                    node,
                    is_root,
                    left,
                    right,
                    ..
                } => {
                    let pair = self.parent(node, is_root, left, right)?;
                    out.write_all(&pair).map_err(ReadError::Output)?;
                }
                BaoChunk::Leaf {
                    start_chunk,
                    size,
                    is_root,
                    ranges: wanted,
                } => {
                    let start = start_chunk.to_bytes();
                    let loaded = buffer_start..buffer_start + buffer.len() as u64;
                    if !(loaded.contains(&start) && start + size as u64 <= loaded.end) {
                        let ahead = contiguous(ranges, start_chunk, tree.size()) - start;
                        let len = ahead.clamp(size as u64, limits::READ_PIECE as u64) as usize;
                        buffer.clear();
                        buffer_start = start;
                        self.read(start, len, &mut buffer)?;
                    }
                    let at = (start - buffer_start) as usize;
                    let group = &buffer[at..at + size];
                    if wanted.is_all() {
                        self.check(hash_subtree(start_chunk.0, group, is_root), start)?;
                        out.write_all(group).map_err(ReadError::Output)?;
                    } else {
                        partial.clear();
                        let hash =
                            encode_partial(start_chunk, group, is_root, wanted, &mut partial);
                        self.check(hash, start)?;
                        out.write_all(&partial).map_err(ReadError::Output)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands out the bytes of `range` in order, in pieces of up to 256 KiB. Blocks.
    pub(crate) fn read_range(
        mut self,
        range: Range<u64>,
        out: &mut dyn FnMut(Bytes) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let tree = self.tree;
        if range.start > range.end || range.end > tree.size() {
            return Err(ReadError::OutOfBounds {
                start: range.start,
                end: range.end,
                size: tree.size(),
            });
        }
        if range.is_empty() {
            return Ok(());
        }
        let chunks =
            ChunkRanges::from(ChunkNum::full_chunks(range.start)..ChunkNum::chunks(range.end));
        let groups = round_up_to_chunks_groups(chunks, limits::CHUNK_GROUP);
        let groups = truncate_ranges(&groups, tree.size());
        for chunk in tree.ranges_pre_order_chunks_iter_ref(groups, PIECE_LEVEL) {
            match chunk {
                BaoChunk::Parent {
                    node,
                    is_root,
                    left,
                    right,
                    ..
                } => {
                    self.parent(node, is_root, left, right)?;
                }
                BaoChunk::Leaf {
                    start_chunk,
                    size,
                    is_root,
                    ..
                } => {
                    let start = start_chunk.to_bytes();
                    let mut piece = Vec::with_capacity(size);
                    self.read(start, size, &mut piece)?;
                    self.check(hash_subtree(start_chunk.0, &piece, is_root), start)?;
                    let from = range.start.saturating_sub(start).min(size as u64) as usize;
                    let to = (range.end - start).min(size as u64) as usize;
                    if from < to {
                        let piece = Bytes::from(piece).slice(from..to);
                        out(piece).map_err(ReadError::Output)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn parent(
        &mut self,
        node: bao_tree::TreeNode,
        is_root: bool,
        left: bool,
        right: bool,
    ) -> Result<[u8; outboard::PAIR], ReadError> {
        let pair = self.outboard.pair(node).map_err(ReadError::Missing)?;
        let (left_hash, right_hash) = split_pair(&pair);
        self.check(
            hash_parent(&left_hash, &right_hash, is_root),
            node.chunk_range().start.to_bytes(),
        )?;
        if right {
            self.expected.push(right_hash);
        }
        if left {
            self.expected.push(left_hash);
        }
        Ok(pair)
    }

    fn check(&mut self, actual: ChainingValue, offset: u64) -> Result<(), ReadError> {
        match self.expected.pop() {
            Some(expected) if expected == actual => Ok(()),
            _ => Err(ReadError::Mismatch { offset }),
        }
    }

    fn read(&mut self, offset: u64, len: usize, buffer: &mut Vec<u8>) -> Result<(), ReadError> {
        self.cursor
            .append(offset, len, buffer)
            .map_err(ReadError::Missing)
    }
}

/// Reads which chunks of a blob its data file holds, by what its outboard file holds.
///
/// `None` where `stop` says so. What can't be read isn't held. Blocks for as long as reading and
/// hashing take.
pub(crate) fn held(
    root: &[u8; 32],
    size: u64,
    data: &File,
    outboard: &File,
    stop: &dyn Fn() -> bool,
) -> Option<ChunkRanges> {
    let tree = outboard::tree(size);
    let mut expected = vec![Some(*root)];
    let mut held = ChunkRanges::empty();
    let mut group = vec![0; limits::CHUNK_GROUP_BYTES as usize];
    for chunk in tree.ranges_pre_order_chunks_iter_ref(&ChunkRanges::all(), 0) {
        let hash = expected.pop().flatten();
        match chunk {
            BaoChunk::Parent { node, is_root, .. } => {
                let children = hash.and_then(|hash| {
                    let at = tree
                        .pre_order_offset(node)?
                        .checked_mul(outboard::PAIR as u64)?;
                    let mut pair = [0; outboard::PAIR];
                    outboard.read_exact_at(&mut pair, at).ok()?;
                    let (left, right) = split_pair(&pair);
                    (hash_parent(&left, &right, is_root) == hash).then_some((left, right))
                });
                // Below a node that isn't known, nothing is.
                let (left, right) = children.unzip();
                expected.push(right);
                expected.push(left);
            }
            BaoChunk::Leaf {
                start_chunk,
                size: len,
                is_root,
                ..
            } => {
                let Some(hash) = hash else { continue };
                if stop() {
                    return None;
                }
                let bytes = group.get_mut(..len)?;
                let read = data.read_exact_at(bytes, start_chunk.to_bytes());
                if read.is_ok() && hash_subtree(start_chunk.0, bytes, is_root) == hash {
                    let chunks = (len as u64).div_ceil(blake3::CHUNK_LEN as u64).max(1);
                    held |= ChunkRanges::from(start_chunk..start_chunk + chunks);
                }
            }
        }
    }
    Some(held)
}

/// Returns the byte up to which `ranges` ask for everything from `start` on.
fn contiguous(ranges: &ChunkRangesRef, start: ChunkNum, size: u64) -> u64 {
    let boundaries = ranges.boundaries();
    let index = boundaries.partition_point(|&boundary| boundary <= start);
    match boundaries.get(index) {
        // A range that ends within a chunk group needs the whole group for its hash.
        Some(&end) if index % 2 == 1 => {
            let groups = end.0.checked_next_multiple_of(GROUP_CHUNKS);
            groups.map_or(size, |end| ChunkNum(end).to_bytes().min(size))
        }
        None if index % 2 == 1 => size,
        _ => start.to_bytes(),
    }
}

/// Encodes the part `wanted` of one chunk group and returns the hash of the whole group.
fn encode_partial(
    start: ChunkNum,
    bytes: &[u8],
    is_root: bool,
    wanted: &ChunkRangesRef,
    out: &mut Vec<u8>,
) -> ChainingValue {
    if wanted.is_empty() {
        return hash_subtree(start.0, bytes, is_root);
    }
    // Below a node that is wanted whole, no hashes are sent.
    if wanted.is_all() || bytes.len() <= blake3::CHUNK_LEN {
        out.extend_from_slice(bytes);
        return hash_subtree(start.0, bytes, is_root);
    }
    let half = bytes.len().div_ceil(blake3::CHUNK_LEN).next_power_of_two() / 2;
    let middle = start + half as u64;
    let (left_bytes, right_bytes) = bytes.split_at(half * blake3::CHUNK_LEN);
    let (left_wanted, right_wanted) = split(wanted, start, middle);
    let place = out.len();
    out.extend_from_slice(&[0; outboard::PAIR]);
    let left = encode_partial(start, left_bytes, false, left_wanted, out);
    let right = encode_partial(middle, right_bytes, false, right_wanted, out);
    out[place..place + outboard::PAIR].copy_from_slice(&join_pair(&left, &right));
    hash_parent(&left, &right, is_root)
}

/// Splits ranges at `middle`; a half that is wanted whole becomes "all".
fn split(
    ranges: &ChunkRangesRef,
    start: ChunkNum,
    middle: ChunkNum,
) -> (&ChunkRangesRef, &ChunkRangesRef) {
    let all = |half, from: ChunkNum| match <ChunkRangesRef>::new(&[ChunkNum(0)]) {
        Some(all) if is_whole(half, from) => all,
        _ => half,
    };
    let (left, right) = ranges.split(middle);
    (all(left, start), all(right, middle))
}

fn is_whole(ranges: &ChunkRangesRef, from: ChunkNum) -> bool {
    matches!(ranges.boundaries(), [first] if *first <= from)
}

#[cfg(test)]
mod tests;
