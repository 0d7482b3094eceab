//! The whole program against the real Nix, several peers and the faults it must survive.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

#[path = "../support/lib.rs"]
mod support;

mod alive;
mod asked_upstream;
mod attended;
mod bad_input;
mod blobs;
mod commands;
mod configuration;
mod costs;
mod dashboard;
mod derivations;
mod disk_faults;
mod documents;
mod endpoints;
mod explanations;
mod fuzz_corpus;
mod http_faults;
mod install;
mod lan;
mod lan_older;
mod lifecycle;
mod limits;
mod logs;
mod lying_peers;
mod metrics;
mod nat;
mod nix_module;
mod older_peers;
mod policy;
mod providers;
mod run_command;
mod service;
mod substitution;
mod swarm;
mod swarm_faults;
mod swarm_private;
mod tracker;
mod tracker_answers;
mod tracker_api;
mod tracker_changes;
mod tracker_client;
mod tracker_disk;
mod tracker_older;
mod tracker_tls;
mod trust;
mod uploads;
mod upstream;
mod wire;
mod workspace;
