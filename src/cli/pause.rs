//! `peerix pause` and `resume`.

use clap::Args;

use super::{DaemonChoice, Exit, Failure};
use crate::config::value;

const EXAMPLES: &str = "\
Examples:
  peerix pause --for 2h
  peerix pause
      until `peerix resume`, over restarts too

What is paused is uploading alone: this machine's own Nix is served, and fetches, as before, and the
swarm is told of what is here.
`peerix scan --pause` keeps hashing in the background quiet.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PauseArgs {
    /// How long, as 90s, 10min or 2h [default: until `peerix resume`]
    #[arg(long = "for", value_name = "DURATION", value_parser = value::duration)]
    duration: Option<std::time::Duration>,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

pub(super) async fn pause(args: &PauseArgs) -> Result<Exit, Failure> {
    let seconds = args.duration.map(|duration| duration.as_secs());
    args.daemon.connect().await?.pause_uploads(seconds).await?;
    Ok(Exit::Done)
}

pub(super) async fn resume(choice: &DaemonChoice) -> Result<Exit, Failure> {
    choice.connect().await?.resume_uploads().await?;
    Ok(Exit::Done)
}
