//! Downloads: out of order, checked as a whole, kept in memory or as files, handed over to Nix.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{fs, path::Path};

use bao_tree::io::Leaf;
use futures_util::TryStreamExt as _;
use peerix_store::{
    Blob, ClosureError, NarState, OpenBlobError, PathInfo, Source, Store, StoreError, StorePath,
    VerifyError,
};
use support::{
    NixRoot, eventually,
    foreign::{Foreign, chunks, fetch},
    nar_hash, register,
};

async fn read_all(blob: &Blob) -> Vec<u8> {
    let pieces: Vec<_> = blob
        .read_stream(0..blob.size())
        .try_collect()
        .await
        .unwrap();
    pieces.concat()
}

fn files_in(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[tokio::test]
async fn ranges_in_any_order_make_the_watermark_grow() {
    let root = NixRoot::new();
    let store = root.open().await;
    for size in [3_000_000, 9_000_000] {
        let foreign = Foreign::new(size);
        let begun = store
            .begin_download(foreign.info.clone(), foreign.blob)
            .await;
        let download = begun.unwrap();
        let total = foreign.info.nar_size;
        assert_eq!(
            (download.size(), download.blob_hash()),
            (total, foreign.blob)
        );
        assert_eq!(download.missing(), chunks(0..total));
        let watermark = download.watermark();
        assert_eq!(*watermark.borrow(), 0);

        let put = |range: std::ops::Range<u64>| {
            let (parents, leaves) = foreign.items(&chunks(range));
            download.write(&parents, &leaves).unwrap();
        };
        put(1_048_576..2_097_152);
        assert_eq!(*watermark.borrow(), 0);
        assert!(download.read_at(1_048_576..1_048_577).is_err());
        put(0..16_384);
        assert_eq!(*watermark.borrow(), 16_384);
        put(0..1_048_576);
        put(0..1_048_576);
        assert_eq!(*watermark.borrow(), 2_097_152);
        assert_eq!(download.missing(), chunks(2_097_152..total));
        assert!(download.read_at(100..70_000).unwrap() == foreign.nar[100..70_000]);
        put(2_097_152..total);
        assert_eq!(*watermark.borrow(), total);
        assert!(download.missing().is_empty());
        download.verify().await.unwrap();
        let blob = download.commit().await.unwrap();
        assert!(read_all(&blob).await == foreign.nar);
        // A slow reader of the download itself reads on.
        assert!(download.read_at(0..total).unwrap() == foreign.nar[..]);
        assert_eq!(download.commit().await.unwrap().hash(), foreign.blob);
    }
}

#[tokio::test]
async fn a_small_download_stays_in_memory_until_nix_imports_it() {
    let mut root = NixRoot::new();
    root.add_file("other", 10);
    let store = root.open().await;
    let foreign = Foreign::new(500_000);
    let download = fetch(&store, &foreign).await;
    download.verify().await.unwrap();
    download.commit().await.unwrap();
    let path_hash = foreign.info.path_hash();
    let nar = store.nar(path_hash).await.unwrap().unwrap();
    assert_eq!(nar.info, foreign.info);
    assert_eq!(nar.state, NarState::Ready(foreign.blob));
    assert_eq!(nar.source, Source::Inline);
    assert_eq!(store.path_of_blob(foreign.blob).await, Some(path_hash));
    assert_eq!(files_in(&root.state_dir().join("blobs")), 0);
    let reader = store.open_nar(path_hash).await.unwrap();
    let pieces: Vec<_> = reader
        .stream(0..foreign.info.nar_size)
        .try_collect()
        .await
        .unwrap();
    assert!(pieces.concat() == foreign.nar);
    // Listed beside what Nix has, and part of closures.
    let visited = store.for_each_path(|_| true).await.unwrap();
    assert_eq!(visited, 2);
    assert_eq!(
        store.closure(vec![path_hash]).await.unwrap(),
        std::slice::from_ref(&foreign.info)
    );

    foreign.import(&root);
    eventually("read from Nix's store", async || {
        let stats = store.stats().await.unwrap();
        stats.inline == 0 && stats.by_reference == 1
    })
    .await;
    let nar = store.nar(path_hash).await.unwrap().unwrap();
    assert_eq!(
        (nar.state, nar.source),
        (NarState::Ready(foreign.blob), Source::ByReference)
    );
    let blob = store.open_blob(foreign.blob).await.unwrap();
    assert!(read_all(&blob).await == foreign.nar);
    assert_eq!(store.for_each_path(|_| true).await.unwrap(), 2);
}

#[tokio::test]
async fn a_large_download_becomes_a_file_and_then_a_path_of_nix() {
    let root = NixRoot::new();
    let store = root.open().await;
    let (blobs, outboards) = (
        root.state_dir().join("blobs"),
        root.state_dir().join("outboards"),
    );
    let foreign = Foreign::new(20_000_000);
    let download = fetch(&store, &foreign).await;
    assert_eq!(files_in(&blobs), 2);
    download.verify().await.unwrap();
    download.commit().await.unwrap();
    let path_hash = foreign.info.path_hash();
    assert_eq!(
        store.nar(path_hash).await.unwrap().unwrap().source,
        Source::File
    );
    // Its outboard is too large for the index.
    assert_eq!((files_in(&blobs), files_in(&outboards)), (2, 0));
    drop(download);
    assert_eq!(files_in(&root.state_dir().join("tmp")), 0);

    // Acknowledged: there after a restart.
    store.shutdown().await;
    drop(store);
    let store = root.open().await;
    let blob = store.open_blob(foreign.blob).await.unwrap();
    assert!(read_all(&blob).await == foreign.nar);
    assert_eq!(visited(&store).await, std::slice::from_ref(&foreign.info));

    foreign.import(&root);
    eventually("the data file goes", async || files_in(&blobs) == 0).await;
    assert_eq!(files_in(&outboards), 1);
    // A reader that had it open is not disturbed.
    assert!(read_all(&blob).await == foreign.nar);
    let blob = store.open_blob(foreign.blob).await.unwrap();
    assert!(read_all(&blob).await == foreign.nar);
    let nar = store.nar(path_hash).await.unwrap().unwrap();
    assert_eq!(
        (nar.state, nar.source),
        (NarState::Ready(foreign.blob), Source::ByReference)
    );
}

async fn visited(store: &Store) -> Vec<PathInfo> {
    let (send, receive) = std::sync::mpsc::channel();
    let visit = store.for_each_path(move |info| send.send(info).is_ok());
    visit.await.unwrap();
    receive.iter().collect()
}

#[tokio::test]
async fn without_a_nix_database_small_downloads_are_kept_in_the_index() {
    let root = NixRoot::without_database();
    let store = root.open().await;
    let foreign = Foreign::new(1000);
    let download = fetch(&store, &foreign).await;
    download.verify().await.unwrap();
    download.commit().await.unwrap();
    store.shutdown().await;
    let store = root.open().await;
    let nar = store.nar(foreign.info.path_hash()).await.unwrap().unwrap();
    assert_eq!(
        (nar.info, nar.source),
        (foreign.info.clone(), Source::Inline)
    );
    // And Nix may have imported the path while nobody looked.
    store.shutdown().await;
    root.make_database();
    foreign.import(&root);
    let store = root.open().await;
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.files, stats.by_reference), (0, 1));
    let blob = store.open_blob(foreign.blob).await.unwrap();
    assert!(read_all(&blob).await == foreign.nar);
}

