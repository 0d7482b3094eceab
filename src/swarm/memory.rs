//! What is remembered of a swarm from one start to the next.

use iroh::EndpointAddr;
use serde::{Deserialize, Serialize};

use crate::{limits, state_dir::StateDir};

const FILE: &str = "swarm";

/// The file's content, as postcard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// The number of our last announcement: others take no smaller one, whatever the clock says.
    pub(super) last_sequence: u64,
    /// Peers to join through.
    pub(super) peers: Vec<EndpointAddr>,
}

impl Memory {
    /// What the last run left; nothing where it can't be read.
    pub(super) fn read(state_dir: &StateDir) -> Self {
        let bytes = match state_dir.read_file(FILE, limits::SWARM_MEMORY_SIZE) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, "the peers of the last run are not known");
                return Self::default();
            }
        };
        let mut memory: Self = postcard::from_bytes(&bytes).unwrap_or_default();
        memory.peers.truncate(limits::SWARM_PEERS_REMEMBERED);
        memory
    }

    pub(super) fn write(&self, state_dir: &StateDir) {
        let Ok(bytes) = postcard::to_stdvec(self) else {
            return;
        };
        if let Err(error) = state_dir.write_file(FILE, &bytes) {
            tracing::debug!(%error, "the peers of the swarm can't be remembered");
        }
    }
}
