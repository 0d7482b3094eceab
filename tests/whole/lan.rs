//! Peers on one local network find each other, and nothing leaves it.

use std::time::{Duration, Instant};

use crate::support::{
    network::{Host, Network},
    nix_store::{Key, NixStore, PathSpec},
    peer::{Peer, PeerOptions},
    shapes::add_closure,
    tree::Node,
    wait_for, wait_within,
};

/// A peer in LAN mode with nothing else configured but whom to trust.
fn lan(store: &NixStore, key: &Key) -> PeerOptions {
    PeerOptions::plain(store)
        .flag("mode", "lan")
        .flag("public-cache-key", &key.public)
        .trust(&key.public)
}

/// Starts `options` on `host`.
fn start(host: &Host, options: PeerOptions) -> Peer {
    host.inside(move || options.start())
}

fn wait_until_connected(host: &Host, peer: &Peer, count: usize) {
    host.inside(|| {
        wait_for("connected peers", || {
            (peer.connected_peers() >= count).then_some(())
        });
    });
}

#[test]
fn two_hosts_find_each_other_and_nix_substitutes_without_an_internet() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let program = add_closure(&first, "program", 12, 300_000);
    first.sign(&key, &[&program]);
    let sharer = start(a, lan(&first, &key));

    let mut best = Duration::MAX;
    for _ in 0..3 {
        let asked = Instant::now();
        let receiver = start(b, lan(&second, &key));
        wait_until_connected(b, &receiver, 1);
        best = best.min(asked.elapsed());
        println!("from start to found: {:?}", asked.elapsed());
    }
    assert!(
        best <= Duration::from_secs(2),
        "{best:?} from start to found"
    );

    let receiver = start(b, lan(&second, &key));
    wait_until_connected(b, &receiver, 1);
    b.inside(|| second.substitute(&program, &[receiver.url()], &[&key.public]));
    second.verify_contents();
    assert_eq!(second.closure(&program).len(), 13);
    let status = a.inside(|| sharer.status());
    assert_eq!(
        (&status["mode"], &status["lan_discovery"]),
        (&"lan".into(), &true.into())
    );
}

#[test]
fn the_swarm_is_joined_through_who_is_found_on_the_local_network() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new("hello", Node::random(20_000, "hello")));
    first.sign(&key, &[&path]);
    let beside = |store, address: &str| {
        PeerOptions::new(store)
            .iroh_bind(address)
            .switch("lan-discovery")
            .flag("public-cache-key", &key.public)
            .trust(&key.public)
    };
    let (of_a, of_b) = (
        beside(&first, "10.77.0.1:12306"),
        beside(&second, "10.77.0.2:12306"),
    );
    let _sharer = start(a, of_a);
    let receiver = start(b, of_b);
    b.inside(|| {
        wait_for("the inventory of the other", || {
            (receiver.status()["swarm"]["inventories"] == 1).then_some(())
        });
        assert_eq!(receiver.narinfo(&path).status, 200);
    });
}

#[test]
fn ten_hosts_on_one_bridge_each_find_all_and_any_path_of_any() {
    const HOSTS: usize = 10;
    let Some(network) = Network::with_addresses(HOSTS) else {
        return;
    };
    let key = Key::generate("lan-1");
    let stores: Vec<NixStore> = (0..HOSTS).map(|_| NixStore::new()).collect();
    let paths: Vec<String> = stores
        .iter()
        .enumerate()
        .map(|(number, store)| {
            let name = format!("of-host-{number}");
            let path = store.add(PathSpec::new(&name, Node::random(20_000, &name)));
            store.sign(&key, &[&path]);
            path
        })
        .collect();
    let peers: Vec<Peer> = std::thread::scope(|scope| {
        let starting: Vec<_> = network
            .hosts()
            .iter()
            .zip(&stores)
            .map(|(host, store)| {
                let options = lan(store, &key);
                scope.spawn(move || start(host, options))
            })
            .collect();
        starting
            .into_iter()
            .map(|peer| peer.join().expect("a peer"))
            .collect()
    });
    for (host, peer) in network.hosts().iter().zip(&peers) {
        wait_until_connected(host, peer, HOSTS - 1);
    }
    for (asking, (host, peer)) in network.hosts().iter().zip(&peers).enumerate() {
        host.inside(|| {
            for (held, path) in paths.iter().enumerate() {
                if held != asking {
                    peer.wait_for_narinfo(path);
                }
            }
            let far = &paths[(asking + 5) % HOSTS];
            let nar = peer.get(&peer.nar_target(far));
            assert!(nar.complete && nar.status == 200, "{}", nar.status);
        });
    }
}

