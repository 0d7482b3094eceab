//! Holders and their paths.

use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use rusqlite::{
    Connection, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, named_params,
    params,
};

use super::super::{
    Contents, Holder, HolderId, HolderKey, Holding, Kept, Lifetimes, OlderChange, OlderNode,
    Outcome, SignedChange, StorageError, columns,
    decision::{self, Decision, Paths, Record},
    sql,
    used::Used,
};
use super::{error_of, older};
use crate::tracker::id_set::IdSet;

pub(super) fn load(connection: &mut Connection) -> Result<Contents, StorageError> {
    let hashes = connection
        .prepare("SELECT id, hash FROM hash")
        .and_then(|mut select| select.query_map([], hash_of)?.collect())
        .map_err(error_of)?;
    let mut select = connection
        .prepare(&format!("{} WHERE present = 1", sql::HOLDER))
        .map_err(error_of)?;
    let records: Vec<Record> = select
        .query_map([], record_of)
        .and_then(Iterator::collect)
        .map_err(error_of)?;
    let holdings = records.into_iter().map(|record| {
        Ok(Holding {
            paths: Some(paths_of(connection, record.holder.id)?),
            holder: record.holder,
        })
    });
    Ok(Contents {
        hashes,
        holdings: holdings.collect::<Result<_, StorageError>>()?,
    })
}

pub(super) fn hashes(
    connection: &Connection,
    ids: &[u32],
) -> Result<Vec<(u32, StorePathHash)>, StorageError> {
    let mut select = connection
        .prepare_cached("SELECT id, hash FROM hash WHERE id = ?1")
        .map_err(error_of)?;
    let found = ids
        .iter()
        .map(|id| select.query_row([id], hash_of).optional());
    found
        .filter_map(Result::transpose)
        .collect::<rusqlite::Result<_>>()
        .map_err(error_of)
}

fn hash_of(row: &Row<'_>) -> rusqlite::Result<(u32, StorePathHash)> {
    Ok((row.get(0)?, StorePathHash::from_bytes(row.get(1)?)))
}

pub(super) fn has_signed(
    connection: &Connection,
    endpoint: EndpointId,
) -> Result<bool, StorageError> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM holder WHERE signed = 1 AND key = ?1)")
        .and_then(|mut select| select.query_row([endpoint.to_string()], |row| row.get(0)))
        .map_err(error_of)
}

pub(super) fn announce(
    connection: &mut Connection,
    change: &SignedChange,
) -> Result<Outcome, StorageError> {
    let transaction = begin(connection)?;
    let key = HolderKey::Signed(change.endpoint);
    let known = record(&transaction, &key)?;
    let is_first = known.is_none();
    let forgotten = match is_first {
        true => forgotten(&transaction)?,
        false => 0,
    };
    let (record, paths) = match decision::signed(known, forgotten, change) {
        Decision::Write { record, paths } => (record, paths),
        Decision::Refuse(outcome) => return Ok(outcome),
    };
    if is_first {
        // Whatever others said in its name ends with its own first word.
        older::remove_node(&transaction, &key.text()).map_err(error_of)?;
    }
    let outcome = write(&transaction, record, paths, &change.added, &change.removed)?;
    transaction.commit().map_err(error_of)?;
    Ok(outcome)
}

pub(super) fn announce_older(
    connection: &mut Connection,
    change: &OlderChange,
) -> Result<Outcome, StorageError> {
    let transaction = begin(connection)?;
    let known = record(&transaction, &HolderKey::Older(change.peer_id.clone()))?;
    let (mut record, paths) = decision::older(known, change);
    let node = older::node_named(&transaction, &change.peer_id).map_err(error_of)?;
    if let Some(node) = node {
        record.holder.contact = columns::contact_of_node(&node);
    }
    let outcome = write(&transaction, record, paths, &change.added, &change.removed)?;
    transaction.commit().map_err(error_of)?;
    Ok(outcome)
}

