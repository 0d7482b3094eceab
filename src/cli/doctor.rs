//! `peerix doctor`: what keeps peerix from being of use on this machine, and what to do about it.

mod machine;
mod network;
mod nix;
mod ports;

use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure,
    daemon::SourceArgs,
    logging,
    output::{self, Colour},
};
use crate::{
    config::{self, Config},
    control::{Client, ClientError, DaemonInfo},
    report::Report,
};

const EXAMPLES: &str = "\
Examples:
  peerix doctor
      as the user who runs the daemon; as another one, what that one's commands meet
  peerix doctor --json | jq '.[] | select(.outcome != \"ok\")'

It takes the flags of `peerix daemon`, so that what is planned can be looked at before it is
started. It asks over the network: relays, upstream caches and trackers, as configured.

Exit codes:
  0  nothing is broken (there may be warnings)
  1  something is";

/// Column of what a finding says, in characters.
const WIDTH: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Warning,
    Failure,
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    outcome: Outcome,
    /// What was found, on one line.
    message: String,
    /// What a person can do.
    todo: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Finding {
            name,
            outcome: Outcome::Ok,
            message: message.into(),
            todo: None,
        }
    }

    fn warning(name: &'static str, message: impl Into<String>, todo: impl Into<String>) -> Self {
        Finding {
            outcome: Outcome::Warning,
            todo: Some(todo.into()),
            ..Finding::ok(name, message)
        }
    }

    fn failure(name: &'static str, message: impl Into<String>, todo: impl Into<String>) -> Self {
        Finding {
            outcome: Outcome::Failure,
            ..Finding::warning(name, message, todo)
        }
    }
}

/// The daemon, where one answers.
struct Running {
    info: DaemonInfo,
    report: Report,
}

pub(super) fn run(args: DoctorArgs) -> Result<Exit, Failure> {
    let sources = args.sources.into_sources();
    let loaded = config::load(&sources);
    logging::start_client(loaded.as_ref().is_ok_and(|loaded| loaded.config.verbose));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let findings = match loaded {
        Ok(loaded) => runtime.block_on(examine(&loaded.config, &sources)),
        Err(error) => vec![Finding::failure(
            "configuration",
            error.to_string(),
            "correct it; `peerix check-config` tells when it is right, and `peerix doctor` the rest",
        )],
    };
    runtime.shutdown_background();
    print(&findings, args.json)?;
    let is_broken = findings
        .iter()
        .any(|finding| finding.outcome == Outcome::Failure);
    Ok(if is_broken { Exit::Failed } else { Exit::Done })
}

async fn examine(config: &Config, sources: &config::Sources) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("configuration", "it can be used")];
    let running = daemon(config, sources, &mut findings).await;
    let port = running
        .as_ref()
        .map_or(config.http_port, |running| running.info.http_address.port());
    if running.is_none() {
        findings.extend(ports::examine(config));
    }
    findings.extend(nix::examine(port));
    findings.extend(machine::database(config, running.as_ref()).await);
    findings.extend(machine::disk(config));
    findings.extend(network::examine(config, running.as_ref()).await);
    findings
}

/// Looks for the daemon that this configuration means: where it would listen, or where commands
/// look for it.
async fn daemon(
    config: &Config,
    sources: &config::Sources,
    findings: &mut Vec<Finding>,
) -> Option<Running> {
    const NAME: &str = "daemon";
    let mut sockets = vec![config.control_socket.clone()];
    let given = sources.flags.get(&config::setting::STATE_DIR).is_some();
    if !given {
        sockets.extend(sources.surroundings.control_sockets(None));
    }
    let asked = async {
        let client = Client::connect(&sockets).await?;
        Ok::<_, ClientError>(Running {
            info: client.daemon().await?,
            report: client.full_report().await?,
        })
    };
    match asked.await {
        Ok(running) => {
            findings.push(describe(&running));
            Some(running)
        }
        Err(ClientError::NoDaemon { .. }) => {
            findings.push(Finding::warning(
                NAME,
                "none runs",
                "`peerix daemon`, or `systemctl start peerix`, starts one",
            ));
            None
        }
        Err(error) => {
            findings.push(Finding::failure(
                NAME,
                error.to_string(),
                "restart it, so that daemon and command are of one version",
            ));
            None
        }
    }
}

fn describe(running: &Running) -> Finding {
    let (info, node) = (&running.info, &running.report.node);
    let ours = crate::VERSION;
    let what = format!(
        "{} at http://{} (pid {}), {} known, {} connected",
        info.version,
        info.http_address,
        info.process_id,
        output::count(node.known_peers as u64, "peer"),
        node.connected_peers
    );
    if info.version != ours {
        return Finding::warning(
            "daemon",
            format!("{what}; this command is {ours}"),
            "restart the daemon",
        );
    }
    if node.known_peers == 0 {
        return Finding::warning(
            "daemon",
            what,
            "nobody is known yet: `peerix get TICKET`, --peer, --tracker or --lan-discovery",
        );
    }
    Finding::ok("daemon", what)
}

fn print(findings: &[Finding], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&findings);
    }
    for finding in findings {
        let (word, colour) = match finding.outcome {
            Outcome::Ok => ("ok     ", Colour::Green),
            Outcome::Warning => ("warning", Colour::Yellow),
            Outcome::Failure => ("FAILURE", Colour::Red),
        };
        let word = output::in_colour(colour, word);
        output::line(&format!(
            "{word}  {:WIDTH$}{}",
            finding.name, finding.message
        ))?;
        if let Some(todo) = &finding.todo {
            let indent = WIDTH + 9;
            output::line(&format!("{:indent$}-> {todo}", ""))?;
        }
    }
    Ok(())
}
