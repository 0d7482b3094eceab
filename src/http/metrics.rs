//! `/metrics`: the counters, for Prometheus.

use hyper::{Method, Response, StatusCode};

use super::body::ResponseBody;
use super::{HttpState, respond};
use crate::metrics::CONTENT_TYPE;

pub(super) fn answer(state: &HttpState, method: &Method) -> Response<ResponseBody> {
    respond::text(method, StatusCode::OK, CONTENT_TYPE, state.metrics.encode())
}
