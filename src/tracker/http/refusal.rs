//! Why a request was refused, as status and JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::tracker::api::{ApiError, Stale};
use crate::tracker::storage::StorageError;

/// The answer to one request too many.
#[derive(Serialize, ToSchema)]
pub(super) struct TooMany {
    /// What is wrong.
    error: &'static str,
    /// When to try again, in seconds.
    retry_after: u64,
}

/// What is answered instead of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request makes no sense.
    Malformed(String),
    /// The signature is missing or wrong, or only a signed request may do this.
    Unauthorized(&'static str),
    /// What was asked for is another's.
    Forbidden(String),
    /// There is none.
    NotFound(serde_json::Value),
    /// The body took too long.
    Late,
    /// It was done before.
    Conflict(String),
    /// An announcement is not newer, or builds on what is not known.
    Stale(Stale),
    /// The body is too long.
    TooLarge,
    /// Too many requests.
    TooMany {
        /// When to try again, in seconds.
        seconds: u64,
    },
    /// The database failed.
    Storage(StorageError),
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error =
            |status: StatusCode, error: String| (status, Json(ApiError { error })).into_response();
        match self {
            Self::Malformed(what) => error(StatusCode::BAD_REQUEST, what),
            Self::Unauthorized(what) => error(StatusCode::UNAUTHORIZED, what.to_owned()),
            Self::Forbidden(what) => error(StatusCode::FORBIDDEN, what),
            Self::NotFound(what) => (StatusCode::NOT_FOUND, Json(what)).into_response(),
            Self::Late => error(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive in time".to_owned(),
            ),
            Self::Conflict(what) => error(StatusCode::CONFLICT, what),
            Self::Stale(stale) => (StatusCode::CONFLICT, Json(stale)).into_response(),
            Self::TooLarge => error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too large: announce in several parts".to_owned(),
            ),
            Self::TooMany { seconds } => {
                let what = TooMany {
                    error: "too many requests",
                    retry_after: seconds,
                };
                let headers = [(header::RETRY_AFTER, HeaderValue::from(seconds))];
                (StatusCode::TOO_MANY_REQUESTS, headers, Json(what)).into_response()
            }
            Self::Storage(StorageError::TooManyPaths) => error(
                StatusCode::PAYLOAD_TOO_LARGE,
                StorageError::TooManyPaths.to_string(),
            ),
            Self::Storage(StorageError::Unfit(_)) => error(
                StatusCode::BAD_REQUEST,
                "a text in it can't be kept".to_owned(),
            ),
            // Which file, which lock and why is the operator's, in the log.
            Self::Storage(storage) => {
                let what = match storage {
                    StorageError::Locked(_) => "the tracker's database is locked",
                    StorageError::Full => "the tracker's database is full",
                    StorageError::Busy => "the tracker has no room for more at the moment",
                    StorageError::Unreachable(_) => "the tracker's database can't be reached",
                    StorageError::Damaged(_) => "the tracker's database is damaged",
                    StorageError::TooManyPaths
                    | StorageError::Unfit(_)
                    | StorageError::Newer { .. }
                    | StorageError::Other(_) => "the tracker's database failed",
                };
                let headers = [(header::RETRY_AFTER, HeaderValue::from(30))];
                let what = Json(ApiError {
                    error: what.to_owned(),
                });
                (StatusCode::SERVICE_UNAVAILABLE, headers, what).into_response()
            }
        }
    }
}
