//! Logs, to standard error or to the journal: little unless asked for.

mod pace;

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    sync::Arc,
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::FilterExt, layer::SubscriberExt, registry::LookupSpan,
    reload, util::SubscriberInitExt,
};

use crate::config::LogFormat;
use pace::Pace;

/// What the daemon logs: what it is and where, what an operator should know, and of iroh only what
/// is broken.
const QUIET: &str = "error,peerix=warn,peerix_store=warn,peerix_gossip=warn,peerix::notice=info";
const VERBOSE: &str = "warn,peerix=debug,peerix_store=debug,peerix_gossip=debug";
/// What a daemon logs that runs for the time of a command.
const WARNINGS: &str = "error,peerix=warn,peerix_store=warn,peerix_gossip=warn";
/// What a command logs: its own messages say what went wrong.
const SILENT: &str = "off";

/// A log that runs.
#[derive(Clone)]
pub(super) struct Logging {
    level: reload::Handle<EnvFilter, Registry>,
    pace: Arc<Pace>,
}

impl Logging {
    /// Logs more, or less again, unless `RUST_LOG` says what.
    pub(super) fn set_verbose(&self, verbose: bool) {
        // It fails where the log is gone: then nobody misses it.
        let _gone = self
            .level
            .reload(filter(if verbose { VERBOSE } else { QUIET }));
    }

    /// Says, for as long as the process runs, how many lines were left out where there were too
    /// many.
    pub(super) async fn report_left_out(self) {
        loop {
            let lines = self.pace.left_out().await;
            tracing::warn!(
                lines,
                "log lines were left out: there were more than {} a second",
                pace::LINES
            );
        }
    }
}

pub(super) fn start_daemon(verbose: bool, format: LogFormat) -> Logging {
    start(if verbose { VERBOSE } else { QUIET }, format)
}

pub(super) fn start_for_command(verbose: bool, format: LogFormat) -> Logging {
    start(if verbose { VERBOSE } else { WARNINGS }, format)
}

pub(super) fn start_client(verbose: bool) {
    start(if verbose { VERBOSE } else { SILENT }, LogFormat::Text);
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
}

fn start(default: &str, format: LogFormat) -> Logging {
    let (filter, level) = reload::Layer::new(filter(default));
    let pace = Arc::new(Pace::default());
    let lines = lines(format).with_filter(filter.and(pace::Paced(pace.clone())));
    // Starting twice happens in tests only.
    let _started_already = tracing_subscriber::registry().with(lines).try_init();
    Logging { level, pace }
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;

fn lines<S>(format: LogFormat) -> Lines<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let is_journal = is_read_by_the_journal();
    let wants_journal = match format {
        LogFormat::Auto => is_journal,
        LogFormat::Journald => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    if wants_journal && let Ok(journal) = tracing_journald::layer() {
        return Box::new(journal.with_field_prefix(None));
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => Box::new(lines.json().flatten_event(true)),
        // The journal writes the time itself.
        _ if is_journal => Box::new(lines.without_time().with_ansi(false)),
        _ => Box::new(lines.with_ansi(super::output::is_coloured(&io::stderr()))),
    }
}

/// Whether standard error goes to systemd's journal, as systemd.exec(5) says to find out.
fn is_read_by_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    let stderr = io::stderr();
    if stderr.is_terminal() {
        return false;
    }
    rustix::fs::fstat(stderr.as_fd())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
