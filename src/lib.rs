//! peerix: a peer-to-peer binary cache for Nix.
//!
//! Every machine offers the NARs of its own `/nix/store` to its peers as verified blobs and is a
//! substituter for its own Nix that fetches from them. [`daemon`] puts the parts together:
//! [`http`] faces Nix, [`lookup`] finds who has a path, [`transfer`] brings it, [`peer`] speaks
//! with other machines, [`lan`] finds those on the local network, [`trust`] and [`offer`] say what
//! is believed and what is given.

pub mod announcing;
pub mod authorities;
pub mod cli;
mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dashboard;
pub mod fuzzing;
pub mod geoip;
pub mod http;
pub mod lan;
pub mod limits;
pub mod lookup;
pub mod machine;
pub mod metrics;
pub mod narinfo;
pub mod offer;
mod outgoing;
pub mod peer;
pub mod report;
mod secret_file;
pub mod service;
pub mod share;
pub mod signing;
pub mod state_dir;
pub mod stats;
pub mod substituter;
pub mod swarm;
pub mod ticket;
pub mod tracker;
pub mod transfer;
pub mod trust;
pub mod upstream;
pub mod why;

/// This build: the version, and the commit that it was built from (`0.1.0+<commit>`, or `+dev`).
pub const VERSION: &str = env!("PEERIX_VERSION");
