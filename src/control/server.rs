//! The daemon's side of the control socket.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Extension, Path as UrlPath, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{StreamExt, future::BoxFuture, stream};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use peerix_store::nix::{StorePath, StorePathHash, TrustedPublicKey};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    net::UnixStream,
    signal::unix::{Signal, SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AddPeerRequest, ControlSocket, DaemonInfo, ForgetRequest, Line, OperationError, Operations,
    PauseRequest, PauseUploadsRequest, Progress, ShareRequest, TrustRequest, UnshareRequest,
    credentials::{Accounts, Caller, may_change},
};
use crate::ticket::{MAX_PATHS, PeerAddr, Ticket};

/// Connections at once: a person's commands and a few scripts.
const MAX_CONNECTIONS: usize = 64;
/// Longest time for a request's header; only processes of this machine connect.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of a request in bytes: a ticket, or [`MAX_PATHS`] store paths.
const MAX_BODY: usize = 256 * 1024;
/// How long requests that are under way may take after `stop`.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after a failure to accept, which is most often a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Progress that is kept for a client that reads slowly.
const PROGRESS_QUEUE: usize = 16;

type Shared = Arc<dyn Operations>;

/// Serves the control socket until `stop`; whenever the process gets SIGHUP, the configuration is
/// read again and the store looked through.
///
/// After `stop` nothing new is accepted and what is under way has two seconds. The socket file is
/// gone when this returns.
///
/// # Errors
/// If SIGHUP can't be listened to.
pub async fn serve(
    socket: ControlSocket,
    operations: Arc<dyn Operations>,
    stop: CancellationToken,
) -> io::Result<()> {
    let hangups = signal(SignalKind::hangup())?;
    let app = router(operations.clone());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    tasks.spawn(scan_at_hangups(hangups, operations, stop.clone()));
    while let Some(accepted) = stop.run_until_cancelled(accept(&socket, &slots)).await {
        match accepted {
            Ok((stream, slot)) => {
                let connection = serve_connection(stream, app.clone(), stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept on the control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::debug!("commands were still under way at the end");
    }
    Ok(())
}

async fn accept(
    socket: &ControlSocket,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = socket.listener.accept().await?;
    Ok((stream, slot))
}

/// Reads the configuration and scans at each SIGHUP; those that come during a scan are one more
/// scan together.
async fn scan_at_hangups(mut hangups: Signal, operations: Shared, stop: CancellationToken) {
    while let Some(Some(())) = stop.run_until_cancelled(hangups.recv()).await {
        if stop
            .run_until_cancelled(operations.reload())
            .await
            .is_none()
        {
            return;
        }
        let (progress, _unread) = mpsc::channel(1);
        match stop.run_until_cancelled(operations.scan(progress)).await {
            Some(Ok(summary)) => {
                tracing::info!(
                    paths = summary.paths,
                    offered = summary.offered,
                    "scanned the store after SIGHUP"
                );
            }
            Some(Err(error)) => tracing::error!(%error, "can't scan the store after SIGHUP"),
            None => {}
        }
    }
}

async fn serve_connection(stream: UnixStream, app: Router, stop: CancellationToken) {
    // Without credentials nobody is trusted with a change.
    let caller = stream.peer_cred().ok().map(|credentials| Caller {
        user_id: credentials.uid(),
        group_id: credentials.gid(),
    });
    let service = TowerToHyperService::new(app.layer(Extension(caller)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the control socket broke");
    }
}

fn router(operations: Shared) -> Router {
    let changes = Router::new()
        .route("/share", post(share))
        .route("/unshare", post(unshare))
        .route("/peers", post(add_peer))
        .route("/trust", post(trust))
        .route("/scan", post(scan))
        .route("/pause", post(pause))
        .route("/pause-uploads", post(pause_uploads))
        .route("/verify", post(verify))
        .route("/forget", post(forget))
        .route_layer(middleware::from_fn(only_who_may_change));
    Router::new()
        .route("/daemon", get(daemon))
        .route(
            "/status",
            get(|State(operations): State<Shared>| async move { Json(operations.status().await) }),
        )
        .route(
            "/peers",
            get(|State(operations): State<Shared>| async move { Json(operations.peers().await) }),
        )
        .route(
            "/report",
            get(|State(operations): State<Shared>| async move { Json(operations.report().await) }),
        )
        .route("/why/{path_hash}", get(why))
        .route("/shared", get(shared))
        .route("/store", get(store_stats))
        .route(
            "/ticket",
            get(|State(operations): State<Shared>| async move {
                Json(json!({"ticket": operations.ticket().await}))
            }),
        )
        .merge(changes)
        .fallback(|| async {
            let message =
                "this daemon doesn't know that command: is it of another version?".to_owned();
            (
                StatusCode::NOT_FOUND,
                Json(OperationError::Refused { message }),
            )
        })
        .with_state(operations)
}

async fn only_who_may_change(
    caller: Option<Extension<Option<Caller>>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = caller.and_then(|Extension(caller)| caller);
    let daemon_user_id = rustix::process::geteuid().as_raw();
    if caller.is_some_and(|caller| may_change(caller, daemon_user_id, Accounts::read)) {
        return next.run(request).await;
    }
    let message =
        "only root, the daemon's user and members of the group `peerix` may do this".to_owned();
    (
        StatusCode::FORBIDDEN,
        Json(OperationError::Refused { message }),
    )
        .into_response()
}

async fn daemon(State(operations): State<Shared>) -> Json<DaemonInfo> {
    Json(DaemonInfo {
        http_address: operations.http_address(),
        store_uri: operations.store_uri(),
        version: crate::VERSION.to_owned(),
        process_id: std::process::id(),
    })
}

async fn why(State(operations): State<Shared>, UrlPath(path_hash): UrlPath<String>) -> Response {
    match path_hash.parse::<StorePathHash>() {
        Ok(path_hash) => Json(operations.why(path_hash).await).into_response(),
        Err(error) => failure(refused(error)),
    }
}

async fn shared(State(operations): State<Shared>) -> Response {
    operations
        .shared()
        .await
        .map_or_else(failure, |paths| Json(paths).into_response())
}

async fn share(State(operations): State<Shared>, body: Body) -> Response {
    let request: ShareRequest = match read_json(body).await {
        Ok(request) => request,
        Err(error) => return failure(error),
    };
    let paths = match store_paths(&request.paths) {
        Ok(paths) => paths,
        Err(error) => return failure(error),
    };
    streamed(operations, move |operations, progress| {
        operations.share(paths, request.how, progress)
    })
}

async fn trust(State(operations): State<Shared>, body: Body) -> Response {
    let request: TrustRequest = match read_json(body).await {
        Ok(request) => request,
        Err(error) => return failure(error),
    };
    let key = match TrustedPublicKey::parse(&request.key) {
        Ok(key) => key,
        Err(error) => return failure(refused(error)),
    };
    streamed(operations, move |operations, progress| {
        operations.trust(key, progress)
    })
}

async fn scan(State(operations): State<Shared>) -> Response {
    streamed(operations, |operations, progress| operations.scan(progress))
}

async fn verify(State(operations): State<Shared>) -> Response {
    streamed(operations, |operations, progress| {
        operations.verify(progress)
    })
}

async fn forget(State(operations): State<Shared>, body: Body) -> Response {
    let outcome = async {
        let request: ForgetRequest = read_json(body).await?;
        operations.forget(store_paths(&request.paths)?).await
    };
    outcome
        .await
        .map_or_else(failure, |known| Json(known).into_response())
}

async fn pause(State(operations): State<Shared>, body: Body) -> Response {
    match read_json::<PauseRequest>(body).await {
        Ok(request) => {
            operations.pause(request.pause).await;
            Json(json!({})).into_response()
        }
        Err(error) => failure(error),
    }
}

async fn pause_uploads(State(operations): State<Shared>, body: Body) -> Response {
    let request = match read_json::<PauseUploadsRequest>(body).await {
        Ok(request) => request,
        Err(error) => return failure(error),
    };
    match request.pause {
        true => operations.pause_uploads(request.seconds).await,
        false => operations.resume_uploads().await,
    }
    Json(json!({})).into_response()
}

async fn store_stats(State(operations): State<Shared>) -> Response {
    operations
        .store_stats()
        .await
        .map_or_else(failure, |stats| Json(stats).into_response())
}

async fn unshare(State(operations): State<Shared>, body: Body) -> Response {
    let outcome = async {
        let request: UnshareRequest = read_json(body).await?;
        operations.unshare(store_paths(&request.paths)?).await
    };
    outcome
        .await
        .map_or_else(failure, |()| Json(json!({})).into_response())
}

async fn add_peer(State(operations): State<Shared>, body: Body) -> Response {
    let outcome = async {
        let request: AddPeerRequest = read_json(body).await?;
        let peer: PeerAddr = request.peer.parse().map_err(refused)?;
        // `ID@ADDR:PORT` carries no token.
        let ticket: Option<Ticket> = request.peer.parse().ok();
        operations
            .add_peer(peer, ticket.and_then(|ticket| ticket.token))
            .await
    };
    outcome
        .await
        .map_or_else(failure, |()| Json(json!({})).into_response())
}

fn refused(reason: impl ToString) -> OperationError {
    OperationError::Refused {
        message: reason.to_string(),
    }
}

fn failure(error: OperationError) -> Response {
    let status = match &error {
        OperationError::Unconfirmed { .. } => StatusCode::CONFLICT,
        OperationError::Refused { .. } => StatusCode::BAD_REQUEST,
        OperationError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(error)).into_response()
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, OperationError> {
    let bytes = axum::body::to_bytes(body, MAX_BODY)
        .await
        .map_err(|_| refused("the request is too long"))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| refused(format!("the request makes no sense: {error}")))
}

fn store_paths(texts: &[String]) -> Result<Vec<StorePath>, OperationError> {
    match texts.len() {
        0 => return Err(refused("no store path was given")),
        1..=MAX_PATHS => {}
        _ => return Err(refused(format!("more than {MAX_PATHS} paths at once"))),
    }
    let parse = |text: &String| {
        StorePath::from_absolute_path(text.as_bytes())
            .map_err(|error| refused(format!("{text} is not a store path: {error}")))
    };
    let mut paths: Vec<StorePath> = Vec::new();
    for path in texts.iter().map(parse) {
        let path = path?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Answers with one JSON value a line while an operation runs, which is dropped when the client
/// goes away.
fn streamed<T, F>(operations: Shared, start: F) -> Response
where
    T: Serialize + Send + 'static,
    F: for<'a> FnOnce(
            &'a dyn Operations,
            mpsc::Sender<Progress>,
        ) -> BoxFuture<'a, Result<T, OperationError>>
        + Send
        + 'static,
{
    let (lines, receiver) = mpsc::channel::<Bytes>(PROGRESS_QUEUE);
    tokio::spawn(async move {
        let (sender, mut progress) = mpsc::channel(PROGRESS_QUEUE);
        let mut operation = start(operations.as_ref(), sender);
        let outcome = loop {
            tokio::select! {
                biased;
                () = lines.closed() => return,
                // A client that doesn't read misses some: the operation never waits for it.
                Some(step) = progress.recv() => drop(lines.try_send(line(&Line::<T>::Progress(step)))),
                outcome = &mut operation => break outcome,
            }
        };
        let last = outcome.map_or_else(Line::Error, Line::Done);
        // It fails only if the client has gone.
        drop(lines.send(line(&last)).await);
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let body = Body::from_stream(body.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn line<T: Serialize>(line: &Line<T>) -> Bytes {
    // Plain data; JSON has a form for all of it.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
