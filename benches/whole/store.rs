//! The store: receiving blobs, random reads, many requesters, and a start over a large database.

use std::{
    fmt::Write as _,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use futures_util::{StreamExt, stream};
use iroh::{EndpointAddr, endpoint::Connection, protocol::Router};
use iroh_blobs::{BlobsProtocol, store::mem::MemStore};
use peerix::transfer::{
    fetch::{Batch, fetch},
    flow::Flow,
    provided::Provided,
};
use peerix_store::{
    BlobHash, Config, NixStore as StoreKind, PathInfo, Store, StorePath,
    nix::{NarHash, StorePathHash},
};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use crate::{
    measure::{MB, median, resident, row, seconds, table},
    peer::StockProvider,
    support::{
        hostile::{Client, address_in, path_hash},
        http, install_tls_provider,
        nix_store::{NixStore, PathSpec},
        peer::PeerOptions,
        tree::Node,
    },
};

const SMALL: u64 = 20 * 1024;
const SMALL_COUNT: usize = 20_000;
/// Blobs received at once.
const AT_ONCE: usize = 64;

fn runtime() -> tokio::runtime::Runtime {
    install_tls_provider();
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// A path info that a NAR of these bytes fits.
fn info_of(index: usize, nar_hash: [u8; 32], size: u64) -> PathInfo {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&(index as u64).to_le_bytes());
    PathInfo {
        store_path: StorePath::from_parts(id, "blob").expect("a name"),
        nar_hash: NarHash::from_bytes(nar_hash),
        nar_size: size,
        references: Default::default(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
        registration_time: 0,
    }
}

/// Fetches one blob in `pieces` ranges at once and has each verified batch written.
async fn receive(
    connections: &[Connection],
    hash: BlobHash,
    size: u64,
    pieces: u64,
    write: impl Fn(Batch) + Send + Sync + 'static,
) {
    let (sink, mut batches) = mpsc::channel::<Batch>(8);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(batch) = batches.blocking_recv() {
            write(batch);
        }
    });
    const SEGMENT: u64 = 8 * 1024 * 1024;
    let starts: Vec<u64> = (0..size.div_ceil(SEGMENT)).map(|n| n * SEGMENT).collect();
    stream::iter(starts.into_iter().enumerate())
        .map(|(n, start)| {
            let connection = connections[n % connections.len()].clone();
            let sink = sink.clone();
            async move {
                let range = start..(start + SEGMENT).min(size);
                let flow = flow(&range);
                let fetched = fetch(
                    connection.clone().into(),
                    hash,
                    size,
                    range.clone(),
                    &flow,
                    &sink,
                )
                .await;
                assert_eq!(flow.delivered(), range.end, "{fetched:?}");
            }
        })
        .buffer_unordered(pieces as usize)
        .for_each(|()| async {})
        .await;
    drop(sink);
    writing.await.expect("the writer");
}

