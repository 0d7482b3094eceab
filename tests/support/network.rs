//! Networks of our own: hosts are network namespaces, on a bridge in another one.
//!
//! Whatever a closure does in [`Host::inside`], it does on that host: sockets that it opens and
//! programs that it starts. Names are unique to the process, nothing is made in the machine's own
//! namespace, and all of it goes when the [`Network`] is dropped.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{run, run_ok, skip, text_of};

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A bridge, and hosts with one interface `eth0` each on it.
pub struct Network {
    switch: Namespace,
    hosts: Vec<Host>,
}

/// One machine on the network.
pub struct Host {
    namespace: Namespace,
}

struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("peerix-{}-{number}", std::process::id());
        run_ok(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Namespace(name);
        namespace.inside(|| {
            run_ok(Command::new("ip").args(["link", "set", "lo", "up"]));
            for scope in ["all", "default"] {
                // No waiting for proof that nobody else has an address.
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
            }
        });
        namespace
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        std::thread::scope(|scope| {
            let working = scope.spawn(move || {
                let namespace = fs::File::open(path).expect("a namespace");
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&namespace),
                    Some(LinkNameSpaceType::Network),
                )
                .expect("root");
                work()
            });
            match working.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

impl Network {
    /// A network of `count` hosts without addresses; `None`, and said, where none can be made.
    pub fn new(count: usize) -> Option<Network> {
        if !rustix::process::geteuid().is_root() {
            skip("network namespaces take root");
            return None;
        }
        for (tool, package) in [
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("tcpdump", "tcpdump"),
        ] {
            if Command::new(tool)
                .arg(if tool == "ip" { "-V" } else { "--version" })
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                skip(&format!("there is no {tool} here (package {package})"));
                return None;
            }
        }
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("peerix-probe-{}-{number}", std::process::id());
        let probe = run(Command::new("ip").args(["netns", "add", &name]));
        let _ = run(Command::new("ip").args(["netns", "del", &name]));
        if !probe.status.success() {
            skip(&format!("no network namespaces here: {}", text_of(&probe)));
            return None;
        }
        let switch = Namespace::new();
        switch.inside(|| {
            ip("link add br0 type bridge mcast_snooping 0");
            ip("link set br0 up");
        });
        let mut network = Network {
            switch,
            hosts: Vec::new(),
        };
        for _ in 0..count {
            let host = Host {
                namespace: Namespace::new(),
            };
            network.plug(&host, "eth0", network.hosts.len());
            network.hosts.push(host);
        }
        Some(network)
    }

    /// Hosts with the addresses `10.77.0.1/24`, `10.77.0.2/24` and so on.
    pub fn with_addresses(count: usize) -> Option<Network> {
        let network = Network::new(count)?;
        for (number, host) in network.hosts.iter().enumerate() {
            host.ip(&format!(
                "addr add 10.77.0.{}/24 brd + dev eth0",
                number + 1
            ));
        }
        Some(network)
    }

    /// Gives `host` a further interface on this network.
    pub fn plug(&self, host: &Host, interface: &str, port: usize) {
        let (switch, host) = (&self.switch.0, &host.namespace);
        let port = format!("port{port}");
        run_ok(Command::new("ip").args([
            "link", "add", interface, "netns", &host.0, "type", "veth", "peer", "name", &port,
            "netns", switch,
        ]));
        self.switch.inside(|| {
            ip(&format!("link set {port} master br0 up"));
        });
        host.inside(|| ip(&format!("link set {interface} up")));
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

impl Host {
    /// Does `work` on this host, in a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.inside(work)
    }

    /// Runs `ip WORDS` on this host.
    pub fn ip(&self, words: &str) {
        self.inside(|| ip(words));
    }

    /// Drops what comes in, but for answers and what `rules` of nftables accept.
    pub fn firewall(&self, rules: &str) {
        let table = format!(
            "table inet filter {{\nchain input {{\ntype filter hook input priority 0; policy drop;\n\
             iif lo accept\nct state established,related accept\nmeta l4proto ipv6-icmp accept\n\
             {rules}\n}}\n}}\n"
        );
        self.nft(&table);
    }

    /// Loses what comes from `others`, IPv4 addresses, without a word to anybody.
    pub fn lose_what_comes_from(&self, others: &[&str]) {
        let others = others.join(", ");
        self.nft(&format!(
            "table inet parted {{\nchain input {{\ntype filter hook input priority -10; policy accept;\n\
             ip saddr {{ {others} }} drop\n}}\n}}\n"
        ));
    }

    /// Takes back what [`Host::lose_what_comes_from`] did.
    pub fn lose_nothing(&self) {
        self.nft("delete table inet parted\n");
    }

    /// Adds these rules of nftables on this host.
    pub fn nft(&self, rules: &str) {
        self.inside(|| {
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("nft");
            let mut stdin = nft.stdin.take().expect("a pipe");
            stdin.write_all(rules.as_bytes()).expect("nft reads");
            drop(stdin);
            assert!(nft.wait().expect("nft ends").success(), "{rules}");
        });
    }

    /// Writes down the packets that leave through `eth0` and match `filter`, one a line.
    pub fn capture(&self, filter: &str) -> Capture {
        self.inside(|| {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            let mut child = Command::new("tcpdump")
                .args(["-n", "-l", "-i", "eth0", "-Q", "out", filter])
                .stdout(file.reopen().expect("our own file"))
                .stderr(Stdio::piped())
                .spawn()
                .expect("tcpdump");
            let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
            let listens = said.any(|line| line.is_ok_and(|line| line.contains("listening on")));
            assert!(listens, "tcpdump does not listen");
            // It writes a few words at its end, which nobody has to read.
            std::thread::spawn(move || said.for_each(drop));
            Capture { child, file }
        })
    }
}

/// A running capture.
pub struct Capture {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    /// The packets so far.
    pub fn packets(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file.path()).expect("our own file");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(words: &str) {
    run_ok(Command::new("ip").args(words.split_whitespace()));
}
