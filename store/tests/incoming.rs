//! NARs that come from their start, without a blob hash: checked as a whole, kept as blobs.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{fs, path::Path};

use futures_util::TryStreamExt as _;
use peerix_store::{IncomingNar, NarState, PathInfo, Store, StoreError, StorePath, VerifyError};
use support::{
    NixRoot,
    foreign::{Foreign, chunks},
};

/// Below and above what is held in memory, and with an outboard too large for the index.
const SIZES: [usize; 3] = [700_000, 5_000_000, 20_000_000];

fn files_in(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Writes `bytes` in pieces of many lengths.
async fn append(incoming: &IncomingNar, bytes: &[u8]) {
    let (incoming, bytes) = (incoming.clone(), bytes.to_vec());
    let writing = tokio::task::spawn_blocking(move || {
        let mut rest = &bytes[..];
        for len in [1, 16_383, 16_384, 16_385, 100_000, 7].into_iter().cycle() {
            let (piece, others) = rest.split_at(rest.len().min(len));
            incoming.append(piece).unwrap();
            rest = others;
            if rest.is_empty() {
                return;
            }
        }
    });
    writing.await.unwrap();
}

async fn read_nar(store: &Store, info: &PathInfo) -> Vec<u8> {
    let reader = store.open_nar(info.path_hash()).await.unwrap();
    let pieces: Vec<_> = reader.stream(0..info.nar_size).try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn a_nar_from_its_start_becomes_the_blob_that_it_is() {
    for size in SIZES {
        let root = NixRoot::new();
        let store = root.open().await;
        let foreign = Foreign::new(size);
        let total = foreign.info.nar_size;
        let incoming = store.begin_nar(foreign.info.clone()).await.unwrap();
        assert_eq!(
            (incoming.size(), *incoming.watermark().borrow()),
            (total, 0)
        );
        append(&incoming, &foreign.nar[..300_000]).await;
        assert_eq!(*incoming.watermark().borrow(), 300_000);
        assert!(incoming.read_at(0..300_001).is_err());
        assert!(incoming.read_at(5..200_000).unwrap() == foreign.nar[5..200_000]);
        assert!(matches!(incoming.verify().await, Err(VerifyError::Io(_))));
        assert!(matches!(
            incoming.commit().await,
            Err(StoreError::NotVerified { .. })
        ));
        append(&incoming, &foreign.nar[300_000..]).await;
        assert!(incoming.append(b"x").is_err());
        assert_eq!(incoming.verify().await.unwrap(), foreign.blob);
        assert_eq!(incoming.commit().await.unwrap(), foreign.blob);
        assert_eq!(incoming.commit().await.unwrap(), foreign.blob);

        let nar = store.nar(foreign.info.path_hash()).await.unwrap().unwrap();
        assert_eq!(
            (nar.info, nar.state),
            (foreign.info.clone(), NarState::Ready(foreign.blob))
        );
        assert!(read_nar(&store, &foreign.info).await == foreign.nar);
        // Who reads it as it came reads on.
        assert!(incoming.read_at(0..total).unwrap() == foreign.nar[..]);
        drop(incoming);
        assert_eq!(files_in(&root.state_dir().join("tmp")), 0);
        // A peer can fetch it, and so can its next owner.
        store.shutdown().await;
        drop(store);
        if size > 4_194_304 {
            let store = root.open().await;
            assert!(read_nar(&store, &foreign.info).await == foreign.nar);
            store.shutdown().await;
        }
    }
}

#[tokio::test]
async fn a_wrong_nar_leaves_nothing() {
    for size in SIZES {
        let root = NixRoot::new();
        let store = root.open().await;
        let foreign = Foreign::new(size);
        let incoming = store.begin_nar(foreign.info.clone()).await.unwrap();
        let mut wrong = foreign.nar.clone();
        wrong[size / 2] ^= 1;
        append(&incoming, &wrong).await;
        assert!(matches!(
            incoming.verify().await,
            Err(VerifyError::Mismatch { .. })
        ));
        assert!(incoming.commit().await.is_err());
        drop(incoming);
        assert!(store.nar(foreign.info.path_hash()).await.unwrap().is_none());
        assert_eq!(files_in(&root.state_dir().join("tmp")), 0);
        assert_eq!(files_in(&root.state_dir().join("blobs")), 0);
    }
}

#[tokio::test]
async fn a_download_of_the_same_blob_becomes_whole_by_it() {
    for size in SIZES {
        let root = NixRoot::new();
        let store = root.open().await;
        let foreign = Foreign::new(size);
        let begun = store
            .begin_download(foreign.info.clone(), foreign.blob)
            .await;
        let download = begun.unwrap();
        let (parents, leaves) = foreign.items(&chunks(131_072..262_144));
        download.write(&parents, &leaves).unwrap();

        let incoming = store.begin_nar(foreign.info.clone()).await.unwrap();
        append(&incoming, &foreign.nar).await;
        incoming.verify().await.unwrap();
        incoming.commit().await.unwrap();

        assert!(download.missing().is_empty());
        download.verify().await.unwrap();
        assert!(download.read_at(0..download.size()).unwrap() == foreign.nar[..]);
        assert_eq!(download.commit().await.unwrap().hash(), foreign.blob);
        assert!(read_nar(&store, &foreign.info).await == foreign.nar);
    }
}

#[tokio::test]
async fn what_rests_of_a_download_is_replaced_by_it() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    let (parents, leaves) = foreign.items(&chunks(0..1_048_576));
    download.write(&parents, &leaves).unwrap();
    drop(download);
    let incoming = store.begin_nar(foreign.info.clone()).await.unwrap();
    append(&incoming, &foreign.nar).await;
    incoming.verify().await.unwrap();
    incoming.commit().await.unwrap();
    assert!(read_nar(&store, &foreign.info).await == foreign.nar);
    assert_eq!(store.stats().await.unwrap().partial, 0);
}

#[tokio::test]
async fn the_same_bytes_under_another_name_are_held_once() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    let other = PathInfo {
        store_path: StorePath::from_parts([77; 20], "another-name").unwrap(),
        ..foreign.info.clone()
    };
    for info in [&foreign.info, &other] {
        let incoming = store.begin_nar(info.clone()).await.unwrap();
        append(&incoming, &foreign.nar).await;
        incoming.verify().await.unwrap();
        incoming.commit().await.unwrap();
    }
    assert_eq!(store.stats().await.unwrap().files, 1);
    for info in [&foreign.info, &other] {
        assert!(read_nar(&store, info).await == foreign.nar);
    }
}

#[tokio::test]
async fn its_space_counts_and_is_free_again() {
    let root = NixRoot::new();
    let mut config = root.config();
    config.blob_quota = 15_000_000;
    let store = Store::open(config).await.unwrap();
    let foreign = Foreign::new(9_000_000);
    let first = store.begin_nar(foreign.info.clone()).await.unwrap();
    append(&first, &foreign.nar[..2_000_000]).await;
    let second = store.begin_nar(foreign.info.clone()).await;
    assert!(matches!(second, Err(StoreError::NoSpace { .. })));
    drop(first);
    store.begin_nar(foreign.info.clone()).await.unwrap();
}
