//! One NAR from several providers: their rates added up, one slow, one silent; a flash crowd;
//! memory under many transfers.

use std::time::{Duration, Instant};

use crate::{
    measure::{MB, Series, cpu_of, median, peak, reset_peak, row, seconds, table},
    own_store::get_timed,
    peer::stock_series,
    support::{
        hostile::{Claim, Fault, Liar, signed_fields},
        nix_store::{Key, NixStore, PathSpec},
        peer::{Peer, PeerOptions},
        tree::Node,
        wait_for,
    },
};

const SIZE: u64 = 500_000_000;
/// What each provider of the first table sends at most, in bytes a second.
const LIMIT: &str = "10MB";

struct Shared {
    key: Key,
    store: NixStore,
    path: String,
}

impl Shared {
    fn new(name: &str, size: u64) -> Shared {
        let (key, store) = (Key::generate("bench-1"), NixStore::new());
        let path = store.add(PathSpec::new(name, Node::random(size, name)));
        store.sign(&key, &[&path]);
        Shared { key, store, path }
    }

    fn provider(&self, limit: Option<&str>) -> Peer {
        let options = PeerOptions::new(&self.store).flag("public-cache-key", &self.key.public);
        let options = match limit {
            Some(limit) => options.flag("upload-limit", limit),
            None => options,
        };
        let peer = options.start();
        peer.share(&self.path);
        // Its blob hash is known before anything is measured.
        wait_for("the hash", || {
            let stats = peer.json(&["store", "stats"]);
            (stats["hashed"].as_u64() >= Some(1)).then_some(())
        });
        peer
    }

    /// A peer over an empty store that knows all of `providers`.
    fn receiver(&self, providers: &[&Peer], flags: &[(&str, &str)]) -> (NixStore, Peer) {
        let empty = NixStore::new();
        let options = PeerOptions::new(&empty)
            .trust(&self.key.public)
            .flag("public-cache-key", &self.key.public);
        let options = flags
            .iter()
            .fold(options, |options, (name, value)| options.flag(name, value));
        let options = providers
            .iter()
            .fold(options, |options, peer| options.peer(peer));
        let peer = options.start();
        wait_for("all peers", || {
            (peer.connected_peers() >= providers.len()).then_some(())
        });
        (empty, peer)
    }

    /// How long the NAR takes from `providers` to the HTTP client.
    fn time(&self, providers: &[&Peer]) -> Duration {
        let (empty, receiver) = self.receiver(providers, &[]);
        let target = receiver.nar_target(&self.path);
        let begun = Instant::now();
        get_timed(receiver.http(), &target);
        let taken = begun.elapsed();
        drop((receiver, empty));
        taken
    }
}

/// K providers limited to 10 MB/s each; one of four at a tenth; one of four silent at half.
pub fn run() {
    let shared = Shared::new("flat", SIZE);
    let providers: Vec<Peer> = (0..8).map(|_| shared.provider(Some(LIMIT))).collect();
    let all: Vec<&Peer> = providers.iter().collect();
    table(
        "500 MB from K providers of 10 MB/s each",
        &["providers", "seconds", "MB/s", "of K times one"],
    );
    let mut one = None;
    let mut three = Duration::ZERO;
    for k in [1, 2, 3, 4, 8] {
        let taken = shared.time(&all[..k]);
        let first = *one.get_or_insert(taken);
        if k == 3 {
            three = taken;
        }
        row(&[
            k.to_string(),
            format!("{:.2}", taken.as_secs_f64()),
            format!("{:.1}", SIZE as f64 / MB / taken.as_secs_f64()),
            format!(
                "**{:.2}**",
                first.as_secs_f64() / taken.as_secs_f64() / k as f64
            ),
        ]);
    }
    table(
        "500 MB from three providers of 10 MB/s and a fourth",
        &["the fourth", "seconds", "of the three alone"],
    );
    let told = |name: &str, taken: Duration| {
        let ratio = taken.as_secs_f64() / three.as_secs_f64();
        row(&[
            name.to_owned(),
            format!("{:.2}", taken.as_secs_f64()),
            format!("**{ratio:.2}** (at most 1.15)"),
        ]);
    };
    told("is not there", three);
    let slow = shared.provider(Some("1MB"));
    told(
        "sends 1 MB/s",
        shared.time(&[all[0], all[1], all[2], &slow]),
    );
    told("falls silent at half", silent_at_half(&shared, &all[..3]));
    stalled(&shared, all[0]);
}

