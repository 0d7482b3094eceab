//! The bodies of requests: bounded in size, in time and in all.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use super::{Face, address::Client, refusal::Refusal};
use crate::tracker::limits;

/// How much more than it may have is read of a body, so that its sender hears why it is refused.
const READ_ANYWAY: usize = 16 * 1024 * 1024;

/// A body, and its share of the memory that all may take.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl Whole {
    /// What it counts as, in requests.
    pub(super) fn cost(&self) -> u32 {
        u32::try_from(self.bytes.len() / limits::BODY_UNIT).unwrap_or(u32::MAX)
    }

    /// The JSON object that it is.
    pub(super) fn object(&self) -> Result<Map<String, Value>, Refusal> {
        match serde_json::from_slice(&self.bytes) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(Refusal::Malformed("the body must be a JSON object".into())),
            Err(error) => Err(Refusal::Malformed(format!("the body is no JSON: {error}"))),
        }
    }
}

/// Reads a body of at most `limit` bytes, which counts as more requests of the client the longer it
/// is.
pub(super) async fn read(
    face: &Face,
    client: Client,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Whole, Refusal> {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let expected = length.unwrap_or(limit).min(limit);
    let units = u32::try_from(expected / limits::BODY_UNIT + 1).unwrap_or(u32::MAX);
    let reading = async {
        let share = std::sync::Arc::clone(&face.bodies)
            .acquire_many_owned(units)
            .await
            .map_err(|_| Refusal::Late)?;
        let bytes = collect(body, limit, expected).await?;
        Ok(Whole {
            bytes,
            _share: share,
        })
    };
    let whole = tokio::time::timeout(limits::BODY_TIMEOUT, reading)
        .await
        .unwrap_or(Err(Refusal::Late))?;
    if whole.cost() > 0 {
        face.admission.admit_address(client, whole.cost())?;
    }
    Ok(whole)
}

async fn collect(mut body: Body, limit: usize, expected: usize) -> Result<Bytes, Refusal> {
    let mut bytes = BytesMut::with_capacity(expected);
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::Malformed(format!("the body broke off: {error}")))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(piece.len());
        if length > limit.saturating_add(READ_ANYWAY) {
            return Err(Refusal::TooLarge);
        }
        if length <= limit {
            bytes.extend_from_slice(&piece);
        }
    }
    if length > limit {
        return Err(Refusal::TooLarge);
    }
    Ok(bytes.freeze())
}
