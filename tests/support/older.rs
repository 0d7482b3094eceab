//! Peers of the older program: on iroh's own Python bindings, and played ones that misbehave.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use iroh::{
    Endpoint,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler, Router},
};
use peerix::peer::older::{nar, narinfo};

use super::{
    hostile::{bind, loopback, runtime},
    run, skip, text_of,
};

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

/// How a played server departs from what it should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OlderFault {
    /// Not at all.
    None,
    /// It says that the NAR is one byte longer.
    Length,
    /// One bit of the NAR is flipped.
    FlipBit,
    /// It leaves in the middle of the NAR.
    LeavesHalfWay,
    /// It says nothing more after the middle of the NAR.
    SilentHalfWay,
    /// It takes questions for narinfos and never answers.
    SilentAtOnce,
}

/// A server of the older protocols on iroh of our own generation, which may misbehave.
pub struct PlayedOlder {
    endpoint: Endpoint,
    router: Router,
    asked: Arc<AtomicU64>,
    runtime: tokio::runtime::Runtime,
}

impl PlayedOlder {
    /// Serves this narinfo and this NAR, as `fault` has it.
    pub fn serve(narinfo: &str, nar: Vec<u8>, fault: OlderFault) -> PlayedOlder {
        let runtime = runtime();
        let asked = Arc::new(AtomicU64::new(0));
        let played = Played {
            narinfo: narinfo.to_owned().into(),
            nar: nar.into(),
            fault,
            asked: asked.clone(),
        };
        let (endpoint, router) = runtime.block_on(async {
            let endpoint = bind([127, 0, 0, 1]).await;
            let router = Router::builder(endpoint.clone())
                .accept(narinfo::ALPNS[0], played.clone())
                .accept(nar::ALPNS[0], played)
                .spawn();
            (endpoint, router)
        });
        PlayedOlder {
            endpoint,
            router,
            asked,
            runtime,
        }
    }

    /// `ID@ADDR:PORT`, as `--peer` takes it.
    pub fn address(&self) -> String {
        format!("{}@{}", self.endpoint.id(), loopback(&self.endpoint))
    }

    /// How many questions it heard.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for PlayedOlder {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.router.shutdown());
    }
}

#[derive(Clone, Debug)]
struct Played {
    narinfo: Arc<str>,
    nar: Arc<[u8]>,
    fault: OlderFault,
    asked: Arc<AtomicU64>,
}

impl Played {
    async fn answer(&self, connection: &Connection) -> Result<(), Box<dyn std::error::Error>> {
        let (mut send, mut recv) = connection.accept_bi().await?;
        let question = String::from_utf8(recv.read_to_end(1024).await?)?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let says = |key: &str| {
            let line = self.narinfo.lines().find_map(|line| line.strip_prefix(key));
            line.expect("a field").to_owned()
        };
        if connection.alpn() == narinfo::ALPNS[0] {
            if self.fault == OlderFault::SilentAtOnce {
                connection.closed().await;
            }
            let known = says("StorePath: ").starts_with(&format!("/nix/store/{question}-"));
            let answer = if known { &*self.narinfo } else { "NOTFOUND" };
            send.write_all(answer.as_bytes()).await?;
        } else if question == says("URL: ") {
            let more = u64::from(self.fault == OlderFault::Length);
            let mut nar = self.nar.to_vec();
            let half = nar.len() / 2;
            if self.fault == OlderFault::FlipBit {
                nar[half] ^= 1;
            }
            send.write_all(&(nar.len() as u64 + more).to_be_bytes())
                .await?;
            send.write_all(&nar[..half]).await?;
            match self.fault {
                OlderFault::LeavesHalfWay => {
                    // What was written arrives first.
                    let _ = send.finish();
                    send.stopped().await?;
                    return Ok(());
                }
                OlderFault::SilentHalfWay => {
                    connection.closed().await;
                }
                _ => {}
            }
            send.write_all(&nar[half..]).await?;
        }
        send.finish()?;
        connection.closed().await;
        Ok(())
    }
}

impl ProtocolHandler for Played {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        // A peer that goes is no failure of the test.
        let _ = self.answer(&connection).await;
        Ok(())
    }
}
