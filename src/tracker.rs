//! The tracker: who is there, who has which path, and how a swarm starts.
//!
//! [`storage`] keeps it, [`directory`] has it in memory to answer from, [`core`] holds both
//! together, and [`http`] is the face: the signed API ([`api`]) and the older program's.

pub mod api;
pub mod core;
pub mod directory;
pub mod http;
pub mod id_set;
pub mod limits;
mod metrics;
pub mod relay;
pub mod storage;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::service::Service;

use self::{
    core::Tracker,
    http::{Face, FaceOptions},
    relay::{Relay, RelayOptions},
    storage::{Storage, postgres::Postgres, sqlite::Sqlite},
};

/// Where a tracker keeps what it knows.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file of its own.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Most bytes that it may take.
        quota: Option<u64>,
    },
    /// A server, for several trackers behind one name.
    Postgres {
        /// Where it is and who asks, `postgres://USER@HOST/DATABASE`.
        url: String,
        /// A file of certificates of authorities that may vouch for it, beside the usual ones.
        authorities: Option<PathBuf>,
    },
}

/// Most bytes that a file takes unless it is said otherwise. 20 million records take 50 MB.
pub const DEFAULT_QUOTA: u64 = 4 * 1024 * 1024 * 1024;

/// How a tracker runs.
#[derive(Debug)]
pub struct TrackerConfig {
    /// Where it keeps what it knows.
    pub database: Database,
    /// How its face behaves; what clients are told of a relay comes from `relay`.
    pub face: FaceOptions,
    /// The relay to run beside it.
    pub relay: Option<RelayOptions>,
    /// Whether the relay is for announced endpoints alone.
    pub relay_announced_only: bool,
}

/// Runs a tracker on `listener` until `stop` is cancelled; calls `ready` once it answers.
///
/// # Errors
/// Where the database can't be opened.
pub async fn run(
    config: TrackerConfig,
    listener: TcpListener,
    mut service: Service,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let storage = open(config.database).await?;
    let tracker = Tracker::start(Arc::clone(&storage)).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    tracing::info!(%address, database = storage.kind(), "the tracker runs");
    let relay = match config.relay {
        Some(options) => {
            let announced = config.relay_announced_only.then(|| Arc::clone(&tracker));
            Some(Relay::start(options, announced).await?)
        }
        None => None,
    };
    let face = FaceOptions {
        relay: relay.as_ref().map(Relay::info),
        ..config.face
    };
    let face = Face::new(Arc::clone(&tracker), face, stop.clone());
    let keeping = tokio::spawn(Arc::clone(&tracker).keep(stop.clone()));
    let tidying = tokio::spawn({
        let face = Arc::clone(&face);
        async move { face.keep().await }
    });
    face.rely_on(vec![keeping.abort_handle(), tidying.abort_handle()]);
    service.ready(address);
    ready();
    let (served, ()) = tokio::join!(
        http::serve(listener, Arc::clone(&face)),
        service.keep_alive(|| face.is_alive(), &stop)
    );
    service.stopping();
    if let Some(relay) = relay {
        relay.shutdown().await;
    }
    served?;
    keeping.await?;
    tidying.await?;
    storage.close().await;
    Ok(())
}

async fn open(database: Database) -> anyhow::Result<Arc<dyn Storage>> {
    match database {
        Database::Sqlite { path, quota } => {
            let sqlite = tokio::task::spawn_blocking(move || Sqlite::open(&path, quota)).await??;
            Ok(Arc::new(sqlite))
        }
        Database::Postgres { url, authorities } => {
            let postgres = Postgres::open(&url, authorities.as_deref()).await?;
            Ok(Arc::new(postgres))
        }
    }
}
