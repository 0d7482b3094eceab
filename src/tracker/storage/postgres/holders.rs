//! Holders and their paths.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::{Client, GenericClient, Transaction};
use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use tokio_postgres::Row;

use super::super::{
    Holder, HolderId, HolderKey, Holding, Kept, Lifetimes, OlderChange, OlderNode, Outcome,
    SignedChange, StorageError, columns,
    decision::{self, Decision, Paths, Record},
    sql,
    used::Used,
};
use super::{error_of, older};
use crate::tracker::id_set::IdSet;

type Result<T> = std::result::Result<T, StorageError>;

/// The lock that who interns hashes shares, and that who drops hashes has alone.
const HASHES: i64 = 0x7065_6572_6978_0002;

/// The lock of who forgets what is old.
const TIDYING: i64 = 0x7065_6572_6978_0003;

/// Gives hashes the numbers after the last.
const INTERN: &str = "INSERT INTO hash (hash) SELECT unnest($1::bytea[]) \
    ON CONFLICT (hash) DO NOTHING RETURNING id, hash";

/// Gives hashes any numbers; where one is taken its hash is left out.
const INTERN_ANYWHERE: &str = "INSERT INTO hash (id, hash) OVERRIDING SYSTEM VALUE \
    SELECT 1 + floor(random() * 4294967295)::bigint, new.hash FROM unnest($1::bytea[]) AS new (hash) \
    ON CONFLICT DO NOTHING RETURNING id, hash";

/// The last number that was given out in order.
const LAST_NUMBER: &str =
    "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('hash', 'id')::regclass), 0)";

/// Holders whose paths are read at once.
const CHUNK: usize = 64;

pub(super) async fn all_hashes(client: &Client) -> Result<Vec<(u32, StorePathHash)>> {
    let rows = client.query("SELECT id, hash FROM hash", &[]).await;
    hashes_of(&rows.map_err(error_of)?)
}

pub(super) async fn hashes(client: &Client, ids: &[u32]) -> Result<Vec<(u32, StorePathHash)>> {
    let ids: Vec<i64> = ids.iter().copied().map(i64::from).collect();
    let select = "SELECT id, hash FROM hash WHERE id = ANY ($1)";
    let rows = client.query(select, &[&ids]).await;
    hashes_of(&rows.map_err(error_of)?)
}

fn hashes_of(rows: &[Row]) -> Result<Vec<(u32, StorePathHash)>> {
    rows.iter().map(hash_of).collect()
}

fn hash_of(row: &Row) -> Result<(u32, StorePathHash)> {
    let id: i64 = row.try_get(0).map_err(error_of)?;
    let hash: &[u8] = row.try_get(1).map_err(error_of)?;
    let id = u32::try_from(id).ok();
    let hash = hash.try_into().ok().map(StorePathHash::from_bytes);
    id.zip(hash)
        .ok_or_else(|| StorageError::Damaged("a path hash is none".to_owned()))
}

/// Reads the holders that transactions since `since` changed, with their paths where those are not
/// `known`; returns before which transaction all is known then.
pub(super) async fn changes(
    transaction: &Transaction<'_>,
    since: i64,
    known: &HashMap<HolderId, i64>,
) -> Result<(i64, Vec<Holding>)> {
    let before = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    let before = transaction.query_one(before, &[]).await;
    let before: i64 = before.and_then(|row| row.try_get(0)).map_err(error_of)?;
    // Who is absent and was not known to be there needs no mention.
    let select = format!(
        "{} WHERE changed >= $1 AND (present = 1 OR $1 > 0)",
        sql::HOLDER
    );
    let select = transaction.prepare_cached(&select).await;
    let rows = transaction
        .query(&select.map_err(error_of)?, &[&since])
        .await;
    let mut holdings = Vec::new();
    let mut wanted = Vec::new();
    for row in &rows.map_err(error_of)? {
        let holder = record_of(row)?.holder;
        if holder.present && known.get(&holder.id) != Some(&holder.revision) {
            wanted.push(holder.id);
        }
        holdings.push(Holding {
            holder,
            paths: None,
        });
    }
    let mut paths: HashMap<HolderId, IdSet> = HashMap::with_capacity(wanted.len());
    for ids in wanted.chunks(CHUNK) {
        let select = "SELECT holder, paths FROM holding WHERE holder = ANY ($1)";
        let rows = transaction.query(select, &[&ids]).await;
        for row in rows.map_err(error_of)? {
            let id = row.try_get(0).map_err(error_of)?;
            paths.insert(id, set_of(row.try_get(1).map_err(error_of)?)?);
        }
    }
    for id in wanted {
        paths.entry(id).or_default();
    }
    for holding in &mut holdings {
        holding.paths = paths.remove(&holding.holder.id);
    }
    Ok((before, holdings))
}

