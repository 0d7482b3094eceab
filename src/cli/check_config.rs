//! `peerix check-config`: the configuration as it is, and where each value came from.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::Args;

use super::{Exit, Failure, daemon::SourceArgs};
use crate::config::{self, Loaded, Shown, setting::Kind};

/// Column of the origins, in characters.
const WIDTH: usize = 44;

const EXAMPLES: &str = "\
Examples:
  peerix check-config
      what the daemon would be started with, and where each value comes from
  peerix check-config --config ./peerix.toml && sudo systemctl reload peerix
  peerix check-config --example > ~/.config/peerix/config.toml
      a file with every key, explained, each a comment with its default";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Print a configuration file that explains every key, and check nothing
    #[arg(long)]
    example: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: CheckConfigArgs) -> Result<Exit, Failure> {
    if args.example {
        io::stdout().write_all(config::example::example().as_bytes())?;
        return Ok(Exit::Done);
    }
    let loaded = args.sources.load()?;
    let text = if args.json {
        serde_json::to_string_pretty(&loaded.shown).map_err(io::Error::from)? + "\n"
    } else {
        as_text(&loaded)
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}

/// A file that says the same, each value with its origin as a comment.
fn as_text(loaded: &Loaded) -> String {
    let mut sections: Vec<&str> = loaded
        .shown
        .iter()
        .map(|shown| shown.section.as_str())
        .collect();
    // What stands before any section comes first, the others as they come.
    sections.sort_by_key(|section| !section.is_empty());
    sections.dedup();
    let mut seen = BTreeSet::new();
    let mut text = String::new();
    for section in sections.into_iter().filter(|section| seen.insert(*section)) {
        if !section.is_empty() {
            text.push_str(&format!("\n[{section}]\n"));
        }
        for shown in loaded.shown.iter().filter(|shown| shown.section == section) {
            text.push_str(&format!(
                "{:WIDTH$}  # {}\n",
                assignment(shown),
                shown.origin
            ));
        }
    }
    for name in &loaded.ignored_variables {
        text.push_str(&format!(
            "# {name} in the environment is no setting and was passed over\n"
        ));
    }
    text
}

fn assignment(shown: &Shown) -> String {
    let quoted: Vec<String> = shown
        .values
        .iter()
        .map(|value| toml::Value::from(value.as_str()).to_string())
        .collect();
    match (shown.kind, quoted.as_slice()) {
        (Kind::List, _) => format!("{} = [{}]", shown.key, quoted.join(", ")),
        (_, []) => format!("# {} is not set", shown.key),
        (Kind::Number | Kind::Duration | Kind::Switch, _) if is_plain(&shown.values) => {
            format!("{} = {}", shown.key, shown.values.join(""))
        }
        _ => format!("{} = {}", shown.key, quoted.join(", ")),
    }
}

/// Whether the value needs no quotes in TOML.
fn is_plain(values: &[String]) -> bool {
    values.iter().all(|value| {
        value == "true" || value == "false" || value.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Given, Layer, Origin, Sources, Surroundings, file, setting};

    fn load(flags: Layer) -> Loaded {
        let surroundings = Surroundings {
            home: Some("/home/a".into()),
            user_id: 1000,
            ..Surroundings::default()
        };
        config::load(&Sources {
            flags,
            surroundings,
            ..Sources::default()
        })
        .unwrap()
    }

    #[test]
    fn what_is_printed_is_a_file_that_says_the_same() {
        let mut flags = Layer::default();
        for (setting, value) in [
            (&setting::PORT, "1"),
            (&setting::TIMEOUT, "1min"),
            (&setting::NO_FILTER, "true"),
            (&setting::RELAY, "https://a.example"),
            (&setting::STORE, "local?root=/with \"quotes\""),
            (&setting::UPLOAD_LIMIT, "5MB"),
        ] {
            flags.set(
                setting,
                Given {
                    values: vec![value.to_owned()],
                    origin: Origin::Flag,
                },
            );
        }
        let loaded = load(flags);
        let text = as_text(&loaded);
        let again = load(file::parse("printed.toml".as_ref(), &text).unwrap());
        assert_eq!(
            format!("{:?}", again.config),
            format!("{:?}", loaded.config)
        );
        assert!(
            text.contains("port = 1 ") && text.contains("# command line"),
            "{text}"
        );
    }
}
