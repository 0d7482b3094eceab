//! The older program on a local network, scripted: its datagrams, and its HTTP server.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64;

use super::nix_store::{NixStore, hash_part};

/// The port of everything.
pub const PORT: u16 = 12304;

/// What the older program sends.
pub fn request(id: u32, hash: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    bytes.extend(hash.bytes());
    assert_eq!(bytes.len(), 37);
    bytes
}

/// What it answers.
pub fn response(id: u32, port: u16, hash: &str) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(id.to_be_bytes());
    bytes.extend(u32::from(port).to_be_bytes());
    bytes.extend(format!("local/{hash}.narinfo").bytes());
    assert_eq!(bytes.len(), 55);
    bytes
}

/// A socket like the older program's.
pub fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("a socket");
    socket.set_broadcast(true).expect("a socket");
    socket
}

pub fn receive(socket: &UdpSocket, patience: Duration) -> Option<(Vec<u8>, SocketAddr)> {
    socket.set_read_timeout(Some(patience)).expect("a socket");
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

/// A path's NAR as the older program names it.
pub fn nar_name(store_path: &str) -> String {
    format!(
        "{}.nar",
        BASE64.encode(store_path.as_bytes()).replace('/', "_")
    )
}

/// A scripted older peer: it answers by UDP and serves by HTTP what it was given.
pub struct OlderPeer {
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

impl OlderPeer {
    /// Serves `narinfo` and `nar` of `store_path` on the host that it is started on.
    pub fn start(store_path: &str, narinfo: String, nar: Vec<u8>) -> OlderPeer {
        let hash = hash_part(store_path).to_owned();
        let name = nar_name(store_path);
        let (asked, stop) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let socket = socket();
        let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("a port");
        let (noting, stopping, wanted) = (asked.clone(), stop.clone(), hash.clone());
        std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let Some((bytes, from)) = receive(&socket, Duration::from_millis(100)) else {
                    continue;
                };
                if bytes.len() == 37 && bytes[0] == 0 {
                    let id = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
                    if bytes[5..] == *wanted.as_bytes() {
                        // What a neighbour may try to slip in before: other ids, other paths.
                        let lies = [
                            response(id ^ 1, PORT, &wanted),
                            response(id, PORT, &"0".repeat(32)),
                        ];
                        for lie in lies {
                            let _ = socket.send_to(&lie, from);
                        }
                        let _ = socket.send_to(&response(id, PORT, &wanted), from);
                    }
                }
                noting.lock().expect("a list").push(bytes);
            }
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let _ = serve(stream, &hash, &name, &narinfo, &nar);
            }
        });
        OlderPeer { asked, stop }
    }

    pub fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.lock().expect("a list").clone()
    }
}

impl Drop for OlderPeer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers the requests of one connection as the older program's server does.
fn serve(
    stream: std::net::TcpStream,
    hash: &str,
    name: &str,
    narinfo: &str,
    nar: &[u8],
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        if target == format!("/local/{hash}.narinfo") {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: text/x-nix-narinfo\r\ncontent-length: {}\r\n\r\n{narinfo}",
                narinfo.len()
            )?;
        } else if target == format!("/local/nar/{name}") {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
            )?;
            for chunk in nar.chunks(16_384) {
                write!(stream, "{:x}\r\n", chunk.len())?;
                stream.write_all(chunk)?;
                write!(stream, "\r\n")?;
            }
            write!(stream, "0\r\n\r\n")?;
        } else {
            write!(
                stream,
                "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nGone"
            )?;
        }
    }
}

/// The narinfo as the older program writes it, with the signatures that Nix's database has.
pub fn older_narinfo(store: &NixStore, store_path: &str) -> String {
    let info = super::run_ok(store.nix(&["path-info", "--json"]).arg(store_path));
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    let info = &info[0];
    let mut text = format!(
        "StorePath: {store_path}\nURL: local/nar/{}\nCompression: none\nNarHash: {}\nNarSize: {}\n",
        nar_name(store_path),
        store.nar_hash(store_path),
        info["narSize"]
    );
    for signature in info["signatures"].as_array().into_iter().flatten() {
        text += &format!("Sig: {}\n", signature.as_str().expect("a signature"));
    }
    text
}
