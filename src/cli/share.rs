//! `peerix share`, `unshare`, `shared` and `ticket`.

use std::time::Duration;

use clap::Args;
use peerix_store::nix::StorePath;

use super::{DaemonChoice, Exit, Failure, examples, output, progress::Steps, store_path};
use crate::control::{Client, ClientError, OperationError, ShareHow, Shared};

const EXAMPLES: &str = "\
Examples:
  peerix share ./result
      what you just built, and all that it needs at run time
  peerix share $(which hello)
  TICKET=$(peerix share --yes ./result | tail -n 1)

The ticket is the last word of standard output. Whoever has it can fetch these paths from
this machine while its daemon runs: `peerix get TICKET`. They are kept from Nix's garbage
collector until `peerix unshare`.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShareArgs {
    /// Store paths, anything in them, or links to them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Share also what no public cache has, and make a key for what nobody has signed, without asking
    #[arg(long, short)]
    yes: bool,
    /// Share with those alone who have the ticket; nothing of it is announced
    #[arg(long)]
    private: bool,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

#[derive(Debug, Args)]
#[command(after_help = examples::UNSHARE)]
pub(super) struct UnshareArgs {
    /// Store paths that were shared, or links to them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

pub(super) async fn share(args: &ShareArgs) -> Result<Exit, Failure> {
    let paths = resolve_all(&args.paths)?;
    let client = args.daemon.connect().await?;
    let how = ShareHow {
        yes: args.yes,
        private: args.private,
    };
    let shared = match ask_to_share(&client, &paths, how).await {
        Err(ClientError::Operation(OperationError::Unconfirmed {
            paths: unconfirmed,
            makes_key,
        })) if output::is_attended() => {
            if !confirm(&unconfirmed, makes_key)? {
                return Err(Failure::new(Exit::Unconfirmed, "nothing was shared"));
            }
            ask_to_share(&client, &paths, ShareHow { yes: true, ..how }).await?
        }
        other => other?,
    };
    if args.daemon.json {
        output::json(&shared)?;
    } else {
        let (closure, bytes) = (
            output::count(shared.closure_paths, "path"),
            output::size(shared.closure_bytes),
        );
        output::hint(&format!(
            "Shared {closure}, {bytes}. On another machine: peerix get TICKET, which is"
        ));
        output::line(&shared.ticket)?;
    }
    Ok(Exit::Done)
}

async fn ask_to_share(
    client: &Client,
    paths: &[StorePath],
    how: ShareHow,
) -> Result<Shared, ClientError> {
    let mut steps = Steps::default();
    client.share(paths, how, |step| steps.show(&step)).await
}

/// Paths that are shown before a person is asked about them.
const SHOWN_PATHS: usize = 10;

fn confirm(unconfirmed: &[String], makes_key: bool) -> Result<bool, Failure> {
    if !unconfirmed.is_empty() {
        output::hint("No public cache has these:");
    }
    for path in unconfirmed.iter().take(SHOWN_PATHS) {
        output::hint(&format!("  {path}"));
    }
    if unconfirmed.len() > SHOWN_PATHS {
        output::hint(&format!("  and {} more", unconfirmed.len() - SHOWN_PATHS));
    }
    if makes_key {
        output::hint(
            "Nobody has signed some of it: a key of this machine is made, in its state directory, and the ticket carries the public half.",
        );
    }
    output::ask("Share with whoever has the ticket?")
}

pub(super) async fn unshare(args: &UnshareArgs) -> Result<Exit, Failure> {
    let paths = resolve_all(&args.paths)?;
    args.daemon.connect().await?.unshare(&paths).await?;
    if args.daemon.json {
        output::json(
            &paths
                .iter()
                .map(StorePath::to_absolute_path)
                .collect::<Vec<_>>(),
        )?;
    }
    Ok(Exit::Done)
}

pub(super) async fn shared(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let shared = choice.connect().await?.shared().await?;
    if choice.json {
        output::json(&shared)?;
        return Ok(Exit::Done);
    }
    if shared.is_empty() {
        output::hint("Nothing is shared. `peerix share PATH` shares something.");
    }
    for path in &shared {
        let (time, closure) = (
            output::time(Duration::from_secs(path.shared_at)),
            output::count(path.closure_paths, "path"),
        );
        let private = if path.private { "  private" } else { "" };
        output::line(&format!("{}  {time}  {closure}{private}", path.store_path))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn ticket(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let ticket = choice.connect().await?.ticket().await?;
    if choice.json {
        output::json(&serde_json::json!({ "ticket": ticket }))?;
    } else {
        output::line(&ticket)?;
    }
    Ok(Exit::Done)
}

fn resolve_all(texts: &[String]) -> Result<Vec<StorePath>, Failure> {
    texts.iter().map(|text| store_path::resolve(text)).collect()
}
