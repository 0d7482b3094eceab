//! The shell of [`schedule`](super::schedule): requests, looks and observations as tasks.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bao_tree::ByteRanges;
use iroh::EndpointId;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tracing::debug;

use super::{
    Transfer, Transfers,
    arriving::Claim,
    fetch::{self, Batch},
    flow::Flow,
    observe,
    schedule::{Action, Event, Outcome, RequestId, Schedule},
};
use crate::{
    limits,
    lookup::Holders,
    peer::{
        peers::Peer,
        score::{Fault, is_lie},
    },
    report::PeerPath,
};

/// Observations that wait to be taken: each is small, and the next one says it again.
const NEWS: usize = 64;

struct Ended {
    request: RequestId,
    peer: Arc<Peer>,
    range: Range<u64>,
    fault: Option<Fault>,
    took: Duration,
}

/// What one transfer has under way.
struct Fetching<'a> {
    transfers: &'a Transfers,
    transfer: &'a Arc<Transfer>,
    claim: &'a Claim,
    batches: mpsc::Sender<Batch>,
    schedule: Schedule,
    flows: HashMap<RequestId, Arc<Flow>>,
    requests: JoinSet<Ended>,
    looks: JoinSet<Holders>,
    observed: HashMap<EndpointId, AbortHandle>,
    /// Requests that were not made, to be told of.
    refused: Vec<Event>,
    observations: JoinSet<EndpointId>,
    news: mpsc::Sender<(EndpointId, ByteRanges)>,
}

impl Transfers {
    /// Fetches every missing range; false where nobody is left who has one.
    pub(super) async fn fetch_all(
        &self,
        transfer: &Arc<Transfer>,
        claim: &Claim,
        holders: Holders,
        batches: mpsc::Sender<Batch>,
    ) -> bool {
        let size = transfer.info.nar_size;
        let missing = observe::bytes_of(&claim.download.missing(), size);
        let me = self.0.peers.own_id();
        let (news, told) = mpsc::channel(NEWS);
        let fetching = Fetching {
            transfers: self,
            transfer,
            claim,
            batches,
            schedule: Schedule::new(me, size, missing, Instant::now()),
            flows: HashMap::new(),
            requests: JoinSet::new(),
            looks: JoinSet::new(),
            observed: HashMap::new(),
            refused: Vec::new(),
            observations: JoinSet::new(),
            news,
        };
        fetching.run(holders, told).await
    }
}

