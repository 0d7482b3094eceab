//! The command line's side of the control socket.

use std::{io, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use peerix_store::nix::{StorePath, StorePathHash};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{report::Report, why::WhyReport};

use super::{
    AddPeerRequest, DaemonInfo, ForgetRequest, Line, OperationError, PauseRequest,
    PauseUploadsRequest, Progress, ScanSummary, ShareHow, ShareRequest, Shared, SharedPath,
    TrustRequest, UnshareRequest, VerifySummary,
};

/// Longest wait for the beginning of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, or line of one, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why the daemon didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at any of the sockets.
    #[error(
        "no peerix daemon answers at {}: start one with `peerix daemon`, or say which with --state-dir",
        places(tried)
    )]
    NoDaemon {
        /// The sockets that were tried.
        tried: Vec<PathBuf>,
    },
    /// A socket is there and may not be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The daemon said no.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The daemon went away, or said something else than was expected.
    #[error("the daemon's answer can't be read: {reason}")]
    BadAnswer {
        /// What was wrong.
        reason: String,
    },
}

fn places(tried: &[PathBuf]) -> String {
    tried
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn bad(reason: impl ToString) -> ClientError {
    ClientError::BadAnswer {
        reason: reason.to_string(),
    }
}

/// A connection to a running daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Finds the first of `sockets` at which a daemon answers.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] if none does.
    pub async fn connect(sockets: &[PathBuf]) -> Result<Self, ClientError> {
        for path in sockets {
            match UnixStream::connect(path).await {
                Ok(_) => return Ok(Client { path: path.clone() }),
                Err(error) if is_absence(&error) => {}
                Err(source) => {
                    return Err(ClientError::Unusable {
                        path: path.clone(),
                        source,
                    });
                }
            }
        }
        Err(ClientError::NoDaemon {
            tried: sockets.to_vec(),
        })
    }

    /// What the daemon is and where it serves Nix.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn daemon(&self) -> Result<DaemonInfo, ClientError> {
        self.get("/daemon").await
    }

    /// Any of the reports `status`, `peers` and `store`, as the daemon wrote it.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn report(&self, name: &str) -> Result<serde_json::Value, ClientError> {
        self.get(&format!("/{name}")).await
    }

    /// All that one look at the daemon needs.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn full_report(&self) -> Result<Report, ClientError> {
        self.get("/report").await
    }

    /// What can be told of a path.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn why(&self, path_hash: StorePathHash) -> Result<WhyReport, ClientError> {
        self.get(&format!("/why/{path_hash}")).await
    }

    /// What was shared by hand.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn shared(&self) -> Result<Vec<SharedPath>, ClientError> {
        self.get("/shared").await
    }

    /// The endpoint's ticket.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn ticket(&self) -> Result<String, ClientError> {
        let answer: serde_json::Value = self.get("/ticket").await?;
        answer["ticket"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| bad("there is no ticket in it"))
    }

    /// Shares `paths`.
    ///
    /// # Errors
    /// [`OperationError::Unconfirmed`] without [`ShareHow::yes`], where no public cache has signed something
    /// in the closures.
    pub async fn share(
        &self,
        paths: &[StorePath],
        how: ShareHow,
        progress: impl FnMut(Progress),
    ) -> Result<Shared, ClientError> {
        self.stream(
            "/share",
            &ShareRequest {
                paths: texts(paths),
                how,
            },
            progress,
        )
        .await
    }

    /// Takes `paths` back.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn unshare(&self, paths: &[StorePath]) -> Result<(), ClientError> {
        self.post(
            "/unshare",
            &UnshareRequest {
                paths: texts(paths),
            },
        )
        .await
    }

    /// Makes a peer known to the daemon: a ticket, or `ID@ADDR:PORT`.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn add_peer(&self, peer: &str) -> Result<(), ClientError> {
        self.post(
            "/peers",
            &AddPeerRequest {
                peer: peer.to_owned(),
            },
        )
        .await
    }

    /// Has the daemon trust `key` (`NAME:BASE64`) besides, as long as what is returned lives.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn trust(&self, key: &str) -> Result<TrustedForNow, ClientError> {
        let request = TrustRequest {
            key: key.to_owned(),
        };
        let body = serde_json::to_vec(&request).map_err(bad)?;
        let mut answer = self.send(Method::POST, "/trust", body.into()).await?;
        // The first line says that it holds.
        let frame = answer.frame().await;
        let data = frame.and_then(|frame| frame.ok()?.into_data().ok());
        match serde_json::from_slice(&data.unwrap_or_default()).map_err(bad)? {
            Line::<()>::Progress(Progress::Trusted) => Ok(TrustedForNow { _answer: answer }),
            Line::Error(error) => Err(error.into()),
            _ => Err(bad("the key is not trusted")),
        }
    }

    /// Has the daemon look through its store.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn scan(&self, progress: impl FnMut(Progress)) -> Result<ScanSummary, ClientError> {
        self.stream("/scan", &serde_json::json!({}), progress).await
    }

    /// Pauses hashing in the background, or lets it go on.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn pause(&self, pause: bool) -> Result<(), ClientError> {
        self.post("/pause", &PauseRequest { pause }).await
    }

    /// Has the daemon upload nothing for so many seconds, or until it is resumed.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn pause_uploads(&self, seconds: Option<u64>) -> Result<(), ClientError> {
        let pause = PauseUploadsRequest {
            pause: true,
            seconds,
        };
        self.post("/pause-uploads", &pause).await
    }

    /// Has the daemon upload again.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn resume_uploads(&self) -> Result<(), ClientError> {
        let resume = PauseUploadsRequest {
            pause: false,
            seconds: None,
        };
        self.post("/pause-uploads", &resume).await
    }

    /// Has the daemon read again all that it holds.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn verify(
        &self,
        progress: impl FnMut(Progress),
    ) -> Result<VerifySummary, ClientError> {
        self.stream("/verify", &serde_json::json!({}), progress)
            .await
    }

    /// Has the daemon forget `paths`; returns those that it knew.
    ///
    /// # Errors
    /// [`OperationError::Refused`] for what is shared.
    pub async fn forget(&self, paths: &[StorePath]) -> Result<Vec<String>, ClientError> {
        let request = ForgetRequest {
            paths: texts(paths),
        };
        let body = serde_json::to_vec(&request).map_err(bad)?;
        read_all(self.send(Method::POST, "/forget", body.into()).await?).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read_all(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).map_err(bad)?;
        let _: serde_json::Value =
            read_all(self.send(Method::POST, path, body.into()).await?).await?;
        Ok(())
    }

    /// Sends a request whose answer comes line by line.
    async fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut progress: impl FnMut(Progress),
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(bad)?;
        let mut answer = self.send(Method::POST, path, body.into()).await?;
        let mut buffer = Vec::new();
        while let Some(frame) = answer.frame().await {
            let Ok(data) = frame.map_err(bad)?.into_data() else {
                continue;
            };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let rest = buffer.split_off(end + 1);
                match serde_json::from_slice(&std::mem::replace(&mut buffer, rest)).map_err(bad)? {
                    Line::Progress(step) => progress(step),
                    Line::Done(done) => return Ok(done),
                    Line::Error(error) => return Err(error.into()),
                }
            }
            if buffer.len() > MAX_ANSWER {
                return Err(bad("it is too long"));
            }
        }
        Err(bad("the daemon stopped in the middle of it"))
    }

    /// Sends one request over a connection of its own; an answer other than 200 becomes an error.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| {
            if is_absence(&source) {
                ClientError::NoDaemon {
                    tried: vec![self.path.clone()],
                }
            } else {
                ClientError::Unusable {
                    path: self.path.clone(),
                    source,
                }
            }
        })?;
        let exchange = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(bad)?;
            // Ends with the answer's body, or with this process.
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "peerix")
                .body(Full::new(body))
                .map_err(bad)?;
            sender.send_request(request).await.map_err(bad)
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_| bad("none came within 30 s"))??;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let status = answer.status();
        let error: Result<OperationError, ClientError> = read_all(answer.into_body()).await;
        Err(error.map_or_else(|_| bad(status), ClientError::Operation))
    }
}

/// A key that the daemon trusts until this goes.
#[derive(Debug)]
pub struct TrustedForNow {
    // The daemon lets go when the connection ends.
    _answer: Incoming,
}

/// Whether the error means that nobody listens.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

fn texts(paths: &[StorePath]) -> Vec<String> {
    paths.iter().map(StorePath::to_absolute_path).collect()
}

async fn read_all<T: DeserializeOwned>(body: Incoming) -> Result<T, ClientError> {
    let bytes = Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map_err(bad)?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(bad)
}
