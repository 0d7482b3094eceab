//! Endpoints that don't behave: a provider that lies, and a client that asks for anything.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bao_tree::{
    BlockSize, ChunkRanges,
    io::{outboard::PreOrderMemOutboard, sync::encode_ranges},
};
use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::{Connection, RecvStream, SendStream},
    protocol::{AcceptError, ProtocolHandler, Router},
};
use iroh_blobs::{
    get::request::get_blob,
    protocol::{ObserveItem, Request as BlobRequest},
};
use peerix::{
    limits,
    peer::{
        lookup::{self, Answer, Request, SignedFields},
        wire,
    },
};
use peerix_store::{BlobHash, nix::StorePathHash};

use super::{
    install_tls_provider,
    nix_store::{NixStore, hash_part},
    run_ok,
};

/// How a provider departs from the truth.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Not at all.
    None,
    /// It says that it is fetching the NAR itself.
    OnlyPart,
    /// One bit of the byte at this offset is flipped on its way.
    FlipBit(u64),
    /// The size in front of the blob is this one.
    Size(u64),
    /// So many random bytes follow the blob.
    Trailing(usize),
    /// The stream ends after so many bytes as if that were all.
    EndAfter(u64),
    /// Nothing more comes after so many bytes, and the connection stays.
    SilentAfter(u64),
    /// The connection is closed after so many bytes of one answer.
    CloseAfter(u64),
}

/// What a liar says of one path.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What it claims the signed fields to be.
    pub fields: SignedFields,
    /// What it sends under the BLAKE3 hash of just these bytes.
    pub nar: Bytes,
    /// How it sends them.
    pub fault: Fault,
}

#[derive(Debug, Default)]
struct Behaviour {
    claims: Mutex<HashMap<StorePathHash, Claim>>,
    lookups: AtomicU64,
    blobs: AtomicU64,
    sent: AtomicU64,
}

/// A provider that says and sends what it is told to, with a runtime of its own.
pub struct Liar {
    behaviour: Arc<Behaviour>,
    endpoint: Endpoint,
    router: Router,
    runtime: tokio::runtime::Runtime,
}

impl Liar {
    /// Starts it on a free loopback port.
    pub fn start() -> Liar {
        Liar::start_with(true, None)
    }

    /// Starts one that speaks the compressed wire too and sends just these bytes on it.
    pub fn start_framing(frames: Vec<u8>) -> Liar {
        Liar::start_with(true, Some(frames))
    }

    /// Starts one that takes lookups and never answers them.
    pub fn start_silent() -> Liar {
        Liar::start_with(false, None)
    }

    fn start_with(answers: bool, frames: Option<Vec<u8>>) -> Liar {
        let runtime = runtime();
        let behaviour = Arc::new(Behaviour::default());
        let (endpoint, router) = runtime.block_on(async {
            let endpoint = bind([127, 0, 0, 1]).await;
            let router = Router::builder(endpoint.clone())
                .accept(
                    lookup::ALPN,
                    LyingLookups {
                        behaviour: behaviour.clone(),
                        answers,
                    },
                )
                .accept(iroh_blobs::ALPN, LyingBlobs(behaviour.clone()));
            let router = match frames {
                Some(frames) => router.accept(
                    wire::ALPN,
                    LyingFrames {
                        behaviour: behaviour.clone(),
                        frames,
                    },
                ),
                None => router,
            };
            (endpoint, router.spawn())
        });
        Liar {
            behaviour,
            endpoint,
            router,
            runtime,
        }
    }

    /// Makes it claim a path from now on.
    pub fn claim(&self, store_path: &str, claim: Claim) {
        let mut claims = self.behaviour.claims.lock().expect("no panic");
        claims.insert(path_hash(store_path), claim);
    }

    /// `ID@ADDR:PORT`, as `--peer` takes it.
    pub fn address(&self) -> String {
        format!("{}@{}", self.endpoint.id(), loopback(&self.endpoint))
    }

    /// Its endpoint id.
    pub fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// Lookup requests heard so far.
    pub fn lookups(&self) -> u64 {
        self.behaviour.lookups.load(Ordering::Relaxed)
    }

    /// Blob requests heard so far.
    pub fn blob_requests(&self) -> u64 {
        self.behaviour.blobs.load(Ordering::Relaxed)
    }

    /// Bytes of blobs sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.behaviour.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let (router, endpoint) = (self.router.clone(), self.endpoint.clone());
        self.runtime.block_on(async move {
            let closing = async {
                let _ = router.shutdown().await;
                endpoint.close().await;
            };
            let _ = tokio::time::timeout(Duration::from_secs(3), closing).await;
        });
    }
}

#[derive(Clone, Debug)]
struct LyingLookups {
    behaviour: Arc<Behaviour>,
    answers: bool,
}

impl ProtocolHandler for LyingLookups {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((send, recv)) = connection.accept_bi().await {
            let this = self.clone();
            tokio::spawn(async move { this.answer(send, recv).await });
        }
        Ok(())
    }
}