pub(super) async fn has_signed(client: &Client, endpoint: EndpointId) -> Result<bool> {
    let select = "SELECT EXISTS (SELECT 1 FROM holder WHERE signed = 1 AND key = $1)";
    let row = client.query_one(select, &[&endpoint.to_string()]).await;
    row.and_then(|row| row.try_get(0)).map_err(error_of)
}

pub(super) async fn announce(client: &mut Client, change: &SignedChange) -> Result<Outcome> {
    let key = HolderKey::Signed(change.endpoint);
    let transaction = client.transaction().await.map_err(error_of)?;
    let changed = begin(&transaction, &key).await?;
    let known = record(&transaction, &key).await?;
    let is_first = known.is_none();
    let forgotten = match is_first {
        true => forgotten(&transaction).await?,
        false => 0,
    };
    let (record, paths) = match decision::signed(known, forgotten, change) {
        Decision::Write { record, paths } => (record, paths),
        Decision::Refuse(outcome) => return Ok(outcome),
    };
    if is_first {
        // Whatever others said in its name ends with its own first word.
        older::remove_node(&transaction, &key.text()).await?;
    }
    let writing = Writing {
        transaction: &transaction,
        changed,
    };
    let outcome = writing
        .write(record, paths, &change.added, &change.removed)
        .await?;
    transaction.commit().await.map_err(error_of)?;
    Ok(outcome)
}

pub(super) async fn announce_older(client: &mut Client, change: &OlderChange) -> Result<Outcome> {
    let key = HolderKey::Older(change.peer_id.clone());
    let transaction = client.transaction().await.map_err(error_of)?;
    let changed = begin(&transaction, &key).await?;
    let known = record(&transaction, &key).await?;
    let (mut record, paths) = decision::older(known, change);
    if let Some(node) = older::node_named(&transaction, &change.peer_id).await? {
        record.holder.contact = columns::contact_of_node(&node);
    }
    let writing = Writing {
        transaction: &transaction,
        changed,
    };
    let outcome = writing
        .write(record, paths, &change.added, &change.removed)
        .await?;
    transaction.commit().await.map_err(error_of)?;
    Ok(outcome)
}

/// Notes where the older holder of a node's name is now, and that it is there.
pub(super) async fn refresh_older(
    transaction: &Transaction<'_>,
    node: &OlderNode,
) -> Result<Option<Holding>> {
    let key = HolderKey::Older(node.peer_id.clone());
    let changed = begin(transaction, &key).await?;
    let known = record(transaction, &key).await?;
    let Some(mut record) = known.filter(|record| record.holder.present) else {
        return Ok(None);
    };
    record.holder.contact = columns::contact_of_node(node);
    record.holder.last_seen = node.last_seen;
    let writing = Writing {
        transaction,
        changed,
    };
    writing.write_record(&record).await?;
    Ok(Some(Holding {
        holder: record.holder,
        paths: None,
    }))
}

pub(super) async fn expire(
    client: &mut Client,
    now: f64,
    lifetimes: Lifetimes,
) -> Result<Vec<Holder>> {
    let transaction = client.transaction().await.map_err(error_of)?;
    let changed = "SELECT pg_current_xact_id()::text::bigint";
    let changed = transaction.query_one(changed, &[]).await;
    let changed: i64 = changed.and_then(|row| row.try_get(0)).map_err(error_of)?;
    let (signed, older) = (now - lifetimes.signed, now - lifetimes.older);
    let rows = transaction
        .query(
            sql::EXPIRE_SHARED,
            &[&changed, &signed.max(older), &signed, &older],
        )
        .await
        .map_err(error_of)?;
    let gone = rows
        .iter()
        .map(|row| Ok(record_of(row)?.holder))
        .collect::<Result<Vec<_>>>()?;
    let ids: Vec<HolderId> = gone.iter().map(|holder| holder.id).collect();
    let delete = "DELETE FROM holding WHERE holder = ANY ($1)";
    let deleted = transaction.execute(delete, &[&ids]).await;
    deleted.map_err(error_of)?;
    transaction.commit().await.map_err(error_of)?;
    Ok(gone)
}

