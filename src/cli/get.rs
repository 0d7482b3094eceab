//! `peerix get`: store paths from peers into Nix's store, or one NAR into a file.

use std::path::{Path, PathBuf};

use clap::Args;
use peerix_store::nix::StorePath;

use super::{DaemonChoice, Exit, Failure, output, store_path};
use crate::{
    config::value::show_public_key,
    ticket::{Ticket, TicketError},
    trust::nix_conf::NixConf,
};

mod nar_file;
mod nix;
mod substituter;

use substituter::Substituter;

const EXAMPLES: &str = "\
Examples:
  peerix get peerixaa...
      all that the ticket names, with what it needs
  peerix get --out-link hello /nix/store/...-hello-2.12
      from any known peer, kept from the garbage collector by the link ./hello
  peerix get --output hello.nar peerixaa...
      the NAR of one path as a file, checked, without Nix; a file begun before is continued

It is Nix that installs, with Nix's own checks: a path has to be signed by a key that it
trusts. What only its sharer has signed comes with a key in the ticket; you are asked whether
to trust it for this one command (a Nix daemon heeds that from its trusted users alone). The configured substituters stay; what peers don't have comes from those.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GetArgs {
    /// Tickets and store paths
    #[arg(required = true, value_name = "TICKET|PATH")]
    wanted: Vec<String>,
    /// Write the NAR of the one path to FILE, without installing anything
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "out_link", "nix_options"])]
    output: Option<PathBuf>,
    /// The Nix store to install to, as Nix's own --store [default: the one that the daemon reads]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Keep the paths from the garbage collector by this symbolic link
    #[arg(long, value_name = "LINK")]
    out_link: Option<PathBuf>,
    /// Trust the key that a ticket carries, for this command, without asking
    #[arg(long, short)]
    yes: bool,
    /// Further options for nix-store
    #[arg(last = true, value_name = "NIX OPTIONS")]
    nix_options: Vec<String>,
    #[command(flatten)]
    pub(super) daemon: DaemonChoice,
}

pub(super) async fn get(args: &GetArgs) -> Result<Exit, Failure> {
    let wanted = wanted(&args.wanted)?;
    if let (Some(_), 2..) = (&args.output, wanted.paths.len()) {
        return Err(Failure::usage(
            "--output takes one path: name it beside the ticket's",
        ));
    }
    let client = args.daemon.connect().await?;
    let keys = confirmed_keys(&wanted.keys, args.yes)?;
    let mut trusted = Vec::new();
    for key in &keys {
        trusted.push(client.trust(key).await?);
    }
    for ticket in &wanted.tickets {
        client.add_peer(ticket).await?;
    }
    let daemon = client.daemon().await?;
    let substituter = Substituter::new(daemon.http_address)?;
    if !wanted.tickets.is_empty() {
        substituter.wait_for(&wanted.paths).await;
    }
    match (&args.output, wanted.paths.as_slice()) {
        (Some(file), [path]) => {
            let written = nar_file::fetch(&substituter, path, file).await?;
            if args.daemon.json {
                output::json(&written)?;
            } else {
                output::line(&path.to_absolute_path())?;
            }
            Ok(Exit::Done)
        }
        _ => {
            let options = nix::Options {
                substituter: substituter.url().to_owned(),
                store: args
                    .store
                    .clone()
                    .or(Some(daemon.store_uri).filter(|uri| uri != "auto")),
                out_link: args.out_link.clone(),
                keys,
                others: args.nix_options.clone(),
            };
            let exit = nix::realise(&wanted.paths, &options).await?;
            if args.daemon.json && exit == Exit::Done {
                output::json(
                    &wanted
                        .paths
                        .iter()
                        .map(StorePath::to_absolute_path)
                        .collect::<Vec<_>>(),
                )?;
            }
            Ok(exit)
        }
    }
}

/// What a command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    tickets: Vec<String>,
    paths: Vec<StorePath>,
    /// Keys that tickets carry, `NAME:BASE64`.
    keys: Vec<String>,
}

