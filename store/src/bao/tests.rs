//! Tree and encoding against bao-tree's own, and what happens to wrong bytes.

use bao_tree::{
    ChunkNum, ChunkRanges,
    io::{
        mixed::EncodedItem,
        outboard::PreOrderMemOutboard,
        sync::{decode_ranges, encode_ranges_validated},
    },
};
use bytes::Bytes;
use proptest::{collection, prelude::*};

use super::{Items, Verifier};
use crate::{
    ReadError, limits,
    outboard::{Outboard, OutboardBuilder, OutboardSink, tree},
    source::ByteSource,
};

/// Sizes around every border: chunk, chunk group, piece of a read, powers of two.
const SIZES: [usize; 21] = [
    0, 1, 1023, 1024, 1025, 2048, 16_383, 16_384, 16_385, 32_768, 32_769, 49_152, 65_537, 262_143,
    262_144, 262_145, 524_289, 1_048_576, 1_048_577, 1_700_000, 4_194_305,
];

fn data(size: usize) -> Bytes {
    let mut state = size as u32 | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    bytes.take(size).collect()
}

fn build(data: &[u8], sink: OutboardSink) -> (blake3::Hash, OutboardSink) {
    let mut builder = OutboardBuilder::new(data.len() as u64, sink);
    for piece in data.chunks(3 * limits::CHUNK_GROUP_BYTES as usize) {
        builder.update(piece).unwrap();
    }
    builder.finish().unwrap()
}

fn built(data: &[u8]) -> (blake3::Hash, Vec<u8>) {
    let size = tree(data.len() as u64).outboard_size() as usize;
    match build(data, OutboardSink::Memory(vec![0; size])) {
        (root, OutboardSink::Memory(outboard)) => (root, outboard),
        (_, OutboardSink::File(_)) => unreachable!(),
    }
}

fn verifier(data: &Bytes, root: &blake3::Hash, outboard: &Outboard) -> Verifier {
    let cursor = ByteSource::Memory(data.clone()).cursor();
    Verifier::new(root.as_bytes(), data.len() as u64, cursor, outboard)
}

fn ranges(pairs: &[(u64, u64)]) -> ChunkRanges {
    pairs
        .iter()
        .fold(ChunkRanges::empty(), |all, &(start, len)| {
            all | ChunkRanges::from(ChunkNum(start)..ChunkNum(start + len))
        })
}

#[test]
fn hash_and_outboard_are_those_of_bao_tree() {
    for size in SIZES {
        let data = data(size);
        let expected = PreOrderMemOutboard::create(&data, limits::CHUNK_GROUP);
        let (root, outboard) = built(&data);
        assert_eq!(root, expected.root, "{size}");
        assert_eq!(root, blake3::hash(&data), "{size}");
        assert!(outboard == expected.data, "{size}");

        // The same into a file.
        let file = tempfile::tempfile().unwrap();
        let (root, _) = build(&data, OutboardSink::File(file.try_clone().unwrap()));
        let mut written = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut written).unwrap();
        assert_eq!(root, expected.root, "{size}");
        assert!(written == expected.data, "{size}");
    }
}

#[test]
fn too_few_or_too_many_bytes_are_an_error() {
    let sink = || OutboardSink::Memory(vec![0; 1 << 16]);
    for size in [1, 16_384, 16_385, 300_000] {
        let data = data(size);
        let mut short = OutboardBuilder::new(size as u64 + 1, sink());
        assert!(short.update(&data).is_err() || short.finish().is_err());
        let mut long = OutboardBuilder::new(size as u64 - 1, sink());
        assert!(long.update(&data).is_err() || long.finish().is_err());
    }
}

fn join(items: &[EncodedItem], out: &mut Vec<u8>) {
    for item in items {
        match item {
            EncodedItem::Parent(parent) => {
                out.extend_from_slice(parent.pair.0.as_bytes());
                out.extend_from_slice(parent.pair.1.as_bytes());
            }
            EncodedItem::Leaf(leaf) => out.extend_from_slice(&leaf.data),
            other => panic!("{other:?}"),
        }
    }
}

fn check_ranges(data: &Bytes, wanted: &ChunkRanges) {
    let size = data.len();
    let (root, outboard) = built(data);
    let reference = PreOrderMemOutboard {
        root,
        tree: tree(size as u64),
        data: outboard.clone(),
    };
    let mut expected = Vec::new();
    encode_ranges_validated(&data[..], &reference, wanted, &mut expected).unwrap();
    let outboard = Outboard::Memory(outboard.into());
    let mut encoded = Vec::new();
    verifier(data, &root, &outboard)
        .encode(wanted, &mut encoded)
        .unwrap();
    assert!(encoded == expected, "{size} {wanted:?}");

    // Piece by piece, it is the same.
    let mut items = Items::new(verifier(data, &root, &outboard), wanted.clone());
    let mut joined = Vec::new();
    loop {
        let mut piece = Vec::new();
        let more = items.next_piece(&mut piece).unwrap();
        let before = joined.len();
        join(&piece, &mut joined);
        assert!(joined.len() - before < 2 * limits::READ_PIECE);
        if !more {
            break;
        }
    }
    assert!(joined == expected, "{size} {wanted:?}");

    // And bao-tree's decoder takes it.
    let mut decoded = Vec::new();
    let mut empty = PreOrderMemOutboard {
        root,
        tree: tree(size as u64),
        data: vec![0; tree(size as u64).outboard_size() as usize],
    };
    decode_ranges(&encoded[..], wanted, &mut decoded, &mut empty).unwrap();
}

