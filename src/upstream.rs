//! The upstream: HTTP binary caches that are asked after the peers.
//!
//! What a cache says of a path is believed no more than what a peer says: signatures decide about
//! narinfos, SHA-256 about NARs. Caches are asked in the order in which they are configured; one
//! that fails is left alone for a second, doubling to a minute, and costs a lookup nothing then.

mod backoff;
mod cache;
mod decode;
mod memory;
mod record;

use std::{path::PathBuf, sync::Arc, time::Instant};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use peerix_store::{PathInfo, nix::StorePathHash};
use thiserror::Error;

pub(crate) use self::cache::client;
use self::{cache::Cache, memory::Memory, record::Record};
use crate::{
    limits,
    metrics::{Fault, Metrics},
    offer::public::{AskUpstream, Asked},
    report::Source,
    transfer::whole::{NarStream, WholeNarHolder, WholeNarSource},
};

/// How the upstream is used.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// URLs of the caches, in the order in which they are asked.
    pub caches: Vec<String>,
    /// Whether `http://` is accepted.
    pub allow_insecure_http: bool,
    /// Whether Nix is told of paths that only the upstream has.
    pub tells_nix: bool,
    /// A file in which narinfos are remembered for use without a network.
    pub memory: Option<PathBuf>,
}

/// The upstream could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// A URL is none.
    #[error("`{url}` is not the URL of a cache: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client could not be made.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// The HTTP caches of this machine. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    caches: Vec<Arc<Cache>>,
    memory: Option<Memory>,
    tells_nix: bool,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Prepares to ask the caches of `config`; none is asked yet. A memory that can't be opened is
    /// done without.
    ///
    /// # Errors
    /// [`UpstreamError`] for a URL that is none, or without TLS.
    pub fn new(config: &UpstreamConfig, metrics: Arc<Metrics>) -> Result<Self, UpstreamError> {
        let client = cache::client(config.allow_insecure_http)?;
        let streams = Arc::new(tokio::sync::Semaphore::new(limits::UPSTREAM_STREAMS));
        let caches = config
            .caches
            .iter()
            .map(|url| Ok(Arc::new(Cache::new(url, client.clone(), streams.clone())?)))
            .collect::<Result<_, UpstreamError>>()?;
        let memory = config.memory.as_ref().and_then(|path| {
            let opened = Memory::open(path);
            opened
                .inspect_err(|error| {
                    tracing::warn!(%error, path = %path.display(), "the upstream's narinfos are not remembered");
                })
                .ok()
        });
        Ok(Self(Arc::new(Inner {
            caches,
            memory,
            tells_nix: config.tells_nix,
            metrics,
        })))
    }

    /// Asks the caches for a narinfo, one after the other; `None` where none has it now.
    ///
    /// What it says is not trusted yet. Cancel safe: a request under way is not given up, so that
    /// its answer is there for the next who asks.
    pub async fn fetch_info(&self, path_hash: StorePathHash) -> Option<PathInfo> {
        for cache in &self.0.caches {
            if !cache.may_ask(Instant::now()) {
                continue;
            }
            if let Some(record) = self.0.clone().fetch(cache.clone(), path_hash).await {
                return Some(record.info);
            }
        }
        None
    }

    /// Writes what is to be remembered. Calling it again does nothing.
    pub async fn shutdown(&self) {
        if let Some(memory) = &self.0.memory {
            memory.close().await;
        }
    }
}

impl Inner {
    /// Fetches a narinfo and remembers it; for no longer than a lookup waits.
    async fn fetch(self: Arc<Self>, cache: Arc<Cache>, path_hash: StorePathHash) -> Option<Record> {
        let inner = self.clone();
        let asked = cache.clone();
        let request = tokio::spawn(async move {
            let fetched = asked.narinfo(path_hash).await;
            match fetched {
                Ok(Some((record, text))) => {
                    if let Some(memory) = &inner.memory {
                        memory.put(path_hash, asked.url(), text);
                    }
                    Some(record)
                }
                Ok(None) => None,
                Err(fault) => {
                    inner.metrics.count_upstream_fault(fault);
                    None
                }
            }
        });
        match tokio::time::timeout(limits::UPSTREAM_NARINFO, request).await {
            Ok(record) => record.ok().flatten(),
            Err(_) => {
                cache.fails(Instant::now());
                self.metrics.count_upstream_fault(Fault::Silent);
                None
            }
        }
    }

