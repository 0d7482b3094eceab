//! The two clocks that rules are functions of.

use std::time::Instant;

/// A moment, as the caller's clocks have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For all that takes time.
    pub at: Instant,
    /// Milliseconds since 1970, for the numbers of announcements alone: it may be wrong or jump.
    pub unix_ms: u64,
}

impl Now {
    /// What the system's clocks say.
    pub fn system() -> Self {
        let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed();
        Self {
            at: Instant::now(),
            unix_ms: since_1970.map_or(0, |passed| {
                u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }

    /// The number of the announcement after one numbered `last`: a wrong clock can't mute us.
    pub(crate) fn sequence_after(self, last: u64) -> u64 {
        self.unix_ms.max(last.saturating_add(1))
    }
}