/// Small blobs and a large one, received and kept, against only verifying them.
pub fn run_receiving() {
    let (provider, client) = (Client::new(), Client::new());
    client.block_on(async {
        let (router, address, blobs) = provide_small(&provider).await;
        let connection = client.endpoint.connect(address, iroh_blobs::ALPN).await;
        let connection = connection.expect("a connection");
        let verify_only = || async {
            let begun = Instant::now();
            stream::iter(&blobs)
                .for_each_concurrent(AT_ONCE, |(hash, _)| {
                    let connections = [connection.clone()];
                    async move { receive(&connections, *hash, SMALL, 1, drop).await }
                })
                .await;
            begun.elapsed()
        };
        let kept = |durable: bool| {
            let (blobs, connection) = (&blobs, &connection);
            async move {
                let lab = tempfile::tempdir().expect("a temporary directory");
                let nix = (!durable).then(NixStore::new);
                let root = nix.as_ref().map_or(lab.path(), |nix| nix.root());
                let kind = StoreKind::Local {
                    root: Some(root.to_owned()),
                };
                let store = Store::open(Config::new(lab.path().join("state"), kind)).await;
                let store = store.expect("a store");
                let begun = Instant::now();
                stream::iter(blobs.iter().enumerate())
                    .for_each_concurrent(AT_ONCE, |(index, (hash, sha256))| {
                        let (connections, store) = ([connection.clone()], store.clone());
                        async move {
                            let info = info_of(index, *sha256, SMALL);
                            let download = store.begin_download(info, *hash).await;
                            let download = download.expect("room");
                            let writer = download.clone();
                            receive(&connections, *hash, SMALL, 1, move |batch| {
                                writer.write(&batch.parents, &batch.leaves).expect("memory");
                            })
                            .await;
                            download.verify().await.expect("the right bytes");
                            download.commit().await.expect("a kept blob");
                        }
                    })
                    .await;
                let taken = begun.elapsed();
                store.shutdown().await;
                taken
            }
        };
        let (mut plain, mut memory, mut durable) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            plain.push(verify_only().await.as_secs_f64());
            memory.push(kept(false).await.as_secs_f64());
            durable.push(kept(true).await.as_secs_f64());
        }
        table(
            &format!("{SMALL_COUNT} blobs of 20 KiB, {AT_ONCE} at once, over loopback"),
            &["what", "blobs a second", "ratio"],
        );
        for (name, taken) in [
            ("fetched and verified only", &plain),
            ("received, in memory until Nix imports them", &memory),
            (
                "received without a Nix store: each synced before it counts",
                &durable,
            ),
        ] {
            row(&[
                name.to_owned(),
                format!("{:.0}", SMALL_COUNT as f64 / median(taken)),
                format!("**{:.2}**", median(&plain) / median(taken)),
            ]);
        }
        drop(router);
    });
    client.block_on(receive_large(&client));
}

async fn provide_small(provider: &Client) -> (Router, EndpointAddr, Vec<(BlobHash, [u8; 32])>) {
    let endpoint = provider.endpoint.clone();
    let store = MemStore::new();
    let mut blobs = Vec::new();
    for index in 0..SMALL_COUNT {
        let mut bytes = vec![0; SMALL as usize];
        let mut output = blake3::Hasher::new()
            .update(&index.to_le_bytes())
            .finalize_xof();
        output.fill(&mut bytes);
        let sha256 = crate::support::tree::sha256(&bytes);
        let tag = store.add_bytes(bytes).await.expect("memory");
        blobs.push((tag.hash, sha256));
    }
    let router = Router::builder(endpoint.clone())
        .accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None))
        .spawn();
    (router, endpoint.addr(), blobs)
}

