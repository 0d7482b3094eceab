//! Sends lookups to one peer in batches over its kept connection.
//!
//! Whatever waits when a request can be sent goes into it, up to
//! [`limits::LOOKUP_MAX_PATHS`]: a single lookup leaves at once, a thousand in a few requests.

use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use peerix_store::nix::StorePathHash;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use super::{
    lookup::{self, Answer, Claim, Mode, Request, WireError},
    peers::Peer,
    score::Fault,
};
use crate::{limits, share::ShareToken};

/// One path that somebody waits for.
#[derive(Debug)]
pub(super) struct Wanted {
    mode: Mode,
    path_hash: StorePathHash,
    answer: oneshot::Sender<Claim>,
}

impl Wanted {
    pub(super) fn new(mode: Mode, path_hash: StorePathHash) -> (Self, oneshot::Receiver<Claim>) {
        let (answer, waiting) = oneshot::channel();
        let wanted = Self {
            mode,
            path_hash,
            answer,
        };
        (wanted, waiting)
    }
}

/// Serves what is wanted of `peer` over `connection` until that is lost.
///
/// A peer that let a deadline pass is sent an empty request now and then, so that it is asked
/// again as soon as it answers.
pub(super) async fn serve(
    peer: &Peer,
    connection: &Connection,
    wanted: &mut mpsc::Receiver<Wanted>,
) {
    let mut under_way: JoinSet<Result<Answered, WireError>> = JoinSet::new();
    let mut batch = Vec::new();
    let mut back_off = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            _ = connection.closed() => return,
            Some(done) = under_way.join_next() => match done {
                Ok(Ok(answered)) => {
                    back_off = Duration::ZERO;
                    // Who answers a request for nothing may still leave others unanswered.
                    if answered.paths > 0 {
                        peer.was_of_use();
                    }
                    peer.answered(answered.latency);
                }
                Ok(Err(error)) => {
                    debug!(%error, "a lookup failed");
                    let fault = match error {
                        WireError::Stream => Fault::Silent,
                        _ => Fault::Trust,
                    };
                    back_off = peer.score(|score| score.failure(fault, Instant::now()));
                    peer.missed_deadline();
                }
                Err(_) => {}
            },
            taken = wanted.recv_many(&mut batch, limits::LOOKUP_MAX_PATHS),
                if under_way.len() < limits::LOOKUP_IN_FLIGHT =>
            {
                if taken == 0 {
                    return;
                }
                for mode in [Mode::Narinfo, Mode::Presence, Mode::WantedNow] {
                    let mine: Vec<Wanted> = batch.extract_if(.., |w| w.mode == mode).collect();
                    if !mine.is_empty() {
                        under_way.spawn(ask(connection.clone(), mode, mine, peer.tokens()));
                    }
                }
            }
            () = tokio::time::sleep(back_off.max(peer.probe_wait())), if peer.is_silent() && under_way.is_empty() => {
                under_way.spawn(ask(connection.clone(), Mode::Presence, Vec::new(), Vec::new()));
            }
        }
    }
}

/// What came of a request.
struct Answered {
    latency: Duration,
    /// How many paths it was about.
    paths: usize,
}

/// Sends one request and hands out its answers as they come; returns how long they took.
async fn ask(
    connection: Connection,
    mode: Mode,
    wanted: Vec<Wanted>,
    tokens: Vec<ShareToken>,
) -> Result<Answered, WireError> {
    let paths = wanted.len();
    let exchange = async {
        let started = Instant::now();
        let (mut send, mut recv) = connection.open_bi().await.map_err(|_| WireError::Stream)?;
        let request = Request {
            mode,
            path_hashes: wanted.iter().map(|w| w.path_hash).collect(),
            tokens,
        };
        lookup::write_frame(&mut send, &request, limits::LOOKUP_MAX_REQUEST).await?;
        send.finish().map_err(|_| WireError::Stream)?;
        let mut budget = limits::LOOKUP_MAX_ANSWERS + limits::LOOKUP_MAX_REQUEST;
        for wanted in wanted {
            let limit = limits::LOOKUP_MAX_ANSWER.min(budget);
            let (answer, size): (Answer, _) = lookup::read_frame(&mut recv, limit).await?;
            budget = budget.saturating_sub(size);
            let claim = answer.into_claim(wanted.path_hash)?;
            // Whoever asked may have given up.
            let _ = wanted.answer.send(claim);
        }
        let rest = recv.read_to_end(0).await;
        rest.map_err(|_| WireError::Field { field: "end" })?;
        Ok(Answered {
            latency: started.elapsed(),
            paths,
        })
    };
    timeout(limits::LOOKUP_IO_TIMEOUT, exchange)
        .await
        .map_err(|_| WireError::Stream)?
}
