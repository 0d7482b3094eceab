//! A peer of the older program, played by iroh's own Python bindings.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use super::{run, skip, text_of};

/// The version of the bindings, of the generation whose peers ours connect to.
const BINDINGS: &str = "iroh==1.2.0";

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/older/peer.py");

/// A Python that has the bindings, made below `target` at first; `None`, and said, without one.
pub fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(make_environment) {
        Ok(python) => Some(python),
        Err(reason) => {
            skip(&format!("no Python with {BINDINGS}: {reason}"));
            None
        }
    }
}

fn make_environment() -> Result<PathBuf, String> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("older-peer");
    let python = place.join("bin/python");
    let works = |python: &Path| {
        let output = Command::new(python).args(["-c", "import iroh"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    let step = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = text_of(&output);
            Err(text.lines().next_back().unwrap_or_default().to_owned())
        }
        Err(error) => Err(error.to_string()),
    };
    step(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&place),
    )?;
    step(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", BINDINGS]),
    )?;
    if works(&python) {
        Ok(python)
    } else {
        Err("it can't be imported here".to_owned())
    }
}

/// Asks the peer `id` at `address` for a path, under every name of the two protocols.
///
/// What comes is in `out.narinfo0`, `out.nar0` and `out.narinfo1`, `out.nar1`.
pub fn fetch(python: &Path, id: &str, address: &str, path_hash: &str, out: &Path) -> Output {
    run(Command::new(python)
        .args([PROGRAM, "fetch", id, address, path_hash])
        .arg(out))
}

/// A running server of one path; killed when dropped.
pub struct OlderPeer {
    child: Child,
    address: String,
}

impl OlderPeer {
    /// Serves the narinfo and the NAR in these files.
    pub fn serve(python: &Path, narinfo: &Path, nar: &Path) -> OlderPeer {
        let mut child = Command::new(python)
            .args([PROGRAM, "serve"])
            .args([narinfo, nar])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python");
        let mut address = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut address)
            .expect("its address");
        OlderPeer {
            child,
            address: address.trim().to_owned(),
        }
    }

    /// `ID@ADDR:PORT`, as `--peer` takes it.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for OlderPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