async fn receive_large(client: &Client) {
    const SIZE: u64 = 1 << 30;
    let mut bytes = vec![0; SIZE as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let hash = BlobHash::new(&bytes);
    let sha256 = crate::support::tree::sha256(&bytes);
    let provider = StockProvider::start(&bytes);
    drop(bytes);
    let mut connections = Vec::new();
    for _ in 0..2 {
        let address = provider.address.clone();
        let connection = client.endpoint.connect(address, iroh_blobs::ALPN);
        connections.push(connection.await.expect("a connection"));
    }
    let (mut plain, mut written, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_hash = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        receive(&connections, hash, SIZE, 4, drop).await;
        plain.push(begun.elapsed().as_secs_f64());

        let lab = tempfile::tempdir().expect("a temporary directory");
        let kind = StoreKind::Local {
            root: Some(lab.path().to_owned()),
        };
        let store = Store::open(Config::new(lab.path().join("state"), kind)).await;
        let store = store.expect("a store");
        let begun = Instant::now();
        let info = info_of(0, sha256, SIZE);
        let download = store.begin_download(info, hash).await.expect("room");
        let writer = download.clone();
        receive(&connections, hash, SIZE, 4, move |batch| {
            writer.write(&batch.parents, &batch.leaves).expect("a disk");
        })
        .await;
        download.verify().await.expect("the right bytes");
        written.push(begun.elapsed().as_secs_f64());
        let committing = Instant::now();
        download.commit().await.expect("a kept blob");
        synced.push(committing.elapsed().as_secs_f64());
        drop(download);
        store.forget_blob(hash).await.expect("a forgotten blob");

        let begun = Instant::now();
        let download = store.begin_import(hash, SIZE).await.expect("room");
        let writer = download.clone();
        receive(&connections, hash, SIZE, 4, move |batch| {
            writer.write(&batch.parents, &batch.leaves).expect("a disk");
        })
        .await;
        by_hash.push(begun.elapsed().as_secs_f64());
        download.discard().await;
        store.shutdown().await;
    }
    table(
        "1 GiB from a stock provider over loopback, 4 ranges over 2 connections",
        &["what", "MB/s", "ratio"],
    );
    let rate = |seconds: f64| SIZE as f64 / MB / seconds;
    row(&[
        "fetched and verified only".to_owned(),
        format!("{:.0}", rate(median(&plain))),
        "1".to_owned(),
    ]);
    row(&[
        "received, checkpoints each second or 64 MiB".to_owned(),
        format!("{:.0}", rate(median(&by_hash))),
        format!("**{:.2}**", median(&plain) / median(&by_hash)),
    ]);
    row(&[
        "received as a NAR: SHA-256 of the whole besides".to_owned(),
        format!("{:.0}", rate(median(&written))),
        format!("**{:.2}**", median(&plain) / median(&written)),
    ]);
    println!(
        "\nThe last sync and commit take {} on top.",
        seconds(median(&synced))
    );
}

/// Verified reads of 16 KiB at random places of NARs by reference, and what offering takes.
pub fn run_reading() {
    let runtime = runtime();
    let nix = NixStore::new();
    let paths = crate::closure::add_realistic(&nix);
    let flat = nix.add(PathSpec::new("flat", Node::random(500_000_000, "flat")));
    runtime.block_on(async {
        let lab = tempfile::tempdir().expect("a temporary directory");
        let kind = StoreKind::Local {
            root: Some(nix.root().to_owned()),
        };
        let store = Store::open(Config::new(lab.path(), kind)).await;
        let store = store.expect("a store");
        let mut bytes = 0;
        for path in paths.iter().chain([&flat]) {
            let hash: StorePathHash = path_hash(path);
            bytes += store
                .path_info(hash)
                .await
                .expect("an info")
                .expect("a path")
                .nar_size;
            store.hash_nar(hash).await.expect("a hash");
        }
        let stats = store.stats().await.expect("stats");
        let blob = store.hash_nar(path_hash(&flat)).await.expect("a hash");
        let blob = store.open_blob(blob).await.expect("a blob");
        let groups = blob.size() / 16_384 - 1;
        let reading = tokio::task::spawn_blocking(move || {
            let mut rates = Vec::new();
            for run in 0..5_u64 {
                let mut offsets = vec![0; 30_000 * 8];
                let mut random = blake3::Hasher::new()
                    .update(&run.to_le_bytes())
                    .finalize_xof();
                random.fill(&mut offsets);
                let begun = Instant::now();
                for offset in offsets.chunks_exact(8) {
                    let offset = u64::from_le_bytes(offset.try_into().expect("8 bytes"));
                    let start = offset % groups * 16_384;
                    let read = blob.read_verified(start..start + 16_384, &mut |_| Ok(()));
                    read.expect("the right bytes");
                }
                rates.push(30_000.0 / begun.elapsed().as_secs_f64());
            }
            rates
        });
        let rates = reading.await.expect("a reader");
        println!("\n### Reading and offering by reference\n");
        println!(
            "Verified reads of 16 KiB at random offsets of a flat NAR of 500 MB, one thread: {:.0} \
             a second (median of 5 runs).",
            median(&rates)
        );
        let state = stats.index_bytes + stats.outboard_bytes;
        println!(
            "Offering {} paths, {:.2} GB of NARs, takes {:.2} MB beside Nix's store: **{:.2} %** \
             (index {:.2} MB, outboards {:.2} MB).",
            paths.len() + 1,
            bytes as f64 / 1e9,
            state as f64 / MB,
            state as f64 / bytes as f64 * 100.0,
            stats.index_bytes as f64 / MB,
            stats.outboard_bytes as f64 / MB,
        );
        store.shutdown().await;
    });
}

/// Many requesters of one blob against one.
pub fn run_requesters() {
    const SIZE: u64 = 500_000_112;
    let nix = NixStore::new();
    let path = nix.add(PathSpec::new("flat", Node::random(SIZE - 112, "flat")));
    let provider = PeerOptions::new(&nix).start();
    provider.share(&path);
    let address = address_in(&provider.ticket());
    let client = Client::new();
    let hash = client.blob_hash(&address, &path);
    let request = |requesters: u64| {
        let (client, address) = (&client, &address);
        client.block_on(async move {
            let mut connections = Vec::new();
            for _ in 0..requesters.min(8) {
                let connection = client.endpoint.connect(address.clone(), iroh_blobs::ALPN);
                connections.push(connection.await.expect("a connection"));
            }
            let begun = Instant::now();
            // All together get as much as one alone.
            let each = SIZE / requesters / 16_384 * 16_384;
            let requests = (0..requesters).map(|n| {
                let connection = connections[n as usize % connections.len()].clone();
                async move {
                    let (sink, mut batches) = mpsc::channel::<Batch>(8);
                    let range = n * each..(n + 1) * each;
                    let draining = async { while batches.recv().await.is_some() {} };
                    let fetching = async {
                        let flow = flow(&range);
                        let fetched = fetch(
                            connection.clone().into(),
                            hash,
                            SIZE,
                            range.clone(),
                            &flow,
                            &sink,
                        )
                        .await;
                        drop(sink);
                        assert_eq!(flow.delivered(), range.end, "{fetched:?}");
                    };
                    tokio::join!(fetching, draining);
                }
            });
            futures_util::future::join_all(requests).await;
            each as f64 * requesters as f64 / MB / begun.elapsed().as_secs_f64()
        })
    };
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        one.push(request(1));
        many.push(request(64));
    }
    table(
        "Requesters of one blob by reference, over loopback, on the same two cores",
        &["requesters", "MB/s together", "ratio"],
    );
    for (name, rates) in [("1", &one), ("64", &many)] {
        row(&[
            name.to_owned(),
            format!("{:.0}", median(rates)),
            format!("**{:.2}**", median(rates) / median(&one)),
        ]);
    }
}

