//! The command that is run: its signals and its end.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
};

use rustix::process::{Pid, Signal as Number, kill_process};
use tokio::{
    process::Command,
    signal::unix::{Signal, SignalKind, signal},
};

use super::super::{Exit, Failure};

/// The signals that are passed on.
pub(super) struct Signals(Vec<(Number, Signal)>);

impl Signals {
    /// Takes them from now on, so that none ends this process before the command has ended.
    pub(super) fn listen() -> io::Result<Self> {
        let kinds = [
            (Number::TERM, SignalKind::terminate()),
            (Number::INT, SignalKind::interrupt()),
            (Number::HUP, SignalKind::hangup()),
            (Number::QUIT, SignalKind::quit()),
            (Number::USR1, SignalKind::user_defined1()),
            (Number::USR2, SignalKind::user_defined2()),
        ];
        let listen = |(number, kind)| Ok((number, signal(kind)?));
        Ok(Signals(
            kinds.into_iter().map(listen).collect::<io::Result<_>>()?,
        ))
    }

    async fn next(&mut self) -> Number {
        let waiting = self.0.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures_util::future::select_all(waiting).await.0
    }
}

/// Runs `command` to its end and passes signals on to it.
///
/// Ends as the command ends; 127 where there is none of that name, 126 where it can't be run.
pub(super) async fn run(
    command: &[OsString],
    environment: Vec<(&'static str, OsString)>,
    mut signals: Signals,
) -> Result<Exit, Failure> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::usage("no command was given"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment)
        .spawn()
        .map_err(|error| cannot_run(program, &error))?;
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_like(status?)),
            number = signals.next() => {
                if let Some(pid) = pid && !reaches_it_anyway(number) {
                    // It may have ended just now.
                    let _gone = kill_process(pid, number);
                }
            }
        }
    }
}

fn cannot_run(program: &OsStr, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    Failure::new(
        Exit::Like(code),
        format!("can't run {}: {error}", program.display()),
    )
}

/// Whether the terminal sends this signal to the command as well, which is in its foreground with
/// us: passed on, it would come twice.
fn reaches_it_anyway(number: Number) -> bool {
    if number != Number::INT && number != Number::QUIT {
        return false;
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    is_in_foreground(&stat)
}

/// Whether a process is in the foreground of its terminal, by its line of proc_pid_stat(5).
fn is_in_foreground(stat: &str) -> bool {
    // The name before it may hold anything, parentheses too.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let (group, foreground) = (fields.get(2), fields.get(5));
    group.is_some() && group == foreground
}

fn exit_like(status: ExitStatus) -> Exit {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Exit::Like(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_foreground_is_told_apart() {
        assert!(is_in_foreground("7 (a) b) S 6 70 69 34816 70 4194304 0"));
        assert!(!is_in_foreground("7 (a) S 6 71 69 34816 70 4194304 0"));
        assert!(!is_in_foreground("7 (a) S 6 71 69 0 -1 4194304 0"));
        assert!(!is_in_foreground(""));
    }

    #[test]
    fn the_exit_is_that_of_the_command_or_tells_the_signal() {
        assert_eq!(exit_like(ExitStatus::from_raw(7 << 8)), Exit::Like(7));
        assert_eq!(exit_like(ExitStatus::from_raw(15)), Exit::Like(143));
        assert_eq!(exit_like(ExitStatus::from_raw(0)), Exit::Like(0));
    }
}
