//! Signatures decide what reaches Nix, and what Nix's database says decides what is offered.

use bytes::Bytes;

use crate::support::{
    hostile::{Claim, Client, Fault, Liar, address_in, signed_fields},
    nix_store::{Key, NixStore, PathSpec},
    peer::PeerOptions,
    tree::Node,
};
use peerix::peer::lookup::{Answer, Mode, SignedFields};

/// Lets a liar claim `forge(fields)` for a signed path and asks a peer that trusts the key.
fn status_of_forged(forge: impl Fn(&mut SignedFields)) -> u16 {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let other = a.add(PathSpec::new("other", Node::text("other")));
    let path = a.add(PathSpec::new("path", Node::text("path")).with_references(&[other]));
    a.sign(&key, &[&path]);
    let mut fields = signed_fields(&a, &path);
    forge(&mut fields);
    let liar = Liar::start();
    let nar = Bytes::from(a.dump(&path));
    for store_path in a.closure(&path) {
        let fields = if store_path == path {
            fields.clone()
        } else {
            signed_fields(&a, &store_path)
        };
        liar.claim(
            &store_path,
            Claim {
                fields,
                nar: nar.clone(),
                fault: Fault::None,
            },
        );
    }
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .flag("peer", &liar.address())
        .trust(&key.public)
        .start();
    crate::support::wait_for("the liar to be asked", || {
        let answer = receiver.narinfo(&path);
        (answer.status == 200 || liar.lookups() > 0).then_some(())
    });
    receiver.narinfo(&path).status
}

#[test]
fn an_honest_claim_is_believed() {
    assert_eq!(status_of_forged(|_| ()), 200);
}

#[test]
fn a_signature_of_other_fields_is_not_believed() {
    assert_eq!(status_of_forged(|fields| fields.nar_size += 8), 404);
    assert_eq!(status_of_forged(|fields| fields.nar_hash[0] ^= 1), 404);
    assert_eq!(status_of_forged(|fields| fields.references.clear()), 404);
}

#[test]
fn a_signature_of_another_path_is_not_believed() {
    assert_eq!(
        status_of_forged(|fields| fields.name = "another".to_owned()),
        404
    );
}

#[test]
fn no_signature_and_a_foreign_one_are_not_believed() {
    assert_eq!(status_of_forged(|fields| fields.signatures.clear()), 404);
    assert_eq!(
        status_of_forged(|fields| {
            let foreign = fields.signatures[0].replace("trusted-1", "foreign-1");
            fields.signatures = vec![foreign];
        }),
        404
    );
}

#[test]
fn a_content_address_that_proves_nothing_is_not_believed() {
    for lie in [
        "fixed:r:sha256:0000000000000000000000000000000000000000000000000000",
        "fixed:sha256:0000000000000000000000000000000000000000000000000000",
        "text:sha256:0000000000000000000000000000000000000000000000000000",
    ] {
        let status = status_of_forged(|fields| {
            fields.signatures.clear();
            fields.content_address = Some(lie.to_owned());
        });
        assert_eq!(status, 404, "{lie}");
    }
}

#[test]
fn a_key_no_longer_trusted_hides_the_path() {
    let key = Key::generate("trusted-1");
    let a = NixStore::new();
    let path = a.add(PathSpec::new("path", Node::text("path")));
    a.sign(&key, &[&path]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&path);
    let b = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("state");
    let trusting = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start_in(home, state.clone());
    trusting.wait_for_narinfo(&path);
    let home = trusting.into_directory();
    let distrusting = PeerOptions::new(&b).peer(&sharer).start_in(home, state);
    assert_eq!(distrusting.narinfo(&path).status, 404);
}

#[test]
fn a_path_with_a_wrong_hash_is_never_offered() {
    let key = Key::generate("public-1");
    let a = NixStore::new();
    let good = a.add(PathSpec::new("good", Node::text("good")));
    let rotten = a.add(PathSpec::new("rotten", Node::random(70_000, "rotten")));
    a.sign(&key, &[&good, &rotten]);
    a.corrupt(&a.physical(&rotten));
    let peer = PeerOptions::new(&a)
        .trust(&key.public)
        .flag("public-cache-key", &key.public)
        .start();
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    client.blob_hash(&address, &good);
    let told = crate::support::wait_for("the end of the hashing", || {
        let answer = client
            .look_up(&address, Mode::WantedNow, &[&rotten])
            .remove(0);
        (!matches!(answer, Answer::Hashing { .. })).then_some(answer)
    });
    assert_eq!(told, Answer::Absent);
    let hash = blake3::hash(&a.dump(&rotten)).into();
    assert!(client.fetch(&address, hash).is_err());

    let output = peer.try_cli(&["share", "--yes", &rotten]);
    assert!(!output.status.success());
    assert_eq!(peer.json(&["shared"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn no_filter_offers_everything() {
    let a = NixStore::new();
    let path = a.add_content_addressed("anything", &Node::text("anything"));
    let peer = PeerOptions::new(&a).switch("no-filter").start();
    let (client, address) = (Client::new(), address_in(&peer.ticket()));
    let hash = client.blob_hash(&address, &path);
    assert_eq!(
        client.fetch(&address, hash).expect("the NAR"),
        a.dump(&path)
    );
}
