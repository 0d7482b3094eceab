//! A database server, for several trackers behind one name.
//!
//! Each tracker answers from its own memory and asks once a second what others changed: each change
//! of a holder carries the number of its transaction, and everything is read again that was written
//! by transactions which may not have been visible the last time.

mod holders;
mod older;
mod schema;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use deadpool_postgres::{
    Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures_util::future::BoxFuture;
use iroh::EndpointId;
use peerix_store::nix::StorePathHash;
use tokio_postgres::{Config, IsolationLevel, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Cid, Contents, Holder, HolderId, Holding, Kept, Lifetimes, OlderChange, OlderCounts, OlderNode,
    OlderPeer, OlderTransfer, Outcome, Report, Reported, Reputation, SignedChange, Storage,
    StorageError,
};
use crate::{
    authorities::Authorities,
    outgoing::{distrusted, with_causes},
    tracker::{api::TrackerId, limits},
};

/// What the server gives up after, in milliseconds: a statement, and waiting for a lock.
const SETTINGS: &str = "-c statement_timeout=15000 -c lock_timeout=5000";

/// The database that some trackers share.
pub struct Postgres {
    id: TrackerId,
    pool: Pool,
    seen: Mutex<Seen>,
}

/// What this tracker knows of the database.
#[derive(Default)]
struct Seen {
    /// All transactions before this one are known.
    before: i64,
    /// The revisions of holders' paths that are known.
    revisions: HashMap<HolderId, i64>,
}

impl Seen {
    fn take(&mut self, holder: &Holder) {
        match holder.present {
            true => self.revisions.insert(holder.id, holder.revision),
            false => self.revisions.remove(&holder.id),
        };
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Postgres")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Postgres {
    /// Connects, and makes the tables where there are none. `authorities` names a file of further
    /// certificates of authorities that may vouch for the server.
    ///
    /// # Errors
    /// Where it can't be reached, or its tables are a newer peerix'.
    pub async fn open(url: &str, authorities: Option<&Path>) -> Result<Self, StorageError> {
        let mut config: Config = url
            .parse()
            .map_err(|error| StorageError::Other(format!("--database: {}", with_causes(&error))))?;
        let options = match config.get_options() {
            Some(given) => format!("{given} {SETTINGS}"),
            None => SETTINGS.to_owned(),
        };
        config
            .options(options)
            .application_name("peerix-tracker")
            .connect_timeout(limits::POSTGRES_TIMEOUT);
        let authorities = match authorities {
            Some(path) => {
                Authorities::load(path).map_err(|error| StorageError::Other(error.to_string()))?
            }
            None => Authorities::default(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = authorities
            .for_iroh()
            .client_config(provider)
            .map_err(|error| StorageError::Other(error.to_string()))?;
        let manager = Manager::from_config(
            config,
            MakeRustlsConnect::new(tls),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(limits::POSTGRES_CONNECTIONS)
            .wait_timeout(Some(limits::POSTGRES_TIMEOUT))
            .create_timeout(Some(limits::POSTGRES_TIMEOUT))
            .recycle_timeout(Some(limits::POSTGRES_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StorageError::Other(error.to_string()))?;
        let mut client = pool.get().await.map_err(pool_error)?;
        let transaction = client.transaction().await.map_err(error_of)?;
        let id = schema::prepare(&transaction).await?;
        transaction.commit().await.map_err(error_of)?;
        drop(client);
        Ok(Self {
            id,
            pool,
            seen: Mutex::default(),
        })
    }

    async fn client(&self) -> Result<Client, StorageError> {
        self.pool.get().await.map_err(pool_error)
    }

    /// Notes what of a holder's paths this tracker knows by itself.
    fn know(&self, outcome: &Outcome) {
        if let Outcome::Accepted { holding, .. } = outcome {
            self.seen().take(&holding.holder);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something for a bounded time.
async fn bounded<T>(
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    tokio::time::timeout(limits::POSTGRES_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(StorageError::Unreachable("it does not answer".to_owned())))
}

fn pool_error(error: PoolError) -> StorageError {
    match error {
        PoolError::Backend(error) => error_of(error),
        PoolError::Timeout(_) => {
            StorageError::Unreachable("no connection came about in time".to_owned())
        }
        error => StorageError::Unreachable(error.to_string()),
    }
}

/// Says what an error of PostgreSQL means.
fn error_of(error: tokio_postgres::Error) -> StorageError {
    if let Some(reason) = distrusted(&error) {
        return StorageError::Unreachable(format!(
            "its certificate is not trusted: {reason}; --database-ca-file names an authority of your own"
        ));
    }
    let text = with_causes(&error);
    let Some(code) = error.code() else {
        return StorageError::Unreachable(text);
    };
    if [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::QUERY_CANCELED,
    ]
    .contains(code)
    {
        return StorageError::Locked(text);
    }
    if [
        SqlState::DISK_FULL,
        SqlState::OUT_OF_MEMORY,
        SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED,
    ]
    .contains(code)
    {
        return StorageError::Full;
    }
    // Class 22: what was given, such as a text with a zero byte.
    if code.code().starts_with("22") {
        return StorageError::Unfit(text);
    }
    if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) {
        return StorageError::Damaged(text);
    }
    // Classes 08, 28, 3D and 57P: connections, passwords, no such database, shutdown.
    if ["08", "28", "3D", "57P"]
        .iter()
        .any(|class| code.code().starts_with(class))
    {
        return StorageError::Unreachable(text);
    }
    StorageError::Other(text)
}

impl Storage for Postgres {
    fn tracker_id(&self) -> TrackerId {
        self.id
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn load(&self) -> BoxFuture<'_, Result<Contents, StorageError>> {
        Box::pin(async move {
            *self.seen() = Seen::default();
            let mut contents = self.changes().await?;
            let client = self.client().await?;
            contents.hashes = holders::all_hashes(&client).await?;
            Ok(contents)
        })
    }

    fn changes(&self) -> BoxFuture<'_, Result<Contents, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            let (since, known) = {
                let seen = self.seen();
                (seen.before, seen.revisions.clone())
            };
            let reading = async {
                let transaction = client
                    .build_transaction()
                    .isolation_level(IsolationLevel::RepeatableRead)
                    .read_only(true)
                    .start()
                    .await
                    .map_err(error_of)?;
                holders::changes(&transaction, since, &known).await
            };
            let (before, holdings) = bounded(reading).await?;
            let mut seen = self.seen();
            seen.before = before;
            for holding in &holdings {
                seen.take(&holding.holder);
            }
            Ok(Contents {
                hashes: Vec::new(),
                holdings,
            })
        })
    }

    fn hashes(
        &self,
        ids: Vec<u32>,
    ) -> BoxFuture<'_, Result<Vec<(u32, StorePathHash)>, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(holders::hashes(&client, &ids)).await
        })
    }

