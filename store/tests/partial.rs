//! Downloads that are cut off: continued, served meanwhile, bounded.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{fs, path::Path};

use bao_tree::ChunkRanges;
use peerix_store::{Config, Source, Store, StoreError, VerifyError};
use support::{
    NixRoot, eventually,
    foreign::{Foreign, chunks, fetch},
};

const MIB: u64 = 1024 * 1024;

async fn fetch_part(store: &Store, foreign: &Foreign, range: std::ops::Range<u64>) {
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    let (parents, leaves) = foreign.items(&chunks(range));
    download.write(&parents, &leaves).unwrap();
}

/// Copies a state directory as it is, as a kill would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn blobs_in(root: &NixRoot) -> usize {
    fs::read_dir(root.state_dir().join("blobs"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn a_download_cut_off_is_continued_and_served_meanwhile() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    fetch_part(&store, &foreign, 0..5 * MIB).await;

    let blob = store.open_blob(foreign.blob).await.unwrap();
    assert_eq!(blob.held(), chunks(0..5 * MIB));
    let mut read = Vec::new();
    let take = &mut |piece: bytes::Bytes| {
        read.extend_from_slice(&piece);
        Ok(())
    };
    blob.read_verified(3 * MIB..5 * MIB, take).unwrap();
    assert!(read == foreign.nar[3 * MIB as usize..5 * MIB as usize]);
    // What is not there yet is neither given nor held against the rest.
    assert!(
        blob.read_verified(4 * MIB..6 * MIB, &mut |_| Ok(()))
            .is_err()
    );
    assert!(blob.encode(&chunks(0..6 * MIB), &mut Vec::new()).is_err());
    let mut encoded = Vec::new();
    blob.encode(&chunks(MIB..5 * MIB), &mut encoded).unwrap();
    let nar = store.partial_nar(foreign.info.path_hash()).await.unwrap();
    assert_eq!(
        (nar.info, nar.source),
        (foreign.info.clone(), Source::Partial)
    );
    assert!(store.nar(foreign.info.path_hash()).await.unwrap().is_none());

    store.shutdown().await;
    let store = root.open().await;
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    assert_eq!(download.held(), chunks(0..5 * MIB));
    let (parents, leaves) = foreign.items(&download.missing());
    assert_eq!(leaves.first().unwrap().offset, 5 * MIB);
    download.write(&parents, &leaves).unwrap();
    download.verify().await.unwrap();
    download.commit().await.unwrap();
    let nar = store.nar(foreign.info.path_hash()).await.unwrap().unwrap();
    assert_eq!(nar.source, Source::File);
}

#[tokio::test]
async fn after_a_kill_all_that_was_written_is_there() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    fetch_part(&store, &foreign, 0..5 * MIB).await;
    fetch_part(&store, &foreign, 6 * MIB..7 * MIB).await;
    let killed = NixRoot::new();
    copy(&root.state_dir(), &killed.state_dir());

    let store = killed.open().await;
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let expected = chunks(0..5 * MIB) | chunks(6 * MIB..7 * MIB);
    assert_eq!(begun.unwrap().held(), expected);
    drop(store);
}

#[tokio::test]
async fn after_a_kill_what_is_wrong_is_not_held() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    fetch_part(&store, &foreign, 0..5 * MIB).await;
    let killed = NixRoot::new();
    copy(&root.state_dir(), &killed.state_dir());
    // As after a power cut that lost a page.
    let name = format!("{}-{}", foreign.blob.to_hex(), foreign.nar.len());
    let file = killed.state_dir().join("blobs").join(name);
    let mut bytes = fs::read(&file).unwrap();
    bytes[2 * MIB as usize..2 * MIB as usize + 4096].fill(0);
    fs::write(&file, bytes).unwrap();

    let store = killed.open().await;
    // Read in the background, before anybody asks.
    eventually("the part to be served", async || {
        store.open_blob(foreign.blob).await.is_ok()
    })
    .await;
    let group = chunks(2 * MIB..2 * MIB + 16 * 1024);
    let held = store.open_blob(foreign.blob).await.unwrap().held();
    assert_eq!(held, chunks(0..5 * MIB) - group);
}

#[tokio::test]
async fn what_rots_while_it_rests_is_nobody_s_lie() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    fetch_part(&store, &foreign, 0..5 * MIB).await;
    store.shutdown().await;
    let name = format!("{}-{}", foreign.blob.to_hex(), foreign.nar.len());
    let file = root.state_dir().join("blobs").join(name);
    let mut bytes = fs::read(&file).unwrap();
    bytes[MIB as usize] ^= 1;
    fs::write(&file, bytes).unwrap();
    let store = root.open().await;
    let download = fetch_rest(&store, &foreign).await;
    let verdict = download.verify().await;
    assert!(matches!(verdict, Err(VerifyError::Io(_))), "{verdict:?}");
    download.discard().await;
    assert_eq!(blobs_in(&root), 0);
    let download = fetch(&store, &foreign).await;
    download.verify().await.unwrap();
}

