//! `peerix run -- CMD`: a daemon of its own for the time of a command, and Nix pointed at it.

mod child;
mod summary;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::Args;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Exit, Failure,
    daemon::{STOP_DEADLINE, SourceArgs, read_again},
    logging,
    nix_setup::NixSetup,
    output,
};
use crate::clock::unix_now;
use crate::{
    config::{self, Given, Loaded, Origin, setting, value::show_public_key},
    control::Client,
    report::TrafficReport,
    service::Service,
};

const EXAMPLES: &str = "\
Examples:
  peerix run -- nix build .#hello
  peerix run --peer peerixaa... --trusted-public-key builder-1:... -- nix-build
      from a machine that is known, and what its key signed
  peerix run --state-dir ~/.cache/peerix -- nix develop
      the same identity and what was downloaded before, each time

The daemon takes any free port, and a state directory that goes with it unless --state-dir names
one. The command gets NIX_CONFIG with this daemon among its substituters, beside what NIX_CONFIG
says already, and PEERIX_STATE_DIR, so that `peerix status` in it means this daemon. Signals are
passed on. Afterwards a summary on standard error tells what came from where.

Neither root nor a running daemon is needed. Where Nix works through its own daemon, that heeds
the substituters of trusted users alone: `nix store info` (`Trusted: 1`) and `peerix doctor` tell.

Exit codes:
  that of the command, or 128 and the number of the signal that ended it
  125  peerix itself failed, and the command was not run
  126  the command can't be run
  127  there is no such command";

/// peerix failed before the command ran.
const OURS: Exit = Exit::Like(125);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Write the summary in JSON
    #[arg(long)]
    json: bool,
    /// The command, and what it is given
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

pub(super) fn run(args: RunArgs) -> Result<Exit, Failure> {
    let ours = |failure: Failure| failure.with_exit(OURS);
    let prepared = prepare(args.sources).map_err(ours)?;
    let log = logging::start_for_command(
        prepared.loaded.config.verbose,
        prepared.loaded.config.log_format,
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| ours(error.into()))?;
    runtime.spawn(log.report_left_out());
    let outcome = runtime.block_on(beside_daemon(prepared, &args.command, args.json));
    runtime.shutdown_background();
    outcome
}

/// A configuration of a daemon that is in nobody's way.
struct Prepared {
    loaded: Loaded,
    sources: config::Sources,
    /// The state directory, where it is to go with the daemon.
    throw_away: Option<tempfile::TempDir>,
}

fn prepare(sources: SourceArgs) -> Result<Prepared, Failure> {
    let mut sources = sources.into_sources();
    let mut give = |setting, value: String| {
        let given = Given {
            values: vec![value],
            origin: Origin::Flag,
        };
        sources.flags.set_once(setting, given);
    };
    // Files and variables mean the daemon that always runs; flags mean this one.
    give(&setting::PORT, "0".to_owned());
    let mut throw_away = None;
    if sources.flags.get(&setting::STATE_DIR).is_none() {
        let directory = tempfile::Builder::new().prefix("peerix-").tempdir()?;
        let given = Given {
            values: vec![directory.path().display().to_string()],
            origin: Origin::Flag,
        };
        sources.flags.set(&setting::STATE_DIR, given);
        throw_away = Some(directory);
    }
    Ok(Prepared {
        loaded: config::load(&sources)?,
        sources,
        throw_away,
    })
}

async fn beside_daemon(
    prepared: Prepared,
    command: &[OsString],
    json: bool,
) -> Result<Exit, Failure> {
    let Prepared {
        loaded,
        sources,
        throw_away,
    } = prepared;
    // Before anything is there that a signal could leave behind.
    let signals = child::Signals::listen()?;
    let config = loaded.config.clone();
    let stop = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let again = read_again(sources, |_| {});
    let daemon = crate::daemon::run(loaded, again, Service::within(ready), stop.clone());
    let mut daemon = tokio::spawn(daemon);
    let address = tokio::select! {
        Ok(address) = is_ready => address,
        ended = &mut daemon => {
            let reason = match ended {
                Ok(Err(error)) => format!("{error:#}"),
                Ok(Ok(())) => "it ended".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(Failure::new(OURS, format!("no daemon for the command: {reason}")));
        }
    };
    let url = format!("http://{address}");
    let nix = NixSetup::read();
    if !nix.heeds(&url) {
        output::hint(&format!(
            "peerix: the Nix daemon may not ask {url}: {} is not among its trusted-users. \
             `nix store info` tells (`Trusted: 1`); root adds the user to trusted-users in nix.conf",
            nix.user.name
        ));
    }
    let environment = environment(&config, address);
    // A state directory that is kept knows of earlier commands.
    let before = traffic(&config).await.unwrap_or_default();
    let since = unix_now();
    let exit = child::run(command, environment, signals).await;
    if daemon.is_finished() {
        output::hint("peerix: the daemon ended before the command did: Nix went on without it");
    } else if let Some(traffic) = traffic(&config).await {
        let traffic = TrafficReport {
            since,
            ..traffic.after(&before)
        };
        summary::print(&traffic, json)?;
    }
    stop.cancel();
    if tokio::time::timeout(STOP_DEADLINE, daemon).await.is_err() {
        output::hint("peerix: not everything ended in time: ending anyway");
    }
    drop(throw_away);
    exit
}

/// What the daemon tells of its traffic until now, if it does.
async fn traffic(config: &config::Config) -> Option<TrafficReport> {
    let sockets = std::slice::from_ref(&config.control_socket);
    let client = Client::connect(sockets).await.ok()?;
    let report = client.full_report().await.ok()?;
    Some(report.traffic)
}

/// What the command finds in its environment beside ours.
fn environment(config: &config::Config, address: SocketAddr) -> Vec<(&'static str, OsString)> {
    let keys: Vec<String> = config
        .trusted_public_keys
        .iter()
        .map(show_public_key)
        .collect();
    let nix_config = nix_config(std::env::var("NIX_CONFIG").ok(), address, &keys);
    let state_dir: PathBuf = config.state_dir.clone();
    vec![
        ("NIX_CONFIG", nix_config.into()),
        ("PEERIX_STATE_DIR", state_dir.into_os_string()),
    ]
}

fn nix_config(before: Option<String>, address: SocketAddr, keys: &[String]) -> String {
    let mut text = before.unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("extra-substituters = http://{address}\n"));
    if !keys.is_empty() {
        text.push_str(&format!("extra-trusted-public-keys = {}\n", keys.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nix_config_says_already_stays() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        assert_eq!(
            nix_config(
                Some("cores = 2".to_owned()),
                address,
                &["a-1:AAAA".to_owned()]
            ),
            "cores = 2\nextra-substituters = http://127.0.0.1:4711\nextra-trusted-public-keys = a-1:AAAA\n"
        );
        assert_eq!(
            nix_config(None, address, &[]),
            "extra-substituters = http://127.0.0.1:4711\n"
        );
    }
}
