//! `/status`: what the daemon is and does.

use hyper::{Method, Response, StatusCode};
use serde_json::Value;

use super::body::ResponseBody;
use super::{HttpState, respond};

/// Tells of the daemon. Answers from memory: it is asked on the server's own threads.
pub trait StatusSource: Send + Sync + 'static {
    /// Returns the object of `/status`.
    fn status(&self) -> Value;

    /// Returns whether all parts work, and the object of `/health`.
    fn health(&self) -> (bool, Value);

    /// Returns the object of `/peers`.
    fn peers(&self) -> Value;

    /// Appends metrics that are counted elsewhere, in OpenMetrics without its end.
    fn more_metrics(&self, text: &mut String);
}

pub(super) fn answer(state: &HttpState, method: &Method) -> Response<ResponseBody> {
    respond::json(method, StatusCode::OK, &state.status.status())
}
