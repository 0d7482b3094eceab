//! `peerix top`: what the daemon does now, on a terminal.

mod page;

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{DaemonChoice, Exit, Failure, output};
use crate::{
    control::{Client, ClientError},
    report::{PeerReport, PeersReport, Report},
};

const EXAMPLES: &str = "\
Examples:
  peerix top
      q ends it
  peerix top --json
      the same, once, for a program";

/// Time between two looks at the daemon.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a key is waited for before the end of the program is looked for.
const KEY_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

/// What is shown.
#[derive(Clone, Debug, Default, Serialize)]
struct Shown {
    #[serde(flatten)]
    report: Report,
    peers: Vec<PeerReport>,
}

pub(super) async fn top(args: &TopArgs) -> Result<Exit, Failure> {
    let client = args.daemon.connect().await?;
    if args.daemon.json {
        output::json(&look(&client).await?)?;
        return Ok(Exit::Done);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "`peerix top` draws on a terminal, and this is none: `peerix top --json`, `peerix status` and `peerix peers` are for elsewhere",
        ));
    }
    // The first look comes before the screen is taken, so that its failure can be read.
    let first = look(&client).await?;
    // It is given back by `restore`, after a panic too.
    let mut terminal = ratatui::try_init()?;
    let outcome = show(&client, &mut terminal, first).await;
    ratatui::restore();
    outcome
}

async fn look(client: &Client) -> Result<Shown, ClientError> {
    let report = client.full_report().await?;
    let peers = client.report("peers").await?;
    let peers: PeersReport = serde_json::from_value(peers).unwrap_or_default();
    Ok(Shown {
        report,
        peers: peers.peers,
    })
}

async fn show(
    client: &Client,
    terminal: &mut DefaultTerminal,
    mut shown: Shown,
) -> Result<Exit, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut keys = Keys::read();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        terminal.draw(|frame| page::draw(frame, &shown))?;
        tokio::select! {
            _ = terminate.recv() => return Ok(Exit::Like(128 + 15)),
            _ = hangup.recv() => return Ok(Exit::Like(128 + 1)),
            _ = interrupt.recv() => return Ok(Exit::Done),
            key = keys.pressed.recv() => match key {
                Some(Key::Quit) | None => return Ok(Exit::Done),
                Some(Key::Redraw) => {}
            },
            _ = ticks.tick() => shown = look(client).await?,
        }
    }
}

/// What a person did.
enum Key {
    Quit,
    Redraw,
}

/// Keys as they are pressed, read by a thread that ends with this.
struct Keys {
    pressed: mpsc::Receiver<Key>,
    is_over: Arc<AtomicBool>,
}

impl Keys {
    fn read() -> Self {
        let (sender, pressed) = mpsc::channel(8);
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match event::poll(KEY_PATIENCE) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    // The terminal is gone.
                    Err(_) => return,
                }
                let Ok(event) = event::read() else { return };
                if let Some(key) = meaning(&event) {
                    // Too many at once mean no more than a few.
                    let _full = sender.try_send(key);
                }
            }
        });
        Keys { pressed, is_over }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn meaning(event: &Event) -> Option<Key> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
            _ => None,
        },
        Event::Resize(_, _) => Some(Key::Redraw),
        _ => None,
    }
}