/// Notes where the older holder of a node's name is now, and that it is there.
pub(super) fn refresh_older(
    transaction: &Transaction<'_>,
    node: &OlderNode,
) -> Result<Option<Holding>, StorageError> {
    let known = record(transaction, &HolderKey::Older(node.peer_id.clone()))?;
    let Some(mut record) = known.filter(|record| record.holder.present) else {
        return Ok(None);
    };
    record.holder.contact = columns::contact_of_node(node);
    record.holder.last_seen = node.last_seen;
    write_record(transaction, &record)?;
    Ok(Some(Holding {
        holder: record.holder,
        paths: None,
    }))
}

pub(super) fn expire(
    connection: &mut Connection,
    now: f64,
    lifetimes: Lifetimes,
) -> Result<Vec<Holder>, StorageError> {
    let transaction = begin(connection)?;
    let gone: Vec<Record> = transaction
        .prepare_cached(sql::EXPIRE)
        .and_then(|mut update| {
            let (signed, older) = (now - lifetimes.signed, now - lifetimes.older);
            let times = params![0, signed.max(older), signed, older];
            update.query_map(times, record_of)?.collect()
        })
        .map_err(error_of)?;
    for record in &gone {
        drop_paths(&transaction, record.holder.id)?;
    }
    transaction.commit().map_err(error_of)?;
    Ok(gone.into_iter().map(|record| record.holder).collect())
}

pub(super) fn tidy(
    connection: &mut Connection,
    now: f64,
    lifetimes: Lifetimes,
    kept: Kept,
) -> Result<u64, StorageError> {
    let transaction = begin(connection)?;
    let done = |statement: &str, values: &[&dyn ToSql]| {
        let prepared = transaction.prepare_cached(statement);
        prepared.and_then(|mut prepared| prepared.execute(values))
    };
    let tidy = || -> rusqlite::Result<u64> {
        for table in ["peers", "iroh_peers"] {
            let delete = format!("DELETE FROM {table} WHERE last_seen < $1");
            done(&delete, &[&(now - lifetimes.older)])?;
        }
        done(sql::FORGET_OLDER, &[&(now - 2.0 * lifetimes.older)])?;
        let below = decision::forgotten_below(now, lifetimes.memory);
        done(sql::FORGET_SIGNED, &[&(now - lifetimes.memory), &below])?;
        let beyond: Option<f64> = transaction
            .prepare_cached(sql::ABSENT_BEYOND)?
            .query_row([kept.absent], |row| row.get(0))
            .optional()?;
        if let Some(beyond) = beyond {
            let beyond = decision::forgotten_at(now, beyond, lifetimes);
            let last: Option<i64> = transaction
                .prepare_cached(sql::ABSENT_SEQUENCE)?
                .query_row([beyond], |row| row.get(0))?;
            let forgotten = decision::forgotten_up_to(now, last);
            done(
                "UPDATE tracker SET forgotten = $1 WHERE forgotten < $1",
                &[&forgotten],
            )?;
            done(sql::FORGET_ABSENT, &[&beyond])?;
        }
        let old = now - lifetimes.transfers;
        done(sql::TRIM_TRANSFERS, &[&old, &kept.transfers])?;
        done(sql::TRIM_CIDS, &[&kept.cids])?;
        done(sql::TRIM_REPUTATIONS, &[&kept.reputations])?;
        let hashes: i64 = transaction.query_row(sql::COUNT_HASHES, [], |row| row.get(0))?;
        Ok(hashes.unsigned_abs())
    };
    let hashes = tidy().map_err(error_of)?;
    transaction.commit().map_err(error_of)?;
    Ok(hashes)
}

/// The number up to which announcements of those are refused that are not remembered.
fn forgotten(transaction: &Transaction<'_>) -> Result<i64, StorageError> {
    transaction
        .prepare_cached("SELECT forgotten FROM tracker")
        .and_then(|mut select| select.query_row([], |row| row.get(0)))
        .map_err(error_of)
}

