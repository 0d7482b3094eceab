//! The bao encoding piece by piece, as items: for readers that must not hold a thread.

use bao_tree::{
    ChunkNum, ChunkRanges, TreeNode,
    io::{
        Leaf, Parent,
        mixed::{EncodedItem, traverse_selected_rec},
        sync::truncate_ranges,
    },
    iter::BaoChunk,
};
use bytes::Bytes;

use super::{Verifier, contiguous};
use crate::{ReadError, limits, outboard::split_pair};

/// Chunks that one piece spans.
const PIECE_CHUNKS: u64 = (limits::READ_PIECE / blake3::CHUNK_LEN) as u64;

/// An encoding that can be continued.
///
/// Each piece is a walk of its own from the root, which leaves out the hash pairs that a piece
/// before has given: 20 of them at most, for 256 KiB.
pub(crate) struct Items {
    verifier: Verifier,
    root: [u8; 32],
    /// Boundaries of what was asked for.
    ranges: Vec<ChunkNum>,
    /// The first chunk that was not looked at.
    at: ChunkNum,
    done: bool,
    /// What was given and will be passed again.
    given: Vec<TreeNode>,
}

impl Items {
    pub(crate) fn new(verifier: Verifier, ranges: ChunkRanges) -> Self {
        let ranges = truncate_ranges(&ranges, verifier.tree.size())
            .boundaries()
            .to_vec();
        let root = verifier.expected.first().copied().unwrap_or_default();
        Self {
            verifier,
            root,
            at: ChunkNum(0),
            done: ranges.is_empty(),
            ranges,
            given: Vec::new(),
        }
    }

    /// Appends the items of the next piece, and returns whether there may be more. Blocks.
    pub(crate) fn next_piece(&mut self, out: &mut Vec<EncodedItem>) -> Result<bool, ReadError> {
        let Some((piece, end)) = self.piece() else {
            self.done = true;
            return Ok(false);
        };
        self.encode(&piece, out)?;
        self.given.retain(|node| node.chunk_range().end > end);
        self.at = end;
        Ok(!self.done)
    }

    /// What of the ranges lies in the next piece, and where that ends.
    fn piece(&mut self) -> Option<(ChunkRanges, ChunkNum)> {
        if self.done {
            return None;
        }
        let mut first = self.ranges.partition_point(|&boundary| boundary <= self.at);
        let mut start = self.at;
        let inside = first % 2 == 1;
        if !inside {
            start = *self.ranges.get(first)?;
            first += 1;
        }
        let chunks = self.verifier.tree.chunks();
        let end = ChunkNum((start.0 / PIECE_CHUNKS + 1).saturating_mul(PIECE_CHUNKS));
        let mut boundaries = vec![start];
        let rest = self.ranges.get(first..)?;
        if end.0 >= chunks.0 {
            // Ranges past the end ask for the last chunk, which is in this piece.
            self.done = true;
            boundaries.extend(rest);
        } else {
            let within = rest.partition_point(|&boundary| boundary < end);
            boundaries.extend(rest.get(..within)?);
            if boundaries.len() % 2 == 1 {
                boundaries.push(end);
            }
        }
        let ranges = ChunkRanges::new(boundaries.into_iter().collect())?;
        Some((ranges, end))
    }

    fn encode(
        &mut self,
        ranges: &ChunkRanges,
        out: &mut Vec<EncodedItem>,
    ) -> Result<(), ReadError> {
        let verifier = &mut self.verifier;
        let tree = verifier.tree;
        verifier.expected.clear();
        verifier.expected.push(self.root);
        let mut buffer = Bytes::new();
        let mut buffer_start = 0;
        for chunk in tree.ranges_pre_order_chunks_iter_ref(ranges, 0) {
            match chunk {
                BaoChunk::Parent {
                    node,
                    is_root,
                    left,
                    right,
                    ..
                } => {
                    let pair = verifier.parent(node, is_root, left, right)?;
                    if !self.given.contains(&node) {
                        self.given.push(node);
                        let (left, right) = split_pair(&pair);
                        let pair = (left.into(), right.into());
                        out.push(Parent { node, pair }.into());
                    }
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
                        let mut read = Vec::with_capacity(len);
                        verifier.read(start, len, &mut read)?;
                        buffer = read.into();
                        buffer_start = start;
                    }
                    let at = (start - buffer_start) as usize;
                    let group = buffer.slice(at..at + size);
                    if wanted.is_all() {
                        let hash = crate::outboard::hash_subtree(start_chunk.0, &group, is_root);
                        verifier.check(hash, start)?;
                        let leaf = Leaf {
                            offset: start,
                            data: group,
                        };
                        out.push(leaf.into());
                    } else {
                        let level = u32::from(limits::CHUNK_GROUP.chunk_log());
                        let before = out.len();
                        let hash = traverse_selected_rec(
                            start_chunk,
                            group,
                            is_root,
                            wanted,
                            level,
                            true,
                            out,
                        );
                        // Nothing unchecked is left in it.
                        verifier
                            .check(*hash.as_bytes(), start)
                            .inspect_err(|_| out.truncate(before))?;
                    }
                }
            }
        }
        Ok(())
    }
}