pub(super) async fn tidy(
    client: &mut Client,
    now: f64,
    lifetimes: Lifetimes,
    kept: Kept,
) -> Result<u64> {
    let transaction = client.transaction().await.map_err(error_of)?;
    // Where another tracker is at it there is nothing left to do.
    let lock = "SELECT pg_try_advisory_xact_lock($1)";
    let locked = transaction.query_one(lock, &[&TIDYING]).await;
    if locked.and_then(|row| row.try_get(0)).map_err(error_of)? {
        tidy_alone(&transaction, now, lifetimes, kept)
            .await
            .map_err(error_of)?;
    }
    let row = transaction.query_one(sql::COUNT_HASHES, &[]).await;
    let hashes: i64 = row.and_then(|row| row.try_get(0)).map_err(error_of)?;
    transaction.commit().await.map_err(error_of)?;
    Ok(hashes.unsigned_abs())
}

async fn tidy_alone(
    transaction: &Transaction<'_>,
    now: f64,
    lifetimes: Lifetimes,
    kept: Kept,
) -> std::result::Result<(), tokio_postgres::Error> {
    for table in ["peers", "iroh_peers"] {
        let delete = format!("DELETE FROM {table} WHERE last_seen < $1");
        transaction
            .execute(&delete, &[&(now - lifetimes.older)])
            .await?;
    }
    transaction
        .execute(sql::FORGET_OLDER, &[&(now - 2.0 * lifetimes.older)])
        .await?;
    let below = decision::forgotten_below(now, lifetimes.memory);
    transaction
        .execute(sql::FORGET_SIGNED, &[&(now - lifetimes.memory), &below])
        .await?;
    let absent = i64::from(kept.absent);
    if let Some(row) = transaction
        .query_opt(sql::ABSENT_BEYOND, &[&absent])
        .await?
    {
        let beyond = decision::forgotten_at(now, row.try_get(0)?, lifetimes);
        let row = transaction
            .query_one(sql::ABSENT_SEQUENCE, &[&beyond])
            .await?;
        let forgotten = decision::forgotten_up_to(now, row.try_get(0)?);
        let update = "UPDATE peerix_tracker SET forgotten = $1 WHERE forgotten < $1";
        transaction.execute(update, &[&forgotten]).await?;
        transaction.execute(sql::FORGET_ABSENT, &[&beyond]).await?;
    }
    let transfers = i64::from(kept.transfers);
    let old = now - lifetimes.transfers;
    transaction
        .execute(sql::TRIM_TRANSFERS, &[&old, &transfers])
        .await?;
    let cids = i64::from(kept.cids);
    transaction.execute(sql::TRIM_CIDS, &[&cids]).await?;
    let reputations = i64::from(kept.reputations);
    transaction
        .execute(sql::TRIM_REPUTATIONS, &[&reputations])
        .await?;
    Ok(())
}

