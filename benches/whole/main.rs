//! Measures the built program against others on the same machine in the same run.
//!
//! `scripts/bench [SECTION...]` runs it and prints Markdown tables; every figure of ours stands
//! beside that of the other program, runs interleaved, medians shown.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and stops where it can't go on"
)]

#[path = "../../tests/support/lib.rs"]
mod support;

mod closure;
mod dashboard;
mod filters;
mod hashing;
mod lan;
mod long_path;
mod measure;
mod own_store;
mod peer;
mod providers;
mod store;
mod swarm;
mod tracker;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The stock client and provider run as processes of their own, so that their CPU time is theirs.
    if let Ok(role) = std::env::var(peer::ROLE) {
        peer::play(&role);
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let sections: [(&str, fn()); 20] = [
        ("own-store", own_store::run),
        ("peer", peer::run),
        ("providers", providers::run),
        ("unlimited", providers::run_unlimited),
        ("crowd", providers::run_crowd),
        ("memory", providers::run_memory),
        ("long-path", long_path::run),
        ("hashing", hashing::run),
        ("closure", closure::run_large),
        ("small-paths", closure::run_small),
        ("receiving", store::run_receiving),
        ("reading", store::run_reading),
        ("requesters", store::run_requesters),
        ("start", store::run_start),
        ("lan", lan::run),
        ("wire", wire::run),
        ("dashboard", dashboard::run),
        ("swarm", swarm::run),
        ("filters", filters::run),
        ("tracker", tracker::run),
    ];
    if let Some(unknown) = wanted
        .iter()
        .find(|word| !sections.iter().any(|(name, _)| name == word))
    {
        let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
        eprintln!("no section {unknown}; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    for (name, run) in sections {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
        }
    }
    ExitCode::SUCCESS
}
