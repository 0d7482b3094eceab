//! The daemon under a service manager: its socket, its word, its life.

use std::{
    fs,
    io::{BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    PATIENCE,
    http::{self, read_answer},
    nix_store::NixStore,
    peer::PeerOptions,
    text_of, wait_for,
};

/// A daemon that was started as systemd starts one, with `listener` as its descriptor 3.
struct Activated(Child);

impl Activated {
    fn start(daemon: &Command, listener: &TcpListener, log: &Path) -> Activated {
        let log = fs::File::create(log).expect("our own directory");
        let child = activated(daemon, listener)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a shell");
        Activated(child)
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("our own child");
        let status = wait_for("the daemon's end", || {
            self.0.try_wait().expect("our own child")
        });
        assert!(status.success(), "ended with {status}");
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `daemon` with `listener` passed as systemd does.
fn activated(daemon: &Command, listener: &TcpListener) -> Command {
    let listener: OwnedFd = listener.try_clone().expect("a socket").into();
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=${COUNT-1} exec "$0" "$@""#,
        ])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .env_clear()
        .envs(
            daemon
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(listener);
    command
}

fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn answer(stream: TcpStream) -> u16 {
    let answer = read_answer(&mut BufReader::new(stream), false);
    answer.expect("an HTTP answer").status
}

/// Fails unless the daemon ends at once and says `why`.
fn refused(mut command: Command, why: &str) {
    let output = command.output().expect("a shell");
    let text = text_of(&output);
    assert!(!output.status.success() && text.contains(why), "{text}");
}

#[test]
fn a_passed_socket_is_served_and_nothing_asked_meanwhile_is_lost() {
    let store = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("state");
    let (listener, address) = listen("127.0.0.1:0");
    // Port 0 would be another one: what was passed counts.
    let daemon = PeerOptions::new(&store).command(home.path(), &state);

    let ask_early = || {
        let mut stream = TcpStream::connect(address).expect("the socket that we hold");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(
            stream,
            "GET /nix-cache-info HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
        .expect("the socket that we hold");
        stream
    };
    let early = ask_early();
    let mut first = Activated::start(&daemon, &listener, &home.path().join("log"));
    assert_eq!(answer(early), 200);
    let published = wait_for("the daemon's address", || {
        fs::read_to_string(state.join("http_address")).ok()
    });
    assert_eq!(published.trim(), address.to_string());
    first.stop();

    let between = ask_early();
    let mut second = Activated::start(&daemon, &listener, &home.path().join("log"));
    assert_eq!(answer(between), 200);
    assert_eq!(http::get(address, "/nix-cache-info").status, 200);
    second.stop();
}

#[test]
fn a_passed_socket_that_other_machines_reach_is_refused() {
    let store = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let daemon = PeerOptions::new(&store).command(home.path(), &home.path().join("state"));
    let (listener, _) = listen("0.0.0.0:0");
    refused(activated(&daemon, &listener), "ListenStream=127.0.0.1:");
}

#[test]
fn what_is_passed_beside_one_socket_is_refused() {
    let store = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let daemon = PeerOptions::new(&store).command(home.path(), &home.path().join("state"));
    let (listener, _) = listen("127.0.0.1:0");
    let mut command = activated(&daemon, &listener);
    command.env("COUNT", "2");
    refused(command, "2 sockets");
}

#[test]
fn the_service_manager_is_told_of_start_life_and_end() {
    let store = NixStore::new();
    let home = tempfile::tempdir().expect("a temporary directory");
    let socket = home.path().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("our own directory");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut buffer = [0; 256];
    let mut hear = || {
        let length = manager.recv(&mut buffer).expect("word of the daemon");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };

    let mut peer = PeerOptions::new(&store)
        .environment("NOTIFY_SOCKET", socket.to_str().expect("UTF-8"))
        .environment("WATCHDOG_USEC", "200000")
        .start();
    assert_eq!(hear(), "READY=1\n");
    assert_eq!(peer.get("/nix-cache-info").status, 200);
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1\n");
    }
    assert!(peer.stop() < Duration::from_secs(10));
    let last = std::iter::repeat_with(hear).find(|word| word != "WATCHDOG=1\n");
    assert_eq!(last.as_deref(), Some("STOPPING=1\n"));
}
