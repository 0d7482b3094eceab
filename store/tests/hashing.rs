//! NARs by reference: hashed on demand, read back at any offset, never served once they are wrong.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::fs;

use bao_tree::ChunkRanges;
use futures_util::{StreamExt as _, TryStreamExt as _};
use peerix_store::{
    BlobHash, HashError, NarState, OpenBlobError, PathInfo, ReadError, Source, Store,
};
use support::{NixRoot, content, eventually, register, unknown, unregister};

async fn read_all(store: &Store, blob: BlobHash) -> Result<Vec<u8>, ReadError> {
    let blob = store.open_blob(blob).await.unwrap();
    let pieces: Vec<_> = blob.read_stream(0..blob.size()).try_collect().await?;
    Ok(pieces.concat())
}

async fn state(store: &Store, info: &PathInfo) -> Option<NarState> {
    let nar = store.nar(info.path_hash()).await.unwrap();
    nar.map(|nar| {
        assert_eq!(&nar.info, info);
        nar.state
    })
}

#[tokio::test]
async fn a_nar_is_hashed_on_demand_and_read_back_as_a_blob() {
    let mut root = NixRoot::new();
    let infos = [
        root.add_file("small", 100),
        root.add_file("one-group", 16_384 - 112),
        root.add_file("more?x=1", 600_000),
        root.add_file("large", 20_000_000),
        root.add_tree("tree", 400),
        root.add_tree("empty", 0),
    ];
    let store = root.open().await;
    for info in infos {
        assert_eq!(state(&store, &info).await, Some(NarState::Unhashed));
        let nar = root.nar(&info);
        let blob = store.hash_nar(info.path_hash()).await.unwrap();
        assert_eq!(blob, BlobHash::new(&nar));
        assert_eq!(state(&store, &info).await, Some(NarState::Ready(blob)));
        assert_eq!(store.path_of_blob(blob).await, Some(info.path_hash()));
        assert_eq!(store.hash_nar(info.path_hash()).await.unwrap(), blob);
        assert!(read_all(&store, blob).await.unwrap() == nar);
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.hashed, stats.by_reference, stats.files), (6, 6, 0));
    // Only the outboard of the large one is too large for the index.
    let large = 20_000_112_u64.div_ceil(16_384) - 1;
    assert_eq!(stats.outboard_bytes, (large * 64).next_multiple_of(4096));
}

#[tokio::test]
async fn what_was_hashed_is_known_after_a_restart() {
    let mut root = NixRoot::new();
    let info = root.add_file("large", 20_000_000);
    let store = root.open().await;
    let blob = store.hash_nar(info.path_hash()).await.unwrap();
    store.shutdown().await;
    drop(store);
    let store = root.open().await;
    assert_eq!(state(&store, &info).await, Some(NarState::Ready(blob)));
    assert!(read_all(&store, blob).await.unwrap() == root.nar(&info));
}

#[tokio::test]
async fn concurrent_callers_join_one_pass() {
    let mut root = NixRoot::new();
    let info = root.add_file("large", 60_000_000);
    let store = root.open().await;
    let calls = (0..16).map(|_| store.hash_nar(info.path_hash()));
    let mut calls = Box::pin(futures_util::future::join_all(calls));
    let mut seen_hashing = false;
    let results = loop {
        tokio::select! {
            results = &mut calls => break results,
            nar = store.nar(info.path_hash()) => {
                if let NarState::Hashing { done, total } = nar.unwrap().unwrap().state {
                    assert!(done <= total && total == info.nar_size);
                    seen_hashing = true;
                }
            }
        }
    };
    assert!(seen_hashing);
    let blob = BlobHash::new(root.nar(&info));
    assert!(results.into_iter().all(|result| result.unwrap() == blob));
}

#[tokio::test]
async fn a_dropped_caller_does_not_end_the_pass() {
    let mut root = NixRoot::new();
    let info = root.add_file("large", 30_000_000);
    let store = root.open().await;
    let hashing = store.hash_nar(info.path_hash());
    let started = async {
        while matches!(state(&store, &info).await, Some(NarState::Unhashed)) {
            tokio::task::yield_now().await;
        }
    };
    // The caller goes as soon as the pass is under way.
    tokio::select! {
        biased;
        () = started => {}
        _ = hashing => panic!("done before it began"),
    }
    eventually("hashed without a caller", async || {
        matches!(state(&store, &info).await, Some(NarState::Ready(_)))
    })
    .await;
}

#[tokio::test]
async fn hashing_in_the_background_goes_through_all() {
    let mut root = NixRoot::new();
    let infos: Vec<_> = (0..50).map(|i| root.add_file("small", i * 1000)).collect();
    let store = root.open().await;
    for info in infos.iter().chain(&infos) {
        store.start_hashing(info.path_hash());
    }
    store.start_hashing(unknown());
    for info in &infos {
        eventually("hashed in the background", async || {
            matches!(state(&store, info).await, Some(NarState::Ready(_)))
        })
        .await;
    }
}

