//! When and how much is uploaded.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use peerix::peer::lookup::{Answer, Mode};
use zbus::{OwnedObjectPath, OwnedVariant};

use crate::support::{
    hostile::{Client, address_in},
    nix_store::{Key, NixStore, PathSpec, store_path_named},
    peer::{Peer, PeerOptions},
    skip,
    tree::Node,
    wait_for,
};

fn is_offered(client: &Client, peer: &Peer, path: &str) -> bool {
    let address = address_in(&peer.ticket());
    let answer = client.look_up(&address, Mode::Presence, &[path]).remove(0);
    !matches!(answer, Answer::Absent | Answer::NotNow)
}

fn closed(peer: &Peer) -> Option<String> {
    peer.status()["uploads"]["closed"]
        .as_str()
        .map(str::to_owned)
}

/// Waits until what the daemon keeps of uploads says this.
fn wait_until_kept(peer: &Peer, what: &str) {
    wait_for("what is kept of uploads", || {
        let kept = std::fs::read_to_string(peer.state_dir().join("uploads")).ok()?;
        kept.contains(what).then_some(())
    });
}

#[test]
fn a_quota_is_held_and_known_after_a_restart() {
    const QUOTA: u64 = 5_000_000;
    let a = NixStore::new();
    let path = a.add(PathSpec::new("quota", Node::random(3_000_000, "quota")));
    let peer = PeerOptions::new(&a).flag("quota-per-day", "5MB").start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let hash = client.blob_hash(&address, &path);
    assert_eq!(
        client.fetch(&address, hash).expect("the NAR"),
        a.dump(&path)
    );
    assert!(client.fetch(&address, hash).is_err(), "over the quota");
    let used = peer.status()["uploads"]["today_bytes"]
        .as_u64()
        .expect("a figure");
    // The last piece may go over it.
    assert!((QUOTA..QUOTA + 256 * 1024).contains(&used), "{used} bytes");
    assert_eq!(closed(&peer).as_deref(), Some("the day's quota is used up"));
    assert!(!is_offered(&client, &peer, &path));
    wait_until_kept(&peer, &used.to_string());
    let peer = peer.restart();
    assert!(!is_offered(&client, &peer, &path));
}