pub(super) fn collect_hashes(connection: &mut Connection) -> Result<u64, StorageError> {
    let transaction = begin(connection)?;
    let mut used = Used::default();
    {
        let mut select = transaction
            .prepare("SELECT paths FROM holding")
            .map_err(error_of)?;
        let mut rows = select.query([]).map_err(error_of)?;
        while let Some(row) = rows.next().map_err(error_of)? {
            used.add(&set_of(row.get(0).map_err(error_of)?)?);
        }
    }
    let all: Vec<u32> = transaction
        .prepare("SELECT id FROM hash")
        .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect())
        .map_err(error_of)?;
    let mut dropped = 0;
    for id in all.into_iter().filter(|id| !used.contains(*id)) {
        transaction
            .prepare_cached("DELETE FROM hash WHERE id = ?1")
            .and_then(|mut delete| delete.execute([id]))
            .map_err(error_of)?;
        dropped += 1;
    }
    transaction.commit().map_err(error_of)?;
    Ok(dropped)
}

fn begin(connection: &mut Connection) -> Result<Transaction<'_>, StorageError> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(error_of)
}

fn record(connection: &Connection, key: &HolderKey) -> Result<Option<Record>, StorageError> {
    connection
        .prepare_cached(&format!("{} WHERE signed = $1 AND key = $2", sql::HOLDER))
        .and_then(|mut select| {
            select
                .query_row(params![i64::from(key.is_signed()), key.text()], record_of)
                .optional()
        })
        .map_err(error_of)
}

fn record_of(row: &Row<'_>) -> rusqlite::Result<Record> {
    let signed: i64 = row.get(1)?;
    let text: String = row.get(2)?;
    let key = match signed {
        0 => HolderKey::Older(text),
        _ => HolderKey::Signed(text.parse().map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                2,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })?),
    };
    let endpoint: Option<String> = row.get(6)?;
    let relay_url: Option<String> = row.get(7)?;
    let direct_addrs: String = row.get(8)?;
    let systems: String = row.get(9)?;
    Ok(Record {
        holder: Holder {
            id: row.get(0)?,
            key,
            swarm: row.get(3)?,
            present: row.get::<_, i64>(4)? != 0,
            revision: row.get(5)?,
            contact: columns::contact_of_text(
                endpoint.as_deref(),
                relay_url.as_deref(),
                &direct_addrs,
                &systems,
                row.get(10)?,
            ),
            last_seen: row.get(11)?,
        },
        sequence: row.get(12)?,
        base: row.get(13)?,
    })
}

/// Writes a record, a new one too, and returns its number.
fn write_record(transaction: &Transaction<'_>, record: &Record) -> Result<HolderId, StorageError> {
    let holder = &record.holder;
    let (endpoint, relay_url, direct_addrs, systems) = columns::contact_to_text(&holder.contact);
    let write = || -> rusqlite::Result<HolderId> {
        if holder.id == decision::NEW {
            return transaction.prepare_cached(sql::INSERT_HOLDER)?.query_row(
                params![
                    i64::from(holder.key.is_signed()),
                    holder.key.text(),
                    holder.swarm,
                    i64::from(holder.present),
                    holder.revision,
                    endpoint,
                    relay_url,
                    direct_addrs,
                    systems,
                    holder.contact.addr,
                    holder.last_seen,
                    record.sequence,
                    record.base,
                    0,
                ],
                |row| row.get(0),
            );
        }
        transaction
            .prepare_cached(sql::UPDATE_HOLDER)?
            .execute(params![
                holder.swarm,
                i64::from(holder.present),
                holder.revision,
                endpoint,
                relay_url,
                direct_addrs,
                systems,
                holder.contact.addr,
                holder.last_seen,
                record.sequence,
                record.base,
                0,
                holder.id,
            ])?;
        Ok(holder.id)
    };
    write().map_err(error_of)
}