    /// What was remembered of a path, and of which cache.
    async fn recall(&self, path_hash: StorePathHash) -> Option<Record> {
        let (url, text) = self.memory.as_ref()?.get(path_hash).await?;
        let cache = self.caches.iter().find(|cache| cache.url() == url)?;
        record::parse(&text, cache.base(), path_hash).ok()
    }
}

impl AskUpstream for Upstream {
    fn ask(&self, path_hash: StorePathHash) -> BoxFuture<'_, Asked> {
        async move {
            let mut has_failed = self.0.caches.is_empty();
            for cache in &self.0.caches {
                if !cache.may_ask(Instant::now()) {
                    has_failed = true;
                    continue;
                }
                // Nobody waits for it.
                let asked =
                    tokio::time::timeout(limits::UPSTREAM_CONNECT, cache.narinfo(path_hash));
                match asked.await {
                    Ok(Ok(Some((record, _)))) => return Asked::Has(Box::new(record.info)),
                    Ok(Ok(None)) => {}
                    Ok(Err(fault)) => {
                        self.0.metrics.count_upstream_fault(fault);
                        has_failed = true;
                    }
                    Err(_) => {
                        cache.fails(Instant::now());
                        self.0.metrics.count_upstream_fault(Fault::Silent);
                        has_failed = true;
                    }
                }
            }
            match has_failed {
                true => Asked::Failed,
                false => Asked::Lacks,
            }
        }
        .boxed()
    }
}

impl WholeNarSource for Upstream {
    fn is_peer(&self) -> bool {
        false
    }

    fn tells_nix(&self) -> bool {
        self.0.tells_nix
    }

    fn path_info(&self, path_hash: StorePathHash) -> BoxFuture<'_, Option<PathInfo>> {
        async move {
            if let Some(record) = self.0.recall(path_hash).await {
                return Some(record.info);
            }
            self.fetch_info(path_hash).await
        }
        .boxed()
    }

    fn holders<'a>(&'a self, info: &'a PathInfo) -> BoxFuture<'a, Vec<Arc<dyn WholeNarHolder>>> {
        async move {
            let now = Instant::now();
            let (healthy, failing): (Vec<_>, Vec<_>) = self
                .0
                .caches
                .iter()
                .cloned()
                .partition(|cache| !cache.is_failing(now));
            let caches = healthy.into_iter().chain(failing);
            let holders = caches.map(|cache| async {
                let holder: Arc<dyn WholeNarHolder> = Arc::new(Holder {
                    upstream: self.0.clone(),
                    cache,
                    info: info.clone(),
                });
                holder
            });
            join_all(holders).await
        }
        .boxed()
    }
}

/// One cache that may have one NAR.
struct Holder {
    upstream: Arc<Inner>,
    cache: Arc<Cache>,
    info: PathInfo,
}

impl WholeNarHolder for Holder {
    fn name(&self) -> String {
        // Without what a URL may hold besides.
        self.cache.base().host_str().unwrap_or_default().to_owned()
    }

    fn source(&self) -> Source {
        Source::Upstream
    }

    fn open(&self) -> BoxFuture<'_, Result<NarStream, Fault>> {
        async move {
            let path_hash = self.info.path_hash();
            let remembered = match self.cache.recall(path_hash) {
                Some(record) => Some(record),
                None => self.upstream.recall(path_hash).await,
            };
            let remembered = remembered.filter(|record| {
                record.info.nar_hash == self.info.nar_hash && self.cache.is_within(&record.url)
            });
            if let Some(record) = remembered {
                match self.cache.nar(&record).await {
                    // It may have been compressed anew since.
                    Err(Fault::Absent) => {}
                    opened => return opened,
                }
            }
            let fetched = self.cache.narinfo(path_hash).await?;
            let (record, _) = fetched.ok_or(Fault::Absent)?;
            if record.info.nar_hash != self.info.nar_hash {
                return Err(Fault::Absent);
            }
            self.cache.nar(&record).await
        }
        .boxed()
    }

    fn ended(&self, received: u64, fault: Option<Fault>) {
        let now = Instant::now();
        match fault {
            None => self.cache.succeeds(),
            Some(fault) => {
                tracing::debug!(
                    cache = self.name(),
                    received,
                    fault = fault.as_str(),
                    "an upstream's NAR ended early"
                );
                self.upstream.metrics.count_upstream_fault(fault);
                if fault != Fault::Absent {
                    self.cache.fails(now);
                }
            }
        }
    }
}
