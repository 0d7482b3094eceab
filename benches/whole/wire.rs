//! NARs between peers compressed: bytes on the wire, and throughput over a slow and a fast link.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use crate::{
    measure::{Series, cpu_of, row, table},
    own_store::get_timed,
    support::{
        nix_store::{Key, NixStore, PathSpec},
        peer::{Peer, PeerOptions},
        tree::Node,
    },
};

/// Runs of each setting.
const RUNS: usize = 5;

/// Bytes of this machine's own programs and libraries, and of texts.
const PROGRAMS: u64 = 150_000_000;
const TEXTS: u64 = 50_000_000;

/// What 100 Mbit/s carry.
const SLOW: &str = "12.5MB";

struct Setting {
    link: &'static str,
    limit: &'static str,
    compression: &'static str,
    series: Series,
    wire_bytes: Vec<f64>,
}

/// A NAR of real programs and texts, over 100 Mbit/s and over loopback.
pub fn run() {
    let key = Key::generate("bench-1");
    let store = NixStore::new();
    let node = Node::directory([
        (
            "lib",
            files_below(&["/usr/bin", "/usr/lib"], PROGRAMS, is_program),
        ),
        (
            "share",
            files_below(&["/usr/lib", "/usr/share"], TEXTS, is_text),
        ),
    ]);
    let path = store.add(PathSpec::new("programs", node));
    store.sign(&key, &[&path]);
    let nar = store.dump(&path);
    let size = nar.len() as u64;
    let whole = zstd::encode_all(&nar[..], 3).expect("memory").len() as f64;
    drop(nar);

    let mut settings: Vec<Setting> = [
        ("100 Mbit/s", SLOW, ["off", "auto", "3"].as_slice()),
        ("loopback", "none", &["off", "auto", "3"]),
    ]
    .into_iter()
    .flat_map(|(link, limit, compressions)| {
        compressions.iter().map(move |compression| Setting {
            link,
            limit,
            compression,
            series: Series::default(),
            wire_bytes: Vec::new(),
        })
    })
    .collect();
    for _ in 0..RUNS {
        for setting in &mut settings {
            setting.measure(&store, &key, &path, size);
        }
    }
    table(
        &format!(
            "One peer, {:.0} MB of programs and texts ({:.2} times smaller by `zstd -3`)",
            size as f64 / 1e6,
            size as f64 / whole
        ),
        &[
            "link",
            "`--wire-compression`",
            "NAR MB/s",
            "spread",
            "against off",
            "bytes on the wire against `zstd -3`",
            "CPU s/GB receiving",
            "CPU s/GB providing",
        ],
    );
    for setting in &settings {
        let off = settings
            .iter()
            .find(|other| other.link == setting.link && other.compression == "off")
            .expect("a raw run");
        let wire = crate::measure::median(&setting.wire_bytes);
        row(&[
            setting.link.to_owned(),
            format!("`{}`", setting.compression),
            format!("{:.1}", setting.series.rate(size)),
            setting.series.spread(size),
            format!(
                "**{:.2}**",
                setting.series.rate(size) / off.series.rate(size)
            ),
            format!("{:.3}", wire / whole),
            format!("{:.2}", setting.series.cpu_for_gigabyte(size)),
            format!("{:.2}", setting.series.other_cpu_for_gigabyte(size)),
        ]);
    }
}

impl Setting {
    /// Both peers are new each time: what one learnt of the link would help the next.
    fn measure(&mut self, store: &NixStore, key: &Key, path: &str, size: u64) {
        let provider = self.peer(store).start();
        provider.share(path);
        let empty = NixStore::new();
        let receiver = self.peer(&empty).peer(&provider).trust(&key.public).start();
        let target = receiver.nar_target(path);
        let (receiving, providing) = (cpu_of(receiver.pid()), cpu_of(provider.pid()));
        let begun = Instant::now();
        let (came, _) = get_timed(receiver.http(), &target);
        assert_eq!(came, size);
        self.series.add(
            begun.elapsed(),
            cpu_of(receiver.pid()) - receiving,
            cpu_of(provider.pid()) - providing,
        );
        self.wire_bytes.push(wire_bytes(&receiver));
    }

    fn peer(&self, store: &NixStore) -> PeerOptions {
        PeerOptions::new(store)
            .flag("upload-limit", self.limit)
            .flag("wire-compression", self.compression)
    }
}

fn wire_bytes(receiver: &Peer) -> f64 {
    receiver
        .metric("peerix_wire_bytes_received_total")
        .expect("a figure")
}

fn is_program(content: &[u8]) -> bool {
    content.starts_with(b"\x7fELF") || content.starts_with(b"!<arch>")
}

fn is_text(content: &[u8]) -> bool {
    !content.is_empty() && std::str::from_utf8(content).is_ok()
}

/// Files of up to 8 MB below `roots` that are `wanted`, in order of their paths, `most` bytes.
fn files_below(roots: &[&str], most: u64, wanted: fn(&[u8]) -> bool) -> Node {
    let mut entries = BTreeMap::new();
    let mut left = most;
    let mut open: Vec<PathBuf> = roots.iter().rev().map(PathBuf::from).collect();
    while let Some(directory) = open.pop() {
        let mut found: Vec<PathBuf> = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        found.sort();
        for path in found {
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                open.push(path);
                continue;
            }
            if !metadata.is_file() || metadata.len() > left.min(8_000_000) {
                continue;
            }
            let Ok(content) = fs::read(&path) else {
                continue;
            };
            if wanted(&content) {
                left -= content.len() as u64;
                let name = format!("{:05}", entries.len());
                entries.insert(name, Node::bytes(&content));
            }
        }
    }
    Node::Directory(entries)
}
