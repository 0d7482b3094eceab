//! The older program's tables.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::super::{
    Cid, Holding, OlderCounts, OlderNode, OlderPeer, OlderTransfer, Report, Reported, Reputation,
    StorageError, sql, transfer::Transfer,
};
use super::{error_of, holders};
use crate::tracker::limits;

pub(super) fn put_node(
    connection: &mut Connection,
    node: &OlderNode,
) -> Result<Option<Holding>, StorageError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(error_of)?;
    transaction
        .prepare_cached(sql::PUT_NODE)
        .and_then(|mut put| {
            put.execute(params![
                node.node_id,
                node.peer_id,
                node.relay_url,
                super::super::columns::list_to_text(&node.direct_addrs),
                node.addr,
                node.last_seen,
            ])
        })
        .map_err(error_of)?;
    let holding = holders::refresh_older(&transaction, node)?;
    transaction.commit().map_err(error_of)?;
    Ok(holding)
}

pub(super) fn nodes(connection: &Connection, since: f64) -> rusqlite::Result<Vec<OlderNode>> {
    connection
        .prepare_cached(&format!(
            "{} WHERE last_seen > $1 ORDER BY last_seen DESC LIMIT {}",
            sql::NODES,
            limits::LISTED
        ))?
        .query_map([since], node_of)?
        .collect()
}

pub(super) fn node(connection: &Connection, node_id: &str) -> rusqlite::Result<Option<OlderNode>> {
    connection
        .prepare_cached(&format!("{} WHERE node_id = $1", sql::NODES))?
        .query_row([node_id], node_of)
        .optional()
}

/// The node that last said that its name is `peer_id`.
pub(super) fn node_named(
    connection: &Connection,
    peer_id: &str,
) -> rusqlite::Result<Option<OlderNode>> {
    connection
        .prepare_cached(&format!(
            "{} WHERE peer_id = $1 ORDER BY last_seen DESC LIMIT 1",
            sql::NODES
        ))?
        .query_row([peer_id], node_of)
        .optional()
}

fn node_of(row: &Row<'_>) -> rusqlite::Result<OlderNode> {
    let direct_addrs: Option<String> = row.get(3)?;
    Ok(OlderNode {
        node_id: row.get(0)?,
        peer_id: row.get(1)?,
        relay_url: row.get(2)?,
        direct_addrs: super::super::columns::list_of_text(direct_addrs.as_deref()),
        addr: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
        last_seen: row.get(5)?,
    })
}

pub(super) fn remove_node(connection: &Connection, node_id: &str) -> rusqlite::Result<bool> {
    let removed = connection
        .prepare_cached("DELETE FROM iroh_peers WHERE node_id = $1")?
        .execute([node_id])?;
    Ok(removed > 0)
}

pub(super) fn put_peer(connection: &Connection, peer: &OlderPeer) -> rusqlite::Result<()> {
    connection.prepare_cached(sql::PUT_PEER)?.execute(params![
        peer.peer_id,
        peer.addr,
        peer.port,
        peer.libp2p_peer_id,
        peer.last_seen,
    ])?;
    Ok(())
}

pub(super) fn peers(
    connection: &Connection,
    since: f64,
    names: Option<&[String]>,
) -> rusqlite::Result<Vec<(OlderPeer, Reputation)>> {
    match names {
        None => connection
            .prepare_cached(&format!(
                "{} ORDER BY p.last_seen DESC LIMIT {}",
                sql::PEERS,
                limits::LISTED
            ))?
            .query_map([since], peer_of)?
            .collect(),
        Some(names) => connection
            .prepare_cached(&format!(
                "{} AND p.peer_id IN (SELECT value FROM json_each($2))",
                sql::PEERS
            ))?
            .query_map(
                params![since, super::super::columns::list_to_text(names)],
                peer_of,
            )?
            .collect(),
    }
}

fn peer_of(row: &Row<'_>) -> rusqlite::Result<(OlderPeer, Reputation)> {
    let number = |index| row.get(index).map(Option::<i64>::unwrap_or_default);
    let peer = OlderPeer {
        peer_id: row.get(0)?,
        addr: row.get(1)?,
        port: row.get(2)?,
        libp2p_peer_id: row.get(3)?,
        last_seen: row.get(4)?,
    };
    let reputation = Reputation {
        total_shared: number(5)?,
        total_received: number(6)?,
        successful_transfers: number(7)?,
        failed_transfers: number(8)?,
    };
    Ok((peer, reputation))
}

