//! The older program's tables.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::Row;

use super::super::{
    Cid, Holding, OlderCounts, OlderNode, OlderPeer, OlderTransfer, Report, Reported, Reputation,
    StorageError, columns, sql, transfer::Transfer,
};
use super::{error_of, holders};
use crate::tracker::limits;

type Result<T> = std::result::Result<T, StorageError>;

pub(super) async fn put_node(client: &mut Client, node: &OlderNode) -> Result<Option<Holding>> {
    let transaction = client.transaction().await.map_err(error_of)?;
    let put = transaction
        .prepare_cached(sql::PUT_NODE)
        .await
        .map_err(error_of)?;
    let addrs = columns::list_to_text(&node.direct_addrs);
    transaction
        .execute(
            &put,
            &[
                &node.node_id,
                &node.peer_id,
                &node.relay_url,
                &addrs,
                &node.addr,
                &node.last_seen,
            ],
        )
        .await
        .map_err(error_of)?;
    let holding = holders::refresh_older(&transaction, node).await?;
    transaction.commit().await.map_err(error_of)?;
    Ok(holding)
}

pub(super) async fn nodes(client: &impl GenericClient, since: f64) -> Result<Vec<OlderNode>> {
    let select = format!(
        "{} WHERE last_seen > $1 ORDER BY last_seen DESC LIMIT {}",
        sql::NODES,
        limits::LISTED
    );
    let rows = client.query(&select, &[&since]).await.map_err(error_of)?;
    rows.iter()
        .map(node_of)
        .collect::<std::result::Result<_, _>>()
        .map_err(error_of)
}

pub(super) async fn node(client: &impl GenericClient, node_id: &str) -> Result<Option<OlderNode>> {
    let select = format!("{} WHERE node_id = $1", sql::NODES);
    let row = client.query_opt(&select, &[&node_id]).await;
    let row = row.map_err(error_of)?;
    row.as_ref().map(node_of).transpose().map_err(error_of)
}

/// The node that last said that its name is `peer_id`.
pub(super) async fn node_named(
    client: &impl GenericClient,
    peer_id: &str,
) -> Result<Option<OlderNode>> {
    let select = format!(
        "{} WHERE peer_id = $1 ORDER BY last_seen DESC LIMIT 1",
        sql::NODES
    );
    let row = client.query_opt(&select, &[&peer_id]).await;
    let row = row.map_err(error_of)?;
    row.as_ref().map(node_of).transpose().map_err(error_of)
}

fn node_of(row: &Row) -> std::result::Result<OlderNode, tokio_postgres::Error> {
    let direct_addrs: Option<&str> = row.try_get(3)?;
    Ok(OlderNode {
        node_id: row.try_get(0)?,
        peer_id: row.try_get(1)?,
        relay_url: row.try_get(2)?,
        direct_addrs: columns::list_of_text(direct_addrs),
        addr: row.try_get::<_, Option<String>>(4)?.unwrap_or_default(),
        last_seen: row.try_get(5)?,
    })
}

pub(super) async fn remove_node(client: &impl GenericClient, node_id: &str) -> Result<bool> {
    let delete = "DELETE FROM iroh_peers WHERE node_id = $1";
    let removed = client.execute(delete, &[&node_id]).await;
    Ok(removed.map_err(error_of)? > 0)
}

pub(super) async fn put_peer(client: &Client, peer: &OlderPeer) -> Result<()> {
    client
        .execute(
            sql::PUT_PEER,
            &[
                &peer.peer_id,
                &peer.addr,
                &peer.port,
                &peer.libp2p_peer_id,
                &peer.last_seen,
            ],
        )
        .await
        .map_err(error_of)?;
    Ok(())
}

