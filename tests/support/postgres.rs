//! A real PostgreSQL server of a test's own: in a directory, on a socket in it, gone at the end.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// How long the server may take to start or to end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server.
pub struct Postgres {
    child: Child,
    directory: tempfile::TempDir,
    programs: PathBuf,
    /// The TCP port, of which its socket has its name too.
    port: u16,
}

impl Postgres {
    /// Starts one; nothing where PostgreSQL is not installed.
    pub fn start() -> Option<Postgres> {
        Postgres::start_as(None)
    }

    /// Starts one that is reached over TCP and TLS too, with this certificate and its key.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Option<Postgres> {
        Postgres::start_as(Some((certificate, key)))
    }

    fn start_as(tls: Option<(&Path, &Path)>) -> Option<Postgres> {
        let programs = programs()?;
        // A socket's path is short, whatever $TMPDIR is.
        let directory = tempfile::Builder::new()
            .prefix("peerix-pg")
            .tempdir_in("/tmp")
            .expect("a temporary directory");
        owned_by_the_server(directory.path());
        let data = directory.path().join("data");
        let mut initdb = as_postgres(&programs.join("initdb"));
        initdb.arg("-D").arg(&data);
        done(initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]));
        let mut server = as_postgres(&programs.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(directory.path());
        // Nothing of it outlives the test.
        server.args(["-c", "fsync=off"]);
        let mut port = 5432;
        match tls {
            None => drop(server.args(["-c", "listen_addresses="])),
            Some((certificate, key)) => {
                for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
                    let file = data.join(name);
                    fs::copy(from, &file).expect("our own directory");
                    let mode = fs::Permissions::from_mode(0o600);
                    fs::set_permissions(&file, mode).expect("our own file");
                    owned_by_the_server(&file);
                }
                // The server itself can't take any free port.
                let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
                port = free.local_addr().expect("a bound socket").port();
                server.args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"]);
                server.args(["-c", &format!("port={port}")]);
            }
        }
        let child = server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server");
        let server = Postgres {
            child,
            directory,
            programs,
            port,
        };
        let begun = Instant::now();
        while !server.runs("SELECT 1") {
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    /// Makes a database, and returns how to reach it.
    pub fn database(&self, name: &str) -> String {
        assert!(self.runs(&format!("CREATE DATABASE {name}")), "{name}");
        let socket = self.directory.path().display().to_string();
        let socket = socket.replace('/', "%2F");
        format!("postgres://postgres@{socket}/{name}?sslmode=disable")
    }

    /// Makes a database, and returns how to reach it over TCP and TLS.
    pub fn database_over_tls(&self, name: &str) -> String {
        self.database(name);
        let port = self.port;
        format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=require")
    }

    /// Runs a statement, and says whether it was done.
    pub fn runs(&self, statement: &str) -> bool {
        self.psql("postgres", statement)
    }

    /// Runs a statement in a database, and says whether it was done.
    pub fn psql(&self, database: &str, statement: &str) -> bool {
        Command::new(self.programs.join("psql"))
            .arg("-h")
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()])
            .args([
                "-U",
                "postgres",
                "-v",
                "ON_ERROR_STOP=1",
                "-qc",
                statement,
                database,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid_file = self.directory.path().join("data/postmaster.pid");
        let pid = fs::read_to_string(pid_file).unwrap_or_default();
        let pid = pid.lines().next().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Where Debian keeps the newest server's programs, or where the path leads to.
fn programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = installed
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("initdb").exists())
        .collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.pop().or_else(|| {
        std::env::split_paths(&path).find(|directory| directory.join("initdb").exists())
    })
}

/// Lets the server, which refuses to run as root, have a file.
fn owned_by_the_server(path: &Path) {
    if geteuid().is_root() {
        done(Command::new("chown").arg("postgres").arg(path));
    }
}

fn as_postgres(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command.current_dir("/");
    command
}

fn done(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a program");
    assert!(output.status.success(), "{command:?}: {output:?}");
}
