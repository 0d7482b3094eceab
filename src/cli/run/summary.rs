//! What a command got from where.

use std::io::{self, Write};

use super::super::{Failure, output};
use crate::report::TrafficReport;

/// Writes it to standard error: standard output is the command's.
pub(super) fn print(traffic: &TrafficReport, json: bool) -> Result<(), Failure> {
    let text = match json {
        true => serde_json::to_string(traffic).map_err(io::Error::from)?,
        false => text(traffic),
    };
    // A summary that nobody can read is no failure.
    let _unread = writeln!(io::stderr(), "{text}");
    Ok(())
}

fn text(traffic: &TrafficReport) -> String {
    let sources = [
        ("the local network", traffic.received.lan),
        ("peers", traffic.received.direct),
        ("peers through relays", traffic.received.relayed),
        ("the upstream cache", traffic.received.upstream),
        ("this machine's store", traffic.received.own_store),
    ];
    let came: Vec<String> = sources
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(name, bytes)| format!("{} from {name}", output::size(bytes)))
        .collect();
    let came = match came.as_slice() {
        [] => "nothing came through it".to_owned(),
        came => came.join(", "),
    };
    let found = traffic.hits_local + traffic.hits_peers + traffic.hits_upstream;
    let mut text = format!(
        "peerix: {came}; {found} of {} found",
        output::count(traffic.requests, "path"),
    );
    if traffic.sent > 0 {
        text.push_str(&format!("; {} given to peers", output::size(traffic.sent)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_only_what_gave_something() {
        assert_eq!(
            text(&TrafficReport::default()),
            "peerix: nothing came through it; 0 of 0 paths found"
        );
        let mut traffic = TrafficReport {
            requests: 3,
            hits_peers: 2,
            sent: 1000,
            ..TrafficReport::default()
        };
        traffic.received.direct = 2_000_000;
        assert_eq!(
            text(&traffic),
            "peerix: 2.0 MB from peers; 2 of 3 paths found; 1.0 kB given to peers"
        );
    }
}
