//! A directory served over HTTP: the plainest binary cache, and a stand-in for an upstream.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{nix_store::NixStore, run_ok};

/// Serves a directory until it is dropped.
pub struct StaticCache {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
}

impl StaticCache {
    /// Copies `store_paths` and what they refer to out of `store` and serves them uncompressed.
    pub fn of(store: &NixStore, store_paths: &[&str], priority: u32) -> StaticCache {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let target = format!("file://{}?compression=none", directory.path().display());
        run_ok(store.nix(&["copy", "--to", &target]).args(store_paths));
        fs::write(
            directory.path().join("nix-cache-info"),
            format!("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: {priority}\n"),
        )
        .expect("our own directory");
        StaticCache::serve(directory)
    }

    /// Serves what lies in `directory`.
    pub fn serve(directory: tempfile::TempDir) -> StaticCache {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (stopped, seen, root) = (stop.clone(), requests.clone(), directory.path().to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (seen, root) = (seen.clone(), root.clone());
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve_connection(stream, &root, &seen));
                }
            }
        });
        StaticCache {
            address,
            stop,
            requests,
            directory,
        }
    }

    /// The address for Nix.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was asked for until now.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// The directory that is served.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for StaticCache {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve_connection(
    stream: TcpStream,
    root: &Path,
    requests: &Mutex<Vec<String>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
        }
        if let Ok(mut requests) = requests.lock() {
            requests.push(format!("{method} {target}"));
        }
        let relative: PathBuf = target.trim_start_matches('/').into();
        let file = fs::File::open(root.join(relative)).and_then(|file| {
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        match file {
            Ok((mut file, size)) => {
                write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
                if method != "HEAD" {
                    io::copy(&mut file, &mut writer)?;
                }
            }
            Err(_) => writer.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}
