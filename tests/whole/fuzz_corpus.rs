//! The corpus of the fuzz targets, replayed, with a little mutation: what was once found stays found.

use std::{fs, path::Path};

#[path = "../../fuzz/src/targets.rs"]
mod targets;

/// Mutations of each file: enough to notice a parser that trusts its input, in no time.
const MUTATIONS: u64 = 200;

#[test]
fn every_parser_takes_its_corpus_and_what_is_near_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let files: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("no corpus of {name}: {error}"))
            .map(|file| file.expect("our own directory").path())
            .collect();
        assert!(files.len() >= 3, "the corpus of {name} is too small");
        for file in files {
            let bytes = fs::read(&file).expect("our own file");
            target(&bytes);
            for seed in 0..MUTATIONS {
                target(&mutated(&bytes, seed));
            }
        }
    }
}

/// Every target is a program of cargo-fuzz, and the other way round.
#[test]
fn every_target_can_be_fuzzed() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    let programs: Vec<&str> = manifest
        .lines()
        .filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?
                .strip_suffix(".rs\"")
        })
        .collect();
    assert_eq!(programs.len(), targets::ALL.len());
    for (name, _) in targets::ALL {
        assert!(programs.contains(name), "{name}");
    }
}

/// The bytes with a few changed, cut or doubled, the same for the same seed.
fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut random = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    let mut next = |below: usize| {
        let mut number = [0; 4];
        random.fill(&mut number);
        u32::from_le_bytes(number) as usize % below.max(1)
    };
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, next(256) as u8),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
            3 if !bytes.is_empty() => bytes[at] = [0, 0xff, b':', b'\n'][next(4)],
            _ => {
                let end = at + next(bytes.len() - at.min(bytes.len()) + 1);
                let copy = bytes[at..end.min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}
