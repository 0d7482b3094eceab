//! The answers that grow with how much there is: few are made at once, and all that are on their way
//! share a fixed amount of memory.
//!
//! A client that reads slowly keeps its share for as long as it likes while there is room. One
//! network has at most a small part of the room, or one answer of any size; and where there is no
//! room, who has been at it longest is cut.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{address::Client, admission::network_of, refusal::Refusal};
use crate::tracker::{limits, storage::StorageError};

/// How often room is looked for again while there is none.
const RETRY: Duration = Duration::from_millis(50);

/// How long an answer that is cut may take to give its share back before another one is.
const CUT_EACH: Duration = Duration::from_millis(250);

/// The room that there is for large answers.
#[derive(Debug)]
pub(super) struct Answers {
    making: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    under_way: Arc<Mutex<UnderWay>>,
}

/// The answers that have their share, or wait for it, the oldest first.
#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    answers: BTreeMap<u64, OnItsWay>,
    cut_at: Option<Instant>,
}

#[derive(Debug)]
struct OnItsWay {
    /// Whose it is; nobody's where it is a program's on this machine.
    network: Option<IpAddr>,
    bytes: usize,
    /// Since when it has its share.
    since: Option<Instant>,
    cut: CancellationToken,
}

/// A turn to make a large answer. It goes on until the answer has its share of the memory.
#[derive(Clone, Debug)]
pub(super) struct Turn(#[allow(dead_code, reason = "it is held")] Arc<OwnedSemaphorePermit>);

impl IntoResponseParts for Turn {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

/// Says when the connection must be cut that an answer goes over.
#[derive(Clone, Debug)]
pub(super) struct Cut(pub(super) CancellationToken);

/// An answer and its share of the memory, until the last of its bytes went out.
struct Shared {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
    _place: Place,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The place of an answer among those under way, given back when this goes.
struct Place {
    number: u64,
    under_way: Arc<Mutex<UnderWay>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.under_way).answers.remove(&self.number);
    }
}

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            making: Arc::new(Semaphore::new(limits::ANSWERS_MADE)),
            memory: Arc::new(Semaphore::new(limits::ANSWERS / limits::BODY_UNIT)),
            under_way: Arc::default(),
        }
    }

    /// Waits for the turn to make a large answer; none is made for who has enough of them.
    pub(super) async fn turn(&self, client: Client) -> Result<Turn, Refusal> {
        if locked(&self.under_way).of(network(client)) >= limits::ANSWERS_OF_ONE {
            return Err(TOO_MANY);
        }
        let turn = Arc::clone(&self.making).acquire_owned();
        match timeout(limits::BODY_TIMEOUT, turn).await {
            Ok(Ok(turn)) => Ok(Turn(Arc::new(turn))),
            _ => Err(Refusal::Storage(StorageError::Busy)),
        }
    }

    /// Waits until there is room for an answer, and gives it its share.
    pub(super) async fn share(&self, client: Client, mut response: Response) -> Response {
        let _turn = response.extensions_mut().remove::<Turn>();
        let bytes = response.body().size_hint().exact();
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.unwrap_or_default().min(limits::ANSWERS);
        if bytes < limits::BODY_UNIT {
            return response;
        }
        let cut = CancellationToken::new();
        let place = match self.place(client, bytes, &cut) {
            Ok(place) => place,
            Err(refusal) => return refusal.into_response(),
        };
        let share = match timeout(limits::BODY_TIMEOUT, self.room(bytes)).await {
            Ok(Some(share)) => share,
            _ => return Refusal::Storage(StorageError::Busy).into_response(),
        };
        if let Some(answer) = locked(&self.under_way).answers.get_mut(&place.number) {
            answer.since = Some(Instant::now());
        }
        let (mut head, body) = response.into_parts();
        head.extensions.insert(Cut(cut));
        match to_bytes(body, usize::MAX).await {
            Ok(bytes) => {
                let shared = Shared {
                    bytes,
                    _share: share,
                    _place: place,
                };
                Response::from_parts(head, Body::from(Bytes::from_owner(shared)))
            }
            Err(error) => Refusal::Storage(StorageError::Other(error.to_string())).into_response(),
        }
    }

    /// A place for an answer, unless its network has too many on their way.
    fn place(
        &self,
        client: Client,
        bytes: usize,
        cut: &CancellationToken,
    ) -> Result<Place, Refusal> {
        let network = network(client);
        let mut under_way = locked(&self.under_way);
        let others = under_way.of(network);
        if others > 0 && others.saturating_add(bytes) > limits::ANSWERS_OF_ONE {
            return Err(TOO_MANY);
        }
        let number = under_way.next;
        under_way.next += 1;
        let answer = OnItsWay {
            network,
            bytes,
            since: None,
            cut: cut.clone(),
        };
        under_way.answers.insert(number, answer);
        Ok(Place {
            number,
            under_way: Arc::clone(&self.under_way),
        })
    }

    /// Waits for room, and takes it from who has been at it longest where there is none.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes / limits::BODY_UNIT).unwrap_or(u32::MAX);
        let mut share = std::pin::pin!(Arc::clone(&self.memory).acquire_many_owned(units));
        loop {
            match timeout(RETRY, &mut share).await {
                Ok(share) => return share.ok(),
                Err(_) => locked(&self.under_way).cut_the_oldest(),
            }
        }
    }
}

