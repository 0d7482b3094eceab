//! What this machine says to other machines and hears from them, all of it over iroh.
//!
//! [`endpoint`] binds the one endpoint, [`peers`] keeps connections to the peers we know,
//! [`lookup`] is the protocol that asks who has a path, [`lookup_server`] answers it, and
//! [`provider`] serves blobs on iroh-blobs' own ALPN and, compressed, on that of [`wire`], [`older`]
//! the older program's protocols. [`blobs`] asks for blobs, [`path`] says which way packets take. [`rate`] and [`score`] are the rules for
//! how much is uploaded and whom to ask first, [`gate`] for whether anything is uploaded, [`reputation`] keeps
//! scores over restarts, [`budget`] bounds what else a peer may cost, and
//! [`admission`] turns endpoints away that nobody wants to speak with.

pub mod admission;
pub mod blobs;
pub mod budget;
pub mod endpoint;
pub mod gate;
pub mod lookup;
pub mod lookup_client;
pub mod lookup_server;
pub mod older;
pub mod open;
pub mod path;
pub mod peers;
pub mod provider;
pub mod rate;
pub mod reputation;
pub mod score;
pub mod wire;