fn write(
    transaction: &Transaction<'_>,
    mut record: Record,
    paths: Paths,
    added: &[StorePathHash],
    removed: &[StorePathHash],
) -> Result<Outcome, StorageError> {
    record.holder.id = write_record(transaction, &record)?;
    let id = record.holder.id;
    let hashes = match paths {
        Paths::Replace | Paths::Change => interned(transaction, added)?,
        Paths::Keep | Paths::Drop => Vec::new(),
    };
    let mut numbers: Vec<u32> = hashes.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let set = match paths {
        Paths::Replace => Some(IdSet::from_sorted(numbers)),
        Paths::Change => {
            let gone = known_numbers(transaction, removed)?;
            Some(paths_of(transaction, id)?.changed(&numbers, &gone))
        }
        Paths::Keep => None,
        Paths::Drop => Some(IdSet::default()),
    };
    let count = match &set {
        Some(set) => set.len(),
        None => paths_of(transaction, id)?.len(),
    };
    decision::require_few(count)?;
    match &set {
        Some(set) if paths != Paths::Drop => {
            transaction
                .prepare_cached(sql::PUT_HOLDING)
                .and_then(|mut put| put.execute(params![id, set.as_bytes()]))
                .map_err(error_of)?;
        }
        Some(_) => drop_paths(transaction, id)?,
        None => {}
    }
    Ok(record.accepted(set, hashes, count))
}

/// The numbers of hashes, new ones where they have none.
fn interned(
    transaction: &Transaction<'_>,
    hashes: &[StorePathHash],
) -> Result<Vec<(u32, StorePathHash)>, StorageError> {
    let intern = || -> rusqlite::Result<Vec<(u32, StorePathHash)>> {
        let mut select = transaction.prepare_cached("SELECT id FROM hash WHERE hash = :hash")?;
        let mut insert = transaction
            .prepare_cached("INSERT INTO hash (id, hash) VALUES (:id, :hash) RETURNING id")?;
        let highest: Option<i64> = transaction
            .prepare_cached("SELECT max(id) FROM hash")?
            .query_row([], |row| row.get(0))?;
        let in_order = highest.unwrap_or_default() < sql::NUMBERS_IN_ORDER;
        hashes
            .iter()
            .map(|hash| {
                let bytes = hash.as_bytes();
                let known = select
                    .query_row(named_params! { ":hash": bytes }, |row| row.get(0))
                    .optional()?;
                if let Some(number) = known {
                    return Ok((number, *hash));
                }
                let id = match in_order {
                    // The one after the highest.
                    true => None,
                    false => Some(free_number(transaction)?),
                };
                let values = named_params! { ":id": id, ":hash": bytes };
                Ok((insert.query_row(values, |row| row.get(0))?, *hash))
            })
            .collect()
    };
    intern().map_err(error_of)
}

/// Any number that no hash has; there are far more numbers than hashes.
fn free_number(transaction: &Transaction<'_>) -> rusqlite::Result<u32> {
    let mut is_taken =
        transaction.prepare_cached("SELECT EXISTS (SELECT 1 FROM hash WHERE id = ?1)")?;
    loop {
        let number = rand::random_range(1..=u32::MAX);
        if !is_taken.query_row([number], |row| row.get(0))? {
            return Ok(number);
        }
    }
}

/// The numbers of those hashes that have one, rising.
fn known_numbers(
    transaction: &Transaction<'_>,
    hashes: &[StorePathHash],
) -> Result<Vec<u32>, StorageError> {
    let mut select = transaction
        .prepare_cached("SELECT id FROM hash WHERE hash = ?1")
        .map_err(error_of)?;
    let mut numbers = Vec::with_capacity(hashes.len());
    for hash in hashes {
        let number = select
            .query_row([hash.as_bytes()], |row| row.get::<_, u32>(0))
            .optional();
        numbers.extend(number.map_err(error_of)?);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn paths_of(connection: &Connection, holder: HolderId) -> Result<IdSet, StorageError> {
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached("SELECT paths FROM holding WHERE holder = ?1")
        .and_then(|mut select| select.query_row([holder], |row| row.get(0)).optional())
        .map_err(error_of)?;
    set_of(bytes.unwrap_or_default())
}

fn set_of(bytes: Vec<u8>) -> Result<IdSet, StorageError> {
    IdSet::from_bytes(bytes)
        .ok_or_else(|| StorageError::Damaged("a set of paths is none".to_owned()))
}

fn drop_paths(transaction: &Transaction<'_>, holder: HolderId) -> Result<(), StorageError> {
    transaction
        .prepare_cached("DELETE FROM holding WHERE holder = ?1")
        .and_then(|mut delete| delete.execute([holder]))
        .map_err(error_of)?;
    Ok(())
}
