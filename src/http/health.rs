//! `/health`: whether all parts work, for service managers and people.

use hyper::{Method, Response, StatusCode};

use super::body::ResponseBody;
use super::{HttpState, respond};

/// Answers 200, or 503 with the same report where a part fails. Nix never asks for it.
pub(super) fn answer(state: &HttpState, method: &Method) -> Response<ResponseBody> {
    let (healthy, report) = state.status.health();
    let status = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    respond::json(method, status, &report)
}
