//! Installing by running Nix itself, with us as one more substituter.

use std::{
    io::{self, IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use indicatif::ProgressBar;
use peerix_store::nix::StorePath;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

mod log;

use super::super::{Exit, Failure, progress};

/// How Nix is to be run.
#[derive(Debug)]
pub(super) struct Options {
    /// The daemon's substituter.
    pub(super) substituter: String,
    /// Nix's `--store`.
    pub(super) store: Option<String>,
    /// Where to link the first path.
    pub(super) out_link: Option<PathBuf>,
    /// Keys to trust for this command, as `nix.conf` writes them.
    pub(super) keys: Vec<String>,
    /// Whatever else nix-store is given.
    pub(super) others: Vec<String>,
}

/// Has Nix substitute `paths`; it prints them.
///
/// Ends as Nix ends.
pub(super) async fn realise(paths: &[StorePath], options: &Options) -> Result<Exit, Failure> {
    let shows_progress = io::stderr().is_terminal();
    let mut command = Command::new("nix-store");
    command.args(arguments(paths, options));
    if shows_progress {
        command
            .args(["--log-format", "internal-json"])
            .stderr(Stdio::piped());
    }
    // It ends with this process: Nix takes care of what it has half done.
    command.stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::failed("Nix is not installed (there is no nix-store in PATH): --output FILE fetches a NAR without it")
        }
        _ => Failure::failed(format!("can't run nix-store: {error}")),
    })?;
    if shows_progress {
        show_progress(&mut child).await?;
    }
    Ok(exit_like(child.wait().await?))
}

fn arguments(paths: &[StorePath], options: &Options) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Some(store) = &options.store {
        arguments.extend(["--store".to_owned(), store.clone()]);
    }
    arguments.push("--realise".to_owned());
    arguments.extend(paths.iter().map(StorePath::to_absolute_path));
    if let Some(link) = &options.out_link {
        arguments.extend([
            "--add-root".to_owned(),
            link.display().to_string(),
            "--indirect".to_owned(),
        ]);
    }
    // The configured substituters stay, and our low priority number puts us before them. What was
    // missed here a moment ago may be there now.
    for (name, value) in [
        ("extra-substituters", options.substituter.as_str()),
        ("narinfo-cache-negative-ttl", "0"),
        // A path that no substituter has is an error, not a reason to build.
        ("max-jobs", "0"),
    ] {
        arguments.extend(["--option".to_owned(), name.to_owned(), value.to_owned()]);
    }
    if !options.keys.is_empty() {
        let keys = options.keys.join(" ");
        arguments.extend(["--option", "extra-trusted-public-keys", &keys].map(str::to_owned));
    }
    arguments.extend(options.others.iter().cloned());
    arguments
}

/// Reads what Nix says and draws a bar of it, with Nix's own messages above.
async fn show_progress(child: &mut Child) -> Result<(), Failure> {
    let Some(stderr) = child.stderr.take() else {
        return Ok(());
    };
    let mut lines = BufReader::new(stderr).split(b'\n');
    let mut log = log::Log::default();
    let bar = progress::bytes("asking peers", 0);
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line);
        if let Some(message) = log.read(&line) {
            above(&bar, &message);
        }
        let copied = log.copied();
        bar.set_length(copied.bytes_expected);
        bar.set_position(copied.bytes_done);
        if copied.paths_expected > 0 {
            bar.set_message(format!(
                "{} of {} paths",
                copied.paths_done, copied.paths_expected
            ));
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn above(bar: &ProgressBar, message: &str) {
    bar.suspend(|| {
        // Nobody reads it if it fails.
        let _unread = writeln!(io::stderr(), "{message}");
    });
}

fn exit_like(status: ExitStatus) -> Exit {
    match status.code() {
        Some(0) => Exit::Done,
        Some(code) => Exit::Like(u8::try_from(code).unwrap_or(1)),
        None => Exit::Like(u8::try_from(128 + status.signal().unwrap_or(1)).unwrap_or(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_is_asked_to_substitute_from_us_before_its_others() {
        let path =
            StorePath::from_absolute_path(b"/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello")
                .unwrap();
        let options = Options {
            substituter: "http://127.0.0.1:12304".to_owned(),
            store: Some("local?root=/b".to_owned()),
            out_link: Some("hello".into()),
            keys: vec!["host-1:AAAA".to_owned()],
            others: vec!["--quiet".to_owned()],
        };
        assert_eq!(
            arguments(&[path], &options).join(" "),
            "--store local?root=/b --realise /nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello --add-root hello --indirect \
             --option extra-substituters http://127.0.0.1:12304 --option narinfo-cache-negative-ttl 0 --option max-jobs 0 \
             --option extra-trusted-public-keys host-1:AAAA --quiet"
        );
    }

    #[test]
    fn the_exit_is_that_of_nix() {
        assert_eq!(exit_like(ExitStatus::from_raw(0)), Exit::Done);
        assert_eq!(exit_like(ExitStatus::from_raw(100 << 8)), Exit::Like(100));
        assert_eq!(exit_like(ExitStatus::from_raw(15)), Exit::Like(143));
    }
}
