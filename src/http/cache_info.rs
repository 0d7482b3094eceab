//! `/nix-cache-info`: what kind of cache this is.

use hyper::{Method, Response, StatusCode};

use super::body::ResponseBody;
use super::{HttpState, respond};

/// Answers with store directory and priority. `WantMassQuery` lets Nix ask for many paths at once
/// before it knows that it wants them.
pub(super) fn answer(state: &HttpState, method: &Method) -> Response<ResponseBody> {
    let text = format!(
        "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: {}\n",
        state.priority
    );
    respond::text(method, StatusCode::OK, "text/plain", text)
}
