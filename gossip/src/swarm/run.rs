//! The task of a swarm: feeds the rules, performs what they say, and starts gossip again when it
//! stops moving.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use iroh::{EndpointId, Watcher};
use iroh_gossip::{
    api::{Event as GossipEvent, GossipReceiver, GossipSender, JoinOptions},
    net::Gossip,
    proto::{DeliveryScope, TopicId},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, warn};

use super::{Change, Swarm, lock};
use crate::{
    announcer::Offered,
    clock::Now,
    engine::{Action, Event, TICK},
    index::{Wanted, blob_of},
    inventory::Inventory,
    limits,
    pacing::Allowance,
};

/// What gossip is told.
#[derive(Debug)]
enum Tell {
    Broadcast(Bytes),
    Join(Vec<EndpointId>),
}

/// Why one life of gossip ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Stalled,
    /// It keeps too much of what neighbours said they have.
    Full,
}

/// Runs until the swarm is stopped.
pub(super) async fn run(swarm: Swarm, mut events: mpsc::Receiver<Event>) {
    let mut wait = limits::RESTART_LEAST;
    loop {
        let gossip = Gossip::builder()
            .alpn(&swarm.0.gossip_alpn)
            .spawn(swarm.0.endpoint.clone());
        install(&swarm, Some(gossip.clone()));
        let started = Instant::now();
        let end = live(&swarm, &gossip, &mut events).await;
        for neighbour in swarm.neighbours() {
            let lost = Event::NeighbourDown {
                id: neighbour,
                is_lost: true,
            };
            perform(&swarm, lost, None);
        }
        install(&swarm, None);
        drop(gossip);
        if end == End::Stopped {
            return;
        }
        swarm.0.links.end();
        let restarts = swarm.0.restarts.fetch_add(1, Ordering::Relaxed) + 1;
        match end {
            End::Full => debug!(restarts, "gossip was told of too much: it is started again"),
            _ => warn!(restarts, "gossip did not move: it is started again"),
        }
        // What it was told of is forgotten: a pause that grows would keep us from the swarm for nothing.
        if end == End::Full || started.elapsed() > limits::UNREST {
            wait = limits::RESTART_LEAST;
        }
        tokio::select! {
            () = swarm.0.stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(limits::RESTART_MOST);
    }
}

fn install(swarm: &Swarm, gossip: Option<Gossip>) {
    let mut installed = swarm
        .0
        .gossip
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *installed = gossip;
}

/// One life of gossip.
async fn live(swarm: &Swarm, gossip: &Gossip, events: &mut mpsc::Receiver<Event>) -> End {
    let topic = TopicId::from_bytes(swarm.0.topic);
    let subscribe = gossip.subscribe_with_opts(topic, JoinOptions::with_bootstrap([]));
    let (sender, mut receiver) = match timeout(limits::STALL, subscribe).await {
        Ok(Ok(subscribed)) => subscribed.split(),
        _ => return End::Stalled,
    };
    let (tell, told) = mpsc::channel(limits::QUEUE);
    let telling = swarm.0.tasks.spawn(speak(sender, told));
    let end = watch(swarm, gossip, events, &mut receiver, &tell).await;
    if end == End::Stopped {
        perform(swarm, Event::Leave, Some(&tell));
        drop(tell);
        // Gossip takes the goodbye from its queue and hands it to the neighbours as it leaves.
        let goodbye = async {
            let _ = telling.await;
            let before = moved(gossip);
            while moved(gossip) == before {
                sleep(Duration::from_millis(5)).await;
            }
            let _ = gossip.shutdown().await;
        };
        let _ = timeout(limits::SHUTDOWN, goodbye).await;
    } else {
        telling.abort();
    }
    end
}

/// Hands over to gossip: the one place that waits for it.
async fn speak(sender: GossipSender, mut told: mpsc::Receiver<Tell>) {
    while let Some(tell) = told.recv().await {
        let said = match tell {
            Tell::Broadcast(bytes) => sender.broadcast(bytes).await,
            Tell::Join(peers) => sender.join_peers(peers).await,
        };
        if said.is_err() {
            return;
        }
    }
}

fn moved(gossip: &Gossip) -> u64 {
    gossip.metrics().actor_tick_main.get()
}

async fn watch(
    swarm: &Swarm,
    gossip: &Gossip,
    events: &mut mpsc::Receiver<Event>,
    receiver: &mut GossipReceiver,
    tell: &mpsc::Sender<Tell>,
) -> End {
    let mut ticks = interval(TICK);
    let mut look = pin!(sleep(limits::WATCH_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut addresses = swarm.0.endpoint.watch_addr().stream();
    perform(swarm, Event::ReachedAt(swarm.0.endpoint.addr()), Some(tell));
    let delivered = Arc::new(AtomicU64::new(0));
    let mut still_since = Instant::now();
    let mut last = moved(gossip);
    let mut kept = Kept::new(Instant::now());
    let mut loud_until = Instant::now();
    let mut lagged = false;
    loop {
        tokio::select! {
            biased;
            () = swarm.0.stop.cancelled() => return End::Stopped,
            () = &mut look => {
                let now = Instant::now();
                let delivered = delivered.swap(0, Ordering::Relaxed);
                let moves = moved(gossip);
                let is_all = moves != last && !std::mem::take(&mut lagged);
                let looked = swarm.0.links.look(delivered, is_all, now);
                for flooder in looked.floods {
                    debug!(peer = %flooder.fmt_short(), "a neighbour sends far more than it delivers");
                    swarm.0.links.ban(flooder, now);
                }
                let told = gossip.metrics().msgs_ctrl_recv_size.get();
                if kept.is_too_much(told, delivered, now) {
                    return End::Full;
                }
                if looked.received > limits::LOUD {
                    loud_until = now + Duration::from_secs(1);
                }
                let next = if now < loud_until {
                    limits::WATCH_INTERVAL_LOUD
                } else {
                    limits::WATCH_INTERVAL
                };
                look.as_mut().reset(tokio::time::Instant::now() + next);
                if moves != last {
                    (last, still_since) = (moves, now);
                } else if now.duration_since(still_since) > limits::STALL {
                    swarm.0.links.suspect(&mut rand::rng(), now);
                    return End::Stalled;
                }
            }
            _ = ticks.tick() => {
                // Something to do for gossip, so that it moves if it can.
                let _ = tell.try_send(Tell::Join(Vec::new()));
                perform(swarm, Event::Tick, Some(tell));
                swarm.0.links.rest(&swarm.neighbours(), Instant::now());
            }
            Some(event) = events.recv() => perform(swarm, event, Some(tell)),
            Some(addr) = addresses.next() => {
                perform(swarm, Event::ReachedAt(addr), Some(tell));
            }
            event = receiver.next() => {
                let Some(Ok(event)) = event else { return End::Stalled };
                let event = match event {
                    GossipEvent::NeighborUp(id) => Event::NeighbourUp(id),
                    GossipEvent::NeighborDown(id) => Event::NeighbourDown {
                        id,
                        is_lost: !swarm.0.links.is_connected(&id),
                    },
                    GossipEvent::Lagged => {
                        lagged = true;
                        Event::Lagged
                    }
                    GossipEvent::Received(message) => {
                        let size = message.content.len() as u64 + 100;
                        delivered.fetch_add(size, Ordering::Relaxed);
                        Event::Message {
                            bytes: message.content,
                            from: message.delivered_from,
                            hops: hops(&message.scope),
                        }
                    }
                };
                perform(swarm, event, Some(tell));
            }
        }
    }
}

/// What gossip may still be told beside the messages themselves, most of it notices of messages, that
/// no message explains: it keeps those for good.
#[derive(Debug)]
struct Kept {
    /// Bytes of control messages that gossip had read at the last look.
    told: u64,
    left: Allowance,
}

impl Kept {
    fn new(now: Instant) -> Self {
        Self {
            told: 0,
            left: Allowance::new(limits::CONTROL_RATE, limits::CONTROL_MOST, now),
        }
    }

    /// Counts what came until gossip had read `told` bytes of control messages and delivered so many
    /// bytes of others since the last look; whether it keeps too much.
    fn is_too_much(&mut self, told: u64, delivered: u64, now: Instant) -> bool {
        let new = told.saturating_sub(self.told);
        self.told = told;
        self.left.take(new as f64 - delivered as f64, now);
        self.left.left(now) < 0.0
    }
}

/// How many others a message came through, as they say.
fn hops(scope: &DeliveryScope) -> u16 {
    match scope {
        // The count itself is not public.
        DeliveryScope::Swarm(round) => postcard::to_stdvec(round)
            .ok()
            .and_then(|bytes| postcard::from_bytes(&bytes).ok())
            .unwrap_or(u16::MAX),
        DeliveryScope::Neighbors => 0,
    }
}

/// Feeds the rules and does what they say; waits for nobody.
fn perform(swarm: &Swarm, event: Event, tell: Option<&mpsc::Sender<Tell>>) {
    let actions = swarm.engine().handle(event, Now::system());
    for action in actions {
        match action {
            Action::Broadcast(bytes) if bytes.len() <= limits::MAX_ANNOUNCEMENT => {
                if tell.is_none_or(|tell| tell.try_send(Tell::Broadcast(bytes)).is_err()) {
                    debug!("an announcement was dropped: gossip is busy");
                }
            }
            Action::Broadcast(_) => {}
            Action::Join(peers) => {
                let now = Instant::now();
                for peer in peers {
                    if let Some(tell) = tell
                        && !swarm.0.links.is_banned(&peer, now)
                    {
                        join(swarm, tell.clone(), peer);
                    }
                }
            }
            Action::Met(addr) => {
                if addr.addrs.is_empty() {
                    swarm.0.known.remove_endpoint_info(addr.id);
                } else {
                    swarm.0.known.set_endpoint_info(addr.clone());
                }
                let _ = swarm.0.changes.try_send(Change::Met(addr));
            }
            Action::Left(id) => {
                let _ = swarm.0.changes.try_send(Change::Left(id));
            }
            Action::Forget(id) => {
                swarm.0.known.remove_endpoint_info(id);
            }
            Action::Cut(id, time) => {
                debug!(peer = %id.fmt_short(), ?time, "a peer delivers far too much that is of no use");
                swarm.0.links.cut(id, time, Instant::now());
            }
            Action::Build(paths) => spawn(swarm, build(swarm.clone(), paths)),
            Action::Fetch(wanted, from) => spawn(swarm, fetch(swarm.clone(), wanted, from)),
            Action::AskPage(from, start) => spawn(swarm, {
                let swarm = swarm.clone();
                async move { Event::Page(from, swarm.ask_page(from, start).await) }
            }),
        }
    }
}

/// Connects to `peer`, hands the connection to gossip and has it make a neighbour of the peer.
///
/// Gossip itself dials a peer once: where that fails it keeps what it wants to send and waits for a
/// connection for ever (`PeerState::Pending` of iroh-gossip 0.101). One that it is given is used
/// whatever came before.
fn join(swarm: &Swarm, tell: mpsc::Sender<Tell>, peer: EndpointId) {
    if swarm.gossip().is_none() {
        return;
    }
    let mut dialling = lock(&swarm.0.dialling);
    if dialling.len() >= limits::DIALS || !dialling.insert(peer) {
        return;
    }
    drop(dialling);
    let (of, stop) = (swarm.clone(), swarm.0.stop.clone());
    swarm.0.tasks.spawn(async move {
        let connect = async {
            let connecting = of.0.endpoint.connect(peer, &of.0.gossip_alpn);
            let connection = connecting.await.ok()?;
            // The one that runs by then: a dial keeps none alive that was to end.
            of.gossip()?.handle_connection(connection).await.ok()?;
            tell.try_send(Tell::Join(vec![peer])).ok()
        };
        let connected = stop.run_until_cancelled(timeout(limits::DIAL_TIMEOUT, connect));
        if !matches!(connected.await, Some(Ok(Some(())))) {
            debug!(peer = %peer.fmt_short(), "a peer of the swarm could not be joined");
        }
        lock(&of.0.dialling).remove(&peer);
    });
}

/// Runs `work` and tells the rules what came of it.
fn spawn(swarm: &Swarm, work: impl Future<Output = Event> + Send + 'static) {
    let (inbox, stop) = (swarm.0.inbox.clone(), swarm.0.stop.clone());
    swarm.0.tasks.spawn(async move {
        let told = async { inbox.send(work.await).await };
        let _ = stop.run_until_cancelled(told).await;
    });
}

async fn build(swarm: Swarm, paths: Offered) -> Event {
    let id = swarm.0.endpoint.id();
    let mut salt = [0; 8];
    salt.copy_from_slice(&id.as_bytes()[..8]);
    let salt = u64::from_le_bytes(salt);
    let of = paths.clone();
    let built = tokio::task::spawn_blocking(move || {
        // One in many sets does not converge; another salt does.
        let tries = (0..3).map(|try_| salt.wrapping_add(try_));
        tries
            .filter_map(|salt| Inventory::build(of.iter().copied(), salt).ok())
            .map(|inventory| {
                (
                    blob_of(&inventory.to_bytes(), &inventory),
                    inventory.to_bytes(),
                )
            })
            .next()
    });
    let Ok(Some((blob, bytes))) = built.await else {
        return Event::Built(paths, None);
    };
    let mut own = lock(&swarm.0.own);
    own.retain(|(hash, _)| *hash != blob.blob_hash);
    own.push_back((blob.blob_hash, bytes.into()));
    // The one before is asked for until everyone heard of this one.
    while own.len() > 2 {
        own.pop_front();
    }
    drop(own);
    Event::Built(paths, (blob.count > 0).then_some(blob))
}

async fn fetch(swarm: Swarm, wanted: Wanted, from: Vec<EndpointId>) -> Event {
    let blob = wanted.blob;
    let fetched = timeout(limits::FETCH_TIMEOUT, swarm.0.fetch.fetch(blob, from)).await;
    let Ok(Some(bytes)) = fetched else {
        return Event::Fetched(wanted, None);
    };
    let read = tokio::task::spawn_blocking(move || {
        let is_it =
            bytes.len() == blob.size as usize && *blake3::hash(&bytes).as_bytes() == blob.blob_hash;
        is_it.then(|| Inventory::from_bytes(&bytes).ok()).flatten()
    });
    Event::Fetched(wanted, read.await.ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gossip_was_told_is_kept_but_for_what_messages_explain() {
        let start = Instant::now();
        let mut kept = Kept::new(start);
        // A quiet day: notices of messages that come, and lists of peers.
        let mut told = 0;
        for minute in 0..24 * 60 {
            let now = start + Duration::from_secs(minute * 60);
            told += 6000;
            assert!(!kept.is_too_much(told, 0, now));
            told += 1000;
            assert!(!kept.is_too_much(told, 4000, now));
        }
        // Messages that came are no credit for what comes later.
        let now = start + Duration::from_secs(24 * 3600);
        let most = limits::CONTROL_MOST as u64;
        assert!(!kept.is_too_much(told + most / 2, 0, now));
        assert!(!kept.is_too_much(told + most - 10_000, 0, now));
        assert!(kept.is_too_much(told + most + 10_000, 0, now));
    }
}
