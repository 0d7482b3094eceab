//! The answers that grow with how much there is: few are made at once, and all that are on their way
//! share a fixed amount of memory.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;
use crate::tracker::{limits, storage::StorageError};

/// The room that there is for large answers.
#[derive(Debug)]
pub(super) struct Answers {
    making: Arc<Semaphore>,
    memory: Arc<Semaphore>,
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

/// An answer and its share of the memory, until the last of its bytes went out.
struct Shared {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            making: Arc::new(Semaphore::new(limits::ANSWERS_MADE)),
            memory: Arc::new(Semaphore::new(limits::ANSWERS / limits::BODY_UNIT)),
        }
    }

    /// Waits for the turn to make a large answer.
    pub(super) async fn turn(&self) -> Result<Turn, Refusal> {
        let turn = in_time(&self.making, 1).await?;
        Ok(Turn(Arc::new(turn)))
    }

    /// Waits until there is room for an answer, and gives it its share.
    pub(super) async fn share(&self, mut response: Response) -> Response {
        let _turn = response.extensions_mut().remove::<Turn>();
        let length = response.body().size_hint().exact();
        let units = length
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or_default()
            / limits::BODY_UNIT;
        if units == 0 {
            return response;
        }
        let units = units.min(limits::ANSWERS / limits::BODY_UNIT);
        let share = match in_time(&self.memory, units).await {
            Ok(share) => share,
            Err(refusal) => return refusal.into_response(),
        };
        let (head, body) = response.into_parts();
        match to_bytes(body, usize::MAX).await {
            Ok(bytes) => {
                let shared = Shared {
                    bytes,
                    _share: share,
                };
                Response::from_parts(head, Body::from(Bytes::from_owner(shared)))
            }
            Err(error) => Refusal::Storage(StorageError::Other(error.to_string())).into_response(),
        }
    }
}

async fn in_time(
    semaphore: &Arc<Semaphore>,
    units: usize,
) -> Result<OwnedSemaphorePermit, Refusal> {
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    let permit = Arc::clone(semaphore).acquire_many_owned(units);
    match tokio::time::timeout(limits::BODY_TIMEOUT, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refusal::Storage(StorageError::Busy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_answers_share_the_memory_until_they_are_gone() {
        let answers = Answers::new();
        let large = || Response::new(Body::from(vec![0; limits::ANSWERS - 1]));
        let first = answers.share(large()).await;
        let body = to_bytes(first.into_body(), usize::MAX).await.unwrap();
        let small = Response::new(Body::from("small"));
        assert_eq!(answers.share(small).await.status(), 200);
        assert_eq!(answers.share(large()).await.status(), 503);
        drop(body);
        assert_eq!(answers.share(large()).await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_made_at_once() {
        let answers = Answers::new();
        let mut turns = Vec::new();
        for _ in 0..limits::ANSWERS_MADE {
            turns.push(answers.turn().await.unwrap());
        }
        assert!(answers.turn().await.is_err());
        let made = (turns.remove(0), "made").into_response();
        assert_eq!(answers.share(made).await.status(), 200);
        assert!(answers.turn().await.is_ok());
    }
}
