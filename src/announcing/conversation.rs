//! One tracker is spoken with, again and again until the daemon stops.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use iroh::{RelayUrl, Watcher as _};
use iroh_relay::{RelayConfig, RelayQuicConfig};
use reqwest::StatusCode;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Inner, Tracker, TrackersRelay,
    backoff::{Backoff, spread},
    http::RequestError,
    limits,
    memory::OLDER_TRACKER,
    older,
    session::{Next, Paths, Say, Word},
    signed::{self, Outcome},
    whereabouts::Whereabouts,
};
use crate::{
    clock::{unix_millis, unix_seconds},
    config::Relay,
    tracker::api::{RelayInfo, TrackerId, TrackerInfo},
};

/// Why an older tracker is not told of a machine that is of another swarm than everybody's.
const NO_SWARMS: &str = "knows nothing of swarms, and is told nothing of this one";

/// What is shown of a tracker that goes along with no announcement.
const CONFLICTS: &str = "keeps none of what it is told";

/// How a conversation ended that did not fail.
enum End {
    /// The daemon stops, and the tracker knows.
    Stopped,
    /// It is to be asked anew what it is.
    Renew,
}

/// Speaks with tracker `number` until `stop`.
pub(super) async fn run(inner: Arc<Inner>, number: usize, stop: CancellationToken) {
    let tracker = &inner.all[number];
    let mut backoff = Backoff::default();
    let mut moved = inner.endpoint.watch_addr();
    loop {
        let mut speaker = Speaking {
            inner: &inner,
            tracker,
            stop: &stop,
            backoff: &mut backoff,
            wanted: inner.wanted.subscribe(),
        };
        let error = match speaker.converse().await {
            Ok(End::Stopped) => break,
            Ok(End::Renew) => continue,
            Err(error) => error,
        };
        debug!(%error, "the tracker failed");
        note_failure(tracker, &error);
        let pause = backoff.fails(error.retry_after(), &mut rand::rng());
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            // Another network may be one with a way to it.
            Ok(_) = moved.updated(), if error.retry_after().is_none() => settle(&stop).await,
        }
    }
    let _ = tokio::task::spawn_blocking(move || inner.remember()).await;
}

struct Speaking<'a> {
    inner: &'a Arc<Inner>,
    tracker: &'a Tracker,
    stop: &'a CancellationToken,
    backoff: &'a mut Backoff,
    wanted: watch::Receiver<Option<Paths>>,
}

