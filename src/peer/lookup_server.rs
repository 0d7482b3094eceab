//! Answers lookups of other peers from this machine's store, under the sharing policy.

use std::{sync::Arc, time::Instant};

use iroh::{
    EndpointId,
    endpoint::{Connection, RecvStream, SendStream},
    protocol::{AcceptError, ProtocolHandler},
};
use peerix_store::{LocalNar, NarState, Source, Store, nix::StorePathHash};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{Instrument, debug, debug_span};

use crate::{
    limits,
    metrics::Metrics,
    offer::OfferPolicy,
    peer::{
        budget::{Budgets, ConnectionSlot},
        gate::UploadsClosed,
        lookup::{self, Answer, Mode, Request, SignedFields, WireError},
        rate::UploadLimits,
    },
    why::{Event, History},
};

/// The handler of [`lookup::ALPN`].
#[derive(Clone)]
pub struct LookupServer {
    store: Store,
    offer: Arc<OfferPolicy>,
    metrics: Arc<Metrics>,
    budgets: Budgets,
    upload: Arc<UploadLimits>,
    history: Arc<History>,
    connections: Arc<Semaphore>,
}

impl std::fmt::Debug for LookupServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookupServer")
    }
}

impl LookupServer {
    /// Makes a handler that offers what `offer` allows out of `store`, to each peer within its
    /// budget.
    pub fn new(
        store: Store,
        offer: Arc<OfferPolicy>,
        metrics: Arc<Metrics>,
        budgets: Budgets,
        upload: Arc<UploadLimits>,
        history: Arc<History>,
    ) -> Self {
        Self {
            store,
            offer,
            metrics,
            budgets,
            upload,
            history,
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS)),
        }
    }

    /// Answers one request of `peer`, by the store and the policy.
    ///
    /// While nothing is uploaded, what is offered is answered [`Answer::NotNow`], and nothing hashed;
    /// what is not is no secret then either, and saves the peer to ask again.
    pub async fn answer(&self, peer: EndpointId, request: &Request) -> Vec<Answer> {
        let closed = self.upload.check().err();
        self.offer.grant(peer, &request.tokens);
        let hashes = request.path_hashes.clone();
        let nars = match self.store.nars(hashes).await {
            Ok(nars) => nars,
            Err(error) => {
                debug!(%error, "the store could not answer a lookup");
                return vec![Answer::NotNow; request.path_hashes.len()];
            }
        };
        let coming = |(nar, path_hash): (Option<LocalNar>, &StorePathHash)| {
            nar.or_else(|| self.store.coming_nar(*path_hash))
        };
        let nars = nars.into_iter().zip(&request.path_hashes).map(coming);
        let answering = nars.map(|nar| async move {
            let nar = nar?;
            let path_hash = nar.info.path_hash();
            let is_offered = self.offer.is_offered_to(peer, &self.store, &nar.info);
            let answer = match is_offered {
                true if closed.is_some() => Answer::NotNow,
                true => self.claim(peer, nar, request.mode).await,
                false => Answer::Absent,
            };
            self.note(peer, path_hash, &answer, is_offered, closed);
            Some(answer)
        });
        let answers = futures_util::future::join_all(answering).await;
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or(Answer::Absent))
            .collect()
    }

    /// Remembers what a peer was told of a path that is here.
    fn note(
        &self,
        peer: EndpointId,
        path_hash: StorePathHash,
        answer: &Answer,
        is_offered: bool,
        closed: Option<UploadsClosed>,
    ) {
        let answer = match answer {
            Answer::Ready { .. } => "it may fetch it".to_owned(),
            Answer::Part { .. } => "it may fetch the part that is here".to_owned(),
            Answer::Hashing { done, total, .. } => {
                format!("it has to wait for its hash, {done} of {total} bytes are done")
            }
            Answer::Absent if !is_offered => "refused: it is not offered to that peer".to_owned(),
            Answer::NotNow => match closed {
                Some(reason) => format!("not now: nothing is uploaded ({reason})"),
                None => "refused: no hashing is left for that peer today".to_owned(),
            },
            Answer::Absent => "refused: it can't be read now".to_owned(),
        };
        let event = Event::Asked {
            peer: peer.fmt_short().to_string(),
            answer,
        };
        self.history.note(path_hash, event);
    }

    /// What is told of an offered NAR, whose hashing may start with that.
    async fn claim(&self, peer: EndpointId, mut nar: LocalNar, mode: Mode) -> Answer {
        let total = nar.info.nar_size;
        let is_unhashed = matches!(nar.state, NarState::Unhashed);
        let hashes = match mode {
            Mode::Presence => false,
            Mode::Narinfo => total <= limits::HASH_ON_LOOKUP,
            Mode::WantedNow => true,
        };
        if is_unhashed && hashes {
            if !self.budgets.may_hash(peer, total, Instant::now()) {
                debug!("no hashing is left for this peer today");
                return Answer::NotNow;
            }
            nar.state = self.start_hashing(&nar).await;
        }
        let fields =
            (mode != Mode::Presence).then(|| SignedFields::of(&self.offer.told(&self.store, &nar)));
        match nar.state {
            NarState::Ready(blob_hash) if nar.source == Source::Partial => Answer::Part {
                blob_hash: *blob_hash.as_bytes(),
                fields,
            },
            NarState::Ready(blob_hash) => Answer::Ready {
                blob_hash: *blob_hash.as_bytes(),
                fields,
            },
            NarState::Hashing { done, total } => Answer::Hashing {
                done,
                total,
                fields,
            },
            NarState::Unhashed => Answer::Hashing {
                done: 0,
                total,
                fields,
            },
            _ => Answer::Absent,
        }
    }

    /// Hashes a small NAR on the spot, which is cheaper than a second round trip, and starts with
    /// a larger one.
    async fn start_hashing(&self, nar: &LocalNar) -> NarState {
        let path_hash = nar.info.path_hash();
        if nar.info.nar_size <= limits::HASH_AT_ONCE {
            let hashing = self.store.hash_nar(path_hash);
            if let Ok(Ok(blob_hash)) = timeout(limits::HASH_AT_ONCE_WAIT, hashing).await {
                return NarState::Ready(blob_hash);
            }
        }
        self.store.start_hashing(path_hash);
        NarState::Unhashed
    }

    async fn serve(self, connection: Connection) {
        let Ok(_slot) = self.connections.clone().try_acquire_owned() else {
            connection.close(2u32.into(), b"busy");
            return;
        };
        let peer = connection.remote_id();
        let Some(own) = self.budgets.connection(peer).map(Arc::new) else {
            connection.close(2u32.into(), b"too many connections");
            return;
        };
        let streams = Arc::new(Semaphore::new(limits::LOOKUP_STREAMS));
        loop {
            let Ok(slot) = streams.clone().acquire_owned().await else {
                return;
            };
            let Ok((send, recv)) = connection.accept_bi().await else {
                return;
            };
            let (server, own) = (self.clone(), own.clone());
            tokio::spawn(
                async move {
                    if let Err(error) = server.serve_stream(&own, send, recv).await {
                        debug!(%error, "lookup refused");
                    }
                    drop(slot);
                }
                .instrument(debug_span!("lookup", peer = %peer.fmt_short())),
            );
        }
    }

    async fn serve_stream(
        &self,
        own: &ConnectionSlot,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), WireError> {
        let read = lookup::read_frame::<Request>(&mut recv, limits::LOOKUP_MAX_REQUEST);
        let request = timeout(limits::LOOKUP_IO_TIMEOUT, read).await;
        let request = match request.map_err(|_| WireError::Stream).flatten() {
            Ok((request, _)) => request,
            Err(error) => {
                let _ = send.reset(1u32.into());
                return Err(error);
            }
        };
        if let Err(error) = lookup::check_request(&request) {
            let _ = send.reset(1u32.into());
            return Err(error);
        }
        own.lookups(request.path_hashes.len()).await;
        let answers = self.answer(own.peer(), &request).await;
        let found = answers
            .iter()
            .filter(|a| !matches!(a, Answer::Absent | Answer::NotNow))
            .count();
        self.metrics.narinfos_served.inc_by(found as u64);
        let write = async {
            let mut budget = limits::LOOKUP_MAX_ANSWERS;
            let mut out = Vec::new();
            for answer in answers {
                let frame = match lookup::encode(&answer, limits::LOOKUP_MAX_ANSWER.min(budget)) {
                    Ok(frame) => frame,
                    Err(_) => lookup::encode(&Answer::NotNow, limits::LOOKUP_MAX_ANSWER)?,
                };
                budget = budget.saturating_sub(frame.len());
                out.extend_from_slice(&frame);
                if out.len() >= 64 * 1024 {
                    send.write_all(&out).await.map_err(|_| WireError::Stream)?;
                    out.clear();
                }
            }
            send.write_all(&out).await.map_err(|_| WireError::Stream)?;
            send.finish().map_err(|_| WireError::Stream)
        };
        match timeout(limits::LOOKUP_IO_TIMEOUT, write).await {
            Ok(result) => result,
            Err(_) => {
                let _ = send.reset(2u32.into());
                Err(WireError::Stream)
            }
        }
    }
}

impl ProtocolHandler for LookupServer {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        // A panic in a handler would end the router: it stays in a task of its own.
        let task = tokio::spawn(self.clone().serve(connection));
        let _ = task.await;
        Ok(())
    }
}
