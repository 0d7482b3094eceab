//! Over a path with a round trip of 50 ms: several range streams against one, and against TCP.
//!
//! Two hosts and a router between them are network namespaces; the router sends all that passes
//! through a TUN device, where it waits 25 ms. As root only.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use crate::{
    measure::{MB, median, row, table},
    own_store::get_timed,
    peer::{ROLE, stock_get},
    support::{
        hostile::{Client, address_in},
        network::{Host, Network},
        nix_store::{Key, NixStore, PathSpec},
        peer::PeerOptions,
        tree::Node,
        wait_for,
    },
};

const SIZE: u64 = 200_000_000;
const RUNS: usize = 3;
/// One way.
const DELAY: Duration = Duration::from_millis(25);
/// Opens the TUN device, which takes an ioctl, and becomes the program that delays.
const OPEN_TUN: &str = "import fcntl,os,struct,sys
fd=os.open('/dev/net/tun',os.O_RDWR)
fcntl.ioctl(fd,0x400454ca,struct.pack('16sH',b'delay',0x0001|0x1000))
os.dup2(fd,0)
os.execv(sys.argv[1],sys.argv[1:2])";

/// The table of the long path.
pub fn run() {
    let (Some(near), Some(far)) = (Network::new(2), Network::new(1)) else {
        return;
    };
    let ([a, router], [b]) = (near.hosts(), far.hosts()) else {
        unreachable!("as many as asked for")
    };
    far.plug(router, "eth1", 9);
    a.ip("addr add 10.77.1.1/24 dev eth0");
    router.ip("addr add 10.77.1.254/24 dev eth0");
    router.ip("addr add 10.77.2.254/24 dev eth1");
    b.ip("addr add 10.77.2.1/24 dev eth0");
    a.ip("route add default via 10.77.1.254");
    b.ip("route add default via 10.77.2.254");
    let _delay = Delay::start(router);

    let (key, store) = (Key::generate("bench-1"), NixStore::new());
    let path = store.add(PathSpec::new("far", Node::random(SIZE, "far")));
    store.sign(&key, &[&path]);
    let provider = a.inside(|| {
        PeerOptions::new(&store)
            .iroh_bind("0.0.0.0:0")
            .flag("upload-limit", "10GB")
            .start()
    });
    let ticket = a.inside(|| provider.share(&path));
    let address = address_in(&ticket);
    let hash = b.inside(|| Client::anywhere().blob_hash(&address, &path));

    let (mut tcp, mut one, mut several) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        tcp.push(over_tcp(a, b).as_secs_f64());
        one.push(b.inside(|| stock_get(&address, hash)).as_secs_f64());
        let empty = NixStore::new();
        let taken = b.inside(|| {
            let receiver = PeerOptions::new(&empty)
                .iroh_bind("0.0.0.0:0")
                .flag("peer", &ticket)
                .flag("wire-compression", "off")
                .trust(&key.public)
                .start();
            wait_for("the provider", || {
                (receiver.connected_peers() > 0).then_some(())
            });
            let target = receiver.nar_target(&path);
            let begun = Instant::now();
            get_timed(receiver.http(), &target);
            begun.elapsed()
        });
        several.push(taken.as_secs_f64());
    }
    table(
        "200 MB over a round trip of 50 ms, from one peer",
        &["how", "MB/s", "against one stream"],
    );
    let rate = |times: &[f64]| SIZE as f64 / MB / median(times);
    for (name, times) in [
        ("one stream, a stock get", &one),
        (
            "peerix to the HTTP client, several ranges at once",
            &several,
        ),
        ("one TCP connection (Linux' CUBIC)", &tcp),
    ] {
        row(&[
            name.to_owned(),
            format!("{:.1}", rate(times)),
            format!("**{:.2}**", rate(times) / rate(&one)),
        ]);
    }
}

/// Sends as many bytes over one TCP connection.
fn over_tcp(a: &Host, b: &Host) -> Duration {
    let listener = a.inside(|| TcpListener::bind("10.77.1.1:0").expect("a port"));
    let address = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let piece = vec![7; 256 * 1024];
            let mut left = usize::try_from(SIZE).expect("a size");
            while left > 0 {
                let n = left.min(piece.len());
                stream.write_all(&piece[..n]).expect("an open connection");
                left -= n;
            }
        });
        b.inside(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let begun = Instant::now();
            let mut buffer = vec![0; 256 * 1024];
            while stream.read(&mut buffer).expect("an open connection") > 0 {}
            begun.elapsed()
        })
    })
}

/// The program that delays, on the router.
struct Delay(Child);

impl Delay {
    fn start(router: &Host) -> Delay {
        let child = router.inside(|| {
            for (name, value) in [
                ("ip_forward", "1"),
                ("conf/all/rp_filter", "0"),
                ("conf/default/rp_filter", "0"),
                ("conf/eth0/rp_filter", "0"),
                ("conf/eth1/rp_filter", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("root");
            }
            Command::new("python3")
                .args(["-c", OPEN_TUN])
                .arg(std::env::current_exe().expect("this program"))
                .env(ROLE, "delay")
                .stdout(Stdio::null())
                .spawn()
                .expect("python3")
        });
        wait_for("the TUN device", || {
            let up = router.inside(|| {
                Command::new("ip")
                    .args(["link", "set", "delay", "up", "txqueuelen", "10000"])
                    .stderr(Stdio::null())
                    .status()
            });
            up.is_ok_and(|status| status.success()).then_some(())
        });
        router.ip("route add default dev delay table 100");
        router.ip("rule add iif eth0 lookup 100");
        router.ip("rule add iif eth1 lookup 100");
        Delay(child)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays the part of the long path: what is read from standard input is written back later.
pub fn delay() {
    let tun = || {
        let fd = std::io::stdin().as_fd().try_clone_to_owned();
        File::from(fd.expect("a descriptor"))
    };
    let (mut input, mut output) = (tun(), tun());
    let queue: Mutex<VecDeque<(Instant, Vec<u8>)>> = Mutex::default();
    let more = Condvar::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let mut waiting = queue.lock().expect("no panic");
                while waiting.is_empty() {
                    waiting = more.wait(waiting).expect("no panic");
                }
                let (due, packet) = waiting.pop_front().expect("not empty");
                drop(waiting);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = output.write(&packet);
            }
        });
        let mut packet = vec![0; 65_536];
        while let Ok(n) = input.read(&mut packet) {
            let due = Instant::now() + DELAY;
            let mut waiting = queue.lock().expect("no panic");
            waiting.push_back((due, packet[..n].to_vec()));
            more.notify_one();
        }
    });
}