/// The keys of tickets that Nix doesn't trust yet and a person does, for now.
///
/// # Errors
/// [`Exit::Unconfirmed`] where nobody says yes: what they signed could not be installed.
fn confirmed_keys(keys: &[String], yes: bool) -> Result<Vec<String>, Failure> {
    let known = NixConf::from_variables(|name| std::env::var_os(name)).trusted_public_keys();
    let is_known = |key: &String| {
        known
            .keys
            .iter()
            .any(|known| show_public_key(known) == *key)
    };
    let strangers: Vec<String> = keys.iter().filter(|key| !is_known(key)).cloned().collect();
    if strangers.is_empty() || yes {
        return Ok(strangers);
    }
    output::hint("Some of it is signed by nobody but the machine that shares it, with the key");
    for key in &strangers {
        output::hint(&format!("  {key}"));
    }
    if !output::is_attended() {
        return Err(Failure::new(
            Exit::Unconfirmed,
            "--yes trusts the key for this command; do so if you trust whoever gave you the ticket with what you run",
        ));
    }
    match output::ask("Trust it for this command? Whoever holds it decides what you install")? {
        true => Ok(strangers),
        false => Err(Failure::new(Exit::Unconfirmed, "nothing was fetched")),
    }
}

/// Tells tickets from store paths. Paths named beside a ticket are taken instead of the ticket's.
fn wanted(texts: &[String]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::default();
    let mut paths_of_tickets = Vec::new();
    for text in texts {
        let path = Path::new(text);
        let is_path = text.contains('/')
            || StorePath::from_basename(text.as_bytes()).is_ok()
            || path.is_symlink();
        if is_path {
            add(&mut wanted.paths, store_path::resolve(text)?);
            continue;
        }
        let ticket: Ticket = text
            .parse()
            .map_err(|error: TicketError| Failure::failed(error.to_string()))?;
        for path in ticket.paths {
            add(&mut paths_of_tickets, path);
        }
        let key = ticket.key.as_ref().map(show_public_key);
        wanted.keys.extend(key);
        wanted.tickets.push(text.trim().to_owned());
    }
    if wanted.paths.is_empty() {
        wanted.paths = paths_of_tickets;
    }
    if wanted.paths.is_empty() {
        return Err(Failure::failed(
            "this ticket names a peer and no path: give a store path beside it, or a ticket that `peerix share` printed",
        ));
    }
    Ok(wanted)
}

fn add(paths: &mut Vec<StorePath>, path: StorePath) {
    if !paths.contains(&path) {
        paths.push(path);
    }
}

#[cfg(test)]
mod tests {
    use iroh::{EndpointAddr, SecretKey};

    use super::*;

    const PATH: &str = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello";
    const OTHER: &str = "/nix/store/27bh691vzkqk8hv1i7xiaqff85b85br3-other";

    fn path(text: &str) -> StorePath {
        StorePath::from_absolute_path(text.as_bytes()).unwrap()
    }

    fn ticket(paths: &[&str]) -> String {
        let addr = EndpointAddr::new(SecretKey::from_bytes(&[1; 32]).public());
        Ticket::new(addr, paths.iter().map(|text| path(text)).collect()).to_string()
    }

    fn split(texts: &[&str]) -> Result<Wanted, Failure> {
        wanted(
            &texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_ticket_brings_its_paths_unless_others_are_named() {
        let ticket = ticket(&[PATH, PATH]);
        assert_eq!(
            split(&[&ticket]).unwrap(),
            Wanted {
                tickets: vec![ticket.clone()],
                paths: vec![path(PATH)],
                keys: vec![],
            }
        );
        assert_eq!(split(&[&ticket, OTHER]).unwrap().paths, [path(OTHER)]);
        assert_eq!(
            split(&[PATH]).unwrap(),
            Wanted {
                tickets: vec![],
                paths: vec![path(PATH)],
                keys: vec![],
            }
        );
    }

    #[test]
    fn what_names_no_path_says_what_is_missing() {
        let error = |text: &str| split(&[text]).unwrap_err().message().to_owned();
        assert!(error(&ticket(&[])).contains("names a peer and no path"));
        assert!(error("endpointaaaa").contains("iroh endpoint ticket"));
        assert!(error(&ticket(&[PATH])[..40]).contains("cut short or mistyped"));
    }
}
