//! A NAR that comes from elsewhere.

use std::{collections::BTreeSet, fs};

use bao_tree::{
    ChunkNum, ChunkRanges,
    io::{BaoContentItem, Leaf, Parent, outboard::PreOrderMemOutboard, sync::DecodeResponseIter},
};
use peerix_store::{BlobHash, Download, PathInfo, Store, StorePath};

use super::{NixRoot, content, nar_hash};

/// The NAR of a path that is not in the store.
#[derive(Clone)]
pub struct Foreign {
    pub nar: Vec<u8>,
    pub info: PathInfo,
    pub blob: BlobHash,
    outboard: PreOrderMemOutboard,
}

impl Foreign {
    pub fn new(size: usize) -> Self {
        Self::named("foreign", 200, size)
    }

    /// `id` makes another path hash.
    pub fn named(name: &str, id: u8, size: usize) -> Self {
        let mut nar = Vec::new();
        nix_archive::nar::encode_regular(&mut nar, &content(size + usize::from(id) - 200), false)
            .unwrap();
        let outboard = PreOrderMemOutboard::create(&nar, peerix_store::limits::CHUNK_GROUP);
        Self {
            info: PathInfo {
                store_path: StorePath::from_parts([id; 20], name).unwrap(),
                nar_hash: nar_hash(&nar),
                nar_size: nar.len() as u64,
                references: BTreeSet::new(),
                deriver: None,
                signatures: vec!["key:AAAA".into()],
                content_address: None,
                registration_time: 0,
            },
            blob: BlobHash::from(outboard.root),
            nar,
            outboard,
        }
    }

    /// What a decoder gives for some ranges.
    pub fn items(&self, ranges: &ChunkRanges) -> (Vec<Parent>, Vec<Leaf>) {
        let mut encoded = Vec::new();
        bao_tree::io::sync::encode_ranges_validated(
            &self.nar[..],
            &self.outboard,
            ranges,
            &mut encoded,
        )
        .unwrap();
        let tree = self.outboard.tree;
        let (mut parents, mut leaves) = (Vec::new(), Vec::new());
        for item in DecodeResponseIter::new(self.outboard.root, tree, &encoded[..], ranges) {
            match item.unwrap() {
                BaoContentItem::Parent(parent) => parents.push(parent),
                BaoContentItem::Leaf(leaf) => leaves.push(leaf),
            }
        }
        (parents, leaves)
    }

    /// Writes the files into Nix's store and registers them, as Nix does on import.
    pub fn import(&self, root: &NixRoot) {
        fs::write(
            root.physical(&self.info.store_path),
            &self.nar[96..self.nar.len() - 16][..self.content_len()],
        )
        .unwrap();
        assert!(root.nar(&self.info) == self.nar);
        root.register(&self.info);
    }

    fn content_len(&self) -> usize {
        u64::from_le_bytes(self.nar[88..96].try_into().unwrap()) as usize
    }
}

pub fn chunks(bytes: std::ops::Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum::full_chunks(bytes.start)..ChunkNum::chunks(bytes.end))
}

pub async fn fetch(store: &Store, foreign: &Foreign) -> Download {
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    let (parents, leaves) = foreign.items(&ChunkRanges::all());
    download.write(&parents, &leaves).unwrap();
    download
}