/// A fourth provider that stops in the middle of the transfer while its connection lives.
fn silent_at_half(shared: &Shared, others: &[&Peer]) -> Duration {
    let fourth = shared.provider(Some(LIMIT));
    let mut providers = others.to_vec();
    providers.push(&fourth);
    let (empty, receiver) = shared.receiver(&providers, &[]);
    let target = receiver.nar_target(&shared.path);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("half of it", || {
                let received = receiver.metric("peerix_bytes_received_total");
                (received.unwrap_or(0.0) > SIZE as f64 / 2.0).then_some(())
            });
            fourth.signal(rustix::process::Signal::STOP);
        });
        get_timed(receiver.http(), &target);
    });
    let taken = begun.elapsed();
    fourth.signal(rustix::process::Signal::CONT);
    drop((receiver, empty));
    taken
}

/// How long the body stands still when its only fast provider stops answering.
fn stalled(shared: &Shared, other: &Peer) {
    let liar = Liar::start();
    liar.claim(
        &shared.path,
        Claim {
            fields: signed_fields(&shared.store, &shared.path),
            nar: shared.store.dump(&shared.path).into(),
            fault: Fault::SilentAfter(1_000_000),
        },
    );
    let empty = NixStore::new();
    let receiver = PeerOptions::new(&empty)
        .trust(&shared.key.public)
        .flag("peer", &liar.address())
        .peer(other)
        .start();
    wait_for("both peers", || {
        (receiver.connected_peers() >= 2).then_some(())
    });
    let target = receiver.nar_target(&shared.path);
    let pause = crate::own_store::longest_pause(receiver.http(), &target, 50_000_000);
    println!(
        "\nA provider that stops answering while its connection lives: the body stands still for at most {} (at most 2 s).",
        seconds(pause.as_secs_f64())
    );
}

/// Unlimited over loopback, from one and from four providers, against a stock get.
pub fn run_unlimited() {
    let shared = Shared::new("flat", SIZE);
    let providers: Vec<Peer> = (0..4).map(|_| shared.provider(None)).collect();
    let plain = stock_series(&shared.store.dump(&shared.path), 5);
    table(
        "500 MB over loopback, unlimited, to the HTTP client",
        &[
            "from",
            "MB/s",
            "spread",
            "ratio",
            "CPU s/GB receiving",
            "CPU s/GB providing",
        ],
    );
    let show = |name: &str, series: &Series| {
        row(&[
            name.to_owned(),
            format!("{:.0}", series.rate(SIZE)),
            series.spread(SIZE),
            format!("**{:.2}**", series.rate(SIZE) / plain.rate(SIZE)),
            format!("{:.2}", series.cpu_for_gigabyte(SIZE)),
            format!("{:.2}", series.other_cpu_for_gigabyte(SIZE)),
        ]);
    };
    show(
        "a stock get of one stock provider that only verifies",
        &plain,
    );
    for k in [1, 4] {
        let mut series = Series::default();
        let chosen: Vec<&Peer> = providers.iter().take(k).collect();
        for _ in 0..5 {
            let (empty, receiver) = shared.receiver(&chosen, &[]);
            let target = receiver.nar_target(&shared.path);
            let cpu = |peers: &[&Peer]| peers.iter().map(|p| cpu_of(p.pid())).sum::<f64>();
            let (before, own) = (cpu(&chosen), cpu_of(receiver.pid()));
            let begun = Instant::now();
            get_timed(receiver.http(), &target);
            series.add(
                begun.elapsed(),
                cpu_of(receiver.pid()) - own,
                cpu(&chosen) - before,
            );
            drop((receiver, empty));
        }
        show(&format!("{k} of ours"), &series);
    }
}

