//! The store as iroh-blobs' API: its own provider, fetcher and downloader, over real QUIC.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{net::SocketAddr, ops::Range};

use bao_tree::ChunkRanges;
use futures_util::{StreamExt as _, future::join_all};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode,
    address_lookup::MemoryLookup,
    endpoint::{Connection, PortmapperConfig, presets},
    protocol::Router,
};
use iroh_blobs::{
    ALPN, BlobsProtocol, HashAndFormat,
    api::{
        Store as BlobsApi,
        blobs::{Bitfield, BlobStatus},
        downloader::{DownloadProgressItem, Downloader},
        remote::GetProgressItem,
    },
    get::request::get_blob,
    hashseq::HashSeq,
    protocol::GetRequest,
    store::mem::MemStore,
};
use peerix_store::{BlobHash, Download, Store};
use support::{
    NixRoot, content,
    foreign::{Foreign, chunks, fetch},
};
use tokio::time::timeout;

const MIB: u64 = 1024 * 1024;

/// How long a test waits for what must happen, on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Endpoints on loopback that know each other's addresses.
#[derive(Clone, Default)]
struct Net(MemoryLookup);

impl Net {
    async fn bind(&self) -> Endpoint {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .address_lookup(self.0.clone())
            .clear_ip_transports()
            .bind_addr(SocketAddr::from(([127, 0, 0, 1], 0)))
            .unwrap()
            .bind()
            .await
            .unwrap();
        let sockets = endpoint.bound_sockets();
        let address = sockets.into_iter().find(SocketAddr::is_ipv4).unwrap();
        let info = EndpointAddr::new(endpoint.id()).with_ip_addr(address);
        self.0.add_endpoint_info(info);
        endpoint
    }

    /// Serves a store with iroh-blobs' own provider.
    async fn serve(&self, store: &BlobsApi) -> Router {
        let endpoint = self.bind().await;
        let blobs = BlobsProtocol::new(store, None);
        Router::builder(endpoint).accept(ALPN, blobs).spawn()
    }
}

async fn connect(from: &Endpoint, to: &Router) -> Connection {
    let connecting = from.connect(to.endpoint().id(), ALPN);
    timeout(PATIENCE, connecting).await.unwrap().unwrap()
}

/// A stock store that holds some ranges of a blob.
async fn stock(nar: &[u8], held: &ChunkRanges) -> BlobsApi {
    let whole = MemStore::new();
    let tag = whole.add_slice(nar).temp_tag().await.unwrap();
    if held.is_all() {
        return whole.into();
    }
    let encoded = whole.export_bao(tag.hash(), held.clone()).bao_to_vec();
    let part = MemStore::new();
    let encoded = encoded.await.unwrap();
    part.import_bao_bytes(tag.hash(), held.clone(), encoded)
        .await
        .unwrap();
    part.into()
}

/// Downloads a part of a NAR, and goes on holding it.
async fn hold_part(store: &Store, foreign: &Foreign, range: Range<u64>) -> Download {
    let info = foreign.info.clone();
    let download = store.begin_download(info, foreign.blob).await.unwrap();
    let (parents, leaves) = foreign.items(&chunks(range));
    download.write(&parents, &leaves).unwrap();
    download
}

async fn keep(store: &Store, foreign: &Foreign) {
    let download = fetch(store, foreign).await;
    download.verify().await.unwrap();
    download.commit().await.unwrap();
}