async fn fetch_rest(store: &Store, foreign: &Foreign) -> peerix_store::Download {
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await;
    let download = begun.unwrap();
    let (parents, leaves) = foreign.items(&download.missing());
    download.write(&parents, &leaves).unwrap();
    download
}

#[tokio::test]
async fn an_outboard_alone_or_a_data_file_alone_is_left_over() {
    let root = NixRoot::new();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    fetch_part(&store, &foreign, 0..MIB).await;
    store.shutdown().await;
    let blobs = root.state_dir().join("blobs");
    let name = format!("{}-{}", foreign.blob.to_hex(), foreign.nar.len());
    fs::remove_file(blobs.join(format!("{name}.outboard"))).unwrap();
    fs::write(blobs.join("lost"), "x").unwrap();
    let store = root.open().await;
    assert_eq!(blobs_in(&root), 0);
    assert!(store.open_blob(foreign.blob).await.is_err());
}

async fn open_with_quota(root: &NixRoot, quota: u64) -> Store {
    let mut config: Config = root.config();
    config.blob_quota = quota;
    Store::open(config).await.unwrap()
}

async fn keep(store: &Store, foreign: &Foreign) -> Result<(), StoreError> {
    let begun = store
        .begin_download(foreign.info.clone(), foreign.blob)
        .await?;
    let (parents, leaves) = foreign.items(&ChunkRanges::all());
    begun.write(&parents, &leaves).unwrap();
    begun.verify().await.unwrap();
    begun.commit().await.map(drop)
}

#[tokio::test]
async fn the_oldest_downloads_make_room_within_the_quota() {
    let root = NixRoot::without_database();
    let store = open_with_quota(&root, 21 * MIB).await;
    let foreign: Vec<_> = (0..4)
        .map(|i| Foreign::named("foreign", 200 + i, 9_000_000))
        .collect();
    let is_held = async |i: usize| store.open_blob(foreign[i].blob).await.is_ok();
    keep(&store, &foreign[0]).await.unwrap();
    // A part counts as the whole that it will be.
    fetch_part(&store, &foreign[1], 0..MIB).await;
    assert!(is_held(0).await && is_held(1).await);
    // A share does not count, and stays.
    let pinned = foreign[0].info.store_path.clone();
    let closure = vec![foreign[0].info.path_hash()];
    store.add_share(pinned, closure).await.unwrap();
    keep(&store, &foreign[2]).await.unwrap();
    assert!(is_held(0).await && is_held(1).await && is_held(2).await);
    keep(&store, &foreign[3]).await.unwrap();
    assert!(is_held(0).await && is_held(3).await);
    assert!(!(is_held(1).await && is_held(2).await), "one had to go");
    // What does not fit at all is not begun.
    let huge = Foreign::named("huge", 210, 30_000_000);
    let refused = keep(&store, &huge).await;
    assert!(
        matches!(refused, Err(StoreError::NoSpace { .. })),
        "{refused:?}"
    );
    assert!(is_held(0).await && is_held(3).await);
    let stats = store.stats().await.unwrap();
    assert!(stats.blob_bytes <= 30 * MIB, "{stats:?}");
    store.shutdown().await;

    // A smaller quota, after a restart.
    let store = open_with_quota(&root, 10 * MIB).await;
    keep(&store, &foreign[1]).await.unwrap();
    assert!(store.open_blob(foreign[0].blob).await.is_ok(), "shared");
    assert!(store.open_blob(foreign[3].blob).await.is_err());
}

#[tokio::test]
async fn a_blob_that_is_held_is_not_fetched_over_itself() {
    let root = NixRoot::without_database();
    let store = root.open().await;
    let foreign = Foreign::new(9_000_000);
    keep(&store, &foreign).await.unwrap();
    // Another path with the same bytes is known from now on.
    let mut other = foreign.clone();
    other.info.store_path = peerix_store::StorePath::from_parts([9; 20], "other").unwrap();
    let held = keep(&store, &other).await;
    assert!(
        matches!(held, Err(StoreError::AlreadyHeld { .. })),
        "{held:?}"
    );
    assert!(store.nar(other.info.path_hash()).await.unwrap().is_some());
    // Another path whose bytes these are not, is not.
    let mut liar = foreign.clone();
    liar.info.store_path = peerix_store::StorePath::from_parts([8; 20], "liar").unwrap();
    liar.info.nar_hash = peerix_store::NarHash::from_bytes([1; 32]);
    assert!(keep(&store, &liar).await.is_err());
    assert!(store.nar(liar.info.path_hash()).await.unwrap().is_none());
    assert!(store.open_blob(foreign.blob).await.is_ok());
}
