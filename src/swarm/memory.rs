//! What is remembered of a swarm from one start to the next.

use iroh::EndpointAddr;
use serde::{Deserialize, Serialize};

use crate::{limits, state_dir::StateDir};

const FILE: &str = "swarm";

/// The file's content, as postcard.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// No announcement had a larger number: others take no smaller one than the last, whatever the
    /// clock says.
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

    /// Notes who is known now, the most useful first.
    ///
    /// Half of the places are theirs; the rest stays with who was remembered before, so that neither
    /// a run that met nobody nor one that met liars alone leaves the next one without a way back.
    pub(super) fn meet(&mut self, known: Vec<EndpointAddr>) {
        let before = std::mem::take(&mut self.peers);
        let (first, rest) = known.split_at(known.len().min(limits::SWARM_PEERS_REMEMBERED / 2));
        for peer in first.iter().chain(&before).chain(rest) {
            let newest = known.iter().find(|other| other.id == peer.id);
            let newest = newest.unwrap_or(peer);
            if self.peers.len() < limits::SWARM_PEERS_REMEMBERED
                && self.peers.iter().all(|other| other.id != newest.id)
            {
                self.peers.push(newest.clone());
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(number: u8, port: u16) -> EndpointAddr {
        let id = iroh::SecretKey::from_bytes(&[number; 32]).public();
        EndpointAddr::new(id).with_ip_addr(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn a_run_that_met_nobody_forgets_nobody_and_one_that_met_many_not_all() {
        let mut memory = Memory::default();
        memory.meet((0..5).map(|number| addr(number, 1)).collect());
        memory.meet(Vec::new());
        assert_eq!(memory.peers.len(), 5);
        // Liars, and one that moved.
        let mut known: Vec<_> = (100..200).map(|number| addr(number, 1)).collect();
        known.push(addr(3, 2));
        memory.meet(known);
        assert_eq!(memory.peers.len(), limits::SWARM_PEERS_REMEMBERED);
        for number in 0..5 {
            let port = if number == 3 { 2 } else { 1 };
            assert!(memory.peers.contains(&addr(number, port)), "{number}");
        }
        assert_eq!(memory.peers[0], addr(100, 1));
    }

    #[test]
    fn what_is_remembered_fits_its_file_at_its_largest() {
        let long = format!(
            "https://r/{}",
            "x".repeat(peerix_gossip::limits::MAX_RELAY_URL - 10)
        );
        let peer = |number| {
            let mut addr = addr(number, 1).with_relay_url(long.parse().unwrap());
            for port in 2..=peerix_gossip::limits::MAX_ADDRESSES as u16 {
                addr = addr.with_ip_addr(([0xffff; 8], port).into());
            }
            addr
        };
        let mut memory = Memory::default();
        memory.meet(
            (0..limits::SWARM_PEERS_REMEMBERED as u8)
                .map(peer)
                .collect(),
        );
        let bytes = postcard::to_stdvec(&memory).unwrap();
        assert!((bytes.len() as u64) < limits::SWARM_MEMORY_SIZE);
    }
}