    fn announce(&self, change: SignedChange) -> BoxFuture<'_, Result<Outcome, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            let outcome = bounded(holders::announce(&mut client, &change)).await?;
            self.know(&outcome);
            Ok(outcome)
        })
    }

    fn has_signed(&self, endpoint: EndpointId) -> BoxFuture<'_, Result<bool, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(holders::has_signed(&client, endpoint)).await
        })
    }

    fn announce_older(&self, change: OlderChange) -> BoxFuture<'_, Result<Outcome, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            let outcome = bounded(holders::announce_older(&mut client, &change)).await?;
            self.know(&outcome);
            Ok(outcome)
        })
    }

    fn expire(
        &self,
        now: f64,
        lifetimes: Lifetimes,
    ) -> BoxFuture<'_, Result<Vec<Holder>, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            let gone = bounded(holders::expire(&mut client, now, lifetimes)).await?;
            let mut seen = self.seen();
            for holder in &gone {
                seen.take(holder);
            }
            Ok(gone)
        })
    }

    fn tidy(
        &self,
        now: f64,
        lifetimes: Lifetimes,
        kept: Kept,
    ) -> BoxFuture<'_, Result<u64, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            bounded(holders::tidy(&mut client, now, lifetimes, kept)).await
        })
    }

    fn collect_hashes(&self) -> BoxFuture<'_, Result<u64, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            bounded(holders::collect_hashes(&mut client)).await
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            let select = "SELECT pg_database_size(current_database())";
            let row = bounded(async { client.query_one(select, &[]).await.map_err(error_of) });
            let bytes: i64 = row.await?.try_get(0).map_err(error_of)?;
            Ok(bytes.unsigned_abs())
        })
    }

    fn put_node(&self, node: OlderNode) -> BoxFuture<'_, Result<Option<Holding>, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            bounded(older::put_node(&mut client, &node)).await
        })
    }

    fn nodes(&self, since: f64) -> BoxFuture<'_, Result<Vec<OlderNode>, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::nodes(&client, since)).await
        })
    }

    fn node(&self, node_id: String) -> BoxFuture<'_, Result<Option<OlderNode>, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::node(&client, &node_id)).await
        })
    }

    fn remove_node(&self, node_id: String) -> BoxFuture<'_, Result<bool, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::remove_node(&client, &node_id)).await
        })
    }

    fn put_peer(&self, peer: OlderPeer) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::put_peer(&client, &peer)).await
        })
    }

    fn peers(
        &self,
        since: f64,
        names: Option<Vec<String>>,
    ) -> BoxFuture<'_, Result<Vec<(OlderPeer, Reputation)>, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::peers(&client, since, names)).await
        })
    }

    fn begin_transfer(&self, transfer: OlderTransfer) -> BoxFuture<'_, Result<i64, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::begin_transfer(&client, &transfer)).await
        })
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Reported, StorageError>> {
        Box::pin(async move {
            let mut client = self.client().await?;
            bounded(older::report(&mut client, &report)).await
        })
    }

    fn reputation(&self, peer_id: String) -> BoxFuture<'_, Result<Reputation, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::reputation(&client, &peer_id)).await
        })
    }

    fn put_cid(&self, cid: Cid) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::put_cid(&client, &cid)).await
        })
    }

    fn cids(&self, nar_hashes: Vec<String>) -> BoxFuture<'_, Result<Vec<Cid>, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::cids(&client, &nar_hashes)).await
        })
    }

    fn all_cids(&self) -> BoxFuture<'_, Result<Vec<Cid>, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::all_cids(&client)).await
        })
    }

    fn older_counts(&self, since: f64) -> BoxFuture<'_, Result<OlderCounts, StorageError>> {
        Box::pin(async move {
            let client = self.client().await?;
            bounded(older::counts(&client, since)).await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.pool.close();
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests;
