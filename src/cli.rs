//! The command line. The one part of the library that reads the environment and uses the terminal.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

mod check_config;
mod daemon;
mod doctor;
mod examples;
mod failure;
mod flags;
mod get;
mod key;
mod logging;
mod man;
mod nix_setup;
mod output;
mod pause;
mod progress;
mod report;
mod run;
mod share;
mod store;
mod store_path;
mod surroundings;
mod top;
mod tracker;
mod why;

use failure::{Exit, Failure};

use crate::control::Client;

const LONG_ABOUT: &str = "\
A peer-to-peer binary cache for Nix.

`peerix daemon` serves the NARs of this machine's Nix store to peers, and is a
substituter for this machine's Nix at http://127.0.0.1:12304 that fetches from
them. The other commands talk to the running daemon.";

const EXAMPLES: &str = "\
Examples:
  On one machine, offer something that you built; its last word is a ticket:
    peerix daemon &
    peerix share ./result

  On another machine, install it:
    peerix daemon &
    peerix get peerixaa...

  Let Nix ask peerix for everything: in nix.conf
    extra-substituters = http://127.0.0.1:12304

Commands that answer take --json. Colours and progress bars are for terminals alone; NO_COLOR and
CLICOLOR_FORCE are heeded.

Exit codes:
  0  done
  1  failed; one line on standard error says why and what to do
  2  wrong usage
  3  no daemon answers
  4  a confirmation is needed: run it on a terminal, or with --yes
  5  the daemon refuses: it is not allowed, or makes no sense there
  6  not found: Nix would not be told of the path (`peerix why`)
  `peerix get` ends with Nix's own exit code once Nix was run, `peerix run` with its command's.";

const COMPLETIONS: &str = "\
Examples:
  peerix completions bash > ~/.local/share/bash-completion/completions/peerix
  peerix completions zsh > ~/.zfunc/_peerix
  peerix completions fish > ~/.config/fish/completions/peerix.fish";

/// A peer-to-peer binary cache for Nix
#[derive(Debug, Parser)]
#[command(name = "peerix", version = crate::VERSION, long_about = LONG_ABOUT, after_help = EXAMPLES, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve this machine's Nix store to peers, and peers' to this machine's Nix
    Daemon(daemon::DaemonArgs),
    /// Tell peers who is there and who has which store path
    Tracker(tracker::TrackerArgs),
    /// Offer store paths with all that they need, and print a ticket for them
    Share(share::ShareArgs),
    /// Take back what was shared
    Unshare(share::UnshareArgs),
    /// List what was shared
    #[command(after_help = examples::SHARED)]
    Shared(DaemonChoice),
    /// Print this machine's own ticket, for `--peer` on another one
    #[command(after_help = examples::TICKET)]
    Ticket(DaemonChoice),
    /// Install store paths from peers
    Get(get::GetArgs),
    /// Run a command whose Nix fetches from peers, through a daemon of its own
    Run(run::RunArgs),
    /// Tell how the daemon is
    #[command(after_help = examples::STATUS)]
    Status(DaemonChoice),
    /// Show transfers, traffic and peers as they are, on a terminal
    Top(top::TopArgs),
    /// Tell why a path is found or not, and given to peers or not
    Why(why::WhyArgs),
    /// List the peers that the daemon knows
    #[command(after_help = examples::PEERS)]
    Peers(DaemonChoice),
    /// Have the daemon look through the whole store now, or pause its hashing in the background
    Scan(store::ScanArgs),
    /// Upload nothing for a while
    Pause(pause::PauseArgs),
    /// Upload again
    #[command(after_help = examples::RESUME)]
    Resume(DaemonChoice),
    /// Read again all that the daemon holds, and drop what is gone or wrong
    #[command(after_help = examples::VERIFY)]
    Verify(DaemonChoice),
    /// Forget the hashes of store paths, and remove what was downloaded of them
    Forget(store::ForgetArgs),
    /// Look into the daemon's own store
    Store(store::StoreArgs),
    /// Make, show and replace the keys of this machine, or of one that is yet to be
    Key(key::KeyArgs),
    /// Find out what keeps peerix from being of use here, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Check the configuration, and print each value with its origin
    CheckConfig(check_config::CheckConfigArgs),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    Man(man::ManArgs),
}

/// Which daemon a command talks to, and how it answers.
#[derive(Debug, Args)]
struct DaemonChoice {
    /// The daemon with this state directory [default: this user's daemon, then the system's]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// Log more to standard error; RUST_LOG says precisely what
    #[arg(long, short)]
    verbose: bool,
}

impl DaemonChoice {
    async fn connect(&self) -> Result<Client, Failure> {
        let surroundings = surroundings::read();
        let variable = surroundings.variable("PEERIX_STATE_DIR").map(PathBuf::from);
        let state_dir = self.state_dir.clone().or(variable);
        let state_dir = state_dir
            .as_deref()
            .map(std::path::absolute)
            .transpose()
            .map_err(Failure::from)?;
        Ok(Client::connect(&surroundings.control_sockets(state_dir.as_deref())).await?)
    }
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let arguments = with_older_names(std::env::args_os().collect());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, errors to standard error; a closed pipe is no matter.
            let _closed = error.print();
            return if error.use_stderr() {
                ExitCode::from(Exit::Usage.code())
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(cli.command) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit.code())
        }
    }
}

/// `peerix-iroh ...` is `peerix daemon ...`, `peerix-tracker ...` is `peerix tracker ...`.
fn with_older_names(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .unwrap_or_default();
    let command = match name.to_str() {
        Some("peerix-iroh") => "daemon",
        Some("peerix-tracker") => "tracker",
        _ => return arguments,
    };
    arguments.insert(1, command.into());
    arguments
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Daemon(args) => daemon::run(args),
        Command::Tracker(args) => tracker::run(args),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Key(args) => key::run(args),
        Command::Completions { shell } => completions(shell),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Run(args) => run::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Share(args) => with_client(&args.daemon, share::share(&args)),
        Command::Unshare(args) => with_client(&args.daemon, share::unshare(&args)),
        Command::Shared(choice) => with_client(&choice, share::shared(&choice)),
        Command::Ticket(choice) => with_client(&choice, share::ticket(&choice)),
        Command::Get(args) => with_client(&args.daemon, get::get(&args)),
        Command::Status(choice) => with_client(&choice, report::status(&choice)),
        Command::Why(args) => with_client(&args.daemon, why::why(&args)),
        Command::Peers(choice) => with_client(&choice, report::peers(&choice)),
        Command::Scan(args) => with_client(&args.daemon, store::scan(&args)),
        Command::Pause(args) => with_client(&args.daemon, pause::pause(&args)),
        Command::Resume(choice) => with_client(&choice, pause::resume(&choice)),
        Command::Verify(choice) => with_client(&choice, store::verify(&choice)),
        Command::Forget(args) => with_client(&args.daemon, store::forget(&args)),
        Command::Store(args) => match args.command {
            store::StoreCommand::Stats(choice) => with_client(&choice, store::stats(&choice)),
        },
        Command::Top(args) => with_client(&args.daemon, top::top(&args)),
    }
}

/// Runs a command that talks to the daemon, on this thread.
fn with_client(
    choice: &DaemonChoice,
    command: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    logging::start_client(choice.verbose);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(command);
    // What still reads or writes then has nobody to do it for.
    runtime.shutdown_background();
    outcome
}

fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "peerix", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests;
