//! Keeps [`Stats`] over restarts, in one file of the state directory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{State, Stats, older};
use crate::clock::unix_seconds;
use crate::metrics::Metrics;
use crate::state_dir::StateDir;

const FILE: &str = "statistics";

/// The older program's file, which is read where ours is not there yet, and left as it is.
const OLDER_FILE: &str = "stats.json";

/// Longest file that is read, in bytes: ours has at most some 300 KB.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// The older program's grew without bounds.
const MAX_OLDER_FILE_SIZE: u64 = 64 << 20;

/// How often counters are taken up: the finest history has bins of this.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// How often the file is written: a kill forgets as much.
const WRITE_EVERY: Duration = Duration::from_secs(60);

impl Stats {
    /// As it is written down.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Nobody waits for the writing. Plain data in maps with text keys: that can be written as JSON.
        let state = self.state().clone();
        serde_json::to_vec(&state).unwrap_or_default()
    }

    /// Goes on where a former process left off; what is of no sensible size is refused.
    pub(super) fn restore(&self, bytes: &[u8]) -> Result<(), String> {
        let before: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !before.history.is_bounded() {
            return Err("its history is too long".into());
        }
        self.take_up(before);
        Ok(())
    }

    fn take_up(&self, before: State) {
        let mut state = self.state();
        if before.since > 0.0 {
            state.since = before.since.min(state.since);
        }
        state.totals = before.totals;
        state.history = before.history;
        state.requested.restore(before.requested);
        state.served.restore(before.served);
        state.activity.restore(before.activity.into_events());
    }

    /// Reads what was kept; what can't be understood is as good as nothing.
    pub fn read(&self, state_dir: &StateDir) {
        match state_dir.read_file(FILE, MAX_FILE_SIZE) {
            Ok(Some(bytes)) => {
                if let Err(reason) = self.restore(&bytes) {
                    tracing::warn!(reason, "statistics begin anew: {FILE} is damaged");
                }
                return;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "statistics begin anew");
                return;
            }
        }
        match state_dir.read_file(OLDER_FILE, MAX_OLDER_FILE_SIZE) {
            Ok(Some(bytes)) => match older::read(&bytes) {
                Ok(before) => self.take_up(before),
                Err(error) => {
                    tracing::warn!(%error, "the older program's {OLDER_FILE} can't be taken over");
                }
            },
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the older program's {OLDER_FILE} can't be taken over");
            }
        }
    }
}

/// Takes counters up and writes, until stopped and once more then.
pub async fn keep(metrics: Arc<Metrics>, state_dir: Arc<StateDir>, stop: CancellationToken) {
    let mut written_at = Instant::now();
    loop {
        let sleep = tokio::time::sleep(SAMPLE_EVERY);
        let is_over = stop.run_until_cancelled(sleep).await.is_none();
        metrics.sample(unix_seconds());
        if !is_over && written_at.elapsed() < WRITE_EVERY {
            continue;
        }
        written_at = Instant::now();
        let (metrics, state_dir) = (metrics.clone(), state_dir.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let bytes = metrics.stats.to_bytes();
            if let Err(error) = state_dir.write_file(FILE, &bytes) {
                tracing::debug!(%error, "statistics can't be kept");
            }
        });
        if writing.await.is_err() || is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::activity::{Action, Event};

    const OLDER: &str = r#"{
        "request_counts": {"17bh691vzkqk8hv1i7xiaqff85b85br3": {"count": 5, "name": "jansson-2.14"},
                           "../../etc/passwd": {"count": 9, "name": "no"}},
        "served_counts": {"17bh691vzkqk8hv1i7xiaqff85b85br3":
            {"count": 2, "name": "jansson-2.14", "peers": {"0123456789abcdef": 2}}},
        "activity_log": [
            {"time": 1700000001.5, "action": "served", "hash": "17bh691vzkqk8hv1i7xiaqff85b85br3",
             "name": "jansson-2.14", "source": "to-peer", "success": true, "size": 10,
             "peer_id": "0123456789abcdef"},
            {"time": 1700000000.5, "action": "nonsense"}],
        "peer_bandwidth": {},
        "metrics": {"nars_served_total": 3, "bytes_sent_total": 1000, "bytes_received_total": 2000,
            "cache_hits_total": 4, "cache_misses_total": 6}
    }"#;

    #[test]
    fn the_older_programs_statistics_are_taken_over_once() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        state_dir.write_file(OLDER_FILE, OLDER.as_bytes()).unwrap();
        let stats = Stats::default();
        stats.read(&state_dir);
        let totals = stats.sample(crate::stats::Totals::default(), 1);
        assert_eq!((totals.sent, totals.received.direct), (1000, 2000));
        assert_eq!((totals.requests, totals.nars_sent), (10, 3));
        let (requested, asked) = stats.most_requested(10);
        assert_eq!((requested.len(), requested[0].count, asked), (1, 5, 14));
        assert_eq!(stats.most_served(10).0[0].peers["0123456789abcdef"], 2);
        assert_eq!(stats.activity(0, 10).0.len(), 1);

        // Once ours is there it alone counts.
        let check = Event::new(Action::Check, "a".repeat(32), "new".into(), "miss".into());
        stats.note(check);
        state_dir.write_file(FILE, &stats.to_bytes()).unwrap();
        let next = Stats::default();
        next.read(&state_dir);
        let totals = next.sample(crate::stats::Totals::default(), 2);
        assert_eq!(totals.sent, 1000);
        assert_eq!(next.activity(0, 10).0.len(), 2);
        assert_eq!(next.activity(0, 10).0[0].name, "new");
        assert_eq!(next.most_requested(10).1, 15);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        let bins = "[1,1,1,1,1,1],".repeat(1000);
        let long = format!(
            r#"{{"history":{{"hour":{{"newest":1,"bins":[{}]}}}}}}"#,
            bins.trim_end_matches(',')
        );
        for bytes in [&b""[..], b"{", b"[]", b"\xff", long.as_bytes()] {
            state_dir.write_file(FILE, bytes).unwrap();
            let stats = Stats::default();
            stats.read(&state_dir);
            assert_eq!(
                stats.sample(Default::default(), 1),
                crate::stats::Totals::default()
            );
        }
    }
}