#[test]
fn in_lan_mode_nothing_leaves_the_local_network() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new("here", Node::random(3_000_000, "here")));
    first.sign(&key, &[&path]);
    for host in [a, b] {
        // A way to everywhere, so that what wants to leave does: nobody answers there.
        host.ip("addr add fd77::9/64 dev lo");
        host.ip("route add default via 10.77.0.254");
        host.ip("neigh add 10.77.0.254 lladdr 02:00:00:00:00:fe dev eth0 nud permanent");
        host.ip("-6 route add default via fe80::fe dev eth0");
        host.ip("-6 neigh add fe80::fe lladdr 02:00:00:00:00:fe dev eth0 nud permanent");
    }
    let leaving = "not (arp or dst net 10.77.0.0/24 or dst net 224.0.0.0/4 or dst net ff00::/8 \
                   or dst net fe80::/10 or dst net fd77::/64) or port 53 or dst host 10.77.0.254";
    let captures = [a.capture(leaving), b.capture(leaving)];
    let all = b.capture("udp");
    // A control: what would leave is seen.
    b.inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(b"x", "192.0.2.1:9").expect("a route");
    });
    wait_for("the control packet", || {
        (captures[1].packets().len() == 1).then_some(())
    });

    let _sharer = start(a, lan(&first, &key));
    let receiver = start(b, lan(&second, &key));
    wait_until_connected(b, &receiver, 1);
    b.inside(|| {
        assert_eq!(
            receiver.get(&receiver.nar_target(&path)).body,
            first.dump(&path)
        );
        for number in 0..50 {
            let absent = crate::support::nix_store::store_path_named(&format!("absent-{number}"));
            assert_eq!(receiver.narinfo(&absent).status, 404);
        }
        assert_eq!(receiver.status()["relay_url"], serde_json::Value::Null);
    });
    let quiet = Instant::now() + Duration::from_secs(5);
    wait_within(Duration::from_secs(60), "a while of idling", || {
        (Instant::now() > quiet).then_some(())
    });
    let left: Vec<String> = captures
        .iter()
        .flat_map(|capture| capture.packets())
        .collect();
    assert_eq!(left.len(), 1, "{left:#?}");
    let sent = all.packets();
    for port in ["5353", "12306", "12304"] {
        assert!(
            sent.iter()
                .any(|packet| packet.contains(&format!(".{port}"))),
            "none to {port}"
        );
    }
}

#[test]
fn lan_discovery_beside_iroh_finds_peers_too() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    let (first, second) = (NixStore::new(), NixStore::new());
    let beside = |store: &NixStore| {
        PeerOptions::plain(store)
            .switch("lan-discovery")
            .flag("relay", "off")
    };
    let _one = start(a, beside(&first));
    let other = start(b, beside(&second));
    wait_until_connected(b, &other, 1);
    let status = b.inside(|| other.status());
    assert_eq!(
        (&status["mode"], &status["lan_discovery"]),
        (&"iroh".into(), &true.into())
    );
}

/// How soon a host with another address has to be found again.
const FOLLOWED: Duration = Duration::from_secs(10);

#[test]
fn an_interface_that_gets_another_address_is_followed() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new("moving", Node::random(100_000, "moving")));
    first.sign(&key, &[&path]);
    let sharer = start(a, lan(&first, &key));
    let receiver = start(b, lan(&second, &key));
    wait_until_connected(b, &receiver, 1);

    a.ip("addr del 10.77.0.1/24 dev eth0");
    a.ip("addr add 10.77.0.99/24 brd + dev eth0");
    let moved = Instant::now();
    let has_moved = |host: &Host, peer: &Peer, to: &str| {
        host.inside(|| {
            let peers: serde_json::Value =
                serde_json::from_slice(&peer.get("/peers").body).expect("JSON");
            peers["peers"].as_array().is_some_and(|peers| {
                peers.iter().any(|peer| {
                    peer["connected"] == true
                        && peer["address"]
                            .as_str()
                            .is_some_and(|addr| addr.starts_with(to))
                })
            })
        })
    };
    wait_within(FOLLOWED, "the moved host", || {
        has_moved(b, &receiver, "10.77.0.99:").then_some(())
    });
    println!("followed after {:?}", moved.elapsed());
    b.inside(|| {
        wait_within(FOLLOWED, "a path of the moved host", || {
            (receiver.narinfo(&path).status == 200).then_some(())
        });
        assert_eq!(
            receiver.get(&receiver.nar_target(&path)).body,
            first.dump(&path)
        );
    });
    // An interface that comes later counts as well.
    network.plug(a, "eth1", 17);
    a.ip("addr add 10.78.0.1/24 brd + dev eth1");
    b.ip("addr add 10.78.0.2/24 brd + dev eth0");
    a.ip("addr del 10.77.0.99/24 dev eth0");
    b.ip("addr del 10.77.0.2/24 dev eth0");
    wait_within(FOLLOWED * 2, "the host on its other interface", || {
        has_moved(b, &receiver, "10.78.0.1:").then_some(())
    });
    drop(sharer);
}

