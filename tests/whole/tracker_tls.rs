//! TLS around trackers, with authorities of one's own: to the database, and to the tracker.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use iroh::SecretKey;

use crate::support::{
    http_server::HttpServer,
    nix_store::{Key, NixStore, PathSpec, hash_part, store_path_named},
    peer::PeerOptions,
    postgres::Postgres,
    relay::Authority,
    skip,
    tracker::Tracker,
    tree::Node,
    wait_for,
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_database_is_reached_over_tls_where_the_right_authority_vouches_for_it() {
    let authority = Authority::for_address(HERE);
    let files = authority.signed();
    let Some(postgres) = Postgres::start_with_tls(&files.certificate, &files.key) else {
        return skip("PostgreSQL is not installed");
    };
    let url = postgres.database_over_tls("tracker");
    let authority_file = authority.file().display().to_string();
    let flags = ["--database", &url, "--database-ca-file", &authority_file];
    let mut tracker = Tracker::start(&flags);
    let key = SecretKey::from_bytes(&[7; 32]);
    let path = store_path_named("kept");
    let full = tracker.full(&key, 1_900_000_000_000, &[hash_part(&path)]);
    assert_eq!(tracker.announce(&key, &full).status, 200);
    // Nothing of it goes in the clear.
    let over_tls = "DO $$ BEGIN IF NOT (SELECT bool_and(ssl) FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE application_name = 'peerix-tracker') \
        THEN RAISE EXCEPTION 'in the clear'; END IF; END $$";
    assert!(postgres.runs(over_tls));
    tracker.restart();
    assert_eq!(tracker.get_json("/v1/peers?swarm=public")["count"], 1);

    let directory = tempfile::tempdir().expect("a temporary directory");
    let stranger = Authority::for_address(HERE);
    let other = stranger.file().display().to_string();
    let nowhere = directory.path().join("nowhere").display().to_string();
    for (authority, words) in [
        (Some(&other), ["certificate", "--database-ca-file"]),
        (None, ["certificate", "--database-ca-file"]),
        (Some(&nowhere), ["nowhere", "No such file"]),
    ] {
        let mut flags = vec!["--database", &url];
        if let Some(authority) = authority {
            flags.extend(["--database-ca-file", authority]);
        }
        let (status, said) = Tracker::fail(directory.path(), &flags);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn a_tracker_with_an_authority_of_one_s_own_is_spoken_with_where_that_is_named() {
    let tracker = Tracker::start(&[]);
    let authority = Authority::for_address(HERE);
    let front = HttpServer::with_tls(tracker.address(), &authority.signed());
    let key = Key::generate("public-1");
    let store = NixStore::new();
    let path = store.add(PathSpec::new("here", Node::text("here")));
    store.sign(&key, &[&path]);
    let options = |store: &NixStore| {
        PeerOptions::new(store)
            .trust(&key.public)
            .flag("public-cache-key", &key.public)
            .replace_flag("tracker", &front.url())
    };
    let authority = authority.file().display().to_string();
    let knowing = |store: &NixStore| options(store).flag("ca-file", &authority).start();
    let sharer = knowing(&store);
    wait_for("the path at the tracker", || {
        (sharer.status()["trackers"][0]["announced_paths"] == 1).then_some(())
    });
    let elsewhere = NixStore::new();
    let receiver = knowing(&elsewhere);
    wait_for("the other", || {
        (receiver.connected_peers() == 1).then_some(())
    });
    receiver.wait_for_narinfo(&path);

    let began = Instant::now();
    let mut without = options(&NixStore::new()).start();
    let asked = Instant::now();
    assert_eq!(without.narinfo(&path).status, 404);
    let (started, miss) = (asked - began, asked.elapsed());
    println!("with a tracker that is not trusted: up after {started:?}, a miss took {miss:?}");
    assert!(miss < Duration::from_secs(2), "{miss:?}");
    wait_for("what went wrong", || {
        let status = without.status();
        let error = status["trackers"][0]["error"].as_str()?.to_owned();
        (error.contains("certificate") && error.contains("--ca-file")).then_some(())
    });
    wait_for("a few attempts", || {
        without.log_text().contains("--ca-file").then_some(())
    });
    assert!(without.stop() < Duration::from_secs(5));
    let log = without.log_text();
    assert_eq!(log.matches("--ca-file").count(), 1, "{log}");
    assert_eq!(front.requests().len(), front.exchanges().len());
}