#[tokio::test]
async fn a_wrong_nar_is_found_out_and_leaves_nothing() {
    let root = NixRoot::new();
    let store = root.open().await;
    for size in [1000, 100_000, 6_000_000] {
        let mut foreign = Foreign::new(size);
        foreign.info.nar_hash = nar_hash(b"something else");
        let download = fetch(&store, &foreign).await;
        let outcome = download.verify().await;
        assert!(
            matches!(outcome, Err(VerifyError::Mismatch { .. })),
            "{outcome:?}"
        );
        let committed = download.commit().await;
        assert!(matches!(committed, Err(StoreError::NotVerified { .. })));
        download.discard().await;
        assert!(download.read_at(0..10).is_err());
        assert!(store.nar(foreign.info.path_hash()).await.unwrap().is_none());
        let opened = store.open_blob(foreign.blob).await;
        assert!(matches!(opened, Err(OpenBlobError::NotFound)));
    }
    assert_eq!(files_in(&root.state_dir().join("tmp")), 0);
    assert_eq!(files_in(&root.state_dir().join("blobs")), 0);
}

#[tokio::test]
async fn an_abandoned_download_ends_whoever_waits_for_it() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(6_000_000);
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    let (parents, leaves) = foreign.items(&chunks(0..2_000_000));
    download.write(&parents, &leaves).unwrap();
    let (outcome, ()) = tokio::join!(download.verify(), download.discard());
    assert!(
        matches!(outcome, Err(VerifyError::Discarded)),
        "{outcome:?}"
    );
    assert!(download.write(&parents, &leaves).is_err());
    assert_eq!(files_in(&root.state_dir().join("blobs")), 0);
}