#[test]
fn a_pause_holds_over_a_restart_and_ends_when_asked() {
    let key = Key::generate("mine-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("paused", Node::text("paused")));
    a.sign(&key, &[&path]);
    let peer = PeerOptions::new(&a).trust(&key.public).start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let hash = client.blob_hash(&address, &path);
    peer.run_cli(&["pause", "--for", "2h"]);
    assert!(!is_offered(&client, &peer, &path));
    assert!(client.fetch(&address, hash).is_err());
    assert!(peer.run_cli(&["status"]).contains("paused"));
    // This machine's own Nix is served as before.
    assert_eq!(peer.narinfo(&path).status, 200);
    wait_until_kept(&peer, "paused_until\":1");
    let peer = peer.restart();
    assert!(!is_offered(&client, &peer, &path));
    peer.run_cli(&["resume"]);
    assert!(is_offered(&client, &peer, &path));
    assert_eq!(closed(&peer), None);
    assert!(!peer.try_cli(&["pause", "--for", "soon"]).status.success());
}

#[test]
fn who_pauses_tells_what_it_has_and_what_it_lacks() {
    let key = Key::generate("public-1");
    let (a, b) = (NixStore::new(), NixStore::new());
    // More than an announcement holds: it comes as an inventory.
    let spec = |number| PathSpec::new(&format!("of-{number}"), Node::text("of a"));
    let paths = a.add_all((0..300).map(spec).collect());
    let signed: Vec<&str> = paths.iter().map(String::as_str).collect();
    a.sign(&key, &signed);
    let paused = PeerOptions::new(&a)
        .of_cache(&key.public)
        .flag("upload-when", "never")
        .start();
    paused.run_cli(&["pause"]);
    let asker = PeerOptions::new(&b)
        .of_cache(&key.public)
        .peer(&paused)
        .start();
    asker.wait_for_inventories(1);
    assert_eq!(asker.narinfo(&paths[7]).status, 404);
    let (client, address) = (Client::new(), address_in(&paused.ticket()));
    let nowhere = store_path_named("nowhere");
    let answers = client.look_up(&address, Mode::Narinfo, &[&paths[7], &nowhere]);
    assert_eq!(answers, [Answer::NotNow, Answer::Absent]);
}

#[test]
fn who_never_uploads_still_fetches() {
    let key = Key::generate("sharer-1");
    let (a, b) = (NixStore::new(), NixStore::new());
    let path = a.add(PathSpec::new("wanted", Node::text("wanted")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let taker = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .flag("upload-when", "never")
        .start();
    taker.wait_for_narinfo(&path);
    b.substitute(&path, &[taker.url()], &[&key.public]);
    taker.share(&path);
    assert!(!is_offered(&Client::new(), &taker, &path));
}

/// A bus of its own, on which a NetworkManager says what it is told to.
struct Bus {
    daemon: Child,
    address: String,
    runtime: tokio::runtime::Runtime,
    _connection: Option<zbus::Connection>,
}

impl Bus {
    fn start() -> Option<Bus> {
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut address = String::new();
        let output = daemon.stdout.take().expect("a pipe");
        let read = BufReader::new(output).read_line(&mut address);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let bus = Bus {
            daemon,
            address: address.trim().to_owned(),
            runtime,
            _connection: None,
        };
        (read.is_ok() && !bus.address.is_empty()).then_some(bus)
    }

    fn with_network_manager(mut self) -> Bus {
        let address = self.address.clone();
        let connection = self.runtime.block_on(async {
            zbus::connection::Builder::address(address.as_str())
                .name("org.freedesktop.NetworkManager")
                .serve_at("/org/freedesktop/NetworkManager", Manager)
                .serve_at(ACTIVE, Active)
                .serve_at(SETTINGS, Settings)
                .build()
                .await
                .expect("a bus")
        });
        self._connection = Some(connection);
        self
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const ACTIVE: &str = "/org/freedesktop/NetworkManager/ActiveConnection/1";
const SETTINGS: &str = "/org/freedesktop/NetworkManager/Settings/1";

fn object(path: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(path.to_owned()).expect("an object path")
}

struct Manager;

#[zbus::interface(name = "org.freedesktop.NetworkManager")]
impl Manager {
    #[zbus(property)]
    fn metered(&self) -> u32 {
        1
    }

    #[zbus(property)]
    fn primary_connection(&self) -> OwnedObjectPath {
        object(ACTIVE)
    }
}

struct Active;

#[zbus::interface(name = "org.freedesktop.NetworkManager.Connection.Active")]
impl Active {
    #[zbus(property)]
    fn connection(&self) -> OwnedObjectPath {
        object(SETTINGS)
    }
}

struct Settings;

#[zbus::interface(name = "org.freedesktop.NetworkManager.Settings.Connection")]
impl Settings {
    fn get_settings(&self) -> HashMap<String, HashMap<String, OwnedVariant>> {
        let zone = OwnedVariant::try_from(zbus::Variant::from("public")).expect("a string");
        let connection = HashMap::from([("zone".to_owned(), zone)]);
        HashMap::from([("connection".to_owned(), connection)])
    }
}

#[test]
fn metered_and_public_networks_are_known_from_network_manager() {
    let Some(bus) = Bus::start() else {
        return skip("there is no dbus-daemon");
    };
    let bus = bus.with_network_manager();
    let a = NixStore::new();
    let start = |options: PeerOptions| {
        options
            .environment("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)
            .start()
    };
    let saving = start(PeerOptions::new(&a).flag("upload-when", "unmetered"));
    let usual = start(PeerOptions::new(&a));
    let asked = start(PeerOptions::new(&a).flag("upload-when", "always"));
    let says = |peer: &Peer, reason: &str| {
        wait_for(reason, || (closed(peer)? == reason).then_some(()));
    };
    says(&saving, "the connection is metered");
    says(&usual, "the network is marked public");
    assert_eq!(closed(&asked), None);
    // Without NetworkManager nothing is metered.
    let elsewhere = PeerOptions::new(&a)
        .flag("upload-when", "unmetered")
        .environment("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .start();
    wait_for("a look at the machine", || {
        let reason = closed(&elsewhere);
        (reason.as_deref() != Some("the connection is metered")).then_some(())
    });
}
