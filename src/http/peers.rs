//! `/peers`: the peers this machine knows.

use hyper::{Method, Response, StatusCode};

use super::body::ResponseBody;
use super::{HttpState, respond};

pub(super) fn answer(state: &HttpState, method: &Method) -> Response<ResponseBody> {
    respond::json(method, StatusCode::OK, &state.status.peers())
}