/// From the start of the process to the first answer, with many paths in Nix's database.
pub fn run_start() {
    const PATHS: usize = 100_000;
    let nix = NixStore::new();
    let mut registration = String::new();
    for index in 0..PATHS {
        let id = blake3::hash(&index.to_le_bytes());
        let mut hash = [0; 20];
        hash.copy_from_slice(&id.as_bytes()[..20]);
        let path = StorePath::from_parts(hash, &format!("package-{index}")).expect("a name");
        let _ = writeln!(
            registration,
            "{}\n{}\n{}\n\n0",
            path.to_absolute_path(),
            id.to_hex(),
            1000 + index
        );
    }
    nix.register(&registration);
    println!("\n### A start with {PATHS} paths valid in Nix's store\n");
    time_starts("Nix's database", || PeerOptions::new(&nix), PATHS);
    let lab = tempfile::tempdir().expect("a temporary directory");
    let socket = lab.path().join("socket");
    let mut daemon = Command::new("nix-daemon")
        .env("NIX_REMOTE", nix.uri())
        .env("NIX_DAEMON_SOCKET_PATH", &socket)
        .stderr(Stdio::null())
        .spawn()
        .expect("nix-daemon");
    crate::support::wait_for("Nix's daemon", || UnixStream::connect(&socket).ok());
    let uri = format!("unix://{}", socket.display());
    time_starts(
        "Nix's daemon",
        || PeerOptions::new(&nix).replace_flag("store", &uri),
        PATHS,
    );
    daemon.kill().expect("our own child");
    daemon.wait().expect("our own child");
}

fn time_starts(source: &str, options: impl Fn() -> PeerOptions, paths: usize) {
    let (mut firsts, mut after, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let begun = Instant::now();
        let peer = options().start();
        assert_eq!(http::get(peer.http(), "/nix-cache-info").status, 200);
        firsts.push(begun.elapsed().as_secs_f64());
        let scanned = peer.run_cli(&["scan"]);
        assert!(scanned.contains(&paths.to_string()), "{scanned}");
        after.push(begun.elapsed().as_secs_f64());
        memory.push(resident(peer.pid()) as f64);
    }
    println!(
        "Through {source}: first HTTP answer after {}, all paths looked at after {}; {:.0} MiB \
         resident then.\n",
        seconds(median(&firsts)),
        seconds(median(&after)),
        median(&memory) / 1024.0 / 1024.0
    );
}

/// Follows one request that is counted nowhere.
fn flow(range: &std::ops::Range<u64>) -> Arc<Flow> {
    let provided = Provided::new("bench".to_owned(), Counter::default());
    Arc::new(Flow::new(range.start, range.end, Arc::new(provided)))
}
