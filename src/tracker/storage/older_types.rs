//! What the older program's tables hold.

/// An iroh node of the older program.
#[derive(Clone, Debug, PartialEq)]
pub struct OlderNode {
    /// Its id, as it gave it.
    pub node_id: String,
    /// The name that it gave.
    pub peer_id: String,
    /// Its relay's URL, as it gave it.
    pub relay_url: Option<String>,
    /// Its addresses, as it gave them.
    pub direct_addrs: Vec<String>,
    /// The address that it announced itself from.
    pub addr: String,
    /// When, in seconds since 1970.
    pub last_seen: f64,
}

/// A peer of the older program without iroh.
#[derive(Clone, Debug, PartialEq)]
pub struct OlderPeer {
    /// The name that it gave.
    pub peer_id: String,
    /// The address that it announced itself from.
    pub addr: String,
    /// Its HTTP port.
    pub port: i64,
    /// Its id in libp2p.
    pub libp2p_peer_id: Option<String>,
    /// When it was heard of last, in seconds since 1970.
    pub last_seen: f64,
}

/// A transfer that is about to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct OlderTransfer {
    /// Who sends.
    pub sender_id: String,
    /// Who receives.
    pub receiver_id: String,
    /// When, in seconds since 1970.
    pub created_at: f64,
}

/// A side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who sent.
    Sender,
    /// Who received.
    Receiver,
}

impl Role {
    /// The word that stands for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// What one side says of a transfer.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The transfer's number.
    pub transfer_id: i64,
    /// Who says it.
    pub peer_id: String,
    /// Which side that is.
    pub role: Role,
    /// How many bytes there were.
    pub bytes: i64,
    /// The time, in seconds since 1970.
    pub now: f64,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The other side's is missing.
    Pending,
    /// Both sides are there.
    Resolved {
        /// Whether they say the same.
        consistent: bool,
    },
    /// There is no such transfer.
    NotFound,
    /// Both sides were there before.
    AlreadyResolved,
    /// The reporter is not that side.
    NotThatSide,
    /// That side was there before.
    AlreadyReported,
}

/// What a peer of the older program is known for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reputation {
    /// Bytes that it sent.
    pub total_shared: i64,
    /// Bytes that it received.
    pub total_received: i64,
    /// Transfers whose sides agreed.
    pub successful_transfers: i64,
    /// Transfers whose sides did not.
    pub failed_transfers: i64,
}

impl Reputation {
    /// The older tracker's score: the share of successes, times the logarithm of the bytes sent.
    #[must_use]
    pub fn score(&self) -> f64 {
        let successes = self.successful_transfers as f64;
        let transfers = successes + self.failed_transfers as f64;
        if transfers == 0.0 {
            return 0.0;
        }
        let score = successes / (transfers + 1.0) * (self.total_shared as f64).ln_1p();
        (score * 1e4).round() / 1e4
    }
}

/// Whether both sides of a transfer said the same, within a twentieth.
pub(super) fn is_consistent(sender_bytes: i64, receiver_bytes: i64) -> bool {
    let larger = sender_bytes.max(receiver_bytes);
    larger == 0 || sender_bytes.abs_diff(receiver_bytes) as f64 / larger as f64 <= 0.05
}

/// The CID of a NAR.
#[derive(Clone, Debug, PartialEq)]
pub struct Cid {
    /// The NAR's hash.
    pub nar_hash: String,
    /// Its CID.
    pub cid: String,
    /// Who said so.
    pub peer_id: String,
    /// When, in seconds since 1970.
    pub created_at: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_agree_within_a_twentieth() {
        assert!(is_consistent(0, 0));
        assert!(is_consistent(1000, 950));
        assert!(!is_consistent(1000, 949));
        assert!(!is_consistent(0, 1));
        assert!(!is_consistent(i64::MIN, i64::MAX));
    }

    #[test]
    fn a_score_is_zero_without_transfers_and_has_four_digits() {
        assert_eq!(Reputation::default().score(), 0.0);
        let known = Reputation {
            total_shared: 1_000_000,
            successful_transfers: 3,
            failed_transfers: 1,
            ..Reputation::default()
        };
        assert_eq!(known.score(), 8.2893);
    }
}