/// The number up to which announcements of those are refused that are not remembered.
async fn forgotten(transaction: &Transaction<'_>) -> Result<i64> {
    let select = "SELECT forgotten FROM peerix_tracker";
    let row = transaction.query_one(select, &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(error_of)
}

pub(super) async fn collect_hashes(client: &mut Client) -> Result<u64> {
    let transaction = client.transaction().await.map_err(error_of)?;
    let lock = "SELECT pg_advisory_xact_lock($1)::text";
    let locked = transaction.query_one(lock, &[&HASHES]).await;
    locked.map_err(error_of)?;
    let holders = transaction.query("SELECT holder FROM holding", &[]).await;
    let holders: Vec<HolderId> = holders
        .map_err(error_of)?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<std::result::Result<_, _>>()
        .map_err(error_of)?;
    let mut used = Used::default();
    for ids in holders.chunks(CHUNK) {
        let select = "SELECT paths FROM holding WHERE holder = ANY ($1)";
        let rows = transaction.query(select, &[&ids]).await;
        for row in rows.map_err(error_of)? {
            used.add(&set_of(row.try_get(0).map_err(error_of)?)?);
        }
    }
    let all = transaction.query("SELECT id FROM hash", &[]).await;
    let all: Vec<i64> = all
        .map_err(error_of)?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<std::result::Result<_, _>>()
        .map_err(error_of)?;
    let unused = all
        .into_iter()
        .filter(|id| u32::try_from(*id).is_ok_and(|id| !used.contains(id)));
    let unused: Vec<i64> = unused.collect();
    let dropped = transaction
        .execute("DELETE FROM hash WHERE id = ANY ($1)", &[&unused])
        .await
        .map_err(error_of)?;
    transaction.commit().await.map_err(error_of)?;
    Ok(dropped)
}

/// Waits for its turn with a holder, also one that is not there yet, and with hashes; returns the
/// transaction's number.
async fn begin(transaction: &Transaction<'_>, key: &HolderKey) -> Result<i64> {
    let begin = "SELECT pg_advisory_xact_lock_shared($1)::text, \
        pg_advisory_xact_lock(hashtextextended($2, $3))::text, \
        pg_current_xact_id()::text::bigint";
    let begin = transaction.prepare_cached(begin).await.map_err(error_of)?;
    let row = transaction
        .query_one(&begin, &[&HASHES, &key.text(), &i64::from(key.is_signed())])
        .await;
    row.and_then(|row| row.try_get(2)).map_err(error_of)
}

async fn record(transaction: &Transaction<'_>, key: &HolderKey) -> Result<Option<Record>> {
    let select = format!("{} WHERE signed = $1 AND key = $2 FOR UPDATE", sql::HOLDER);
    let select = transaction.prepare_cached(&select).await;
    let row = transaction
        .query_opt(
            &select.map_err(error_of)?,
            &[&i64::from(key.is_signed()), &key.text()],
        )
        .await;
    row.map_err(error_of)?.as_ref().map(record_of).transpose()
}

fn record_of(row: &Row) -> Result<Record> {
    let signed: i64 = row.try_get(1).map_err(error_of)?;
    let text: String = row.try_get(2).map_err(error_of)?;
    let key = match signed {
        0 => HolderKey::Older(text),
        _ => HolderKey::Signed(
            text.parse()
                .map_err(|_| StorageError::Damaged("the id of an endpoint is none".to_owned()))?,
        ),
    };
    let read = || -> std::result::Result<Record, tokio_postgres::Error> {
        let present: i64 = row.try_get(4)?;
        Ok(Record {
            holder: Holder {
                id: row.try_get(0)?,
                key,
                swarm: row.try_get(3)?,
                present: present != 0,
                revision: row.try_get(5)?,
                contact: columns::contact_of_text(
                    row.try_get(6)?,
                    row.try_get(7)?,
                    row.try_get(8)?,
                    row.try_get(9)?,
                    row.try_get(10)?,
                ),
                last_seen: row.try_get(11)?,
            },
            sequence: row.try_get(12)?,
            base: row.try_get(13)?,
        })
    };
    read().map_err(error_of)
}

/// A transaction that changes holders.
struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    /// Its number, by which others find what it changed.
    changed: i64,
}

