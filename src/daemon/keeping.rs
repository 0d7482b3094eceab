//! What the daemon keeps over restarts beside its store: reputations, and what was uploaded.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::{
    peer::{
        gate::{UploadGate, UploadRecord},
        peers::Peers,
        reputation,
    },
    state_dir::StateDir,
};

const UPLOADS: &str = "uploads";

/// Longest file of uploads that is read, in bytes: it is one short line.
const MAX_UPLOADS: u64 = 4096;

/// How often what was uploaded is written, where it changed: a kill forgets as much of it.
const UPLOADS_EVERY: Duration = Duration::from_secs(5);

/// Reads what was uploaded so far; what can't be understood counts as nothing.
pub(super) fn uploads(state_dir: &StateDir) -> UploadRecord {
    let bytes = match state_dir.read_file(UPLOADS, MAX_UPLOADS) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, "quotas begin anew");
            return UploadRecord::default();
        }
    };
    let Some(bytes) = bytes else {
        return UploadRecord::default();
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "quotas begin anew: {UPLOADS} is damaged");
        UploadRecord::default()
    })
}

/// Keeps all of it until stopped, and once more then.
pub(super) async fn keep(
    state_dir: Arc<StateDir>,
    gate: UploadGate,
    peers: Peers,
    stop: CancellationToken,
) {
    let mut reputations_at = Instant::now();
    loop {
        let sleep = tokio::time::sleep(UPLOADS_EVERY);
        let is_over = stop.run_until_cancelled(sleep).await.is_none();
        let with_reputations = is_over || reputations_at.elapsed() >= reputation::EVERY;
        if with_reputations {
            reputations_at = Instant::now();
        }
        let (state_dir, gate) = (state_dir.clone(), gate.clone());
        let scores = with_reputations.then(|| peers.scores());
        let writing = tokio::task::spawn_blocking(move || {
            write_uploads(&state_dir, &gate);
            if let Some(scores) = scores {
                let written =
                    reputation::write(&state_dir, scores, Instant::now(), SystemTime::now());
                if let Err(error) = written {
                    tracing::debug!(%error, "reputations can't be kept");
                }
            }
        });
        if writing.await.is_err() || is_over {
            return;
        }
    }
}

fn write_uploads(state_dir: &StateDir, gate: &UploadGate) {
    let Some(record) = gate.changed_record() else {
        return;
    };
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    if let Err(error) = state_dir.write_file(UPLOADS, &bytes) {
        gate.not_kept();
        tracing::debug!(%error, "what was uploaded can't be kept");
    }
}