#[tokio::test]
async fn paths_with_equal_contents_share_a_blob() {
    let mut root = NixRoot::new();
    let infos = [root.add_file("a", 50_000), root.add_file("b", 50_000)];
    let store = root.open().await;
    let blob = store.hash_nar(infos[0].path_hash()).await.unwrap();
    assert_eq!(store.hash_nar(infos[1].path_hash()).await.unwrap(), blob);
    assert_eq!(store.paths_of_blob(blob).await.len(), 2);
    // One of them goes: the blob is read from the other.
    unregister(&root.connect(), &infos[0]);
    fs::remove_file(root.physical(&infos[0].store_path)).unwrap();
    let opened = store.open_blob(blob).await.unwrap();
    assert_eq!(opened.path_hash(), Some(infos[1].path_hash()));
    assert!(read_all(&store, blob).await.unwrap() == root.nar(&infos[1]));
}

#[tokio::test]
async fn a_nar_with_a_wrong_hash_is_never_ready() {
    let mut root = NixRoot::new();
    for (name, same_size) in [("rotten", true), ("truncated", false)] {
        let info = root.add_file(name, 700_000);
        let physical = root.physical(&info.store_path);
        let mut bytes = content(700_000);
        if same_size {
            bytes[400_000] ^= 1;
        } else {
            bytes.truncate(699_000);
        }
        fs::write(&physical, bytes).unwrap();
        let store = root.open().await;
        for _ in 0..2 {
            let outcome = store.hash_nar(info.path_hash()).await;
            assert!(
                matches!(outcome, Err(HashError::Mismatch { .. })),
                "{outcome:?}"
            );
            assert_eq!(state(&store, &info).await, None);
        }
        let opened = store.open_nar(info.path_hash()).await;
        assert!(matches!(opened, Err(OpenBlobError::NotFound)));

        // Nix repairs a path by putting a new one in its place.
        let repaired = root.dir.path().join("repaired");
        fs::write(&repaired, content(700_000)).unwrap();
        fs::rename(&repaired, &physical).unwrap();
        let blob = store.hash_nar(info.path_hash()).await.unwrap();
        assert!(read_all(&store, blob).await.unwrap() == root.nar(&info));
        store.shutdown().await;
    }
}

#[tokio::test]
async fn a_changed_file_ends_the_read_and_drops_the_blob() {
    let mut root = NixRoot::new();
    let info = root.add_tree("tree", 300);
    let store = root.open().await;
    let hash = store.hash_nar(info.path_hash()).await.unwrap();
    let blob = store.open_blob(hash).await.unwrap();
    let nar = root.nar(&info);

    let victim = root.physical(&info.store_path).join("dir-3/file 17");
    let len = fs::metadata(&victim).unwrap().len() as usize;
    fs::remove_file(&victim).unwrap();
    fs::write(&victim, vec![0; len]).unwrap();

    let mut stream = Box::pin(blob.read_stream(0..blob.size()));
    let mut read = Vec::new();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(piece) => read.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Mismatch { .. }), "{error}");
    assert!(nar.starts_with(&read) && stream.next().await.is_none());
    assert_eq!(state(&store, &info).await, Some(NarState::Unhashed));
    let opened = store.open_blob(hash).await;
    assert!(matches!(opened, Err(OpenBlobError::NotFound)));
    assert_eq!(store.path_of_blob(hash).await, None);
    assert!(store.hash_nar(info.path_hash()).await.is_err());
}

#[tokio::test]
async fn a_missing_file_drops_the_blob() {
    let mut root = NixRoot::new();
    let info = root.add_tree("tree", 100);
    let store = root.open().await;
    let hash = store.hash_nar(info.path_hash()).await.unwrap();
    let blob = store.open_blob(hash).await.unwrap();
    fs::remove_file(root.physical(&info.store_path).join("dir-3/file 17")).unwrap();
    let encoded =
        tokio::task::spawn_blocking(move || blob.encode(&ChunkRanges::all(), &mut std::io::sink()));
    let outcome = encoded.await.unwrap();
    assert!(matches!(outcome, Err(ReadError::Missing(_))), "{outcome:?}");
    assert!(store.open_blob(hash).await.is_err());
}

#[tokio::test]
async fn a_path_that_nix_deleted_is_not_held() {
    let mut root = NixRoot::new();
    let info = root.add_file("gone", 100_000);
    let store = root.open().await;
    let blob = store.hash_nar(info.path_hash()).await.unwrap();
    unregister(&root.connect(), &info);
    assert_eq!(state(&store, &info).await, None);
    assert!(store.open_blob(blob).await.is_err());
    let outcome = store.hash_nar(info.path_hash()).await;
    assert!(matches!(outcome, Err(HashError::NotFound { .. })));
    // The same bytes again: nothing has to be hashed.
    root.register(&info);
    assert_eq!(state(&store, &info).await, Some(NarState::Ready(blob)));
    assert!(read_all(&store, blob).await.is_ok());
}