impl Speaking<'_> {
    async fn converse(&mut self) -> Result<End, RequestError> {
        let asked = tokio::select! {
            () = self.stop.cancelled() => return Ok(End::Stopped),
            asked = signed::info(&self.tracker.site) => asked?,
        };
        self.tracker.record().is_signed = Some(asked.is_some());
        match asked {
            Some(info) => self.speak_signed(info).await,
            None => self.speak_older().await,
        }
    }

    async fn speak_signed(&mut self, info: TrackerInfo) -> Result<End, RequestError> {
        let (inner, tracker, stop) = (self.inner, self.tracker, self.stop);
        let ttl = Duration::from_secs(info.ttl);
        {
            let mut session = tracker.session();
            session.speaks_with(&info.id.to_string(), ttl, unix_seconds());
            session.tell_at_most(usize::try_from(info.max_announce).unwrap_or(usize::MAX));
        }
        // Whoever is there is heard of even where announcements are refused.
        let speaker = &inner.speaker;
        let listing = speaker.peers(&tracker.site, None, Duration::ZERO);
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(End::Stopped),
            listing = listing => listing?,
        };
        let at_once = usize::try_from(info.max_lookup).unwrap_or(usize::MAX);
        let lookups = tracker.lookups.serve(&tracker.site, speaker, at_once);
        let listing = follow(inner, tracker, first);
        let announcing = self.announce(&info);
        tokio::select! {
            ended = announcing => ended,
            failed = listing => Err(failed),
            () = lookups => Ok(End::Renew),
        }
    }

    /// Announces what there is to announce, until the daemon stops.
    async fn announce(&mut self, info: &TrackerInfo) -> Result<End, RequestError> {
        let (inner, tracker, stop) = (self.inner, self.tracker, self.stop);
        let (least, most) = limits::ANNOUNCE_INTERVAL;
        let interval = Duration::from_secs(info.announce_interval).clamp(least, most);
        let interval = about(interval);
        let mut moved = inner.endpoint.watch_addr();
        let mut conflicts = 0;
        let mut renew_at = Instant::now() + limits::RECHECK;
        loop {
            if Instant::now() >= renew_at {
                let asked = tokio::select! {
                    () = stop.cancelled() => return Ok(self.say_goodbye(info.id).await),
                    asked = signed::info(&tracker.site) => asked?,
                };
                if asked.as_ref() != Some(info) {
                    return Ok(End::Renew);
                }
                renew_at = Instant::now() + limits::RECHECK;
            }
            let wanted = self.wanted.borrow_and_update().clone();
            let whereabouts = Whereabouts::of(&inner.endpoint, &moved.get());
            let now = Instant::now();
            let next = tracker
                .session()
                .next(wanted.as_ref(), &whereabouts, interval, now);
            let say = match next {
                Next::Say(say) => say,
                Next::At(due) => {
                    tokio::select! {
                        () = stop.cancelled() => return Ok(self.say_goodbye(info.id).await),
                        () = tokio::time::sleep_until(due.min(renew_at).into()) => continue,
                        _ = self.wanted.changed() => {}
                        _ = moved.updated() => {}
                    }
                    settle(stop).await;
                    continue;
                }
            };
            let told = tokio::select! {
                () = stop.cancelled() => return Ok(self.say_goodbye(info.id).await),
                told = say_signed(inner, tracker, info.id, say, whereabouts) => told,
            };
            let pause = match told {
                Ok(false) => {
                    conflicts += 1;
                    if conflicts < limits::CONFLICTS {
                        limits::ANNOUNCE_PAUSE
                    } else {
                        tracker.record().error = Some(CONFLICTS.to_owned());
                        self.backoff.fails(None, &mut rand::rng())
                    }
                }
                Ok(true) => {
                    conflicts = 0;
                    self.succeeds();
                    inner.remember_now_and_then();
                    use_relay(inner, tracker, info.relay.as_ref()).await;
                    limits::ANNOUNCE_PAUSE
                }
                Err(error) => self.bear(error)?,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(self.say_goodbye(info.id).await),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long to wait after a failure that may be over then, with the same tracker.
    fn bear(&mut self, error: RequestError) -> Result<Duration, RequestError> {
        match error.status() {
            Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                self.tracker.record().error = Some(error.to_string());
                let asked_for = error.retry_after();
                Ok(self.backoff.fails(asked_for, &mut rand::rng()))
            }
            _ => Err(error),
        }
    }

    /// Tells the tracker that this machine goes, if it takes that in time.
    async fn say_goodbye(&self, id: TrackerId) -> End {
        let (inner, tracker) = (self.inner, self.tracker);
        let sequence = tracker.session().next_sequence(unix_millis());
        let goodbye = inner.speaker.withdraw(&tracker.site, id, sequence);
        match timeout(limits::GOODBYE, goodbye).await {
            Ok(Ok(())) => tracker.session().withdrawn(),
            Ok(Err(error)) => debug!(%error, "the tracker was not told goodbye"),
            Err(_) => debug!("the tracker was not told goodbye in time"),
        }
        End::Stopped
    }

    /// Speaks with a tracker of the older program until it may have become another.
    async fn speak_older(&mut self) -> Result<End, RequestError> {
        let (inner, tracker, stop) = (self.inner, self.tracker, self.stop);
        if !inner.older_may_list {
            tracker.record().error = Some(NO_SWARMS.to_owned());
            tokio::select! {
                () = stop.cancelled() => return Ok(End::Stopped),
                () = tokio::time::sleep(limits::RECHECK) => return Ok(End::Renew),
            }
        }
        let id = inner.endpoint.id();
        let renew_at = Instant::now() + limits::RECHECK;
        let ttl = limits::OLDER_TTL;
        tracker
            .session()
            .speaks_with(OLDER_TRACKER, ttl, unix_seconds());
        let mut moved = inner.endpoint.watch_addr();
        let mut seen: Option<(Instant, Whereabouts)> = None;
        while Instant::now() < renew_at {
            let whereabouts = Whereabouts::of(&inner.endpoint, &moved.get());
            let wanted = self.wanted.borrow_and_update().clone();
            let is_due = seen.as_ref().is_none_or(|(at, before)| {
                at.elapsed() >= limits::OLDER_INTERVAL / 2 || *before != whereabouts
            });
            let round = async {
                if is_due {
                    older::announce(&tracker.site, id, &inner.peer_id, &whereabouts).await?;
                    take(inner, tracker, older::peers(&tracker.site).await?);
                }
                match inner.tell_older.load(Ordering::Relaxed) {
                    true => tell_older(inner, tracker, wanted.as_ref(), &whereabouts).await,
                    false => Ok(()),
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                told = round => told?,
            }
            if is_due {
                seen = Some((Instant::now(), whereabouts));
                self.succeeds();
            }
            tokio::select! {
                () = stop.cancelled() => {
                    let goodbye = older::withdraw(&tracker.site, id);
                    if let Ok(Ok(())) = timeout(limits::GOODBYE, goodbye).await {
                        tracker.session().withdrawn();
                    }
                    return Ok(End::Stopped);
                }
                () = tokio::time::sleep(about(limits::OLDER_INTERVAL)) => {}
                Ok(()) = self.wanted.changed(), if inner.tell_older.load(Ordering::Relaxed) => {
                    settle(stop).await;
                }
                Ok(_) = moved.updated() => settle(stop).await,
            }
        }
        Ok(End::Renew)
    }

    /// Notes that the tracker answered as it should.
    fn succeeds(&mut self) {
        let mut record = self.tracker.record();
        record.last_contact = Some(Instant::now());
        record.error = None;
        record.is_distrust_told = false;
        drop(record);
        self.backoff.succeeds();
    }
}

/// Waits for what belongs together, so that it is told together; not while the daemon stops.
async fn settle(stop: &CancellationToken) {
    stop.run_until_cancelled(tokio::time::sleep(limits::SETTLE))
        .await;
}

/// Notes a failure, and tells a person once of one that lasts until a person does something.
fn note_failure(tracker: &Tracker, error: &RequestError) {
    let mut record = tracker.record();
    record.error = Some(error.to_string());
    if matches!(error, RequestError::Untrusted(_)) && !record.is_distrust_told {
        record.is_distrust_told = true;
        tracing::warn!("the tracker {} {error}", tracker.url);
    }
}

/// A time that not all machines take alike.
fn about(interval: Duration) -> Duration {
    spread(interval, &mut rand::rng())
}

/// Announces, and notes what the tracker knows then; returns whether that is what it was told.
async fn say_signed(
    inner: &Inner,
    tracker: &Tracker,
    id: TrackerId,
    say: Say,
    whereabouts: Whereabouts,
) -> Result<bool, RequestError> {
    let sequence = tracker.session().next_sequence(unix_millis());
    let (site, speaker) = (&tracker.site, &inner.speaker);
    let outcome = speaker
        .announce(site, id, sequence, &say, &whereabouts)
        .await?;
    let (now, unix_now) = (Instant::now(), unix_seconds());
    let mut session = tracker.session();
    match outcome {
        Outcome::Accepted(word) => {
            let tracker = id.to_string();
            session.accepted(say, sequence, word, &tracker, whereabouts, now, unix_now);
        }
        Outcome::Conflict(word) => {
            session.conflicts(word);
            return Ok(false);
        }
    }
    Ok(session.known().is_some())
}

/// Tells an older tracker of paths, as far as it does not know of them.
async fn tell_older(
    inner: &Inner,
    tracker: &Tracker,
    wanted: Option<&Paths>,
    whereabouts: &Whereabouts,
) -> Result<(), RequestError> {
    let Some(wanted) = wanted else { return Ok(()) };
    loop {
        // By itself, so that the session is not held meanwhile.
        let next = tracker.session().next_of_paths(Some(wanted));
        let Some(say) = next else { return Ok(()) };
        match &say {
            Say::Full(paths) => older::batch(&tracker.site, &inner.peer_id, paths).await?,
            Say::Delta { added, removed, .. } => {
                older::delta(&tracker.site, &inner.peer_id, added, removed).await?;
            }
            // That is another request's.
            Say::Refresh => return Ok(()),
        }
        let mut session = tracker.session();
        let sequence = session.next_sequence(unix_millis());
        let base = Some(sequence);
        let word = Word { sequence, base };
        let whereabouts = whereabouts.clone();
        let (now, unix_now) = (Instant::now(), unix_seconds());
        session.accepted(
            say,
            sequence,
            word,
            OLDER_TRACKER,
            whereabouts,
            now,
            unix_now,
        );
    }
}

/// Hears who comes and goes. Ends when the tracker fails.
async fn follow(inner: &Inner, tracker: &Tracker, first: Option<signed::Listing>) -> RequestError {
    let mut etag = None;
    let mut listing = first;
    let mut wait = limits::LONG_POLL;
    let mut backoff = Backoff::default();
    loop {
        let asked_at = Instant::now();
        if let Some(listing) = listing {
            etag = listing.etag.clone();
            // Of a sample there is always another one: that is looked at now and then.
            let is_all = listing.count <= listing.peers.len() as u64;
            wait = if is_all {
                limits::LONG_POLL
            } else {
                Duration::ZERO
            };
            take(inner, tracker, listing.peers);
        }
        inner.found.keep();
        let pause = match wait.is_zero() {
            true => limits::LONG_POLL,
            false => limits::LIST_PAUSE,
        };
        tokio::time::sleep(about(pause)).await;
        let asked = inner
            .speaker
            .peers(&tracker.site, etag.as_deref(), wait)
            .await;
        listing = match asked {
            Ok(listing) => {
                backoff.succeeds();
                if listing.is_none() && asked_at.elapsed() < wait / 2 {
                    // It does not wait as it was asked to.
                    tokio::time::sleep(wait / 2).await;
                }
                listing
            }
            Err(RequestError::Silent) => None,
            Err(error) => {
                if error.status() != Some(StatusCode::TOO_MANY_REQUESTS) {
                    return error;
                }
                let pause = backoff.fails(error.retry_after(), &mut rand::rng());
                tokio::time::sleep(pause).await;
                None
            }
        };
    }
}

fn take(inner: &Inner, tracker: &Tracker, peers: Vec<iroh::EndpointAddr>) {
    tracker.record().named = peers.len();
    inner.found.list(tracker.number, peers);
}

/// Makes the tracker's relay one of this endpoint's, where trackers' relays are used.
async fn use_relay(inner: &Inner, tracker: &Tracker, relay: Option<&RelayInfo>) {
    let is_used = matches!(inner.relay, Relay::Default | Relay::Tracker);
    let relay = relay
        .filter(|relay| is_used && (relay.url.scheme() == "https" || inner.allow_insecure_http));
    let before = {
        let mut record = tracker.record();
        if record.relay.as_ref().map(|known| &known.url) == relay.map(|relay| &relay.url) {
            return;
        }
        record.relay.take()
    };
    if let Some(before) = before.filter(|before| before.is_added)
        && !is_told_by_another(inner, &before.url)
    {
        inner.endpoint.remove_relay(&before.url).await;
    }
    if let Some(relay) = relay {
        let quic = relay.quic_port.map(RelayQuicConfig::new);
        let config = RelayConfig::new(relay.url.clone(), quic);
        let url = relay.url.clone();
        debug!(%url, "a relay of the tracker's");
        let known = inner.endpoint.insert_relay(url.clone(), config.into());
        let known = known.await;
        let is_added = known.is_none();
        if let Some(known) = known {
            // It is known from elsewhere: what a tracker says of it does not count.
            inner.endpoint.insert_relay(url.clone(), known).await;
        }
        tracker.record().relay = Some(TrackersRelay { url, is_added });
    }
}

/// Whether another tracker told of a relay too: then it is that one's from now on.
fn is_told_by_another(inner: &Inner, url: &RelayUrl) -> bool {
    inner.all.iter().any(|tracker| {
        let mut record = tracker.record();
        let relay = record.relay.as_mut().filter(|relay| relay.url == *url);
        relay.map(|relay| relay.is_added = true).is_some()
    })
}
