//! `peerix key`: the keys of a machine, which need no daemon to be made.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Exit, Failure, examples, output, surroundings};
use crate::{
    config::value::show_public_key,
    daemon::default_key_name,
    signing::SigningKey,
    state_dir::{StateDir, write_secret_file},
};

const EXAMPLES: &str = "\
Examples:
  peerix key generate --state-dir ./laptop7
      the keys of a machine that is yet to be installed: its endpoint id for --allow-peer and
      --peer, its public key for trusted-public-keys; the directory becomes its state directory
  peerix key generate --output ./cache.key --name cache.example.org-1
      a signing key for --private-key

An endpoint is known by its id, which is the public half of a key of its own. A signing key is
another one: it signs store paths. Secret halves are never printed.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make what is missing of endpoint key and signing key
    Generate(GenerateArgs),
    /// Print endpoint id and public key
    Show(ShowArgs),
    /// Replace the signing key, or the endpoint's, by a new one; the daemon has to be stopped
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
struct Place {
    /// The state directory [default: that of this user's daemon]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::KEY_GENERATE)]
struct GenerateArgs {
    /// The signing key's name [default: the host's name and -1]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write a signing key to this new file, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = examples::KEY_SHOW)]
struct ShowArgs {
    /// A file with a signing key, in place of a state directory
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = examples::KEY_ROTATE)]
struct RotateArgs {
    /// Become another endpoint instead: tickets and lists that name the old id lead nowhere then
    #[arg(long)]
    identity: bool,
    /// The new signing key's name [default: the old one with the next number]
    #[arg(long, value_name = "NAME", conflicts_with = "identity")]
    name: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// The public halves.
#[derive(Debug, Default, serde::Serialize)]
struct Public {
    endpoint_id: Option<String>,
    public_key: Option<String>,
}

impl Public {
    fn of(state_dir: &StateDir) -> Result<Self, Failure> {
        let key = state_dir.host_key().map_err(failed)?;
        Ok(Self {
            endpoint_id: Some(state_dir.secret_key().map_err(failed)?.public().to_string()),
            public_key: key.map(|key| show_public_key(key.public())),
        })
    }

    fn print(&self, json: bool) -> Result<Exit, Failure> {
        if json {
            output::json(self)?;
            return Ok(Exit::Done);
        }
        for (name, value) in [
            ("endpoint id", &self.endpoint_id),
            ("public key", &self.public_key),
        ] {
            if let Some(value) = value {
                output::line(&format!("{name:12} {value}"))?;
            }
        }
        Ok(Exit::Done)
    }
}

pub(super) fn run(args: KeyArgs) -> Result<Exit, Failure> {
    match args.command {
        KeyCommand::Generate(args) => generate(&args),
        KeyCommand::Show(args) => show(&args),
        KeyCommand::Rotate(args) => rotate(&args),
    }
}

fn generate(args: &GenerateArgs) -> Result<Exit, Failure> {
    let name = args.name.clone().unwrap_or_else(default_key_name);
    if let Some(file) = &args.output {
        let key = SigningKey::generate(&name).map_err(failed)?;
        write_secret_file(file, key.to_secret_line().as_bytes())
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
        return Public {
            public_key: Some(show_public_key(key.public())),
            ..Public::default()
        }
        .print(args.place.json);
    }
    let state_dir = args.place.open()?;
    if state_dir.host_key().map_err(failed)?.is_none() {
        let key = SigningKey::generate(&name).map_err(failed)?;
        state_dir.set_host_key(&key).map_err(failed)?;
    }
    Public::of(&state_dir)?.print(args.place.json)
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    if let Some(file) = &args.file {
        let key = SigningKey::load(file).map_err(failed)?;
        return Public {
            public_key: Some(show_public_key(key.public())),
            ..Public::default()
        }
        .print(args.place.json);
    }
    let (endpoint, signing) = StateDir::public_halves(&args.place.path()?).map_err(failed)?;
    if endpoint.is_none() && signing.is_none() {
        return Err(Failure::failed(
            "there are no keys yet: `peerix key generate` makes them, and so does the first start of the daemon",
        ));
    }
    Public {
        endpoint_id: endpoint.map(|id| id.to_string()),
        public_key: signing.map(|key| show_public_key(&key)),
    }
    .print(args.place.json)
}

fn rotate(args: &RotateArgs) -> Result<Exit, Failure> {
    let state_dir = args.place.open()?;
    if args.identity {
        state_dir.new_identity().map_err(failed)?;
    } else {
        let old = state_dir.host_key().map_err(failed)?;
        let name = match (&args.name, &old) {
            (Some(name), _) => name.clone(),
            (None, Some(old)) => next_name(old.name()),
            (None, None) => default_key_name(),
        };
        let key = SigningKey::generate(&name).map_err(failed)?;
        state_dir.set_host_key(&key).map_err(failed)?;
    }
    Public::of(&state_dir)?.print(args.place.json)
}

/// `laptop-1` becomes `laptop-2`: Nix takes two keys of one name for one.
fn next_name(name: &str) -> String {
    match name.rsplit_once('-') {
        Some((host, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number: u64 = number.parse().unwrap_or_default();
            format!("{host}-{}", number.saturating_add(1))
        }
        _ => format!("{name}-2"),
    }
}

impl Place {
    fn path(&self) -> Result<PathBuf, Failure> {
        let surroundings = surroundings::read();
        let variable = surroundings.variable("PEERIX_STATE_DIR").map(PathBuf::from);
        match self.state_dir.clone().or(variable) {
            Some(given) => Ok(std::path::absolute::<&Path>(&given)?),
            None => Ok(surroundings.default_state_dir()?.0),
        }
    }

    fn open(&self) -> Result<StateDir, Failure> {
        StateDir::open(&self.path()?).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_key_has_another_name() {
        assert_eq!(next_name("laptop-1"), "laptop-2");
        assert_eq!(next_name("cache.example.org-9"), "cache.example.org-10");
        assert_eq!(next_name("laptop"), "laptop-2");
        assert_eq!(next_name("my-laptop"), "my-laptop-2");
    }
}
