//! Asks older peers: a narinfo first, then the whole NAR, each over a connection of its own.
//!
//! A peer counts as older while it refuses the lookup protocol. Its narinfo is believed as far as
//! its signatures go, its NAR once SHA-256 says so.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use iroh::{
    EndpointId,
    endpoint::{Connection, RecvStream},
};
use lru::LruCache;
use peerix_store::{
    PathInfo,
    nix::{NarHash, StorePathHash},
};
use tokio::{task::JoinHandle, time::timeout};
use tracing::debug;

use super::{nar, narinfo};
use crate::{
    limits,
    metrics::{Fault, Metrics},
    narinfo::older::{nar_name, parse_narinfo},
    peer::{
        path,
        peers::{ConnectFailure, Peer, Peers},
    },
    report::Source,
    transfer::whole::{NarStream, WholeNarHolder, WholeNarSource},
    trust::Trust,
};

/// The older ones among our peers.
pub struct OlderPeers(Arc<Inner>);

struct Inner {
    peers: Peers,
    trust: Trust,
    metrics: Arc<Metrics>,
    holders: Mutex<LruCache<(StorePathHash, NarHash), Vec<EndpointId>>>,
}

impl OlderPeers {
    /// Asks those of `peers` that are older, and believes what `trust` accepts.
    pub fn new(peers: Peers, trust: Trust, metrics: Arc<Metrics>) -> Self {
        let remembered = NonZeroUsize::new(limits::CLAIMS_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self(Arc::new(Inner {
            peers,
            trust,
            metrics,
            holders: Mutex::new(LruCache::new(remembered)),
        }))
    }

    /// Asks all at once, each in a task that outlives whoever waits: holders are noted by it, and
    /// silent ones are left alone afterwards.
    fn ask_all(&self, path_hash: StorePathHash) -> FuturesUnordered<JoinHandle<Option<PathInfo>>> {
        let candidates = self.0.peers.older_candidates();
        self.0.metrics.peer_requests.inc_by(candidates.len() as u64);
        candidates
            .into_iter()
            .map(|peer| tokio::spawn(self.0.clone().ask(peer, path_hash)))
            .collect()
    }
}

impl Inner {
    /// What one peer says of a path, if it is trusted; it is noted as a holder then.
    async fn ask(self: Arc<Self>, peer: Arc<Peer>, path_hash: StorePathHash) -> Option<PathInfo> {
        // A peer that is busy with questions of ours is passed over.
        let _slot = peer.streams.try_acquire().ok()?;
        let started = Instant::now();
        let asked = narinfo_of(&self.peers, peer.id(), path_hash);
        let answer = timeout(limits::OLDER_ANSWER, asked).await;
        let text = match answer.unwrap_or(Err(Fault::Silent)) {
            Ok(text) => text,
            Err(fault) => {
                self.peers.fault(&peer, fault);
                return None;
            }
        };
        let took = started.elapsed();
        peer.score(|score| score.success(Some(took), Instant::now()));
        let info = parse_narinfo(&text?).filter(|info| info.path_hash() == path_hash);
        let accepted = info.map(|info| self.trust.accept(info));
        match accepted {
            Some(Ok(info)) => {
                let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
                let known = holders.get_or_insert_mut((path_hash, info.nar_hash), Vec::new);
                if !known.contains(&peer.id()) {
                    known.push(peer.id());
                }
                Some(info)
            }
            Some(Err(error)) => {
                debug!(%error, peer = %peer.id().fmt_short(), "an answer is not trusted");
                self.metrics.count_fault(Fault::Trust);
                None
            }
            None => {
                self.peers.fault(&peer, Fault::Trust);
                None
            }
        }
    }

    fn known_holders(&self, info: &PathInfo) -> Vec<EndpointId> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let known = holders.get(&(info.path_hash(), info.nar_hash));
        known.cloned().unwrap_or_default()
    }
}

impl WholeNarSource for OlderPeers {
    fn is_peer(&self) -> bool {
        true
    }

    fn path_info(&self, path_hash: StorePathHash) -> BoxFuture<'_, Option<PathInfo>> {
        async move {
            let mut asked = self.ask_all(path_hash);
            while let Some(answer) = asked.next().await {
                if let Ok(Some(info)) = answer {
                    return Some(info);
                }
            }
            None
        }
        .boxed()
    }

    fn holders<'a>(&'a self, info: &'a PathInfo) -> BoxFuture<'a, Vec<Arc<dyn WholeNarHolder>>> {
        async move {
            let mut known = self.0.known_holders(info);
            if known.is_empty() {
                let mut asked = self.ask_all(info.path_hash());
                while asked.next().await.is_some() {}
                known = self.0.known_holders(info);
            }
            let now = Instant::now();
            let peers = known.into_iter().filter_map(|id| self.0.peers.get(id));
            let mut ranked: Vec<_> = peers
                .map(|peer| (peer.score(|score| score.value(now)), peer))
                .collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            ranked
                .into_iter()
                .map(|(_, peer)| -> Arc<dyn WholeNarHolder> {
                    Arc::new(Holder {
                        older: self.0.clone(),
                        peer,
                        info: info.clone(),
                        source: OnceLock::new(),
                    })
                })
                .collect()
        }
        .boxed()
    }
}

