//! NARs of this machine as verified blobs, and their index.
//!
//! A [`Store`] reads what Nix has from Nix's own database, hashes NARs when they are first asked
//! for, and hands them out as blobs of iroh-blobs: addressed by BLAKE3, verified in chunk groups
//! of 16 KiB, at any offset. The bytes of a path in `/nix/store` are re-read from its live files
//! (a NAR *by reference*); what was downloaded and is not in Nix's store yet lies in memory, in the
//! index or in a file beside it, whole or in part.
//!
//! Nothing leaves a store unchecked: bytes that are no longer the ones that were hashed end the
//! read, and the entry is dropped. A NAR whose SHA-256 is not the one in Nix's database is never
//! offered.
//!
//! # Durability
//!
//! What we assume of the disk: a synced file stays; a rename in a synced directory is whole or not
//! at all; what was not synced may be old, zero or gone, in any order.
//!
//! So what must survive is synced, with its directory, before the index that tells of it is
//! committed, and the index is synced before anything is acknowledged. Downloads have their names
//! from the start and can be told from their own bytes: after an unclean stop they are read against
//! their outboards, and only what is right counts. A kill costs what was not written yet, a power
//! cut at most 64 MiB or a second of it besides. Hashes of NARs that Nix keeps are synced within a
//! second; they are computed again if they are lost.
//!
//! # Other clients
//!
//! [`Store::blobs_api`] gives the same blobs as iroh-blobs' own store interface.

mod api;
mod bao;
mod blob;
mod config;
mod database;
mod download;
mod downloads;
mod error;
mod files;
mod hashing;
mod held;
mod index;
mod inline;
mod layouts;
pub mod limits;
mod nar;
mod nar_reader;
pub mod nix;
mod observers;
mod outboard;
mod source;
mod space;
mod store;

pub use blob::Blob;
pub use config::{Config, DAEMON_SOCKET, NixStore};
pub use database::{DatabaseStatus, PathMarker};
pub use download::{Download, IncomingNar};
pub use error::{
    ClosureError, DatabaseError, HashError, OpenBlobError, OpenError, ReadError, StoreError,
    VerifyError,
};
pub use held::HeldWatch;
pub use iroh_blobs::Hash as BlobHash;
pub use nar_reader::NarReader;
pub use nix::{NarHash, PathInfo, StorePath, StorePathHash};
pub use store::{
    BackgroundHashing, Dropped, KeptPath, LocalNar, NarState, PauseReason, Share, Source, Store,
    StoreStats, TempRoot, VerifyProgress, VerifyReport, is_on_battery,
};
