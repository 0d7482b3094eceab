//! What a report does to a transfer of the older program: the rules, without the database.

use super::older_types::is_consistent;
use super::{Report, Reported, Reputation, Role};

/// What is kept of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) sender_id: String,
    pub(super) receiver_id: String,
    pub(super) sender_bytes: Option<i64>,
    pub(super) receiver_bytes: Option<i64>,
    pub(super) sender_confirmed: bool,
    pub(super) receiver_confirmed: bool,
    pub(super) resolved: bool,
}

/// What is added to the reputation of sender and receiver.
pub(super) type Credits = [(String, Reputation); 2];

impl Transfer {
    /// Takes up a report; returns what became of it, and what to add to whose reputation. The
    /// transfer changed where the report is pending or resolved it.
    pub(super) fn take(&mut self, report: &Report) -> (Reported, Option<Credits>) {
        if self.resolved {
            return (Reported::AlreadyResolved, None);
        }
        let (who, bytes, confirmed) = match report.role {
            Role::Sender => (
                &self.sender_id,
                &mut self.sender_bytes,
                &mut self.sender_confirmed,
            ),
            Role::Receiver => (
                &self.receiver_id,
                &mut self.receiver_bytes,
                &mut self.receiver_confirmed,
            ),
        };
        if *who != report.peer_id {
            return (Reported::NotThatSide, None);
        }
        if *confirmed {
            return (Reported::AlreadyReported, None);
        }
        *bytes = Some(report.bytes);
        *confirmed = true;
        if !(self.sender_confirmed && self.receiver_confirmed) {
            return (Reported::Pending, None);
        }
        self.resolved = true;
        let sent = self.sender_bytes.unwrap_or_default();
        let received = self.receiver_bytes.unwrap_or_default();
        let consistent = is_consistent(sent, received);
        let credit = |total_shared, total_received| Reputation {
            total_shared: if consistent { total_shared } else { 0 },
            total_received: if consistent { total_received } else { 0 },
            successful_transfers: i64::from(consistent),
            failed_transfers: i64::from(!consistent),
        };
        let credits = [
            (self.sender_id.clone(), credit(sent, 0)),
            (self.receiver_id.clone(), credit(0, received)),
        ];
        (Reported::Resolved { consistent }, Some(credits))
    }
}
