//! A part of a long list of peers: those that match, in some order, so many from here on.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use crate::peer::peers::Peer;
use crate::report::{PeerReport, PeersReport};

/// Rows of one page at most.
pub const MAX_ROWS: usize = 100;

/// Longest text that is searched for, in bytes.
const MAX_SEARCH: usize = 128;

/// What peers are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Connected ones first, then by bytes exchanged.
    #[default]
    Usefulness,
    /// Bytes received from them.
    Received,
    /// Bytes sent to them.
    Sent,
    /// Their reputation.
    Score,
    /// The round trip; those that are not connected last.
    RoundTrip,
    /// When they last answered.
    LastSeen,
    /// Their endpoint ids.
    Id,
}

impl Sort {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "usefulness" => Self::Usefulness,
            "received" => Self::Received,
            "sent" => Self::Sent,
            "score" => Self::Score,
            "rtt" => Self::RoundTrip,
            "seen" => Self::LastSeen,
            "id" => Self::Id,
            _ => return None,
        })
    }
}

/// Which peers are to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersQuery {
    /// By what they are ordered.
    pub sort: Sort,
    /// Whether the other way round.
    pub reversed: bool,
    /// What their ids or addresses contain, in lower case; empty for all.
    pub search: String,
    /// Rows before the first that is shown.
    pub offset: usize,
    /// Rows that are shown, at most [`MAX_ROWS`].
    pub limit: usize,
}

impl PeersQuery {
    /// The peers that most was exchanged with.
    #[must_use]
    pub fn largest(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Reads `sort`, `order`, `search`, `offset` and `limit` from a query; what makes no sense is
    /// as if it weren't there.
    #[must_use]
    pub fn parse(query: &str) -> Self {
        let mut parsed = Self::largest(25);
        for (name, value) in pairs(query) {
            match name.as_str() {
                "sort" => parsed.sort = Sort::from_name(&value).unwrap_or_default(),
                "order" => parsed.reversed = value == "reversed",
                "search" if value.len() <= MAX_SEARCH => parsed.search = value.to_lowercase(),
                "offset" => parsed.offset = value.parse().unwrap_or_default(),
                "limit" => parsed.limit = value.parse().unwrap_or(parsed.limit).min(MAX_ROWS),
                _ => {}
            }
        }
        parsed
    }
}

/// The names and values of a query, decoded.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse("http://localhost/");
    let Ok(mut url) = url else { return Vec::new() };
    url.set_query(Some(query));
    let pairs = url.query_pairs();
    pairs
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

struct Row {
    key: (bool, f64),
    peer: Arc<Peer>,
}

/// Those of `peers` that a query asks for, each told of by `report`.
pub fn page(
    peers: Vec<Arc<Peer>>,
    query: &PeersQuery,
    report: impl Fn(&Peer) -> PeerReport,
) -> PeersReport {
    let now = Instant::now();
    let matches = |peer: &Peer| {
        if query.search.is_empty() || peer.id().to_string().contains(&query.search) {
            return true;
        }
        let path = peer.path();
        path.is_some_and(|path| path.address.to_lowercase().contains(&query.search))
    };
    let found = peers.into_iter().filter(|peer| matches(peer));
    let mut rows: Vec<Row> = found
        .map(|peer| Row {
            key: key(&peer, query.sort, now),
            peer,
        })
        .collect();
    let count = rows.len();
    let limit = query.limit.min(MAX_ROWS);
    let order = |a: &Row, b: &Row| {
        let order = match query.sort {
            Sort::Id => Ordering::Equal,
            _ => {
                let connected = b.key.0.cmp(&a.key.0);
                connected.then_with(|| b.key.1.total_cmp(&a.key.1))
            }
        };
        let order = order.then_with(|| a.peer.id().cmp(&b.peer.id()));
        if query.reversed {
            order.reverse()
        } else {
            order
        }
    };
    // Only as many as are looked at need be in order.
    let end = query.offset.saturating_add(limit).min(count);
    if end < count {
        rows.select_nth_unstable_by(end, order);
        rows.truncate(end);
    }
    rows.sort_by(order);
    let shown = rows.iter().skip(query.offset).take(limit);
    PeersReport {
        peers: shown.map(|row| report(&row.peer)).collect(),
        count,
    }
}

/// What a peer is ordered by; the largest comes first.
fn key(peer: &Peer, sort: Sort, now: Instant) -> (bool, f64) {
    let score = |value: fn(&crate::peer::score::Score) -> f64| peer.score(|score| value(score));
    match sort {
        Sort::Usefulness => {
            let exchanged = score(|score| (score.bytes_received + score.bytes_sent) as f64);
            (peer.is_up(), exchanged)
        }
        Sort::Received => (false, score(|score| score.bytes_received as f64)),
        Sort::Sent => (false, score(|score| score.bytes_sent as f64)),
        Sort::Score => (false, peer.score(|score| score.value(now))),
        Sort::RoundTrip => match peer.path() {
            Some(path) => (true, -path.rtt.as_secs_f64()),
            None => (false, 0.0),
        },
        Sort::LastSeen => match peer.score(|score| score.last_seen()) {
            Some(seen) => (true, -now.saturating_duration_since(seen).as_secs_f64()),
            None => (false, 0.0),
        },
        Sort::Id => (false, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_as_far_as_it_makes_sense() {
        let query =
            PeersQuery::parse("sort=rtt&order=reversed&search=10.0%2E1&offset=50&limit=9999");
        assert_eq!(query.sort, Sort::RoundTrip);
        assert!(query.reversed);
        assert_eq!(query.search, "10.0.1");
        assert_eq!((query.offset, query.limit), (50, MAX_ROWS));
        let odd = PeersQuery::parse("sort=%00&offset=-1&limit=&&&=&search=AB");
        assert_eq!((odd.sort, odd.offset, odd.limit), (Sort::Usefulness, 0, 25));
        assert_eq!(odd.search, "ab");
        let long = PeersQuery::parse(&format!("search={}", "x".repeat(1000)));
        assert_eq!(long.search, "");
    }
}
