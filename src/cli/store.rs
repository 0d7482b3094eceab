//! `peerix verify`, `forget` and `store stats`.

use clap::{Args, Subcommand};

use super::{DaemonChoice, Exit, Failure, examples, output, progress::Steps, store_path};

#[derive(Debug, Args)]
#[command(after_help = examples::FORGET)]
pub(super) struct ForgetArgs {
    /// Store paths
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    pub(super) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Tell what the daemon holds and what space it takes
    #[command(after_help = examples::STORE_STATS)]
    Stats(DaemonChoice),
}

#[derive(Debug, Args)]
#[command(after_help = examples::SCAN)]
pub(super) struct ScanArgs {
    /// Don't hash in the background, until --resume or a restart
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Hash in the background again
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

/// Reads all again; a report of what was wrong is a failure.
pub(super) async fn verify(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let client = choice.connect().await?;
    let mut steps = Steps::default();
    let summary = client.verify(|step| steps.show(&step)).await?;
    drop(steps);
    if choice.json {
        output::json(&summary)?;
    } else {
        for dropped in &summary.dropped {
            let name = dropped.store_path.as_ref().unwrap_or(&dropped.blob_hash);
            output::line(&format!("{name}  {}", dropped.reason))?;
        }
        output::line(&format!(
            "{} right ({}), {} wrong and no longer offered",
            output::count(summary.right, "NAR"),
            output::size(summary.bytes),
            summary.dropped.len()
        ))?;
    }
    if summary.dropped.is_empty() {
        Ok(Exit::Done)
    } else {
        Ok(Exit::Failed)
    }
}

pub(super) async fn forget(args: &ForgetArgs) -> Result<Exit, Failure> {
    let paths: Vec<_> = args
        .paths
        .iter()
        .map(|text| store_path::resolve(text))
        .collect::<Result<_, _>>()?;
    let forgotten = args.daemon.connect().await?.forget(&paths).await?;
    if args.daemon.json {
        output::json(&forgotten)?;
        return Ok(Exit::Done);
    }
    for path in paths.iter().map(|path| path.to_absolute_path()) {
        if !forgotten.contains(&path) {
            output::hint(&format!("Nothing was known of {path}."));
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn stats(choice: &DaemonChoice) -> Result<Exit, Failure> {
    let stats = choice.connect().await?.report("store").await?;
    if choice.json {
        output::json(&stats)?;
        return Ok(Exit::Done);
    }
    for (name, value) in stats.as_object().into_iter().flatten() {
        let value = match (value.as_u64(), value.as_str()) {
            (Some(bytes), _) if name.ends_with("_bytes") => output::size(bytes),
            (Some(number), _) => number.to_string(),
            (None, Some(text)) => text.to_owned(),
            (None, None) => continue,
        };
        let name = name.trim_end_matches("_bytes").replace('_', " ");
        output::line(&format!("{name:24} {value}"))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn scan(args: &ScanArgs) -> Result<Exit, Failure> {
    let choice = &args.daemon;
    if args.pause || args.resume {
        choice.connect().await?.pause(args.pause).await?;
        return Ok(Exit::Done);
    }
    super::report::scan(choice).await
}