pub(super) fn begin_transfer(
    connection: &Connection,
    transfer: &OlderTransfer,
) -> rusqlite::Result<i64> {
    connection.prepare_cached(sql::BEGIN_TRANSFER)?.query_row(
        params![
            transfer.sender_id,
            transfer.receiver_id,
            transfer.created_at
        ],
        |row| row.get(0),
    )
}

pub(super) fn report(connection: &mut Connection, report: &Report) -> rusqlite::Result<Reported> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let transfer = transaction
        .prepare_cached(sql::TRANSFER)?
        .query_row([report.transfer_id], transfer_of)
        .optional()?;
    let Some(mut transfer) = transfer else {
        return Ok(Reported::NotFound);
    };
    let (reported, credits) = transfer.take(report);
    if matches!(reported, Reported::Pending | Reported::Resolved { .. }) {
        transaction
            .prepare_cached(sql::UPDATE_TRANSFER)?
            .execute(params![
                transfer.sender_bytes,
                transfer.receiver_bytes,
                i64::from(transfer.sender_confirmed),
                i64::from(transfer.receiver_confirmed),
                i64::from(transfer.resolved),
                report.transfer_id,
            ])?;
    }
    for (peer_id, credit) in credits.into_iter().flatten() {
        transaction
            .prepare_cached(sql::ADD_REPUTATION)?
            .execute(params![
                peer_id,
                credit.total_shared,
                credit.total_received,
                credit.successful_transfers,
                credit.failed_transfers,
                report.now,
            ])?;
    }
    transaction.commit()?;
    Ok(reported)
}

fn transfer_of(row: &Row<'_>) -> rusqlite::Result<Transfer> {
    let flag = |index| {
        row.get(index)
            .map(|flag: Option<i64>| flag.unwrap_or_default() != 0)
    };
    Ok(Transfer {
        sender_id: row.get(0)?,
        receiver_id: row.get(1)?,
        sender_bytes: row.get(2)?,
        receiver_bytes: row.get(3)?,
        sender_confirmed: flag(4)?,
        receiver_confirmed: flag(5)?,
        resolved: flag(6)?,
    })
}

pub(super) fn reputation(connection: &Connection, peer_id: &str) -> rusqlite::Result<Reputation> {
    let known = connection
        .prepare_cached(sql::REPUTATION)?
        .query_row([peer_id], |row| {
            let number = |index| row.get(index).map(Option::<i64>::unwrap_or_default);
            Ok(Reputation {
                total_shared: number(0)?,
                total_received: number(1)?,
                successful_transfers: number(2)?,
                failed_transfers: number(3)?,
            })
        })
        .optional()?;
    Ok(known.unwrap_or_default())
}

pub(super) fn put_cid(connection: &Connection, cid: &Cid) -> rusqlite::Result<()> {
    connection.prepare_cached(sql::PUT_CID)?.execute(params![
        cid.nar_hash,
        cid.cid,
        cid.peer_id,
        cid.created_at
    ])?;
    Ok(())
}

pub(super) fn cids(connection: &Connection, nar_hashes: &[String]) -> rusqlite::Result<Vec<Cid>> {
    connection
        .prepare_cached(&format!(
            "{} WHERE nar_hash IN (SELECT value FROM json_each($1))",
            sql::CIDS
        ))?
        .query_map([super::super::columns::list_to_text(nar_hashes)], cid_of)?
        .collect()
}

pub(super) fn all_cids(connection: &Connection) -> rusqlite::Result<Vec<Cid>> {
    connection
        .prepare_cached(&format!("{} LIMIT {}", sql::CIDS, limits::MAX_CIDS))?
        .query_map([], cid_of)?
        .collect()
}

fn cid_of(row: &Row<'_>) -> rusqlite::Result<Cid> {
    Ok(Cid {
        nar_hash: row.get(0)?,
        cid: row.get(1)?,
        peer_id: row.get(2)?,
        created_at: row.get(3)?,
    })
}

pub(super) fn counts(connection: &Connection, since: f64) -> rusqlite::Result<OlderCounts> {
    let peers: i64 = connection.query_row(sql::COUNT_PEERS, [since], |row| row.get(0))?;
    let cids: i64 = connection.query_row(sql::COUNT_CIDS, [], |row| row.get(0))?;
    Ok(OlderCounts {
        peers: peers.unsigned_abs(),
        cids: cids.unsigned_abs(),
    })
}
