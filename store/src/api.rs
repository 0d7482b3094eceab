//! The store as iroh-blobs' own API: what its provider, its fetcher and its downloader run against.
//!
//! iroh-blobs talks to a store through a queue of commands. One task takes them and starts a task
//! for each, so that neither a slow client nor a panic holds up another. No task holds a thread
//! while it waits for a client: what blocks is done in steps of 256 KiB to 1 MiB.

use std::{io, sync::Arc};

use iroh_blobs::{
    api::{
        self, TempTag,
        proto::{
            AddProgressItem, BatchMsg, BlobDeleteRequest, Command, DeleteBlobsMsg,
            ExportProgressItem, Scope,
        },
    },
    store::mem::MemStore,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    BlobHash, OpenBlobError, StoreError,
    index::Change,
    limits,
    store::{Inner, Store},
};

mod export;
mod import;
mod observe;

use import::Kept;

impl Store {
    /// Gives the store as iroh-blobs' API, for its provider, its fetcher and its downloader.
    ///
    /// It reads what [`Store::open_blob`] opens, parts of blobs included, and there is no policy
    /// in it: **whoever exposes it to a network decides who may ask for what**. Blobs that are
    /// imported through it, by their hash alone, are kept durably as blobs without a path, as
    /// those of [`Store::begin_import`].
    ///
    /// Tags are not kept: temporary ones do nothing, others are refused, and so are imports from
    /// and exports to paths. Deleting takes `force`, and forgets. Bytes without a hash are taken
    /// up to 16 MiB. A shutdown is answered and does nothing, that is for the store's owner:
    /// after [`Store::shutdown`] every call is an error.
    ///
    /// Clones of what is returned share one task, which ends with the last of them or with the
    /// store.
    #[must_use]
    pub fn blobs_api(&self) -> api::Store {
        let (send, commands) = mpsc::channel(limits::API_QUEUE);
        let context = Context {
            store: self.clone(),
            kept: Arc::default(),
        };
        self.0.spawn(run(context, commands));
        // The one public way from a queue of commands to an API.
        MemStore::from_sender(send.into()).into()
    }
}

/// What the tasks of all commands share.
#[derive(Clone)]
struct Context {
    store: Store,
    kept: Arc<Kept>,
}

impl Context {
    fn inner(&self) -> &Arc<Inner> {
        &self.store.0
    }
}

async fn run(context: Context, mut commands: mpsc::Receiver<Command>) {
    let mut tasks = JoinSet::new();
    let mut waiting_for_idle = Vec::new();
    let mut are_clients_gone = false;
    while !(are_clients_gone && tasks.is_empty()) {
        tokio::select! {
            biased;
            () = context.inner().stopped() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a command of the blobs API panicked");
                }
            }
            command = commands.recv(), if !are_clients_gone => match command {
                Some(Command::WaitIdle(message)) => waiting_for_idle.push(message.tx),
                Some(command) => {
                    tasks.spawn(handle(context.clone(), command));
                }
                None => are_clients_gone = true,
            },
        }
        if tasks.is_empty() {
            for waiting in waiting_for_idle.drain(..) {
                tasks.spawn(async move {
                    // Where nobody waits any more there is nobody to tell.
                    let _ = waiting.send(()).await;
                });
            }
        }
    }
    tasks.shutdown().await;
}

/// Answers one command. Where the client is gone there is nobody to tell of it.
async fn handle(context: Context, command: Command) {
    match command {
        Command::ExportBao(message) => export::bao(&context, message).await,
        Command::ExportRanges(message) => export::ranges(&context, message).await,
        Command::Observe(message) => observe::observe(&context, message).await,
        Command::BlobStatus(message) => observe::status(&context, message).await,
        Command::ImportBao(message) => import::bao(&context, message).await,
        Command::ImportBytes(message) => import::bytes(&context, message).await,
        Command::ImportByteStream(message) => import::byte_stream(&context, message).await,
        Command::ListBlobs(message) => {
            let inner = context.inner().clone();
            match blocking(&context, move || inner.blobs()).await {
                Ok(blobs) => {
                    for blob in blobs {
                        if message.tx.send(Ok(blob)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    let _ = message.tx.send(Err(error.into())).await;
                }
            }
        }
        Command::DeleteBlobs(DeleteBlobsMsg { inner, tx, .. }) => {
            let _ = tx.send(delete(&context, inner).await).await;
        }
        Command::SyncDb(message) => {
            let inner = context.inner().clone();
            let synced = move || inner.index.write_blocking(Change::Sync);
            let synced = blocking(&context, synced).await;
            let _ = message
                .tx
                .send(synced.map(|_| ()).map_err(Into::into))
                .await;
        }
        Command::Batch(message) => batch(message).await,
        Command::CreateTempTag(message) => {
            let tag = TempTag::new(message.inner.value, None);
            let _ = message.tx.send(tag).await;
        }
        Command::ListTempTags(message) => drop(message.tx.send(Vec::new()).await),
        Command::ListTags(message) => drop(message.tx.send(Vec::new()).await),
        Command::DeleteTags(message) => drop(message.tx.send(Ok(0)).await),
        Command::CreateTag(message) => drop(message.tx.send(Err(no_tags())).await),
        Command::SetTag(message) => drop(message.tx.send(Err(no_tags())).await),
        Command::RenameTag(message) => drop(message.tx.send(Err(no_tags())).await),
        Command::ClearProtected(message) => drop(message.tx.send(Ok(())).await),
        Command::WaitIdle(message) => drop(message.tx.send(()).await),
        Command::Shutdown(message) => drop(message.tx.send(()).await),
        Command::ImportPath(message) => {
            let error = unsupported("paths are not imported: import their bytes");
            let _ = message.tx.send(AddProgressItem::Error(error)).await;
        }
        Command::ExportPath(message) => {
            let error = unsupported("blobs are not exported to paths: read their bytes").into();
            let _ = message.tx.send(ExportProgressItem::Error(error)).await;
        }
    }
}

async fn delete(context: &Context, request: BlobDeleteRequest) -> api::Result<()> {
    if !request.force {
        return Err(unsupported("blobs are not collected: delete them with `force`").into());
    }
    for blob in request.hashes {
        context.kept.remove(blob);
        let forgotten = context.store.forget_blob(blob).await;
        forgotten.map_err(|error| api::Error::Io(io::Error::other(error)))?;
    }
    Ok(())
}

/// A batch protects what nothing endangers.
async fn batch(message: BatchMsg) {
    let BatchMsg { tx, mut rx, .. } = message;
    if tx.send(Scope::GLOBAL).await.is_ok() {
        while let Ok(Some(_dropped)) = rx.recv().await {}
    }
}

/// Runs `work` on a blocking thread.
async fn blocking<T, E>(
    context: &Context,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> io::Result<T>
where
    T: Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let outcome = context.inner().run_blocking(work).await?;
    outcome.map_err(io::Error::other)
}

fn open_error(error: OpenBlobError) -> io::Error {
    match error {
        OpenBlobError::NotFound => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}

fn unsupported(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

fn no_tags() -> api::Error {
    unsupported("this store keeps no tags").into()
}

impl Inner {
    /// Every blob of which at least a part is held. Blocks.
    fn blobs(&self) -> Result<Vec<BlobHash>, StoreError> {
        let mut blobs = std::collections::BTreeSet::new();
        self.index.for_each_blob(|blob, _| {
            blobs.insert(blob);
        })?;
        blobs.extend(self.inline().infos().into_iter().map(|(blob, _)| blob));
        blobs.extend(self.downloads.all());
        Ok(blobs.into_iter().collect())
    }
}
