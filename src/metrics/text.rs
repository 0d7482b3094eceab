//! From OpenMetrics to Prometheus' own text format.

use std::collections::HashSet;

/// Rewrites OpenMetrics text as text format 0.0.4.
///
/// The two differ in that OpenMetrics names a counter without the `_total` of its samples in
/// `# HELP` and `# TYPE`, which Prometheus' linter takes for samples without help text, and has
/// `# UNIT` and `# EOF`.
pub(crate) fn from_open_metrics(open_metrics: &str) -> String {
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 6 * 2 * counters.len());
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let comment = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|kind| Some((kind, line.strip_prefix(kind)?.split_once(' ')?)));
        match comment {
            Some((kind, (name, rest))) if counters.contains(name) => {
                text.extend([kind, name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
