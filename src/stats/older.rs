//! The older program's `stats.json`, read once.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    State, Totals,
    activity::{Activity, Event},
    top::{Counted, Top},
};

/// Entries of each table that are looked at: the older program never dropped one.
const MAX_ENTRIES: usize = 1_000_000;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Older {
    request_counts: BTreeMap<String, OlderCount>,
    served_counts: BTreeMap<String, OlderCount>,
    activity_log: Vec<serde_json::Value>,
    metrics: BTreeMap<String, f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OlderCount {
    count: u64,
    name: String,
    peers: BTreeMap<String, u64>,
}

/// What it says, as far as it makes sense.
///
/// Of bytes that came, it does not say by which way: they count as direct ones.
pub(super) fn read(bytes: &[u8]) -> serde_json::Result<State> {
    let older: Older = serde_json::from_slice(bytes)?;
    let counter = |name: &str| older.metrics.get(name).map_or(0, |value| *value as u64);
    let mut totals = Totals {
        sent: counter("bytes_sent_total"),
        requests: counter("cache_hits_total").saturating_add(counter("cache_misses_total")),
        hits_local: counter("cache_hits_total"),
        nars_sent: counter("nars_served_total"),
        ..Totals::default()
    };
    totals.received.direct = counter("bytes_received_total");
    let mut activity = Activity::default();
    let events = older.activity_log.into_iter().rev();
    activity.restore(events.filter_map(|event| serde_json::from_value::<Event>(event).ok()));
    Ok(State {
        totals,
        requested: counts(older.request_counts),
        served: counts(older.served_counts),
        activity,
        ..State::default()
    })
}

fn counts(counts: BTreeMap<String, OlderCount>) -> Top {
    let counts = counts.into_iter().take(MAX_ENTRIES);
    let counted = counts.map(|(hash, count)| Counted {
        hash,
        count: count.count,
        name: count.name,
        peers: count.peers.into_iter().take(8).collect(),
    });
    Top::of(counted.collect())
}