#[tokio::test]
async fn what_lies_outside_of_the_blob_is_refused() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(100_000);
    let larger = Foreign::new(10_000_000);
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    let (parents, _) = larger.items(&chunks(9_000_000..9_100_000));
    assert!(download.write(&parents, &[]).is_err());
    for offset in [foreign.info.nar_size, u64::MAX - 10, 90_000] {
        let data = vec![0; 16_384].into();
        assert!(download.write(&[], &[Leaf { offset, data }]).is_err());
    }
    assert_eq!(download.missing(), chunks(0..foreign.info.nar_size));
}

#[tokio::test]
async fn the_oldest_blobs_in_memory_make_room() {
    let root = NixRoot::new();
    let mut config = root.config();
    config.inline_cache_bytes = 1_000_000;
    let store = Store::open(config).await.unwrap();
    let mut blobs = Vec::new();
    for number in 0..5 {
        let mut foreign = Foreign::new(300_000 + number);
        let digest = [100 + number as u8; 20];
        foreign.info.store_path = StorePath::from_parts(digest, "foreign").unwrap();
        let download = fetch(&store, &foreign).await;
        download.verify().await.unwrap();
        download.commit().await.unwrap();
        blobs.push(foreign.blob);
    }
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.inline, 3);
    assert!(stats.inline_bytes <= 1_000_000);
    assert!(store.open_blob(blobs[1]).await.is_err());
    assert!(store.open_blob(blobs[2]).await.is_ok());
    store.forget_blob(blobs[2]).await.unwrap();
    assert!(store.open_blob(blobs[2]).await.is_err());
}

#[tokio::test]
async fn a_rotten_data_file_is_dropped_and_not_served() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(20_000_000);
    let blob_file = root.state_dir().join("blobs").join(format!(
        "{}-{}",
        foreign.blob.to_hex(),
        foreign.nar.len()
    ));
    for wreck in [
        (|file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[10_000_000] ^= 1;
            fs::write(file, bytes).unwrap();
        }) as fn(&Path),
        |file| fs::write(file, b"short").unwrap(),
        |file| fs::remove_file(file).unwrap(),
    ] {
        let download = fetch(&store, &foreign).await;
        download.verify().await.unwrap();
        download.commit().await.unwrap();
        wreck(&blob_file);
        if let Ok(blob) = store.open_blob(foreign.blob).await {
            let read: Result<Vec<_>, _> = blob.read_stream(0..blob.size()).try_collect().await;
            assert!(read.is_err());
        }
        assert!(store.nar(foreign.info.path_hash()).await.unwrap().is_none());
        assert!(!blob_file.exists());
        let closure = store.closure(vec![foreign.info.path_hash()]).await;
        assert!(matches!(closure, Err(ClosureError::NotValid { .. })));
    }
}

#[tokio::test]
async fn a_download_that_nix_got_elsewhere_meanwhile_is_not_kept_twice() {
    let root = NixRoot::new();
    let store = root.open().await;
    for size in [1000, 6_000_000] {
        let foreign = Foreign::new(size);
        let download = fetch(&store, &foreign).await;
        foreign.import(&root);
        register(&root.connect(), &foreign.info);
        download.verify().await.unwrap();
        let blob = download.commit().await.unwrap();
        assert!(read_all(&blob).await == foreign.nar);
        let stats = store.stats().await.unwrap();
        assert_eq!((stats.files, stats.inline, stats.by_reference), (0, 0, 1));
    }
}
