//! `peerix why`: what keeps a path from being found or given, or from where it came.

use std::time::Duration;

use clap::Args;

use super::{
    DaemonChoice, Exit, Failure,
    output::{self, Colour},
    store_path,
};
use crate::why::{Answer, Event, Noted, Verdict, WhyReport};

const EXAMPLES: &str = "\
Examples:
  peerix why /nix/store/...-hello-2.12
  peerix why ./result
      why peers are not given what was built here, too

It asks now whoever would be asked for Nix, waits longer than Nix would, and tells each answer. What
became of the path lately is told as far back as the daemon remembers, which is in memory alone.

Exit codes:
  0  Nix would be told of the path
  6  it would not";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WhyArgs {
    /// A store path, anything in it, or a link to it
    #[arg(value_name = "PATH")]
    path: String,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

pub(super) async fn why(args: &WhyArgs) -> Result<Exit, Failure> {
    let path = store_path::resolve(&args.path)?;
    let report = args.daemon.connect().await?.why((&path).into()).await?;
    if args.daemon.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(match report.conclusion.yes {
        true => Exit::Done,
        false => Exit::NotFound,
    })
}

fn print(report: &WhyReport) -> Result<(), Failure> {
    let name = report.store_path.as_ref().unwrap_or(&report.hash);
    output::line(name)?;
    row("for Nix", &verdict(&report.conclusion))?;
    match &report.here {
        None => row("here", "no")?,
        Some(place) => row("here", place)?,
    }
    if let Some(told) = &report.told_to_nix {
        row("own copy", &verdict(told))?;
    }
    if let Some(offered) = &report.offered {
        row("for peers", &verdict(offered))?;
        row("announced", if report.announced { "yes" } else { "no" })?;
    }
    for (number, answer) in report.answers.iter().enumerate() {
        row(if number == 0 { "asked now" } else { "" }, &said(answer))?;
    }
    for (number, noted) in report.recent.iter().enumerate() {
        row(if number == 0 { "lately" } else { "" }, &became(noted))?;
    }
    Ok(())
}

fn row(name: &str, text: &str) -> Result<(), Failure> {
    output::line(&format!("  {name:10} {text}"))
}

fn verdict(verdict: &Verdict) -> String {
    let (word, colour) = match verdict.yes {
        true => ("yes", Colour::Green),
        false => ("no", Colour::Red),
    };
    format!(
        "{}: {}",
        output::in_colour(colour, word),
        output::plain(&verdict.reason)
    )
}

fn said(answer: &Answer) -> String {
    let who = match answer.who.len() {
        64 => answer.who.get(..10).unwrap_or_default(),
        _ => &answer.who,
    };
    let mut text = format!("{who}: {}", output::plain(&answer.answer));
    if let Some(took_ms) = answer.took_ms {
        text.push_str(&output::in_colour(
            Colour::Grey,
            &format!(" ({took_ms:.0} ms)"),
        ));
    }
    if let Some(expected) = &answer.expected {
        text.push_str(&format!("; {expected}"));
    }
    if let Some(verdict) = answer.trusted.as_ref().filter(|verdict| !verdict.yes) {
        text.push_str(&format!(
            "; not believed: {}",
            output::plain(&verdict.reason)
        ));
    }
    text
}

fn became(noted: &Noted) -> String {
    let at = Duration::try_from_secs_f64(noted.at).unwrap_or_default();
    let what = match &noted.event {
        Event::Looked { found, took_ms } => {
            let outcome = if *found {
                "was told of it"
            } else {
                "was told that it is not here"
            };
            format!("Nix asked, and {outcome} ({took_ms:.0} ms)")
        }
        Event::Opened { found: true } => "Nix fetched it".to_owned(),
        Event::Opened { found: false } => "Nix wanted to fetch it, and nobody had it".to_owned(),
        Event::Asked { peer, answer } => {
            format!(
                "peer {} asked: {}",
                output::plain(peer),
                output::plain(answer)
            )
        }
    };
    format!("{}  {what}", output::time(at))
}
