//! Who has what, learnt from and told to a swarm.
//!
//! An [`Inventory`] is the set of store path hashes that a peer offers, as a filter small enough
//! to be told to everyone and held in memory by hundreds.

mod inventory;

pub use inventory::{Inventory, InventoryError, MAX_INVENTORY_SIZE, PathHash};