impl LyingLookups {
    async fn answer(&self, mut send: SendStream, mut recv: RecvStream) {
        let read = lookup::read_frame::<Request>(&mut recv, limits::LOOKUP_MAX_REQUEST);
        let Ok((request, _)) = read.await else {
            return;
        };
        self.behaviour.lookups.fetch_add(1, Ordering::Relaxed);
        if !self.answers {
            // Keeps both halves open until the requester gives up.
            let _ = send.stopped().await;
            return;
        }
        for path_hash in request.path_hashes {
            let claim = {
                let claims = self.behaviour.claims.lock().expect("no panic");
                claims.get(&path_hash).cloned()
            };
            let answer = claim.map_or(Answer::Absent, |claim| {
                let blob_hash = *blake3::hash(&claim.nar).as_bytes();
                let fields = Some(claim.fields);
                match claim.fault {
                    Fault::OnlyPart => Answer::Part { blob_hash, fields },
                    _ => Answer::Ready { blob_hash, fields },
                }
            });
            let written = lookup::write_frame(&mut send, &answer, limits::LOOKUP_MAX_ANSWER).await;
            if written.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

#[derive(Clone, Debug)]
struct LyingBlobs(Arc<Behaviour>);

impl ProtocolHandler for LyingBlobs {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((send, recv)) = connection.accept_bi().await {
            let (this, connection) = (self.clone(), connection.clone());
            tokio::spawn(async move { this.serve(connection, send, recv).await });
        }
        Ok(())
    }
}

impl LyingBlobs {
    async fn serve(&self, connection: Connection, mut send: SendStream, mut recv: RecvStream) {
        let Ok((request, _)) = BlobRequest::read_async(&mut recv).await else {
            return;
        };
        self.0.blobs.fetch_add(1, Ordering::Relaxed);
        let (hash, ranges) = match request {
            BlobRequest::Get(get) => match get.ranges.as_single() {
                Some((0, ranges)) => (get.hash, ranges.clone()),
                _ => return,
            },
            BlobRequest::Observe(observe) => {
                let complete = ObserveItem {
                    size: 0,
                    ranges: ChunkRanges::all(),
                };
                let bytes = postcard::to_allocvec(&complete).unwrap_or_default();
                let _ = send.write_all(&bytes).await;
                let _ = observe;
                return;
            }
            _ => return,
        };
        let claim = {
            let claims = self.0.claims.lock().expect("no panic");
            let of_hash = |claim: &&Claim| blake3::hash(&claim.nar) == blake3::Hash::from(hash);
            claims.values().find(of_hash).cloned()
        };
        let Some(claim) = claim else {
            let _ = send.reset(3u32.into());
            return;
        };
        let encoded = tokio::task::spawn_blocking(move || encoded(&claim, &ranges)).await;
        let Ok((encoded, fault)) = encoded else {
            return;
        };
        let limit = match fault {
            Fault::EndAfter(n) | Fault::SilentAfter(n) | Fault::CloseAfter(n) => n as usize,
            _ => usize::MAX,
        };
        let encoded = &encoded[..encoded.len().min(limit)];
        for piece in encoded.chunks(64 * 1024) {
            if send.write_all(piece).await.is_err() {
                return;
            }
            self.0.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        match fault {
            Fault::SilentAfter(_) => {
                let _ = send.stopped().await;
            }
            Fault::CloseAfter(_) => {
                // What was written is to arrive before the connection goes.
                tokio::time::sleep(Duration::from_millis(200)).await;
                connection.close(0u32.into(), b"");
            }
            _ => {
                let _ = send.finish();
            }
        }
    }
}

/// Sends the same bytes whatever it is asked for.
#[derive(Clone, Debug)]
struct LyingFrames {
    behaviour: Arc<Behaviour>,
    frames: Vec<u8>,
}

impl ProtocolHandler for LyingFrames {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let _ = recv.read_to_end(64 * 1024).await;
            self.behaviour.blobs.fetch_add(1, Ordering::Relaxed);
            let _ = send.write_all(&self.frames).await;
            let _ = send.finish();
        }
        Ok(())
    }
}

fn encoded(claim: &Claim, ranges: &ChunkRanges) -> (Vec<u8>, Fault) {
    let outboard = PreOrderMemOutboard::create(&claim.nar, BlockSize::from_chunk_log(4));
    let mut nar = claim.nar.to_vec();
    let mut size = nar.len() as u64;
    match claim.fault {
        Fault::FlipBit(offset) => nar[offset as usize] ^= 4,
        Fault::Size(lie) => size = lie,
        _ => {}
    }
    let mut encoded = size.to_le_bytes().to_vec();
    encode_ranges(&nar[..], &outboard, ranges, &mut encoded).expect("memory to encode");
    if let Fault::Trailing(count) = claim.fault {
        encoded.extend(std::iter::repeat_n(0x5a, count));
    }
    (encoded, claim.fault.clone())
}

/// The signed fields of `store_path` as its store has them.
pub fn signed_fields(store: &NixStore, store_path: &str) -> SignedFields {
    let dumped = run_ok(store.nix_store().arg("--dump-db").arg(store_path));
    let mut lines = dumped.lines().skip(1);
    let mut next = || lines.next().expect("a line of --dump-db").to_owned();
    let (nar_hash, nar_size, _deriver) = (next(), next(), next());
    let count: usize = next().parse().expect("a count");
    let base_name = |path: String| path["/nix/store/".len()..].to_owned();
    let references = (0..count).map(|_| base_name(next())).collect();
    let told = run_ok(&mut {
        let mut command = store.nix(&["path-info", "--sigs"]);
        command.arg(store_path);
        command
    });
    let words: Vec<String> = told.split_whitespace().skip(1).map(str::to_owned).collect();
    SignedFields {
        name: store_path["/nix/store/".len() + 33..].to_owned(),
        nar_hash: hex::decode(nar_hash)
            .expect("hexadecimal")
            .try_into()
            .expect("32 bytes"),
        nar_size: nar_size.parse().expect("a size"),
        references,
        signatures: words
            .iter()
            .filter(|word| word.contains(':') && !word.starts_with("ca:"))
            .cloned()
            .collect(),
        content_address: words
            .iter()
            .find_map(|word| word.strip_prefix("ca:"))
            .map(str::to_owned),
    }
}

/// A path hash as the library has it.
pub fn path_hash(store_path: &str) -> StorePathHash {
    hash_part(store_path).parse().expect("a store path hash")
}

/// A stock iroh endpoint as a client of peers, with a runtime of its own.
pub struct Client {
    /// The endpoint.
    pub endpoint: Endpoint,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Binds it on a free loopback port.
    pub fn new() -> Client {
        Client::bound_to([127, 0, 0, 1])
    }

