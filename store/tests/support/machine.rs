//! A machine of its own for one test: an empty `/nix`, and processes that end with the test.

use std::{
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use peerix_store::DAEMON_SOCKET;

use super::PATIENCE;

/// Nothing of the machine's own settings, no build users, no caches.
const NIX_CONFIG: &str =
    "build-users-group =\nsandbox = false\nsubstituters =\nrequire-sigs = true";

/// Runs an ignored test of this binary in a mount and process namespace with an empty `/nix`, or
/// says why it can't.
pub fn run_on_machine(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    super::make_readable(directory.path());
    let nix = directory.path().join("nix");
    for path in ["store", "var/nix/daemon-socket", "conf", "home"] {
        fs::create_dir_all(nix.join(path)).unwrap();
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        if rustix::process::geteuid().as_raw() != 0 {
            command.arg("--map-root-user");
        }
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", script]).arg(&nix);
        command
    };
    let probe = "mount --bind \"$0\" /nix && nix-daemon --version && nix-store --version";
    match unshare(probe).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            println!("skipped: no namespace with a Nix of its own: {said}");
            return;
        }
        Err(error) => {
            println!("skipped: unshare cannot be run: {error}");
            return;
        }
    }
    // A user who may not enter the build's directory runs it too.
    let copy = directory.path().join("test-binary");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = unshare("mount --bind \"$0\" /nix && exec \"$@\"")
        .arg(&copy)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("NIX_CONFIG", NIX_CONFIG)
        .env("NIX_CONF_DIR", "/nix/conf")
        .env("HOME", "/nix/home")
        .env("XDG_CACHE_HOME", "/nix/home/cache")
        .env_remove("NIX_REMOTE")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The machine's own Nix, as root runs it: without its daemon.
pub fn nix_store(arguments: &[&str]) -> String {
    let output = Command::new("nix-store").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Puts a file into `/nix/store` and returns its store path.
pub fn add(name: &str, content: &str) -> String {
    let file = Path::new("/nix/home").join(name);
    fs::write(&file, content).unwrap();
    nix_store(&["--add", file.to_str().unwrap()])
}

/// Registers paths of which there are no files.
pub fn register_made_up(count: usize) {
    let mut child = Command::new("nix-store")
        .arg("--load-db")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    for number in 0..count {
        let mut digest = [9; 20];
        digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let path = peerix_store::StorePath::from_parts(digest, &format!("made-up-{number}"));
        let path = path.unwrap().to_absolute_path();
        text += &format!("{path}\n{number:064x}\n{}\n\n1\n{path}\n", number + 96);
    }
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}

/// A running `nix-daemon`, stopped when it is dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn start() -> Self {
        let daemon = Command::new("nix-daemon")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self(daemon);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(DAEMON_SOCKET).is_err() {
            assert!(Instant::now() < deadline, "nix-daemon does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
        let _left_over = fs::remove_file(DAEMON_SOCKET);
    }
}