/// Eight machines that want one NAR at once, every uplink 8 MB/s.
pub fn run_crowd() {
    const CROWD: usize = 8;
    const UPLINK: f64 = 8e6;
    const NAR: u64 = 128_000_000;
    let shared = Shared::new("crowd", NAR);
    let source = shared.provider(Some("8MB"));
    let mut stores = Vec::new();
    let mut crowd: Vec<Peer> = Vec::new();
    for _ in 0..CROWD {
        let mut known: Vec<&Peer> = vec![&source];
        known.extend(&crowd);
        let (store, peer) = shared.receiver(&known, &[("upload-limit", "8MB")]);
        stores.push(store);
        crowd.push(peer);
    }
    for (at, peer) in crowd.iter().enumerate() {
        for later in &crowd[at + 1..] {
            peer.meet(later);
        }
    }
    wait_for("everyone to know everyone", || {
        crowd
            .iter()
            .all(|peer| peer.connected_peers() >= CROWD)
            .then_some(())
    });
    let sent = |peer: &Peer| peer.metric("peerix_bytes_sent_total").unwrap_or(0.0);
    let before = sent(&source);
    let begun = Instant::now();
    let times: Vec<f64> = std::thread::scope(|scope| {
        let readers: Vec<_> = crowd
            .iter()
            .map(|peer| {
                let path = &shared.path;
                scope.spawn(move || {
                    let target = peer.nar_target(path);
                    get_timed(peer.http(), &target);
                    begun.elapsed().as_secs_f64()
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a NAR"))
            .collect()
    });
    let last = times.iter().copied().fold(0.0, f64::max);
    let bound = NAR as f64 / UPLINK;
    table(
        "A flash crowd: 8 machines want 128 MB at once, every uplink 8 MB/s",
        &["figure", "measured", "bound", "ratio"],
    );
    row(&[
        "the last one has it".to_owned(),
        format!("{last:.1} s (median {:.1} s)", median(&times)),
        format!("{bound:.1} s"),
        format!("**{:.2}** (at most 1.6)", last / bound),
    ]);
    let copies = (sent(&source) - before) / NAR as f64;
    row(&[
        "copies that the source sent".to_owned(),
        format!("{copies:.2}"),
        "1".to_owned(),
        format!("**{copies:.2}** (at most 1.3)"),
    ]);
    drop(stores);
}

/// Sixteen NARs of 1 GiB at once from one peer.
pub fn run_memory() {
    const TRANSFERS: usize = 16;
    const NAR: u64 = 1 << 30;
    let (key, store) = (Key::generate("bench-1"), NixStore::new());
    let paths = store.add_all(
        (0..TRANSFERS)
            .map(|n| {
                PathSpec::new(
                    &format!("huge-{n}"),
                    Node::random(NAR, &format!("huge-{n}")),
                )
            })
            .collect(),
    );
    store.sign(&key, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let provider = PeerOptions::new(&store)
        .flag("public-cache-key", &key.public)
        .start();
    wait_for("all hashes", || {
        let stats = provider.json(&["store", "stats"]);
        (stats["hashed"].as_u64() >= Some(TRANSFERS as u64)).then_some(())
    });
    let empty = NixStore::new();
    let receiver = PeerOptions::new(&empty)
        .peer(&provider)
        .trust(&key.public)
        .flag("blob-quota", "none")
        .start();
    let targets: Vec<String> = paths.iter().map(|path| receiver.nar_target(path)).collect();
    reset_peak(receiver.pid());
    reset_peak(provider.pid());
    std::thread::scope(|scope| {
        for target in &targets {
            let receiver = &receiver;
            scope.spawn(move || get_timed(receiver.http(), target));
        }
    });
    let mib = |peer: &Peer| peak(peer.pid()) as f64 / f64::from(1 << 20);
    println!(
        "\nSixteen NARs of 1 GiB at once, peak memory: the receiver {:.0} MiB, the provider {:.0} MiB (at most 256).",
        mib(&receiver),
        mib(&provider)
    );
    drop(empty);
}
