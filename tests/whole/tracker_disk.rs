//! A tracker whose disk is full.

use std::time::SystemTime;

use iroh::SecretKey;
use serde_json::json;

use super::support::{
    skip,
    small_disk::SmallDisk,
    tracker::{Tracker, json_of},
};

/// Paths of one endpoint.
const PATHS: u32 = 2000;

/// A path hash that nobody else announces.
fn hash(endpoint: usize, path: u32) -> String {
    format!("{:032}", endpoint as u32 * 100_000 + path)
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_is_over_when_there_is_room() {
    let Some(disk) = SmallDisk::new(8) else {
        return skip("mounting a small disk needs root");
    };
    let database = disk.path().join("tracker.db").display().to_string();
    let mut tracker = Tracker::start(&["--db-path", &database]);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let start = since.expect("a clock after 1970").as_millis() as u64;
    let keys: Vec<SecretKey> = (0..200).map(|_| SecretKey::generate()).collect();
    let announce = |tracker: &Tracker, endpoint: usize| {
        let hashes: Vec<String> = (0..PATHS).map(|path| hash(endpoint, path)).collect();
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let body = tracker.full(&keys[endpoint], start, &hashes);
        tracker.announce(&keys[endpoint], &body)
    };
    let is_found = |tracker: &Tracker, endpoint: usize| {
        let asked = json!({ "hashes": [hash(endpoint, 0), hash(endpoint, PATHS - 1)] });
        let found = json_of(&tracker.post("/v1/lookup", &asked), 200);
        found["found"].as_object().expect("an object").len() == 2
    };
    json_of(&announce(&tracker, 0), 200);
    assert_eq!(tracker.get("/health").status, 200);

    disk.fill();
    let refused = (1..keys.len()).find(|endpoint| announce(&tracker, *endpoint).status != 200);
    let refused = refused.expect("a full disk");
    let error = json_of(&announce(&tracker, refused), 503);
    let error = error["error"].as_str().expect("a text");
    assert!(error.contains("full"), "{error}");
    let health = json_of(&tracker.get("/health"), 503);
    assert_eq!(health["status"], "degraded");
    for endpoint in 0..refused {
        assert!(is_found(&tracker, endpoint), "{endpoint}");
    }
    assert!(!is_found(&tracker, refused));
    let log = tracker.log_text();
    assert_eq!(log.matches("is full").count(), 1, "{log}");

    disk.clear();
    json_of(&announce(&tracker, refused), 200);
    assert_eq!(json_of(&tracker.get("/health"), 200)["status"], "healthy");
    tracker.restart();
    for endpoint in 0..=refused {
        assert!(is_found(&tracker, endpoint), "{endpoint}");
    }
}
