//! `/metrics`: the counters, for Prometheus.

use hyper::header::{ACCEPT, HeaderMap};
use hyper::{Method, Response, StatusCode};

use super::body::ResponseBody;
use super::{HttpState, respond};
use crate::metrics::Format;

/// Answers in text format 0.0.4, or in OpenMetrics where `Accept` names it.
pub(super) fn answer(
    state: &HttpState,
    method: &Method,
    headers: &HeaderMap,
) -> Response<ResponseBody> {
    let accepted = headers.get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    let format = match accepted.any(|value| value.contains("application/openmetrics-text")) {
        true => Format::OpenMetrics,
        false => Format::Text,
    };
    let text = state
        .metrics
        .encode(format, |text| state.status.more_metrics(text));
    respond::text(method, StatusCode::OK, format.content_type(), text)
}
