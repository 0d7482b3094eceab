//! Durations of the latest requests, as a Prometheus summary.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many durations the quantiles are taken over.
const WINDOW: usize = 1000;

/// The quantiles that are shown, with their labels.
const QUANTILES: [(f64, &str); 3] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99")];

/// Durations of requests: quantiles over the last 1000, count and sum over all.
#[derive(Debug, Default)]
pub struct Latency {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    latest: Vec<f64>,
    next: usize,
    count: u64,
    sum: f64,
}

impl Latency {
    /// Adds one request's duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let next = window.next;
        match window.latest.get_mut(next) {
            Some(oldest) => *oldest = seconds,
            None => window.latest.push(seconds),
        }
        window.next = (next + 1) % WINDOW;
        window.count += 1;
        window.sum += seconds;
    }

    /// Returns the duration that the fraction `quantile` of the latest requests did not exceed, or
    /// `None` before the first request.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        nearest_rank(&self.sorted().0, quantile).map(Duration::from_secs_f64)
    }

    /// Appends the summary in text format 0.0.4; nothing before the first request.
    pub(super) fn encode(&self, text: &mut String, name: &str, help: &str) {
        let (sorted, count, sum) = self.sorted();
        if count == 0 {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} summary");
        for (quantile, label) in QUANTILES {
            if let Some(seconds) = nearest_rank(&sorted, quantile) {
                let _ = writeln!(text, "{name}{{quantile=\"{label}\"}} {seconds}");
            }
        }
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
    }

    fn sorted(&self) -> (Vec<f64>, u64, f64) {
        let (mut latest, count, sum) = {
            let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            (window.latest.clone(), window.count, window.sum)
        };
        latest.sort_by(f64::total_cmp);
        (latest, count, sum)
    }
}

fn nearest_rank(sorted: &[f64], quantile: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied()
}