impl UnderWay {
    /// The bytes that are on their way to a network.
    fn of(&self, network: Option<IpAddr>) -> usize {
        let answers = self.answers.values();
        let of_network = answers.filter(|answer| network.is_some() && answer.network == network);
        of_network.map(|answer| answer.bytes).sum()
    }

    /// Cuts the answer that has its share for longest, if that is long enough.
    fn cut_the_oldest(&mut self) {
        if self.cut_at.is_some_and(|at| at.elapsed() < CUT_EACH) {
            return;
        }
        let is_old = |answer: &&OnItsWay| {
            let since = answer.since.map(|since| since.elapsed());
            since >= Some(limits::ANSWER_CUT_AFTER) && !answer.cut.is_cancelled()
        };
        if let Some(oldest) = self.answers.values().find(is_old) {
            oldest.cut.cancel();
            self.cut_at = Some(Instant::now());
        }
    }
}

/// The refusal of who has too many answers on their way.
const TOO_MANY: Refusal = Refusal::TooMany { seconds: 5 };

/// Who shares a bound with a client.
fn network(client: Client) -> Option<IpAddr> {
    (!client.is_local).then(|| network_of(client.addr))
}

fn locked(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn client(last: u8) -> Client {
        Client {
            addr: [192, 0, 2, last].into(),
            is_local: false,
        }
    }

    fn of(bytes: usize) -> Response {
        Response::new(Body::from(vec![0; bytes]))
    }

    async fn taken(response: Response) -> Bytes {
        to_bytes(response.into_body(), usize::MAX).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_share_the_memory_until_they_are_gone() {
        let answers = Answers::new();
        let first = answers.share(client(1), of(limits::ANSWERS)).await;
        let body = taken(first).await;
        assert_eq!(answers.share(client(2), of(100)).await.status(), 200);
        drop(body);
        let begun = Instant::now();
        let next = answers.share(client(2), of(limits::ANSWERS)).await;
        assert_eq!(next.status(), 200);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_room_who_has_been_at_it_longest_is_cut_and_nobody_else() {
        let answers = Answers::new();
        let mut held = Vec::new();
        for last in 0..8 {
            let response = answers.share(client(last), of(limits::ANSWERS / 8)).await;
            let Cut(cut) = response.extensions().get::<Cut>().unwrap().clone();
            held.push((cut, taken(response).await));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (oldest, body) = held.remove(0);
        let begun = Instant::now();
        let cut = async {
            let patience = 2 * limits::BODY_TIMEOUT;
            timeout(patience, oldest.cancelled()).await.unwrap();
            // What a connection does that is cut.
            drop(body);
        };
        let (response, ()) = tokio::join!(answers.share(client(9), of(limits::BODY_UNIT)), cut);
        assert_eq!(response.status(), 200);
        assert!(begun.elapsed() <= limits::ANSWER_CUT_AFTER);
        assert!(held.iter().all(|(cut, _)| !cut.is_cancelled()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_has_one_large_answer_or_some_smaller_ones() {
        let answers = Answers::new();
        let refused = StatusCode::TOO_MANY_REQUESTS;
        let large = answers.share(client(1), of(limits::ANSWERS / 2)).await;
        let large = taken(large).await;
        assert_eq!(
            answers
                .share(client(1), of(limits::BODY_UNIT))
                .await
                .status(),
            refused
        );
        assert!(answers.turn(client(1)).await.is_err());
        assert!(answers.turn(client(2)).await.is_ok());
        assert_eq!(answers.share(client(1), of(100)).await.status(), 200);
        drop(large);
        assert!(answers.turn(client(1)).await.is_ok());
        let mut held = Vec::new();
        for _ in 0..4 {
            let response = answers
                .share(client(1), of(limits::ANSWERS_OF_ONE / 4))
                .await;
            held.push(taken(response).await);
        }
        assert_eq!(
            answers
                .share(client(1), of(limits::BODY_UNIT))
                .await
                .status(),
            refused
        );
        // Programs on this machine may be anybody's proxy, and are not told apart.
        let local = Client {
            is_local: true,
            ..client(1)
        };
        assert_eq!(
            answers.share(local, of(limits::BODY_UNIT)).await.status(),
            200
        );
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_made_at_once() {
        let answers = Answers::new();
        let mut turns = Vec::new();
        for last in 0..limits::ANSWERS_MADE {
            turns.push(answers.turn(client(last as u8)).await.unwrap());
        }
        assert!(answers.turn(client(9)).await.is_err());
        let made = (turns.remove(0), "made").into_response();
        assert_eq!(answers.share(client(0), made).await.status(), 200);
        assert!(answers.turn(client(9)).await.is_ok());
    }
}