async fn bytes_of(store: &Store, blob: BlobHash) -> Vec<u8> {
    let blob = store.open_blob(blob).await.unwrap();
    let mut read = Vec::new();
    let size = blob.size();
    blob.read_verified(0..size, &mut |piece| {
        read.extend_from_slice(&piece);
        Ok(())
    })
    .unwrap();
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_provider_serves_every_kind_of_blob() {
    let mut root = NixRoot::new();
    let tree = root.add_tree("tree", 60);
    let (in_file, in_memory, in_index, part) = (
        Foreign::named("file", 201, 9_000_000),
        Foreign::named("memory", 202, 1_000_000),
        content(30_000),
        Foreign::named("part", 204, 9_000_000),
    );
    let store = root.open().await;
    let api = store.blobs_api();
    let by_reference = store.hash_nar(tree.path_hash()).await.unwrap();
    keep(&store, &in_file).await;
    keep(&store, &in_memory).await;
    let tag = api.add_slice(&in_index).temp_tag().await.unwrap();
    assert_eq!(tag.hash(), BlobHash::new(&in_index));
    let _part = hold_part(&store, &part, 0..5 * MIB).await;

    let net = Net::default();
    let provider = net.serve(&api).await;
    let client = net.bind().await;
    let connection = connect(&client, &provider).await;
    let expected = [
        (by_reference, root.nar(&tree)),
        (in_file.blob, in_file.nar.clone()),
        (in_memory.blob, in_memory.nar.clone()),
        (tag.hash(), in_index),
    ];
    let fetched = MemStore::new();
    for (blob, bytes) in &expected {
        let got = get_blob(connection.clone(), *blob).bytes().await.unwrap();
        assert!(got == *bytes);
        let stats = fetched.remote().fetch(connection.clone(), *blob).await;
        assert_eq!(stats.unwrap().payload_bytes_read, bytes.len() as u64);
        assert!(fetched.get_bytes(*blob).await.unwrap() == *bytes);
        assert!(api.get_bytes(*blob).await.unwrap() == *bytes);
        let ranges = api.export_ranges(*blob, 1000..20_001);
        assert!(ranges.concatenate().await.unwrap() == bytes[1000..20_001]);
    }
    // What there is of a part, and no more.
    let request = |range| GetRequest::blob_ranges(part.blob, chunks(range));
    let got = fetched
        .remote()
        .execute_get(connection.clone(), request(MIB..5 * MIB));
    assert_eq!(got.await.unwrap().payload_bytes_read, 4 * MIB);
    let too_much = request(3 * MIB..6 * MIB);
    assert!(
        fetched
            .remote()
            .execute_get(connection.clone(), too_much)
            .await
            .is_err()
    );
    assert!(get_blob(connection, BlobHash::new(b"?")).await.is_err());
    let held = fetched.observe(part.blob).await.unwrap();
    assert_eq!(held.ranges, chunks(MIB..5 * MIB));

    let mut listed = api.list().hashes().await.unwrap();
    let mut all: Vec<_> = expected.iter().map(|(blob, _)| *blob).collect();
    all.push(part.blob);
    listed.sort();
    all.sort();
    assert_eq!(listed, all);
    provider.shutdown().await.unwrap();
    // The store is its owner's to shut down.
    assert!(store.open_blob(in_file.blob).await.is_ok());
    store.shutdown().await;
    assert!(api.has(in_file.blob).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_cut_off_fetches_only_what_is_missing() {
    let net = Net::default();
    let client = net.bind().await;
    // In files, and in memory.
    for size in [20_000_000, 2_000_000] {
        let foreign = Foreign::new(size);
        let provider = net
            .serve(&stock(&foreign.nar, &ChunkRanges::all()).await)
            .await;
        let root = NixRoot::new();
        let store = root.open().await;
        let api = store.blobs_api();
        let connection = connect(&client, &provider).await;

        let mut fetching = Box::pin(
            api.remote()
                .fetch(connection.clone(), foreign.blob)
                .stream(),
        );
        while let Some(item) = fetching.next().await {
            match item {
                GetProgressItem::Progress(bytes) if bytes < size as u64 / 4 => {}
                GetProgressItem::Progress(_) => break,
                other => panic!("{other:?}"),
            }
        }
        drop(fetching);
        api.wait_idle().await.unwrap();
        let held = api.observe(foreign.blob).await.unwrap();
        let bytes = held.total_bytes();
        assert!(
            bytes > 0 && bytes < foreign.nar.len() as u64,
            "{bytes} bytes"
        );
        assert!(matches!(
            api.status(foreign.blob).await.unwrap(),
            BlobStatus::Partial { .. }
        ));

        let stats = api.remote().fetch(connection.clone(), foreign.blob).await;
        let missing = foreign.nar.len() as u64 - bytes;
        assert_eq!(stats.unwrap().payload_bytes_read, missing);
        assert!(api.has(foreign.blob).await.unwrap());
        assert!(bytes_of(&store, foreign.blob).await == foreign.nar);
        let again = api.remote().fetch(connection, foreign.blob).await.unwrap();
        assert_eq!(again.payload_bytes_read, 0);
        // Durably, as a blob without a path.
        assert!(store.paths_of_blob(foreign.blob).await.is_empty());
        store.shutdown().await;
        let store = root.open().await;
        assert!(bytes_of(&store, foreign.blob).await == foreign.nar);
        store.shutdown().await;
        provider.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_downloader_takes_the_rest_from_the_next_provider() {
    let foreign = Foreign::new(9_000_000);
    let net = Net::default();
    let part = net
        .serve(&stock(&foreign.nar, &chunks(0..4 * MIB)).await)
        .await;
    let whole = net
        .serve(&stock(&foreign.nar, &ChunkRanges::all()).await)
        .await;
    let root = NixRoot::new();
    let store = root.open().await;
    let api = store.blobs_api();
    let downloader = Downloader::new(&api, &net.bind().await);
    let providers: Vec<EndpointId> = vec![part.endpoint().id(), whole.endpoint().id()];
    let mut progress = downloader
        .download(foreign.blob, providers.clone())
        .stream()
        .await
        .unwrap();
    let (mut failed, mut complete) = (Vec::new(), 0);
    while let Some(item) = progress.next().await {
        match item {
            DownloadProgressItem::ProviderFailed { id, .. } => failed.push(id),
            DownloadProgressItem::PartComplete { .. } => complete += 1,
            DownloadProgressItem::Error(error) => panic!("{error:?}"),
            DownloadProgressItem::DownloadError => panic!("failed"),
            _ => {}
        }
    }
    assert_eq!((failed, complete), (vec![providers[0]], 1));
    assert!(bytes_of(&store, foreign.blob).await == foreign.nar);

    // A hash sequence, with all it names.
    let children: Vec<Vec<u8>> = (1..5).map(|n| content(n * 100_000)).collect();
    let sequence: HashSeq = children.iter().map(BlobHash::new).collect();
    let source = MemStore::new();
    for child in &children {
        let _tag = source.add_slice(child).temp_tag().await.unwrap();
    }
    let tag = source.add_bytes(bytes::Bytes::from(sequence)).temp_tag();
    let sequence = tag.await.unwrap().hash();
    let provider = net.serve(&source).await;
    downloader
        .download(
            HashAndFormat::hash_seq(sequence),
            vec![provider.endpoint().id()],
        )
        .await
        .unwrap();
    for child in &children {
        assert!(bytes_of(&store, BlobHash::new(child)).await == *child);
    }
    // And out again.
    let (provider, client) = (net.serve(&api).await, net.bind().await);
    let connection = connect(&client, &provider).await;
    let copy = MemStore::new();
    let sequence = HashAndFormat::hash_seq(sequence);
    copy.remote().fetch(connection, sequence).await.unwrap();
    assert!(copy.remote().local(sequence).await.unwrap().is_complete());
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_is_observed_until_the_blob_is_whole() {
    let root = NixRoot::new();
    let store = root.open().await;
    let api = store.blobs_api();
    for size in [9_000_000, 1_000_000] {
        let foreign = Foreign::new(size);
        let half = (foreign.nar.len() as u64 / 2).next_multiple_of(16 * 1024);
        let total = foreign.nar.len() as u64;
        assert_eq!(
            api.status(foreign.blob).await.unwrap(),
            BlobStatus::NotFound
        );
        let observing = api.observe(foreign.blob).stream().await.unwrap();
        let mut observing = Box::pin(observing);
        assert_eq!(observing.next().await.unwrap(), Bitfield::empty());

        let download = hold_part(&store, &foreign, 0..half).await;
        let half_held = Bitfield::new(chunks(0..half), total);
        let seen = timeout(PATIENCE, observing.next()).await.unwrap();
        assert_eq!(seen.unwrap(), half_held);
        assert_eq!(api.observe(foreign.blob).await.unwrap(), half_held);
        assert!(!api.has(foreign.blob).await.unwrap());
        assert_eq!(
            api.status(foreign.blob).await.unwrap(),
            BlobStatus::Partial { size: None }
        );

        let (parents, leaves) = foreign.items(&chunks(half..total));
        download.write(&parents, &leaves).unwrap();
        let mut last = half_held;
        while !last.is_complete() {
            let seen = timeout(PATIENCE, observing.next()).await.unwrap().unwrap();
            assert!(seen.ranges.is_superset(&last.ranges));
            last = seen;
        }
        download.verify().await.unwrap();
        download.commit().await.unwrap();
        assert_eq!(
            api.status(foreign.blob).await.unwrap(),
            BlobStatus::Complete { size: total }
        );
        let whole = api.observe(foreign.blob).await_completion().await.unwrap();
        assert_eq!(whole, Bitfield::complete(total));
    }
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_requesters_at_once_get_all_of_it() {
    let mut root = NixRoot::new();
    let info = root.add_file("wanted", 3_000_000);
    let store = root.open().await;
    let blob = store.hash_nar(info.path_hash()).await.unwrap();
    let net = Net::default();
    let provider = net.serve(&store.blobs_api()).await;
    let client = net.bind().await;
    let connection = connect(&client, &provider).await;
    let nar = root.nar(&info);
    let requests = (0..64).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { get_blob(connection, blob).bytes().await.unwrap() })
    });
    for got in join_all(requests).await {
        assert!(got.unwrap() == nar);
    }
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_imports_of_one_blob_make_it_once() {
    for size in [6_000_000, 600_000] {
        let foreign = Foreign::new(size);
        let source = stock(&foreign.nar, &ChunkRanges::all()).await;
        let root = NixRoot::new();
        let store = root.open().await;
        let api = store.blobs_api();
        let total = foreign.nar.len() as u64;
        let imports = (0..16_u64).map(|n| {
            let (source, api, blob) = (source.clone(), api.clone(), foreign.blob);
            // Half of them have a quarter each.
            let quarter = (total / 4).next_multiple_of(16 * 1024);
            let ranges = match n % 8 {
                n @ 0..4 => chunks(n * quarter..((n + 1) * quarter).min(total)),
                _ => ChunkRanges::all(),
            };
            tokio::spawn(async move {
                let encoded = source.export_bao(blob, ranges.clone()).bao_to_vec();
                let encoded = encoded.await.unwrap();
                api.import_bao_bytes(blob, ranges, encoded).await.unwrap();
            })
        });
        for imported in join_all(imports).await {
            imported.unwrap();
        }
        assert!(api.has(foreign.blob).await.unwrap());
        assert!(bytes_of(&store, foreign.blob).await == foreign.nar);
        store.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_up_nobody() {
    let mut root = NixRoot::new();
    let info = root.add_file("wanted", 3_000_000);
    let store = root.open().await;
    let api = store.blobs_api();
    let blob = store.hash_nar(info.path_hash()).await.unwrap();
    // More of them than a runtime has threads to block.
    let mut idle = Vec::new();
    for _ in 0..600 {
        let mut items = Box::pin(api.export_bao(blob, ChunkRanges::all()).stream());
        items.next().await.unwrap();
        idle.push(items);
    }
    let nar = root.nar(&info);
    let got = timeout(PATIENCE, api.get_bytes(blob)).await.unwrap();
    assert!(got.unwrap() == nar);
    drop(idle);
    timeout(PATIENCE, api.wait_idle()).await.unwrap().unwrap();
    // The shutdown of the store ends what is under way.
    let items = api.export_bao(blob, ChunkRanges::all()).stream();
    let mut items = Box::pin(items);
    items.next().await.unwrap();
    timeout(PATIENCE, store.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_the_store_does_not_do_is_an_error() {
    let root = NixRoot::new();
    let store = root.open().await;
    let api = store.blobs_api();
    let small = api.add_slice(b"small").temp_tag().await.unwrap();
    assert_eq!(api.get_bytes(small.hash()).await.unwrap(), "small");
    let empty = api.add_slice(b"").temp_tag().await.unwrap();
    assert_eq!(empty.hash(), BlobHash::EMPTY);
    assert!(api.get_bytes(BlobHash::EMPTY).await.unwrap().is_empty());
    let batch = api.batch().await.unwrap();
    assert_eq!(
        batch.temp_tag(small.hash()).await.unwrap().hash(),
        small.hash()
    );
    drop(batch);
    api.sync_db().await.unwrap();
    api.shutdown().await.unwrap();

    assert!(
        api.tags()
            .set("name", small.hash_and_format())
            .await
            .is_err()
    );
    let state = root.state_dir();
    assert!(
        api.add_path(state.join("index.redb"))
            .temp_tag()
            .await
            .is_err()
    );
    assert!(api.export(small.hash(), state.join("out")).await.is_err());
    assert!(!state.join("out").exists());
    let large = vec![0; 17 * MIB as usize];
    assert!(api.add_bytes(large).temp_tag().await.is_err());
    // A size that cannot be right makes no room for itself.
    let (handle, size) = (BlobHash::new(b"?"), u64::MAX.try_into().unwrap());
    let import = api.import_bao(handle, size, 8).await.unwrap();
    drop(import.tx);
    import.rx.await.unwrap().unwrap();
    assert_eq!(api.status(handle).await.unwrap(), BlobStatus::NotFound);
    store.shutdown().await;
}