/// An older peer that has a NAR.
struct Holder {
    older: Arc<Inner>,
    peer: Arc<Peer>,
    info: PathInfo,
    /// Which way the answer came.
    source: OnceLock<Source>,
}

impl WholeNarHolder for Holder {
    fn name(&self) -> String {
        format!("older peer {}", self.peer.id().fmt_short())
    }

    fn source(&self) -> Source {
        self.source.get().copied().unwrap_or(Source::Direct)
    }

    fn open(&self) -> BoxFuture<'_, Result<NarStream, Fault>> {
        async move {
            let question = nar_name(&self.info.store_path);
            let asked = ask(
                &self.older.peers,
                self.peer.id(),
                &nar::ALPNS,
                question.as_bytes(),
            );
            let (connection, mut recv) = timeout(limits::CONNECT_TIMEOUT, asked)
                .await
                .unwrap_or(Err(Fault::Silent))?;
            let mut length = [0; 8];
            let read = timeout(limits::OLDER_FIRST_BYTE, recv.read_exact(&mut length)).await;
            read.map_err(|_| Fault::Silent)?
                .map_err(|_| Fault::Disconnected)?;
            if u64::from_be_bytes(length) != self.info.nar_size {
                return Err(Fault::BadData);
            }
            if let Some(path) = path::of(&connection) {
                let _once = self.source.set(path.kind.into());
            }
            Ok(nar_stream(connection, recv, self.info.nar_size))
        }
        .boxed()
    }

    fn ended(&self, received: u64, fault: Option<Fault>) {
        self.peer.score(|score| score.bytes_received += received);
        match fault {
            None => self.peer.score(|score| score.success(None, Instant::now())),
            Some(fault) => {
                self.older.peers.fault(&self.peer, fault);
                // Another look-up may find it well again, or another one.
                let mut holders = self
                    .older
                    .holders
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let key = (self.info.path_hash(), self.info.nar_hash);
                if let Some(known) = holders.get_mut(&key) {
                    known.retain(|id| *id != self.peer.id());
                }
            }
        }
    }
}

/// The rest of a NAR. What follows its last byte is not waited for: the older program's connection
/// ends as it likes.
fn nar_stream(connection: Connection, recv: RecvStream, size: u64) -> NarStream {
    let start = (connection, recv, size);
    futures_util::stream::try_unfold(start, |(connection, mut recv, left)| async move {
        if left == 0 {
            connection.close(0u32.into(), b"");
            return Ok(None);
        }
        let most = usize::try_from(left).map_or(limits::BLOB_PIECE, |n| n.min(limits::BLOB_PIECE));
        let chunk: Option<Bytes> = recv.read_chunk(most).await.map_err(io::Error::other)?;
        let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?;
        let left = left.saturating_sub(chunk.len() as u64);
        Ok(Some((chunk, (connection, recv, left))))
    })
    .boxed()
}

/// The text of a narinfo; `None` where the peer has none.
async fn narinfo_of(
    peers: &Peers,
    peer: EndpointId,
    path_hash: StorePathHash,
) -> Result<Option<String>, Fault> {
    let question = path_hash.to_string();
    let (connection, mut recv) = ask(peers, peer, &narinfo::ALPNS, question.as_bytes()).await?;
    let answer = recv.read_to_end(limits::OLDER_MAX_NARINFO).await;
    connection.close(0u32.into(), b"");
    let answer = answer.map_err(|_| Fault::Disconnected)?;
    if answer.is_empty() || answer == narinfo::NOT_FOUND {
        return Ok(None);
    }
    String::from_utf8(answer)
        .map(Some)
        .map_err(|_| Fault::Trust)
}

/// Sends a question over a connection of its own, under the first of `names` that the peer has.
async fn ask(
    peers: &Peers,
    peer: EndpointId,
    names: &[&[u8]],
    question: &[u8],
) -> Result<(Connection, RecvStream), Fault> {
    let mut failure = ConnectFailure::OtherProtocols;
    for name in names {
        match peers.connect(peer, name).await {
            Ok(connection) => {
                let stream = connection.open_bi().await;
                let (mut send, recv) = stream.map_err(|_| Fault::Disconnected)?;
                let sent = send.write_all(question).await;
                sent.map_err(|_| Fault::Disconnected)?;
                let _ = send.finish();
                return Ok((connection, recv));
            }
            Err(ConnectFailure::OtherProtocols) => {}
            Err(other) => {
                failure = other;
                break;
            }
        }
    }
    Err(failure.fault())
}