impl Fetching<'_> {
    async fn run(
        mut self,
        holders: Holders,
        mut told: mpsc::Receiver<(EndpointId, ByteRanges)>,
    ) -> bool {
        self.join(holders);
        let mut ticks = interval(limits::SCHEDULE_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read_to = 0;
        let complete = loop {
            match self.schedule.outcome(Instant::now()) {
                Outcome::Running => {}
                outcome => break outcome == Outcome::Complete,
            }
            if self.batches.is_closed() {
                break false;
            }
            tokio::select! {
                biased;
                Some(ended) = self.requests.join_next() => match ended {
                    Ok(ended) => self.end(ended),
                    Err(_) => break false,
                },
                Some((id, ranges)) = told.recv() => self.tell(Event::Holds { id, ranges }),
                Some(gone) = self.observations.join_next() => if let Ok(id) = gone {
                    // It may be gone, or whole: the next look tells.
                    self.observed.remove(&id);
                    self.tell(Event::Left { id });
                },
                Some(found) = self.looks.join_next() => {
                    if let Ok(holders) = found {
                        self.join(holders);
                    }
                    self.tell(Event::Looked);
                }
                _ = ticks.tick(), if self.schedule.wants_ticks() => self.tick(),
                () = self.transfer.read_on.notified() => {}
            }
            let offset = self.transfer.read_to.load(Ordering::Acquire);
            if offset > read_to {
                read_to = offset;
                self.tell(Event::Read { offset });
            }
        };
        for (id, rate) in self.schedule.rates() {
            if let Some(peer) = self.transfers.0.peers.get(id) {
                peer.score(|score| score.rate = Some(rate));
            }
        }
        complete
    }

    fn tell(&mut self, event: Event) {
        // Before anything is cut, what came is counted: it is not fetched again.
        if matches!(
            event,
            Event::Joined { .. } | Event::Left { .. } | Event::Ended { fault: Some(_), .. }
        ) {
            self.tell_progress();
        }
        self.handle(event);
        while let Some(event) = self.refused.pop() {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        for action in self.schedule.handle(event, Instant::now()) {
            self.act(action);
        }
    }

    fn tick(&mut self) {
        self.tell_progress();
        self.tell(Event::Tick);
    }

    fn tell_progress(&mut self) {
        let progress: Vec<Event> = self
            .flows
            .iter()
            .map(|(request, flow)| Event::Progress {
                request: *request,
                delivered: flow.delivered(),
                silent: flow.silent(),
            })
            .collect();
        for event in progress {
            self.handle(event);
        }
    }

    fn join(&mut self, holders: Holders) {
        for (id, whole) in holders {
            let Some(peer) = self.transfers.0.peers.get(id) else {
                continue;
            };
            let (rate, latency) = peer.score(|score| (score.rate, score.usual_latency()));
            self.tell(Event::Joined {
                id,
                whole,
                rate,
                latency: latency.unwrap_or_default(),
            });
            if !whole && !self.observed.contains_key(&id) {
                self.observe(peer);
            }
        }
    }

    fn observe(&mut self, peer: Arc<Peer>) {
        let peers = self.transfers.0.peers.clone();
        let (hash, size) = (self.claim.blob_hash, self.transfer.info.nar_size);
        let news = self.news.clone();
        let id = peer.id();
        let observation = self.observations.spawn(async move {
            let (held, mut holds) = mpsc::channel(1);
            let observing = async {
                if let Ok(connection) = peers.blob_connection(&peer, 0).await {
                    observe::observe(&connection, hash, size, &held).await;
                }
                drop(held);
            };
            let telling = async {
                while let Some(ranges) = holds.recv().await {
                    if news.send((id, ranges)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(observing, telling);
            id
        });
        self.observed.insert(id, observation);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask {
                request,
                provider,
                range,
                hedge,
            } => self.ask(request, provider, range, hedge),
            Action::Cut { request, end } => {
                if let Some(flow) = self.flows.get(&request) {
                    flow.cut(end);
                }
            }
            Action::Look => {
                let lookup = self.transfers.0.lookup.clone();
                let transfer = self.transfer.clone();
                let blob_hash = self.claim.blob_hash;
                self.looks.spawn(async move {
                    let (path_hash, nar_hash) = (transfer.info.path_hash(), transfer.info.nar_hash);
                    lookup.holders_now(path_hash, nar_hash, blob_hash).await
                });
            }
            Action::Drop { provider, fault } => self.drop_provider(provider, fault),
        }
    }

    fn ask(&mut self, request: RequestId, id: EndpointId, range: Range<u64>, hedge: bool) {
        let inner = &self.transfers.0;
        let provided = self
            .transfer
            .provided_by(id.to_string(), &inner.metrics.bytes_received);
        let flow = Arc::new(Flow::new(range.start, range.end, provided.clone()));
        let affordable = !hedge || self.transfers.may_hedge(range.end - range.start);
        let Some(peer) = inner.peers.get(id).filter(|_| affordable) else {
            self.refused.push(Event::Ended {
                request,
                delivered: range.start,
                fault: None,
            });
            return;
        };
        self.flows.insert(request, flow.clone());
        let peers = inner.peers.clone();
        let (hash, size) = (self.claim.blob_hash, self.transfer.info.nar_size);
        let (batches, metrics) = (self.batches.clone(), inner.metrics.clone());
        self.requests.spawn(async move {
            let started = Instant::now();
            let fetching = async {
                let Ok(_stream) = peer.streams.acquire().await else {
                    return Err(Fault::Disconnected);
                };
                flow.waits();
                let index = peer.next_stream();
                let bytes = range.end - range.start;
                let connection = peers.blob_wire(&peer, index, bytes).await?;
                let path = connection.path().unwrap_or(PeerPath::Direct);
                provided.comes_from(path.into(), &metrics);
                fetch::fetch(connection, hash, size, range.clone(), &flow, &batches).await
            };
            let fault = tokio::select! {
                biased;
                fetched = fetching => fetched.err(),
                // The fetch ends by itself, with what it has; this is for what comes before it.
                () = flow.gave_up() => None,
            };
            Ended {
                request,
                peer,
                range,
                fault,
                took: started.elapsed(),
            }
        });
    }

    fn end(&mut self, ended: Ended) {
        let Some(flow) = self.flows.remove(&ended.request) else {
            return;
        };
        let delivered = flow.delivered();
        let received = delivered - ended.range.start;
        ended.peer.score(|score| score.bytes_received += received);
        if ended.fault.is_none() && delivered >= ended.range.end {
            debug!(bytes = received, took = ?ended.took, "a range arrived");
            ended
                .peer
                .score(|score| score.success(None, Instant::now()));
        }
        self.tell(Event::Ended {
            request: ended.request,
            delivered,
            fault: ended.fault,
        });
    }

    /// A provider is blamed once, whatever was under way with it.
    fn drop_provider(&mut self, id: EndpointId, fault: Fault) {
        let inner = &self.transfers.0;
        if let Some(peer) = inner.peers.get(id) {
            // What ended all transfers with it at once is one fault.
            let known = peer.score(|score| score.is_backed_off(Instant::now()));
            if known && !is_lie(fault) {
                inner.metrics.count_fault(fault);
            } else {
                inner.peers.fault(&peer, fault);
            }
        }
        // If it comes back, what it holds is told from the start.
        if let Some(observation) = self.observed.remove(&id) {
            observation.abort();
        }
        let info = &self.transfer.info;
        let blob_hash = self.claim.blob_hash;
        inner
            .lookup
            .disown(info.path_hash(), info.nar_hash, blob_hash, Some(id));
    }
}

impl Transfers {
    /// Whether so many bytes may be asked for twice, and counts them if so.
    fn may_hedge(&self, bytes: u64) -> bool {
        let received = self.0.metrics.bytes_received.get();
        let most = received / limits::HEDGE_SHARE + limits::HEDGE_FREE;
        let within = |hedged: u64| hedged.checked_add(bytes).filter(|all| *all <= most);
        let counted = self
            .0
            .hedged
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, within);
        counted.is_ok()
    }
}