#[test]
fn the_encoding_is_that_of_bao_tree() {
    for size in SIZES {
        let data = data(size);
        check_ranges(&data, &ChunkRanges::all());
        check_ranges(&data, &ChunkRanges::empty());
        // What iroh-blobs asks for to learn the size.
        check_ranges(&data, &ChunkRanges::from(ChunkNum(u64::MAX)..));
        check_ranges(&data, &ranges(&[(0, 1), (17, 3), (100, 400)]));
        check_ranges(&data, &ranges(&[(0, 256), (512, 3), (100_000, 1)]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_ranges_encode_as_in_bao_tree(
        size in 1..600_000_usize,
        pairs in collection::vec((0..700_u64, 1..300_u64), 0..5),
    ) {
        check_ranges(&data(size), &ranges(&pairs));
    }

    #[test]
    fn any_range_reads_as_it_is(
        size in 1..2_000_000_usize,
        start in any::<prop::sample::Index>(),
        len in any::<prop::sample::Index>(),
        in_file in any::<bool>(),
    ) {
        let data = data(size);
        let start = start.index(size + 1);
        let end = start + len.index(size - start + 1);
        let (root, outboard) = built(&data);
        let outboard = if in_file {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, &outboard).unwrap();
            Outboard::File(file.into())
        } else {
            Outboard::Memory(outboard.into())
        };
        let mut read = Vec::new();
        verifier(&data, &root, &outboard)
            .read_range(start as u64..end as u64, &mut |piece| {
                assert!(!piece.is_empty() && piece.len() <= limits::READ_PIECE);
                read.extend_from_slice(&piece);
                Ok(())
            })
            .unwrap();
        prop_assert!(read == data[start..end]);
    }

    #[test]
    fn one_wrong_bit_never_leaves(
        size in 1..800_000_usize,
        place in any::<prop::sample::Index>(),
        in_outboard in any::<bool>(),
    ) {
        let data = data(size);
        let (root, outboard) = built(&data);
        let (mut wrong, mut wrong_outboard) = (data.to_vec(), outboard);
        if in_outboard && !wrong_outboard.is_empty() {
            let place = place.index(wrong_outboard.len());
            wrong_outboard[place] ^= 1;
        } else {
            let place = place.index(size);
            wrong[place] ^= 1;
        }
        let (wrong, outboard) = (Bytes::from(wrong), Outboard::Memory(wrong_outboard.into()));
        let wrong_outboard = outboard.clone();
        let mut read = Vec::new();
        let outcome = verifier(&wrong, &root, &outboard)
            .read_range(0..size as u64, &mut |piece| {
                read.extend_from_slice(&piece);
                Ok(())
            });
        if in_outboard && outcome.is_ok() {
            // A node within a piece that was hashed as a whole.
            prop_assert!(read == data);
        } else {
            prop_assert!(matches!(outcome, Err(ReadError::Mismatch { .. })), "{outcome:?}");
            prop_assert!(data.starts_with(&read));
        }
        let mut encoded = Vec::new();
        let outcome = verifier(&wrong, &root, &outboard).encode(&ChunkRanges::all(), &mut encoded);
        prop_assert!(matches!(outcome, Err(ReadError::Mismatch { .. })), "{outcome:?}");
        let mut right = Vec::new();
        let (_, outboard) = built(&data);
        verifier(&data, &root, &Outboard::Memory(outboard.into()))
            .encode(&ChunkRanges::all(), &mut right)
            .unwrap();
        prop_assert!(right.starts_with(&encoded));

        let mut items = Items::new(verifier(&wrong, &root, &wrong_outboard), ChunkRanges::all());
        let (mut piece, mut given) = (Vec::new(), Vec::new());
        let outcome = loop {
            let outcome = items.next_piece(&mut piece);
            join(&piece, &mut given);
            piece.clear();
            if !matches!(outcome, Ok(true)) {
                break outcome;
            }
        };
        prop_assert!(matches!(outcome, Err(ReadError::Mismatch { .. })), "{outcome:?}");
        prop_assert!(right.starts_with(&given));
    }
}

#[test]
fn a_range_past_the_end_is_refused() {
    let data = data(1000);
    let (root, outboard) = built(&data);
    let outboard = Outboard::Memory(outboard.into());
    for range in [0..1001, 1001..1001, 2000..3000, 0..u64::MAX] {
        let outcome = verifier(&data, &root, &outboard).read_range(range, &mut |_| Ok(()));
        assert!(matches!(outcome, Err(ReadError::OutOfBounds { .. })));
    }
}
