//! A directory served over HTTP: the plainest binary cache, and a stand-in for an upstream.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{nix_store::NixStore, run_ok};

/// What a captive portal shows, whatever it was asked for.
pub const PORTAL_PAGE: &str = "<html>StorePath: please accept the portal's terms</html>\n";

/// How a cache behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It gives what was asked for.
    Honest,
    /// It answers every request with its own page.
    Portal,
    /// It answers every request with a gigabyte of signatures.
    Endless,
    /// It ends every NAR after so many bytes of its body.
    Cut(u64),
    /// It never answers.
    Silent,
}

struct Shared {
    root: PathBuf,
    stop: AtomicBool,
    requests: Mutex<Vec<String>>,
    mood: Mutex<Mood>,
    bytes_sent: AtomicU64,
}

/// Serves a directory until it is dropped.
pub struct StaticCache {
    address: SocketAddr,
    shared: Arc<Shared>,
    directory: tempfile::TempDir,
}

impl StaticCache {
    /// Copies `store_paths` and what they refer to out of `store` and serves them uncompressed.
    pub fn of(store: &NixStore, store_paths: &[&str], priority: u32) -> StaticCache {
        StaticCache::compressed(store, store_paths, priority, "none")
    }

    /// The same, compressed by Nix itself: `xz`, `zstd`, `bzip2`, `br` or `none`.
    pub fn compressed(
        store: &NixStore,
        store_paths: &[&str],
        priority: u32,
        compression: &str,
    ) -> StaticCache {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let target = format!(
            "file://{}?compression={compression}",
            directory.path().display()
        );
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
        let shared = Arc::new(Shared {
            root: directory.path().to_owned(),
            stop: AtomicBool::new(false),
            requests: Mutex::default(),
            mood: Mutex::new(Mood::Honest),
            bytes_sent: AtomicU64::new(0),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                let serving = serving.clone();
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve_connection(stream, &serving));
                }
            }
        });
        StaticCache {
            address,
            shared,
            directory,
        }
    }

    /// Behaves like this from now on.
    pub fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().expect("no panic") = mood;
    }

    /// Body bytes that clients took.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.bytes_sent.load(Ordering::Relaxed)
    }

    /// The file that holds the NAR of `store_path`.
    pub fn nar_file(&self, store_path: &str) -> PathBuf {
        let hash = super::nix_store::hash_part(store_path);
        let narinfo = self.directory.path().join(format!("{hash}.narinfo"));
        let text = fs::read_to_string(narinfo).expect("a narinfo");
        let url = text.lines().find_map(|line| line.strip_prefix("URL: "));
        self.directory.path().join(url.expect("a URL"))
    }

    /// NARs that were asked for until now.
    pub fn nar_requests(&self) -> usize {
        let requests = self.requests();
        let nars = requests.iter().filter(|line| line.contains("/nar/"));
        nars.count()
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
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// The directory that is served.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for StaticCache {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve_connection(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
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
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Ok(mut requests) = shared.requests.lock() {
            requests.push(format!("{method} {target}"));
        }
        let mood = shared.mood.lock().map_or(Mood::Honest, |mood| *mood);
        match mood {
            Mood::Portal => {
                let length = PORTAL_PAGE.len();
                write!(
                    writer,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{PORTAL_PAGE}"
                )?;
                continue;
            }
            Mood::Endless => {
                writer.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                let line = format!("Sig: {}\n", "x".repeat(1000)).repeat(64);
                let mut left = 1_000_000_000usize;
                while left > 0 {
                    writer.write_all(line.as_bytes())?;
                    count(shared, line.len() as u64);
                    left = left.saturating_sub(line.len());
                }
                return Ok(());
            }
            Mood::Silent => {
                // Until the client goes.
                io::copy(&mut reader, &mut io::sink())?;
                return Ok(());
            }
            Mood::Honest | Mood::Cut(_) => {}
        }
        let relative: PathBuf = target.trim_start_matches('/').into();
        let file = fs::File::open(shared.root.join(relative)).and_then(|file| {
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        match file {
            Ok((mut file, size)) => {
                write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
                if method == "HEAD" {
                    continue;
                }
                if let Mood::Cut(at) = mood
                    && target.contains("/nar/")
                {
                    count(shared, io::copy(&mut file.take(at), &mut writer)?);
                    return Ok(());
                }
                count(shared, io::copy(&mut file, &mut writer)?);
            }
            Err(_) => writer.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

fn count(shared: &Shared, bytes: u64) {
    shared.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
}
