//! What an announcement does to what is kept of its holder: the rules, without the database.

use peerix_store::nix::StorePathHash;

use super::{
    Holder, HolderId, HolderKey, Holding, Lifetimes, OlderChange, Outcome, SignedChange,
    StaleReason, StorageError,
};
use crate::tracker::{api::AnnounceKind, id_set::IdSet, limits};

/// What is kept of a holder, beside its paths.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) holder: Holder,
    /// The number of its last announcement.
    pub(super) sequence: i64,
    /// The number of the last one that changed its paths.
    pub(super) base: Option<i64>,
}

impl Record {
    /// What is told of it once it is kept: all its paths, or `None` where they did not change, the
    /// numbers of those that were added, and how many it has now.
    pub(super) fn accepted(
        self,
        paths: Option<IdSet>,
        hashes: Vec<(u32, StorePathHash)>,
        count: usize,
    ) -> Outcome {
        Outcome::Accepted {
            base: self.base.and_then(|base| u64::try_from(base).ok()),
            holding: Box::new(Holding {
                holder: self.holder,
                paths,
            }),
            hashes,
            count: count as u64,
        }
    }
}

/// What to do with its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paths {
    /// Put what was added in place of what there was.
    Replace,
    /// Add and remove.
    Change,
    /// Leave them.
    Keep,
    /// Remove them.
    Drop,
}

/// What to write, or why nothing is written.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    Write { record: Record, paths: Paths },
    Refuse(Outcome),
}

/// A holder that is not kept yet has this number until it gets its own.
pub(super) const NEW: HolderId = 0;

/// Decides about a signed announcement. Of endpoints that are not remembered, no number up to
/// `forgotten` is taken.
pub(super) fn signed(known: Option<Record>, forgotten: i64, change: &SignedChange) -> Decision {
    let sequence = i64::try_from(change.sequence).unwrap_or(i64::MAX);
    // Nor anything as old as the memory.
    let forgotten = forgotten.max(forgotten_below(change.now, limits::REMEMBER.as_secs_f64()));
    let last = known.as_ref().map_or(forgotten, |known| known.sequence);
    let base = known.as_ref().and_then(|known| known.base);
    let refuse = |reason| {
        Decision::Refuse(Outcome::Stale {
            sequence: u64::try_from(last).unwrap_or_default(),
            base: base.and_then(|base| u64::try_from(base).ok()),
            reason,
        })
    };
    if sequence <= last {
        return refuse(StaleReason::Sequence);
    }
    let is_there = known
        .as_ref()
        .is_some_and(|known| known.holder.present && known.holder.swarm == change.swarm);
    let fits = base.is_some() && change.base.and_then(|base| i64::try_from(base).ok()) == base;
    let paths = match change.kind {
        AnnounceKind::Full => Paths::Replace,
        AnnounceKind::Delta if is_there && fits => Paths::Change,
        AnnounceKind::Refresh if is_there => Paths::Keep,
        AnnounceKind::Delta | AnnounceKind::Refresh => return refuse(StaleReason::Base),
        AnnounceKind::Withdraw => Paths::Drop,
    };
    let (id, revision) = known.map_or((NEW, 0), |known| (known.holder.id, known.holder.revision));
    Decision::Write {
        record: Record {
            holder: Holder {
                id,
                key: HolderKey::Signed(change.endpoint),
                swarm: change.swarm.clone(),
                present: paths != Paths::Drop,
                revision: revision.saturating_add(i64::from(paths != Paths::Keep)),
                contact: change.contact.clone(),
                last_seen: change.now,
            },
            sequence,
            base: match paths {
                Paths::Replace | Paths::Change => Some(sequence),
                Paths::Keep => base,
                Paths::Drop => None,
            },
        },
        paths,
    }
}

/// Decides about what a peer of the older program said; such are believed.
pub(super) fn older(known: Option<Record>, change: &OlderChange) -> (Record, Paths) {
    let is_there = known.as_ref().is_some_and(|known| known.holder.present);
    let (id, revision) = known
        .as_ref()
        .map_or((NEW, 0), |known| (known.holder.id, known.holder.revision));
    let mut contact = known.map(|known| known.holder.contact).unwrap_or_default();
    contact.addr.clone_from(&change.addr);
    let record = Record {
        holder: Holder {
            id,
            key: HolderKey::Older(change.peer_id.clone()),
            swarm: crate::tracker::api::PUBLIC_SWARM.to_owned(),
            present: true,
            revision: revision.saturating_add(1),
            contact,
            last_seen: change.now,
        },
        sequence: 0,
        base: None,
    };
    let paths = if change.replaces || !is_there {
        Paths::Replace
    } else {
        Paths::Change
    };
    (record, paths)
}

/// Refuses more paths than one holder may have.
pub(super) fn require_few(count: usize) -> Result<(), StorageError> {
    match count <= limits::MAX_PATHS_OF_ONE {
        true => Ok(()),
        false => Err(StorageError::TooManyPaths),
    }
}

/// When those were heard of last that are forgotten because there are too many, where `beyond` is
/// when the last of these was. Who left a moment ago stays: other trackers have yet to hear of it.
pub(super) fn forgotten_at(now: f64, beyond: f64, lifetimes: Lifetimes) -> f64 {
    beyond.min(now - 2.0 * lifetimes.signed.max(lifetimes.older))
}

/// The number up to which nothing is believed any more of endpoints that are not remembered, when
/// some are forgotten whose last numbers go up to `last`. Numbers are times: those of the future
/// are of wrong clocks, which keep nobody else out.
pub(super) fn forgotten_up_to(now: f64, last: Option<i64>) -> i64 {
    last.unwrap_or_default().min((now * 1e3) as i64)
}

/// Turns times and the lifetime of the memory into the number below which announcements are
/// forgotten.
pub(super) fn forgotten_below(now: f64, memory: f64) -> i64 {
    ((now - memory).max(0.0) * 1e3) as i64
}