#[tokio::test]
async fn other_contents_under_the_same_path_are_hashed_anew() {
    let mut root = NixRoot::new();
    let info = root.add_file("rebuilt", 100_000);
    let store = root.open().await;
    let first = store.hash_nar(info.path_hash()).await.unwrap();
    // A path built again need not have the same bytes.
    fs::write(root.physical(&info.store_path), content(90_000)).unwrap();
    let nar = root.nar(&info);
    let rebuilt = PathInfo {
        nar_hash: support::nar_hash(&nar),
        nar_size: nar.len() as u64,
        ..info.clone()
    };
    register(&root.connect(), &rebuilt);
    assert_eq!(state(&store, &rebuilt).await, Some(NarState::Unhashed));
    assert!(store.open_blob(first).await.is_err());
    let second = store.hash_nar(info.path_hash()).await.unwrap();
    assert_eq!(second, BlobHash::new(&nar));
    assert_eq!(store.path_of_blob(first).await, None);
}

#[tokio::test]
async fn an_unhashed_nar_is_dumped_and_its_hashes_kept() {
    let mut root = NixRoot::new();
    for info in [
        root.add_file("tiny", 10),
        root.add_file("small", 100_000),
        root.add_file("large", 5_000_000),
        root.add_tree("tree", 300),
    ] {
        let store = root.open().await;
        let nar = root.nar(&info);
        let reader = store.open_nar(info.path_hash()).await.unwrap();
        assert_eq!(
            (reader.size(), reader.nar_hash()),
            (info.nar_size, info.nar_hash)
        );
        let pieces: Vec<_> = reader.stream(0..info.nar_size).try_collect().await.unwrap();
        assert!(pieces.concat() == nar);
        let blob = BlobHash::new(&nar);
        eventually("the hashes are kept", async || {
            state(&store, &info).await == Some(NarState::Ready(blob))
        })
        .await;
        // Hashed now: read through the tree.
        let reader = store.open_nar(info.path_hash()).await.unwrap();
        let half = info.nar_size / 2..info.nar_size;
        let pieces: Vec<_> = reader.stream(half).try_collect().await.unwrap();
        assert!(pieces.concat() == nar[nar.len() / 2..]);
        store.shutdown().await;
    }
}

#[tokio::test]
async fn a_part_of_an_unhashed_nar_has_it_hashed_first() {
    let mut root = NixRoot::new();
    let info = root.add_file("file", 1_000_000);
    let store = root.open().await;
    let reader = store.open_nar(info.path_hash()).await.unwrap();
    let pieces: Vec<_> = reader.stream(700_000..700_010).try_collect().await.unwrap();
    assert!(pieces.concat() == root.nar(&info)[700_000..700_010]);
    assert!(matches!(
        state(&store, &info).await,
        Some(NarState::Ready(_))
    ));
}

#[tokio::test]
async fn the_dump_of_a_wrong_nar_stops_before_its_last_chunk_group() {
    let mut root = NixRoot::new();
    for size in [1000, 100_000, 3_000_000] {
        let info = root.add_file("rotten", size);
        let mut bytes = content(size);
        bytes[0] ^= 1;
        fs::write(root.physical(&info.store_path), bytes).unwrap();
        let store = root.open().await;
        let reader = store.open_nar(info.path_hash()).await.unwrap();
        let mut stream = reader.stream(0..info.nar_size);
        let mut read = 0;
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(piece) => read += piece.len() as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReadError::WrongNar { .. }), "{error}");
        assert!(read < info.nar_size && read == (info.nar_size - 1) / 16_384 * 16_384);
        assert_eq!(state(&store, &info).await, None);
        store.shutdown().await;
    }
}

#[tokio::test]
async fn nothing_is_held_of_an_unknown_path() {
    let root = NixRoot::new();
    let store = root.open().await;
    assert_eq!(store.nar(unknown()).await.unwrap(), None);
    assert!(matches!(
        store.open_nar(unknown()).await,
        Err(OpenBlobError::NotFound)
    ));
    assert!(matches!(
        store.hash_nar(unknown()).await,
        Err(HashError::NotFound { .. })
    ));
    let blob = BlobHash::new(b"unknown");
    assert!(matches!(
        store.open_blob(blob).await,
        Err(OpenBlobError::NotFound)
    ));
    store.forget_blob(blob).await.unwrap();
}

#[tokio::test]
async fn a_forgotten_blob_is_hashed_again() {
    let mut root = NixRoot::new();
    let info = root.add_file("file", 20_000_000);
    let store = root.open().await;
    let blob = store.hash_nar(info.path_hash()).await.unwrap();
    store.forget_blob(blob).await.unwrap();
    assert_eq!(state(&store, &info).await, Some(NarState::Unhashed));
    assert_eq!(store.stats().await.unwrap().outboard_bytes, 0);
    assert_eq!(store.hash_nar(info.path_hash()).await.unwrap(), blob);
    let nar = store.nar(info.path_hash()).await.unwrap().unwrap();
    assert_eq!(nar.source, Source::ByReference);
}