impl Writing<'_> {
    /// Writes a record, a new one too, and returns its number.
    async fn write_record(&self, record: &Record) -> Result<HolderId> {
        let holder = &record.holder;
        let (endpoint, relay_url, direct_addrs, systems) =
            columns::contact_to_text(&holder.contact);
        let signed = i64::from(holder.key.is_signed());
        let present = i64::from(holder.present);
        if holder.id == decision::NEW {
            let insert = self.transaction.prepare_cached(sql::INSERT_HOLDER).await;
            let row = self
                .transaction
                .query_one(
                    &insert.map_err(error_of)?,
                    &[
                        &signed,
                        &holder.key.text(),
                        &holder.swarm,
                        &present,
                        &holder.revision,
                        &endpoint,
                        &relay_url,
                        &direct_addrs,
                        &systems,
                        &holder.contact.addr,
                        &holder.last_seen,
                        &record.sequence,
                        &record.base,
                        &self.changed,
                    ],
                )
                .await;
            return row.and_then(|row| row.try_get(0)).map_err(error_of);
        }
        let update = self.transaction.prepare_cached(sql::UPDATE_HOLDER).await;
        let updated = self
            .transaction
            .execute(
                &update.map_err(error_of)?,
                &[
                    &holder.swarm,
                    &present,
                    &holder.revision,
                    &endpoint,
                    &relay_url,
                    &direct_addrs,
                    &systems,
                    &holder.contact.addr,
                    &holder.last_seen,
                    &record.sequence,
                    &record.base,
                    &self.changed,
                    &holder.id,
                ],
            )
            .await;
        updated.map_err(error_of)?;
        Ok(holder.id)
    }

    async fn write(
        &self,
        mut record: Record,
        paths: Paths,
        added: &[StorePathHash],
        removed: &[StorePathHash],
    ) -> Result<Outcome> {
        record.holder.id = self.write_record(&record).await?;
        let id = record.holder.id;
        let hashes = match paths {
            Paths::Replace | Paths::Change => self.interned(added).await?,
            Paths::Keep | Paths::Drop => Vec::new(),
        };
        let mut numbers: Vec<u32> = hashes.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let set = match paths {
            Paths::Replace => Some(IdSet::from_sorted(numbers)),
            Paths::Change => {
                let gone = self.known(removed).await?;
                let mut gone: Vec<u32> = gone.iter().map(|(number, _)| *number).collect();
                gone.sort_unstable();
                Some(self.paths_of(id).await?.changed(&numbers, &gone))
            }
            Paths::Keep => None,
            Paths::Drop => Some(IdSet::default()),
        };
        let count = match &set {
            Some(set) => set.len(),
            None => self.paths_of(id).await?.len(),
        };
        decision::require_few(count)?;
        match &set {
            Some(set) if paths != Paths::Drop => {
                let put = self.transaction.prepare_cached(sql::PUT_HOLDING).await;
                let put = put.map_err(error_of)?;
                let done = self
                    .transaction
                    .execute(&put, &[&id, &set.as_bytes()])
                    .await;
                done.map_err(error_of)?;
            }
            Some(_) => self.drop_paths(id).await?,
            None => {}
        }
        Ok(record.accepted(set, hashes, count))
    }

    /// The numbers of hashes, new ones where they have none.
    async fn interned(&self, hashes: &[StorePathHash]) -> Result<Vec<(u32, StorePathHash)>> {
        let mut found = self.known(hashes).await?;
        if found.len() == hashes.len() {
            return Ok(found);
        }
        let known: HashSet<StorePathHash> = found.iter().map(|(_, hash)| *hash).collect();
        let mut missing: Vec<StorePathHash> = hashes.to_vec();
        missing.retain(|hash| !known.contains(hash));
        // Two who add the same wait for each other in the same order.
        missing.sort_unstable_by_key(|hash| *hash.as_bytes());
        missing.dedup();
        let last = self.transaction.prepare_cached(LAST_NUMBER).await;
        let last = self
            .transaction
            .query_one(&last.map_err(error_of)?, &[])
            .await;
        let last: i64 = last.and_then(|row| row.try_get(0)).map_err(error_of)?;
        let insert = match last < sql::NUMBERS_IN_ORDER {
            true => INTERN,
            false => INTERN_ANYWHERE,
        };
        let insert = self.transaction.prepare_cached(insert).await;
        let insert = insert.map_err(error_of)?;
        while !missing.is_empty() {
            let bytes: Vec<&[u8]> = missing.iter().map(|hash| &hash.as_bytes()[..]).collect();
            let rows = self.transaction.query(&insert, &[&bytes]).await;
            let mut new = hashes_of(&rows.map_err(error_of)?)?;
            if new.len() < missing.len() {
                // Others added some of them a moment ago, or a number was taken.
                new = self.known(&missing).await?;
            }
            let there: HashSet<StorePathHash> = new.iter().map(|(_, hash)| *hash).collect();
            missing.retain(|hash| !there.contains(hash));
            found.extend(new);
        }
        Ok(found)
    }

    /// The numbers of those hashes that have one.
    async fn known(&self, hashes: &[StorePathHash]) -> Result<Vec<(u32, StorePathHash)>> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let bytes: Vec<&[u8]> = hashes.iter().map(|hash| &hash.as_bytes()[..]).collect();
        let select = "SELECT id, hash FROM hash WHERE hash = ANY ($1)";
        let select = self.transaction.prepare_cached(select).await;
        let rows = self
            .transaction
            .query(&select.map_err(error_of)?, &[&bytes])
            .await;
        hashes_of(&rows.map_err(error_of)?)
    }

    async fn paths_of(&self, holder: HolderId) -> Result<IdSet> {
        let select = "SELECT paths FROM holding WHERE holder = $1";
        let select = self.transaction.prepare_cached(select).await;
        let row = self
            .transaction
            .query_opt(&select.map_err(error_of)?, &[&holder])
            .await;
        match row.map_err(error_of)? {
            Some(row) => set_of(row.try_get(0).map_err(error_of)?),
            None => Ok(IdSet::default()),
        }
    }

    async fn drop_paths(&self, holder: HolderId) -> Result<()> {
        let delete = "DELETE FROM holding WHERE holder = $1";
        let deleted = self.transaction.execute(delete, &[&holder]).await;
        deleted.map_err(error_of)?;
        Ok(())
    }
}

fn set_of(bytes: Vec<u8>) -> Result<IdSet> {
    IdSet::from_bytes(bytes)
        .ok_or_else(|| StorageError::Damaged("a set of paths is none".to_owned()))
}
