//! `peerix daemon`: configuration, log, signals; the rest is the daemon's.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use peerix_store::nix::TrustedPublicKey;

use super::{Exit, Failure, flags::SettingFlags, logging, output, surroundings};
use crate::{
    config::{self, Loaded, Sources},
    daemon::ReadAgain,
    service::Service,
    trust::nix_conf::NixConf,
};

/// How long the daemon has to end after the first signal. A service manager's patience is longer.
pub(super) const STOP_DEADLINE: Duration = Duration::from_millis(9500);

const EXAMPLES: &str = "\
Examples:
  peerix daemon
      as the user who may read Nix's database; root's state is in /var/lib/peerix
  peerix daemon --peer peerixaa... --relay off
      with one known peer, without any relay or DNS
  peerix daemon --port 0 --state-dir /tmp/a --store 'local?root=/tmp/a/root'
      a second daemon beside the first, over a store of its own

Every flag has a key in the configuration file and a variable, PEERIX_ and its name:
`peerix check-config` shows them. SIGHUP makes the daemon read its configuration again, take
over what can be changed while it runs (limits, allowed and denied peers, filters, keys, peers,
--verbose), name what can't, and look through the whole store. SIGTERM ends it within 10 seconds, a second one at once.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DaemonArgs {
    #[command(flatten)]
    pub(super) sources: SourceArgs,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Configuration file, in place of ~/.config/peerix/config.toml [env: PEERIX_CONFIG]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) flags: SettingFlags,
}

impl SourceArgs {
    /// Reads all sources and puts them together.
    pub(super) fn load(self) -> Result<Loaded, Failure> {
        Ok(config::load(&self.into_sources())?)
    }

    /// Where the configuration is to be read.
    pub(super) fn into_sources(self) -> Sources {
        let surroundings = surroundings::read();
        let mut sources = Sources::new(surroundings, self.flags.0);
        sources.named_file = self.config.or(sources.named_file);
        sources.nix_trusted_public_keys = nix_trusted_public_keys();
        sources
    }
}

/// The keys that Nix trusts on this machine. What it doesn't understand of its configuration is
/// for Nix to complain of; here it is a key less, and said so.
fn nix_trusted_public_keys() -> Vec<TrustedPublicKey> {
    let configured = NixConf::from_variables(|name| std::env::var_os(name)).trusted_public_keys();
    for problem in configured.problems {
        output::hint(&format!("peerix: warning: {problem}"));
    }
    configured.keys
}

pub(super) fn run(args: DaemonArgs) -> Result<Exit, Failure> {
    let sources = args.sources.into_sources();
    let loaded = config::load(&sources)?;
    let logging = logging::start_daemon(loaded.config.verbose, loaded.config.log_format);
    for name in &loaded.ignored_variables {
        tracing::debug!(name, "this variable is no setting");
    }
    let service =
        Service::from_environment().map_err(|error| Failure::failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.spawn(logging.clone().report_left_out());
    let again = read_again(sources, move |loaded| {
        logging.set_verbose(loaded.config.verbose);
    });
    let stop = CancellationToken::new();
    let daemon = crate::daemon::run(loaded, again, service, stop.clone());
    let outcome = runtime.block_on(until_stopped(daemon, stop));
    // Whatever still blocks has had its time.
    runtime.shutdown_background();
    outcome
}

/// Reads the same sources once more whenever it is asked to; what they say by then is also told to
/// `told`.
pub(super) fn read_again(
    sources: Sources,
    told: impl Fn(&Loaded) + Send + Sync + 'static,
) -> ReadAgain {
    Arc::new(move || {
        let sources = Sources {
            nix_trusted_public_keys: nix_trusted_public_keys(),
            ..sources.clone()
        };
        let loaded = config::load(&sources).map_err(|error| error.to_string())?;
        told(&loaded);
        Ok(loaded)
    })
}

/// Runs something that lasts until it is told to stop, and tells it so at the first signal.
pub(super) async fn until_stopped(
    daemon: impl Future<Output = anyhow::Result<()>>,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    tokio::pin!(daemon);
    let outcome = tokio::select! {
        outcome = &mut daemon => outcome,
        _ = signals.next() => {
            stop.cancel();
            tokio::select! {
                outcome = tokio::time::timeout(STOP_DEADLINE, &mut daemon) => match outcome {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Failure::failed("not everything ended in time: ending anyway")),
                },
                code = signals.next() => {
                    let _unread = writeln!(io::stderr(), "peerix: second signal: ending at once");
                    std::process::exit(code);
                }
            }
        }
    };
    outcome
        .map(|()| Exit::Done)
        .map_err(|error| Failure::failed(format!("{error:#}")))
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    // The control socket's server acts on it; before that runs, it must not end the process.
    _hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one, and returns the exit code of a process that it killed.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 128 + SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => 128 + SignalKind::interrupt().as_raw_value(),
        }
    }
}
