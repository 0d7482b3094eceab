//! Logs, to standard error: little unless asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What the daemon logs: what an operator should know, and of iroh only what is broken.
const QUIET: &str = "error,peerix=warn,peerix_store=warn,peerix_gossip=warn";
const VERBOSE: &str = "warn,peerix=debug,peerix_store=debug,peerix_gossip=debug";
/// What a command logs: its own messages say what went wrong.
const SILENT: &str = "off";

pub(super) fn start_daemon(verbose: bool) {
    start(if verbose { VERBOSE } else { QUIET });
}

pub(super) fn start_client(verbose: bool) {
    start(if verbose { VERBOSE } else { SILENT });
}

fn start(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // The journal writes the time itself. Starting twice happens in tests only.
    let _started_already = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().try_init(),
        None => lines.try_init(),
    };
}
