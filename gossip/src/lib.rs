//! Who has what, learnt from and told to a swarm.
//!
//! An [`Inventory`] is the set of store path hashes that a peer offers, as a filter small enough
//! to be held in memory by hundreds. An [`announcement::Announcement`] names it, tells of the latest
//! changes, and is signed by its author. [`Engine`] is the rules, without I/O: a function of events
//! and clocks.

pub mod announcement;
mod announcer;
mod changes;
mod clock;
mod engine;
mod index;
mod inventory;
pub mod limits;
mod membership;
pub mod pacing;
mod swarm;

pub use announcer::{Announcer, Offered};
pub use changes::{Changes, Tag};
pub use clock::Now;
pub use engine::{Action, Config, Engine, Event, Page, TICK};
pub use index::{Counters, Entry, Index, Standing, Wanted, blob_of};
pub use inventory::{Inventory, InventoryError, MAX_INVENTORY_SIZE, PathHash};
pub use swarm::{
    CatalogueProtocol, Change, Fetch, GossipProtocol, Links, Options, Swarm, alpn_in,
    catalogue_alpn, gossip_alpn, topic,
};
