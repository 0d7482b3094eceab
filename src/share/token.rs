//! What a requester must show to be given what was shared in private.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret that stands in a ticket of `peerix share --private`, and that requests carry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShareToken([u8; 16]);

impl ShareToken {
    /// Makes a new one that nobody can guess.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Takes the 16 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ShareToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ShareToken(..)")
    }
}
