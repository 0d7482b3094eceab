//! The tracker: who is there, who has which path, and how a swarm starts.

pub mod api;
pub mod relay;
