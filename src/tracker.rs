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
    storage::{Storage, sqlite::Sqlite},
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
}

/// How a tracker runs.
#[derive(Debug)]
pub struct TrackerConfig {
    /// Where it keeps what it knows.
    pub database: Database,
    /// How its face behaves.
    pub face: FaceOptions,
}

/// Runs a tracker on `listener` until `stop` is cancelled.
///
/// # Errors
/// Where the database can't be opened.
pub async fn run(
    config: TrackerConfig,
    listener: TcpListener,
    service: Service,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let storage = open(config.database).await?;
    let tracker = Tracker::start(Arc::clone(&storage)).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    tracing::info!(%address, database = storage.kind(), "the tracker runs");
    let face = Face::new(Arc::clone(&tracker), config.face, stop.clone());
    let keeping = tokio::spawn(Arc::clone(&tracker).keep(stop.clone()));
    let tidying = tokio::spawn({
        let face = Arc::clone(&face);
        async move { face.keep().await }
    });
    service.ready();
    let (served, ()) = tokio::join!(
        http::serve(listener, face),
        service.keep_alive(|| true, &stop)
    );
    service.stopping();
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
    }
}
