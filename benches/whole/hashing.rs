//! Hashing a store, SHA-256 and BLAKE3 with outboard, against `openssl dgst -sha256`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use peerix_store::{Config, NixStore as StoreKind, Store};

use crate::{
    closure::add_realistic,
    measure::{Series, row, table},
    support::{hostile::path_hash, install_tls_provider, nix_store::NixStore, tree::nar_hash_of},
};

/// Runs of each program.
const RUNS: usize = 5;

/// The store of the closure: about 200 paths and 2 GB.
pub fn run() {
    let store = NixStore::new();
    let paths = add_realistic(&store);
    let mut files = Vec::new();
    for path in &paths {
        collect_files(&store.physical(path), &mut files);
    }
    let bytes: u64 = paths
        .iter()
        .map(|path| nar_hash_of(&store.physical(path)).1)
        .sum();
    let in_files: u64 = files
        .iter()
        .map(|file| file.metadata().map_or(0, |m| m.len()))
        .sum();
    let (mut openssl, mut ours) = (Series::default(), Series::default());
    for _ in 0..RUNS {
        openssl.add(with_openssl(&files), 0.0, 0.0);
        ours.add(with_peerix(&store, &paths), 0.0, 0.0);
    }
    table(
        &format!(
            "Hashing {} paths, {:.2} GB, {} files, in the page cache",
            paths.len(),
            bytes as f64 / 1e9,
            files.len()
        ),
        &["program", "GB/s", "ratio"],
    );
    let theirs = openssl.rate(in_files) / 1000.0;
    let rate = ours.rate(bytes) / 1000.0;
    row(&[
        "`openssl dgst -sha256` over the files".to_owned(),
        format!("{theirs:.2}"),
        "1".to_owned(),
    ]);
    row(&[
        "peerix: NAR, SHA-256, BLAKE3, outboard, index".to_owned(),
        format!("{rate:.2}"),
        format!("**{:.2}**", rate / theirs),
    ]);
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_symlink() {
        return;
    }
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory").flatten() {
            collect_files(&entry.path(), files);
        }
    } else {
        files.push(path.to_owned());
    }
}

fn with_openssl(files: &[PathBuf]) -> Duration {
    let begun = Instant::now();
    for some in files.chunks(5_000) {
        let status = Command::new("openssl")
            .args(["dgst", "-sha256"])
            .args(some)
            .stdout(Stdio::null())
            .status()
            .expect("openssl");
        assert!(status.success());
    }
    begun.elapsed()
}

fn with_peerix(store: &NixStore, paths: &[String]) -> Duration {
    install_tls_provider();
    let state = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = Config::new(
            state.path().to_owned(),
            StoreKind::Local {
                root: Some(store.root().to_owned()),
            },
        );
        let hashed = Store::open(config).await.expect("a store");
        let begun = Instant::now();
        stream::iter(paths)
            .for_each_concurrent(4, |path| {
                let hashed = hashed.clone();
                async move {
                    hashed
                        .hash_nar(path_hash(path))
                        .await
                        .expect("the right hash");
                }
            })
            .await;
        let taken = begun.elapsed();
        hashed.shutdown().await;
        taken
    })
}
