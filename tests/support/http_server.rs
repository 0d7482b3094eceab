//! An HTTP server that answers as a test says, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use peerix::tracker::relay::CertificateFiles;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// JSON with a status.
    pub fn json(status: u16, value: serde_json::Value) -> Reply {
        Reply {
            status,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: value.to_string().into_bytes(),
        }
    }

    /// Text with a status.
    pub fn text(status: u16, text: &str) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: text.as_bytes().to_vec(),
        }
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What was asked.
    pub request: Request,
    /// The status that was answered.
    pub status: u16,
    /// Bytes of both, heads included.
    pub bytes: u64,
}

type Answer = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    requests: Mutex<Vec<Request>>,
    exchanges: Mutex<Vec<Exchange>>,
    stop: AtomicBool,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A server that runs until it is dropped.
pub struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl HttpServer {
    /// Answers every request with what `answer` makes of it; with nothing at all for `None`.
    pub fn start(answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> HttpServer {
        HttpServer::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// The same at an address.
    pub fn start_at(
        address: SocketAddr,
        answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> HttpServer {
        HttpServer::listen(address, Box::new(answer), None)
    }

    /// Passes on to the server at `behind` what comes over TLS, with this certificate.
    pub fn with_tls(behind: SocketAddr, files: &CertificateFiles) -> HttpServer {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let answer = Box::new(move |request: &Request| forward(behind, request));
        HttpServer::listen(address, answer, Some(tls(files)))
    }

    fn listen(
        address: SocketAddr,
        answer: Box<Answer>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> HttpServer {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            answer,
            requests: Mutex::default(),
            exchanges: Mutex::default(),
            stop: AtomicBool::new(false),
            tls,
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                let serving = serving.clone();
                if let Ok(stream) = stream {
                    std::thread::spawn(move || accept(stream, &serving));
                }
            }
        });
        HttpServer { address, shared }
    }

    /// Stands before the server at `behind`: what `intercept` answers itself does not reach it, and
    /// it may change what does, and what comes back.
    pub fn before(
        behind: SocketAddr,
        intercept: impl Fn(&mut Request) -> Option<Reply> + Send + Sync + 'static,
        change: impl Fn(&Request, &mut Reply) + Send + Sync + 'static,
    ) -> HttpServer {
        HttpServer::start(move |request| {
            let mut request = request.clone();
            if let Some(reply) = intercept(&mut request) {
                return Some(reply);
            }
            let mut reply = forward(behind, &request)?;
            change(&request, &mut reply);
            Some(reply)
        })
    }

    /// How many requests began like this.
    pub fn count(&self, method: &str, target: &str) -> usize {
        let asked = self.requests();
        let asked = asked.iter();
        asked
            .filter(|asked| asked.method == method && asked.target.starts_with(target))
            .count()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = self.shared.tls.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address)
    }

    /// What it was asked until now.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// What it was asked until now and answered.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().expect("no panic").clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Asks the server at `behind` the same, and gives its answer.
pub fn forward(behind: SocketAddr, request: &Request) -> Option<Reply> {
    let mut raw = format!(
        "{} {} HTTP/1.1\r\nHost: {behind}\r\nConnection: close\r\nContent-Length: {}\r\n",
        request.method,
        request.target,
        request.body.len()
    );
    for (name, value) in &request.headers {
        if !["host", "connection", "content-length"].contains(&name.as_str()) {
            raw += &format!("{name}: {value}\r\n");
        }
    }
    raw += "\r\n";
    let raw = [raw.as_bytes(), &request.body].concat();
    let mut stream = TcpStream::connect(behind).ok()?;
    stream.write_all(&raw).ok()?;
    let answer = super::http::read_answer(&mut BufReader::new(stream), false).ok()?;
    let kept = ["content-type", "etag", "retry-after"];
    let headers = answer.headers.iter();
    let headers = headers.filter(|(name, _)| kept.contains(&name.as_str()));
    Some(Reply {
        status: answer.status,
        headers: headers
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        body: answer.body,
    })
}

fn tls(files: &CertificateFiles) -> Arc<rustls::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&files.certificate).expect("a file");
    let chain = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.expect("a certificate and its key"))
}

fn accept(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    match &shared.tls {
        None => serve(stream, shared),
        Some(config) => {
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            serve(rustls::StreamOwned::new(session, stream), shared)
        }
    }
}

fn serve(stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((request, length)) = read(&mut reader)? {
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let reply = (shared.answer)(&request);
        let requests = shared.requests.lock();
        requests.expect("no panic").push(request.clone());
        let Some(reply) = reply else {
            // Until the client goes.
            io::copy(&mut reader, &mut io::sink())?;
            return Ok(());
        };
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let writer = reader.get_mut();
        writer.write_all(head.as_bytes())?;
        writer.write_all(&reply.body)?;
        writer.flush()?;
        let exchange = Exchange {
            request,
            status: reply.status,
            bytes: (length + head.len() + reply.body.len()) as u64,
        };
        shared.exchanges.lock().expect("no panic").push(exchange);
    }
    Ok(())
}

/// A request and how many bytes it had.
fn read(reader: &mut impl BufRead) -> io::Result<Option<(Request, usize)>> {
    let mut line = String::new();
    let mut bytes = reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        bytes += reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length");
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    bytes += length;
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body,
    };
    Ok(Some((request, bytes)))
}