pub(super) async fn peers(
    client: &Client,
    since: f64,
    names: Option<Vec<String>>,
) -> Result<Vec<(OlderPeer, Reputation)>> {
    let rows = match names {
        None => {
            let select = format!(
                "{} ORDER BY p.last_seen DESC LIMIT {}",
                sql::PEERS,
                limits::LISTED
            );
            client.query(&select, &[&since]).await
        }
        Some(names) => {
            let select = format!("{} AND p.peer_id = ANY ($2)", sql::PEERS);
            client.query(&select, &[&since, &names]).await
        }
    };
    let rows = rows.map_err(error_of)?;
    rows.iter()
        .map(|row| {
            let peer = OlderPeer {
                peer_id: row.try_get(0)?,
                addr: row.try_get(1)?,
                port: row.try_get(2)?,
                libp2p_peer_id: row.try_get(3)?,
                last_seen: row.try_get(4)?,
            };
            Ok((peer, reputation_of(row, 5)?))
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(error_of)
}

fn reputation_of(
    row: &Row,
    first: usize,
) -> std::result::Result<Reputation, tokio_postgres::Error> {
    let number = |index| {
        row.try_get::<_, Option<i64>>(first + index)
            .map(Option::unwrap_or_default)
    };
    Ok(Reputation {
        total_shared: number(0)?,
        total_received: number(1)?,
        successful_transfers: number(2)?,
        failed_transfers: number(3)?,
    })
}

pub(super) async fn begin_transfer(client: &Client, transfer: &OlderTransfer) -> Result<i64> {
    client
        .query_one(
            sql::BEGIN_TRANSFER,
            &[
                &transfer.sender_id,
                &transfer.receiver_id,
                &transfer.created_at,
            ],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(error_of)
}

pub(super) async fn report(client: &mut Client, report: &Report) -> Result<Reported> {
    let transaction = client.transaction().await.map_err(error_of)?;
    let select = format!("{} FOR UPDATE", sql::TRANSFER);
    let row = transaction
        .query_opt(&select, &[&report.transfer_id])
        .await
        .map_err(error_of)?;
    let Some(row) = row else {
        return Ok(Reported::NotFound);
    };
    let mut transfer = transfer_of(&row).map_err(error_of)?;
    let (reported, credits) = transfer.take(report);
    if matches!(reported, Reported::Pending | Reported::Resolved { .. }) {
        transaction
            .execute(
                sql::UPDATE_TRANSFER,
                &[
                    &transfer.sender_bytes,
                    &transfer.receiver_bytes,
                    &i64::from(transfer.sender_confirmed),
                    &i64::from(transfer.receiver_confirmed),
                    &i64::from(transfer.resolved),
                    &report.transfer_id,
                ],
            )
            .await
            .map_err(error_of)?;
    }
    let mut credits: Vec<_> = credits.into_iter().flatten().collect();
    // Two reports that credit the same peers wait for each other in the same order.
    credits.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (peer_id, credit) in credits {
        transaction
            .execute(
                sql::ADD_REPUTATION,
                &[
                    &peer_id,
                    &credit.total_shared,
                    &credit.total_received,
                    &credit.successful_transfers,
                    &credit.failed_transfers,
                    &report.now,
                ],
            )
            .await
            .map_err(error_of)?;
    }
    transaction.commit().await.map_err(error_of)?;
    Ok(reported)
}

fn transfer_of(row: &Row) -> std::result::Result<Transfer, tokio_postgres::Error> {
    let flag = |index| row.try_get::<_, i64>(index).map(|flag| flag != 0);
    Ok(Transfer {
        sender_id: row.try_get(0)?,
        receiver_id: row.try_get(1)?,
        sender_bytes: row.try_get(2)?,
        receiver_bytes: row.try_get(3)?,
        sender_confirmed: flag(4)?,
        receiver_confirmed: flag(5)?,
        resolved: flag(6)?,
    })
}

pub(super) async fn reputation(client: &Client, peer_id: &str) -> Result<Reputation> {
    let row = client.query_opt(sql::REPUTATION, &[&peer_id]).await;
    let row = row.map_err(error_of)?;
    let known = row.as_ref().map(|row| reputation_of(row, 0)).transpose();
    Ok(known.map_err(error_of)?.unwrap_or_default())
}

pub(super) async fn put_cid(client: &Client, cid: &Cid) -> Result<()> {
    client
        .execute(
            sql::PUT_CID,
            &[&cid.nar_hash, &cid.cid, &cid.peer_id, &cid.created_at],
        )
        .await
        .map_err(error_of)?;
    Ok(())
}

pub(super) async fn cids(client: &Client, nar_hashes: &[String]) -> Result<Vec<Cid>> {
    let select = format!("{} WHERE nar_hash = ANY ($1)", sql::CIDS);
    let rows = client.query(&select, &[&nar_hashes]).await;
    cids_of(&rows.map_err(error_of)?)
}

pub(super) async fn all_cids(client: &Client) -> Result<Vec<Cid>> {
    let select = format!("{} LIMIT {}", sql::CIDS, limits::MAX_CIDS);
    cids_of(&client.query(&select, &[]).await.map_err(error_of)?)
}

fn cids_of(rows: &[Row]) -> Result<Vec<Cid>> {
    rows.iter()
        .map(|row| {
            Ok(Cid {
                nar_hash: row.try_get(0)?,
                cid: row.try_get(1)?,
                peer_id: row.try_get(2)?,
                created_at: row.try_get(3)?,
            })
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(error_of)
}

pub(super) async fn counts(client: &Client, since: f64) -> Result<OlderCounts> {
    let peers = client.query_one(sql::COUNT_PEERS, &[&since]).await;
    let peers: i64 = peers.and_then(|row| row.try_get(0)).map_err(error_of)?;
    let cids = client.query_one(sql::COUNT_CIDS, &[]).await;
    let cids: i64 = cids.and_then(|row| row.try_get(0)).map_err(error_of)?;
    Ok(OlderCounts {
        peers: peers.unsigned_abs(),
        cids: cids.unsigned_abs(),
    })
}