    /// One that reaches other hosts too.
    pub fn anywhere() -> Client {
        Client::bound_to([0, 0, 0, 0])
    }

    fn bound_to(address: [u8; 4]) -> Client {
        let runtime = runtime();
        let endpoint = runtime.block_on(bind(address));
        Client { endpoint, runtime }
    }

    /// Runs `future` on this client's runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Connects, or says why not.
    pub fn connect(&self, peer: &EndpointAddr, alpn: &[u8]) -> Result<Connection, String> {
        self.block_on(async {
            let connecting = self.endpoint.connect(peer.clone(), alpn);
            match tokio::time::timeout(Duration::from_secs(10), connecting).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        })
    }

    /// Asks `peer` for these paths.
    pub fn look_up(
        &self,
        peer: &EndpointAddr,
        mode: lookup::Mode,
        store_paths: &[&str],
    ) -> Vec<Answer> {
        let connection = self.connect(peer, lookup::ALPN).expect("a connection");
        let request = Request::new(
            mode,
            store_paths.iter().map(|path| path_hash(path)).collect(),
        );
        self.block_on(async {
            let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
            lookup::write_frame(&mut send, &request, limits::LOOKUP_MAX_REQUEST)
                .await
                .expect("a sent request");
            send.finish().expect("a sent request");
            let mut answers = Vec::new();
            for _ in store_paths {
                let read = lookup::read_frame(&mut recv, limits::LOOKUP_MAX_ANSWER).await;
                answers.push(read.expect("an answer").0);
            }
            answers
        })
    }

    /// Asks until the blob hash of `store_path` is known.
    pub fn blob_hash(&self, peer: &EndpointAddr, store_path: &str) -> BlobHash {
        super::wait_for("the blob hash", || {
            match self
                .look_up(peer, lookup::Mode::WantedNow, &[store_path])
                .remove(0)
            {
                Answer::Ready { blob_hash, .. } | Answer::Part { blob_hash, .. } => {
                    Some(BlobHash::from_bytes(blob_hash))
                }
                Answer::Hashing { .. } => None,
                Answer::Absent | Answer::NotNow => panic!("{store_path} is not offered"),
            }
        })
    }

    /// Fetches a blob with iroh-blobs' own client, verifying it.
    pub fn fetch(&self, peer: &EndpointAddr, hash: BlobHash) -> Result<Bytes, String> {
        let connection = self.connect(peer, iroh_blobs::ALPN)?;
        self.block_on(async {
            let fetching = get_blob(connection, hash).bytes();
            match tokio::time::timeout(Duration::from_secs(60), fetching).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let endpoint = self.endpoint.clone();
        self.runtime.block_on(async move {
            let _ = tokio::time::timeout(Duration::from_secs(3), endpoint.close()).await;
        });
    }
}

/// The endpoint address in a ticket.
pub fn address_in(ticket: &str) -> EndpointAddr {
    let ticket: peerix::ticket::Ticket = ticket.parse().expect("a ticket");
    ticket.addr
}

/// A runtime for an endpoint of the test's own.
pub fn runtime() -> tokio::runtime::Runtime {
    install_tls_provider();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

pub(super) async fn bind(address: [u8; 4]) -> Endpoint {
    let endpoint = super::loopback::builder(address).bind().await;
    endpoint.expect("a free port")
}

pub(super) fn loopback(endpoint: &Endpoint) -> SocketAddr {
    endpoint
        .bound_sockets()
        .into_iter()
        .find(SocketAddr::is_ipv4)
        .expect("a bound socket")
}
