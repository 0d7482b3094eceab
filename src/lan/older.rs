//! Older peers on the local network: who has a path by UDP, what it is and its NAR by HTTP.
//!
//! They are asked when no other source knows. What they say of a path passes the same trust check
//! as everything else; where the URL in it would lead does not matter, the NAR is asked for under
//! its own name at the host that answered. Its bytes are unverified until SHA-256 matches.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use lru::LruCache;
use peerix_store::nix::{NarHash, PathInfo, StorePath, StorePathHash};
use reqwest::{Client, StatusCode, redirect};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::{broadcast::Questions, limits};
use crate::{
    metrics::Fault,
    narinfo::older::{nar_name, parse_narinfo},
    outgoing::body_up_to,
    report::Source,
    transfer::whole::{NarStream, WholeNarHolder, WholeNarSource},
    trust::Trust,
};

/// The older peers. Cheap to clone.
#[derive(Clone)]
pub struct OlderPeers(Arc<Inner>);

struct Inner {
    questions: Questions,
    client: Client,
    trust: Trust,
    holders: Mutex<LruCache<(StorePathHash, NarHash), Vec<SocketAddr>>>,
    /// Hosts that failed, and until when they are left alone.
    avoided: Mutex<LruCache<SocketAddr, Instant>>,
}

/// The HTTP client for hosts on the local network: it follows no redirect and knows no proxy.
///
/// # Errors
/// Where the system has no random numbers, or the like.
pub fn client() -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(limits::CONNECT_TIMEOUT)
        .read_timeout(limits::STALL)
        .build()
}

impl OlderPeers {
    /// Asks through `questions`.
    pub fn new(questions: Questions, client: Client, trust: Trust) -> Self {
        let size = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self(Arc::new(Inner {
            questions,
            client,
            trust,
            holders: Mutex::new(LruCache::new(size(limits::HOLDERS_REMEMBERED))),
            avoided: Mutex::new(LruCache::new(size(limits::FAULTS_REMEMBERED))),
        }))
    }

    /// What an older peer says of a path and is believed; its holder is remembered.
    ///
    /// A network where nobody answers costs [`limits::ANSWER_WAIT`] at first and nothing later.
    async fn ask(&self, path_hash: StorePathHash) -> Option<PathInfo> {
        let mut answers = self.0.questions.ask(path_hash).await?;
        let until = Instant::now() + answers.wait;
        // The next one only where the one before was of no use.
        while let Ok(Some(holder)) = timeout_at(until, answers.holders.recv()).await {
            if self.is_avoided(holder) {
                continue;
            }
            let told = timeout(limits::NARINFO_TIMEOUT, self.narinfo(holder, path_hash)).await;
            let Some(info) = told.ok().flatten() else {
                debug!(%holder, "an older peer's answer is of no use");
                continue;
            };
            if let Err(error) = self.0.trust.check(&info) {
                debug!(%error, %holder, "an older peer's answer is not trusted");
                continue;
            }
            let mut holders = vec![holder];
            while let Ok(other) = answers.holders.try_recv() {
                holders.push(other);
            }
            lock(&self.0.holders).put((path_hash, info.nar_hash), holders);
            return Some(info);
        }
        None
    }

    async fn narinfo(&self, holder: SocketAddr, path_hash: StorePathHash) -> Option<PathInfo> {
        let url = format!("http://{holder}/local/{path_hash}.narinfo");
        let response = self.0.client.get(url).send().await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let text = body_up_to(response, limits::NARINFO).await.ok()?;
        let info = parse_narinfo(std::str::from_utf8(&text).ok()?)?;
        (info.path_hash() == path_hash).then_some(info)
    }

    fn is_avoided(&self, host: SocketAddr) -> bool {
        let mut avoided = lock(&self.0.avoided);
        avoided
            .get(&host)
            .is_some_and(|until| *until > Instant::now())
    }
}

impl WholeNarSource for OlderPeers {
    fn is_peer(&self) -> bool {
        true
    }

    fn asks_everybody(&self) -> bool {
        true
    }

    fn path_info(&self, path_hash: StorePathHash) -> BoxFuture<'_, Option<PathInfo>> {
        self.ask(path_hash).boxed()
    }

    fn holders<'a>(&'a self, info: &'a PathInfo) -> BoxFuture<'a, Vec<Arc<dyn WholeNarHolder>>> {
        async move {
            let key = (info.path_hash(), info.nar_hash);
            let remembered = lock(&self.0.holders).get(&key).cloned();
            let hosts = match remembered {
                Some(hosts) => hosts,
                None => {
                    self.ask(info.path_hash()).await;
                    lock(&self.0.holders).get(&key).cloned().unwrap_or_default()
                }
            };
            let usable = hosts.into_iter().filter(|host| !self.is_avoided(*host));
            let holders = usable.map(|host| {
                let holder = Holder {
                    peers: self.clone(),
                    host,
                    key,
                    store_path: info.store_path.clone(),
                };
                Arc::new(holder) as Arc<dyn WholeNarHolder>
            });
            holders.collect()
        }
        .boxed()
    }
}

/// One host that said that it has a path.
struct Holder {
    peers: OlderPeers,
    host: SocketAddr,
    key: (StorePathHash, NarHash),
    store_path: StorePath,
}

impl WholeNarHolder for Holder {
    fn name(&self) -> String {
        format!("older peer {}", self.host)
    }

    fn source(&self) -> Source {
        Source::Lan
    }

    fn open(&self) -> BoxFuture<'_, Result<NarStream, Fault>> {
        async move {
            let url = format!(
                "http://{}/local/nar/{}",
                self.host,
                nar_name(&self.store_path)
            );
            let response = self.peers.0.client.get(url).send().await;
            let response = response.map_err(|error| match error.is_timeout() {
                true => Fault::Silent,
                false => Fault::Disconnected,
            })?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(Fault::Absent),
                _ => return Err(Fault::Refused),
            }
            let bytes = response.bytes_stream();
            Ok(bytes.map(|piece| piece.map_err(io::Error::other)).boxed())
        }
        .boxed()
    }

    fn ended(&self, _received: u64, fault: Option<Fault>) {
        let Some(fault) = fault else { return };
        let inner = &self.peers.0;
        if let Some(hosts) = lock(&inner.holders).get_mut(&self.key) {
            hosts.retain(|host| *host != self.host);
        }
        let pause = match fault {
            Fault::WrongNar | Fault::BadData => limits::LIED_PAUSE,
            // It has others.
            Fault::Absent => return,
            _ => limits::FAILED_PAUSE,
        };
        lock(&inner.avoided).put(self.host, Instant::now() + pause);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
