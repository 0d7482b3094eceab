//! `/<store path hash>.narinfo`: the signed record of a store path.

use hyper::{Method, Response, StatusCode};
use peerix_store::nix::StorePathHash;
use tokio::time::{Instant, timeout};

use super::body::ResponseBody;
use super::respond::Refusal;
use super::{HttpState, respond};
use crate::narinfo::narinfo_text;

/// Answers with the narinfo, or 404 as soon as nobody has the path.
pub(super) async fn answer(
    state: &HttpState,
    method: &Method,
    path_hash: StorePathHash,
) -> Result<Response<ResponseBody>, Refusal> {
    let asked = Instant::now();
    state.metrics.requests.inc();
    let lookup = timeout(
        state.limits.narinfo_deadline,
        state.substituter.narinfo(path_hash),
    )
    .await;
    state.metrics.narinfo_latency.observe(asked.elapsed());
    // An answer for another path is none.
    let answer = lookup
        .ok()
        .flatten()
        .filter(|answer| answer.info.path_hash() == path_hash)
        .ok_or(Refusal::NotFound)?;
    state.metrics.narinfos_served.inc();
    state.metrics.served.inc();
    let text = narinfo_text(&answer.info);
    Ok(respond::text(
        method,
        StatusCode::OK,
        "text/x-nix-narinfo",
        text,
    ))
}
