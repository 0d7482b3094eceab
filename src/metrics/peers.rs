//! Bytes of single peers, with a bounded number of series.

use std::cmp::Reverse;
use std::fmt::Write as _;

use iroh::EndpointId;

use crate::stats::short;

/// Peers that have a series of their own: those that most was exchanged with.
pub const SHOWN: usize = 20;

/// Appends the bytes sent to and received from [`SHOWN`] peers, and from all others together, in
/// OpenMetrics.
///
/// They are gauges: who falls behind others loses its series to them, and counts among the rest.
pub fn encode(text: &mut String, mut totals: Vec<(EndpointId, u64, u64)>) {
    let all = |(_, sent, received): &(EndpointId, u64, u64)| sent.saturating_add(*received);
    if totals.len() > SHOWN {
        totals.select_nth_unstable_by_key(SHOWN, |total| Reverse(all(total)));
    }
    let rest = totals.split_off(totals.len().min(SHOWN));
    totals.sort_by_key(|total| Reverse(all(total)));
    text.push_str(
        "# HELP peerix_peer_bytes NAR bytes exchanged with the peers that most was exchanged with.\n\
         # TYPE peerix_peer_bytes gauge\n",
    );
    let mut write = |peer: &str, sent: u64, received: u64| {
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "peerix_peer_bytes{{peer=\"{peer}\",direction=\"{direction}\"}} {bytes}"
            );
        }
    };
    for (id, sent, received) in totals {
        write(short(&id.to_string()), sent, received);
    }
    let others = rest.iter().fold((0, 0), |(sent, received), total| {
        (
            total.1.saturating_add(sent),
            total.2.saturating_add(received),
        )
    });
    write("other", others.0, others.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_peers_are_few_series_and_no_byte_is_lost() {
        let total = |peer: u64| {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&peer.to_le_bytes());
            (iroh::SecretKey::from_bytes(&seed).public(), peer, 1)
        };
        let totals: Vec<_> = (0..100).map(total).collect();
        let largest = totals[99].0.to_string();
        let mut text = String::new();
        encode(&mut text, totals);
        assert_eq!(text.lines().count(), 2 + 2 * (SHOWN + 1));
        let largest = format!("{{peer=\"{}\",direction=\"sent\"}} 99\n", &largest[..16]);
        assert!(text.contains(&largest), "{text}");
        let sent = text.lines().filter(|line| line.contains("\"sent\""));
        let sent = sent.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert_eq!(sent.sum::<u64>(), (0..100u64).sum::<u64>());
    }
}
