//! The two protocols of the older peerix, for whoever still speaks them.
//!
//! One asks for a narinfo ([`narinfo`]), one for a NAR ([`nar`]). Both serve one bidirectional
//! stream a connection: the asker writes its question and finishes, the answer follows. There are
//! no codes; what is not here, not offered or not understood is an empty stream or none. The
//! connection stays open after the answer until the asker has closed it, since whatever of it
//! still waits to be read would go with the connection.
//!
//! Peers that refuse our lookup protocol are asked through these two in turn ([`source`]).
//!
//! NARs go as they are: their asker can only check the whole at its end. Peers of this program ask
//! for blobs instead.

pub mod nar;
pub mod narinfo;
pub mod source;

use std::sync::Arc;

use iroh::{
    EndpointId,
    endpoint::{Connection, RecvStream, SendStream},
};
use peerix_store::Store;
use tokio::{sync::Semaphore, time::timeout};

use super::{budget::Budgets, rate::UploadLimits};
use crate::{limits, metrics::Metrics, offer::OfferPolicy};

/// What both handlers serve from. Cheap to clone.
#[derive(Clone)]
pub struct Older(Arc<Inner>);

struct Inner {
    store: Store,
    offer: Arc<OfferPolicy>,
    uploads: Arc<UploadLimits>,
    metrics: Arc<Metrics>,
    budgets: Budgets,
    sent: Box<dyn Fn(EndpointId, u64) + Send + Sync>,
    connections: Arc<Semaphore>,
    nars: Semaphore,
}

impl std::fmt::Debug for Older {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Older")
    }
}

/// Why a question was not answered to its end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the question is longer than it may be, or no question")]
    Malformed,
    #[error("it is not here, or not offered")]
    NotOffered,
    #[error("too many are being served")]
    Busy,
    #[error("the asker sent or took nothing in time")]
    Stalled,
    #[error("the asker went away")]
    Gone,
    #[error("reading the NAR failed: {0}")]
    Read(#[from] peerix_store::ReadError),
}

impl Older {
    /// Serves what `offer` allows out of `store`; `sent` hears of NAR bytes that left, by peer.
    pub fn new(
        store: Store,
        offer: Arc<OfferPolicy>,
        uploads: Arc<UploadLimits>,
        metrics: Arc<Metrics>,
        budgets: Budgets,
        sent: impl Fn(EndpointId, u64) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            offer,
            uploads,
            metrics,
            budgets,
            sent: Box::new(sent),
            connections: Arc::new(Semaphore::new(limits::OLDER_CONNECTIONS)),
            nars: Semaphore::new(limits::OLDER_NARS),
        }))
    }

    /// Takes the one stream of a connection, has `answer` write to it, and waits until it is read.
    async fn serve<F>(
        &self,
        connection: &Connection,
        longest: usize,
        answer: impl FnOnce(Vec<u8>, SendStream) -> F,
    ) -> Result<(), ServeError>
    where
        F: Future<Output = Result<SendStream, ServeError>>,
    {
        let connections = self.0.connections.clone();
        let _slot = connections
            .try_acquire_owned()
            .map_err(|_| ServeError::Busy)?;
        let asked = timeout(limits::OLDER_IO_TIMEOUT, question(connection, longest));
        let (question, send) = asked.await.map_err(|_| ServeError::Stalled)??;
        let mut send = answer(question, send).await?;
        // Whoever asked twice of one stream was told already.
        let _ = send.finish();
        let _ = timeout(limits::OLDER_LINGER, connection.closed()).await;
        Ok(())
    }
}

async fn question(
    connection: &Connection,
    longest: usize,
) -> Result<(Vec<u8>, SendStream), ServeError> {
    let (send, mut recv) = connection.accept_bi().await.map_err(|_| ServeError::Gone)?;
    let question = read_to_end(&mut recv, longest).await?;
    Ok((question, send))
}

async fn read_to_end(recv: &mut RecvStream, longest: usize) -> Result<Vec<u8>, ServeError> {
    recv.read_to_end(longest)
        .await
        .map_err(|_| ServeError::Malformed)
}