#[test]
fn hosts_with_ipv6_alone_find_each_other() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    a.ip("addr add fd77::1/64 dev eth0 nodad");
    b.ip("addr add fd77::2/64 dev eth0 nodad");
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new("six", Node::random(100_000, "six")));
    first.sign(&key, &[&path]);
    let _sharer = start(a, lan(&first, &key));
    let receiver = start(b, lan(&second, &key));
    wait_until_connected(b, &receiver, 1);
    b.inside(|| second.substitute(&path, &[receiver.url()], &[&key.public]));
}

#[test]
fn the_ports_we_name_are_all_that_a_firewall_has_to_let_in() {
    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    for host in [a, b] {
        host.firewall("udp dport { 12306, 12304, 5353 } accept\ntcp dport 12304 accept");
    }
    let key = Key::generate("lan-1");
    let (first, second) = (NixStore::new(), NixStore::new());
    let path = first.add(PathSpec::new("walled", Node::random(100_000, "walled")));
    first.sign(&key, &[&path]);
    let sharer = start(a, lan(&first, &key));
    let receiver = start(b, lan(&second, &key));
    wait_until_connected(b, &receiver, 1);
    wait_until_connected(a, &sharer, 1);
    b.inside(|| {
        second.substitute(&path, &[receiver.url()], &[&key.public]);
        let hash = crate::support::nix_store::hash_part(&path);
        let other = "10.77.0.1:12304".parse().expect("an address");
        let narinfo = crate::support::http::get(other, &format!("/local/{hash}.narinfo"));
        assert_eq!(narinfo.status, 200);
    });
}

#[test]
fn a_program_with_irohs_own_mdns_lookup_finds_us_and_is_found() {
    use futures_util::StreamExt as _;
    use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};

    let Some(network) = Network::with_addresses(2) else {
        return;
    };
    let [a, b] = network.hosts() else {
        unreachable!()
    };
    // The crate sends multicast over the default route alone.
    b.ip("route add default via 10.77.0.254");
    let store = NixStore::new();
    let ours = start(a, PeerOptions::plain(&store).flag("mode", "lan"));
    let our_id = a.inside(|| ours.status()["node_id"].as_str().map(str::to_owned));
    crate::support::install_tls_provider();
    b.inside(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let endpoint = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal)
                .relay_mode(iroh::RelayMode::Disabled)
                .bind()
                .await
                .expect("an endpoint");
            let lookup = MdnsAddressLookup::builder()
                .service_name("peerix")
                .build(endpoint.id())
                .expect("a lookup");
            endpoint.address_lookup().expect("open").add(lookup.clone());
            let mut events = lookup.subscribe().await;
            let found = async {
                loop {
                    match events.next().await.expect("an event") {
                        DiscoveryEvent::Discovered { endpoint_info, .. }
                            if Some(endpoint_info.endpoint_id.to_string()) == our_id =>
                        {
                            return endpoint_info;
                        }
                        _ => {}
                    }
                }
            };
            let found = tokio::time::timeout(Duration::from_secs(20), found)
                .await
                .expect("our announcement");
            let addrs: Vec<_> = found.ip_addrs().map(ToString::to_string).collect();
            assert_eq!(addrs, ["10.77.0.1:12306"]);
            let alpn = peerix::peer::lookup::ALPN;
            endpoint
                .connect(found.endpoint_id, alpn)
                .await
                .expect("a connection");
            // It was found too, though it has nothing to say about paths.
            let id = endpoint.id().to_string();
            let is_known = || {
                let peers = a.inside(|| ours.get("/peers").text());
                peers.contains(&id)
            };
            let deadline = Instant::now() + Duration::from_secs(20);
            while !is_known() {
                assert!(Instant::now() < deadline, "it was not found");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            endpoint.close().await;
        });
    });
}
