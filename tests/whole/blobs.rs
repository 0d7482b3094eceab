//! Any client of iroh-blobs can fetch a NAR, and nothing that is not offered.

use crate::support::{
    hostile::{Client, address_in},
    nix_store::{Key, NixStore, PathSpec},
    peer::PeerOptions,
    shapes::edge_shapes,
    tree::Node,
};
use peerix::peer::lookup::{Answer, Mode};

#[test]
fn a_stock_client_fetches_a_nar_by_reference() {
    let a = NixStore::new();
    let mut specs = edge_shapes();
    specs.push(PathSpec::new("large", Node::random(20_000_000, "large")));
    let paths = a.add_all(specs);
    let peer = PeerOptions::new(&a).start();
    for path in &paths {
        peer.share(path);
    }
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    for path in &paths {
        let hash = client.blob_hash(&address, path);
        let nar = client.fetch(&address, hash).expect("the NAR");
        assert_eq!(nar, a.dump(path), "{path}");
    }
    // Nothing was copied: what the state directory holds is hashes.
    let copied = directory_size(peer.state_dir());
    assert!(copied < 5_000_000, "{copied} bytes in the state directory");
}

#[test]
fn what_is_not_offered_is_served_to_nobody() {
    let key = Key::generate("not-public-1");
    let a = NixStore::new();
    let private = a.add(PathSpec::new("private", Node::random(50_000, "private")));
    a.sign(&key, &[&private]);
    let peer = PeerOptions::new(&a).trust(&key.public).start();
    // Its own Nix may have it, so it gets hashed; its blob hash is no secret either.
    let target = peer.nar_target(&private);
    assert_eq!(peer.get(&target).body, a.dump(&private));
    let hash = blake3::hash(&a.dump(&private)).into();

    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    for mode in [Mode::Narinfo, Mode::Presence, Mode::WantedNow] {
        let answer = client.look_up(&address, mode, &[&private]).remove(0);
        assert_eq!(answer, Answer::Absent, "{mode:?}");
    }
    assert!(client.fetch(&address, hash).is_err());

    // The refusal is the policy's: shared, the same hash is served.
    peer.share(&private);
    assert_eq!(
        client.fetch(&address, hash).expect("the NAR"),
        a.dump(&private)
    );
    peer.run_cli(&["unshare", &private]);
    assert!(client.fetch(&address, hash).is_err());
}

#[test]
fn pushes_are_refused() {
    use iroh_blobs::protocol::{ChunkRangesSeq, PushRequest, RequestType};
    let a = NixStore::new();
    let peer = PeerOptions::new(&a).start();
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let connection = client
        .connect(&address, iroh_blobs::ALPN)
        .expect("a connection");
    let data = vec![7u8; 100_000];
    let push = PushRequest::new(blake3::hash(&data).into(), ChunkRangesSeq::root());
    let refused = client.block_on(async {
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        let mut bytes = vec![RequestType::Push as u8];
        bytes.extend(postcard::to_allocvec(&push).expect("an encoding"));
        let _ = send.write_all(&bytes).await;
        let _ = send.write_all(&(data.len() as u64).to_le_bytes()).await;
        let _ = send.write_all(&data).await;
        let _ = send.finish();
        recv.read_to_end(1024).await.is_err()
    });
    assert!(refused);
    assert!(client.fetch(&address, blake3::hash(&data).into()).is_err());
    assert!(directory_size(peer.state_dir()) < 5_000_000);
}

#[test]
fn a_path_that_changed_is_never_served_again() {
    let key = Key::generate("sharer-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("rotten", Node::random(300_000, "rotten")));
    a.sign(&key, &[&path]);
    let peer = PeerOptions::new(&a).trust(&key.public).start();
    peer.share(&path);
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let hash = client.blob_hash(&address, &path);
    let target = peer.nar_target(&path);
    a.corrupt(&a.physical(&path));
    assert!(client.fetch(&address, hash).is_err());
    let answer = peer.get(&target);
    assert!(
        answer.status == 404 || !answer.complete,
        "{}",
        answer.status
    );
}

fn directory_size(directory: &std::path::Path) -> u64 {
    let mut size = 0;
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let metadata = entry.metadata().expect("a file");
        size += match metadata.is_dir() {
            true => directory_size(&entry.path()),
            false => metadata.len(),
        };
    }
    size
}
