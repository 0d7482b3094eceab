//! The page that `peerix top` draws.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Gauge, Paragraph, Row, Table},
};

use super::Shown;
use crate::{
    cli::{output, report},
    report::{PeerReport, Source, TransferReport},
};

/// Providers that are shown of one transfer.
const PROVIDERS: usize = 4;
/// Width of a provider's bar, in characters.
const BAR: usize = 20;

pub(super) fn draw(frame: &mut Frame<'_>, shown: &Shown) {
    let transfers: u16 = shown.report.transfers.iter().map(height).sum();
    let [head, traffic, middle, peers, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(4),
        Constraint::Max(transfers.saturating_add(2)),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(node(shown)), head);
    frame.render_widget(Paragraph::new(flows(shown)), traffic);
    draw_transfers(frame, middle, &shown.report.transfers);
    draw_peers(frame, peers, &shown.peers);
    frame.render_widget(Line::from(" q ends it").dim(), foot);
}

fn node(shown: &Shown) -> Vec<Line<'static>> {
    let (node, store) = (&shown.report.node, &shown.report.store);
    let uptime = humantime::format_duration(std::time::Duration::from_secs(node.uptime_seconds));
    let closed = node.uploads["closed"].as_str().unwrap_or_default();
    let mut lines = vec![
        Line::from(vec![
            Span::from(format!("peerix {}", node.version)).bold(),
            Span::from(format!(
                "  up {uptime}  endpoint {}",
                output::plain(&node.node_id)
            )),
        ]),
        Line::from(format!(
            "{} known, {} connected  {} offered, {} hashed, {} shared",
            output::count(node.known_peers as u64, "peer"),
            node.connected_peers,
            output::count(store.offered, "path"),
            store.hashed,
            store.shared,
        )),
    ];
    if !closed.is_empty() {
        lines.push(Line::from(format!("nothing is uploaded: {}", output::plain(closed))).yellow());
    }
    lines
}

fn flows(shown: &Shown) -> Vec<Line<'static>> {
    let traffic = &shown.report.traffic;
    let mut totals = vec![Span::from("received  ").bold()];
    let mut rates = vec![Span::from("now       ").bold()];
    for source in Source::ALL {
        let name = source.as_str().replace('_', " ");
        totals.push(Span::from(format!(
            "{name} {}   ",
            output::size(traffic.received[source])
        )));
        rates.push(Span::from(format!(
            "{name} {}   ",
            rate(traffic.receiving[source])
        )));
    }
    vec![
        Line::from(totals),
        Line::from(rates),
        Line::from(vec![
            Span::from("sent      ").bold(),
            Span::from(format!(
                "{}, now {}",
                output::size(traffic.sent),
                rate(traffic.sending)
            )),
        ]),
    ]
}

fn height(transfer: &TransferReport) -> u16 {
    let providers = transfer.providers.len().min(PROVIDERS);
    1 + u16::try_from(providers).unwrap_or(u16::MAX)
}

fn draw_transfers(frame: &mut Frame<'_>, area: Rect, transfers: &[TransferReport]) {
    let title = format!(" {} ", output::count(transfers.len() as u64, "transfer"));
    let block = Block::bordered().title(title);
    let mut rest = block.inner(area);
    frame.render_widget(block, area);
    for transfer in transfers {
        if rest.height == 0 {
            return;
        }
        let [line, below] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(rest);
        let ratio = match transfer.size {
            0 => 0.0,
            size => (transfer.done as f64 / size as f64).clamp(0.0, 1.0),
        };
        let label = format!(
            "{}  {} of {}  {}",
            output::plain(&transfer.name),
            output::size(transfer.done),
            output::size(transfer.size),
            rate(transfer.rate),
        );
        let gauge = Gauge::default()
            .ratio(ratio)
            .label(label)
            .gauge_style(Style::new().fg(Color::Blue));
        frame.render_widget(gauge, line);
        rest = below;
        for provider in transfer.providers.iter().take(PROVIDERS) {
            if rest.height == 0 {
                return;
            }
            let [line, below] =
                Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(rest);
            let text = format!(
                "  {:16}  {}  {:>10}  {}",
                short(&provider.name),
                bar(provider.bytes, transfer.done),
                output::size(provider.bytes),
                rate(provider.rate),
            );
            frame.render_widget(Line::from(text), line);
            rest = below;
        }
    }
}

/// A share of a whole, as a bar.
fn bar(part: u64, whole: u64) -> String {
    let filled = match whole {
        0 => 0,
        whole => {
            let share = part.min(whole) as f64 / whole as f64;
            (share * BAR as f64).round() as usize
        }
    };
    let filled = filled.min(BAR);
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, peers: &[PeerReport]) {
    let mut best: Vec<&PeerReport> = peers.iter().collect();
    best.sort_by(|a, b| {
        let key = |peer: &PeerReport| (peer.connected, peer.bytes_received + peer.bytes_sent);
        key(b).cmp(&key(a))
    });
    let rows = best.into_iter().map(|peer| {
        Row::new([
            short(&peer.node_id),
            report::way(peer).to_owned(),
            peer.rtt_ms
                .map_or_else(String::new, |rtt| format!("{rtt:.0} ms")),
            format!("{:.2}", peer.reputation.score),
            output::size(peer.bytes_received),
            output::size(peer.bytes_sent),
        ])
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(14),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(11),
        Constraint::Length(11),
    ];
    let title = format!(" {} ", output::count(peers.len() as u64, "peer"));
    let table = Table::new(rows, widths)
        .header(Row::new(["endpoint", "way", "round trip", "score", "received", "sent"]).bold())
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn short(name: &str) -> String {
    output::plain(name).chars().take(16).collect()
}

fn rate(bytes_a_second: f64) -> String {
    format!("{}/s", output::size(bytes_a_second.max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::report::{PeerPath, ProviderReport};

    fn drawn(shown: &Shown, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, shown)).unwrap();
        terminal.backend().to_string()
    }

    fn busy() -> Shown {
        let mut shown = Shown::default();
        shown.report.node.version = "1.2.3".to_owned();
        shown.report.transfers = vec![TransferReport {
            name: "hello\u{1b}[2J".to_owned(),
            size: 4_000_000,
            done: 1_000_000,
            rate: 2_000_000.0,
            providers: vec![ProviderReport {
                name: "ab".repeat(32),
                bytes: 500_000,
                ..ProviderReport::default()
            }],
            ..TransferReport::default()
        }];
        shown.peers = vec![PeerReport {
            node_id: "cd".repeat(32),
            connected: true,
            path: Some(PeerPath::Relayed),
            ..PeerReport::default()
        }];
        shown
    }

    #[test]
    fn transfers_providers_and_peers_are_drawn() {
        let page = drawn(&busy(), 100, 24);
        for text in [
            "peerix 1.2.3",
            "1 transfer",
            "1.0 MB of 4.0 MB  2.0 MB/s",
            "abababababababab  ██████████░░░░░░░░░░",
            "cdcdcdcdcdcdcdcd relayed",
        ] {
            assert!(page.contains(text), "{text}:\n{page}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
    }

    #[test]
    fn any_size_of_terminal_will_do() {
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn(&busy(), width, height);
            drawn(&Shown::default(), width, height);
        }
    }
}
