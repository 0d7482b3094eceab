//! The accept loop, and the way of one request through its checks to its route.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::body::ResponseBody;
use super::connection::{Activity, Admitted, Connections, drive, protocol};
use super::respond::Refusal;
use super::route::{self, Route};
use super::stream::ClientStream;
use super::{
    HttpState, cache_info, dashboard, guard, health, local, metrics, nar, narinfo, peers, status,
};
use crate::lan;
use crate::metrics::{HttpLabels, Metrics};
use crate::substituter::Audience;

/// Pause after the system refused to hand out a connection, which it will do again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long one warning about it stands for all that follow.
const WARN_AGAIN: Duration = Duration::from_secs(10);

/// Serves `state` to the clients of `listener` until `stop` is cancelled.
///
/// Then nothing new is accepted, requests under way have [`HttpLimits::grace`] to end, and what is
/// left is cut.
///
/// # Errors
/// None so far: a failing `accept` is tried again, as descriptors may become free.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = Connections::new(state.limits, Arc::clone(&state.metrics));
    let state = Arc::new(state);
    let strangers = Arc::new(Semaphore::new(lan::limits::HTTP_CONNECTIONS));
    let mut tasks = JoinSet::new();
    let mut refused = Refused::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => note_end(&ended, &state.metrics),
            accepted = listener.accept() => match accepted {
                Ok((socket, from)) => {
                    // Whoever is neither here nor near is not talked to.
                    let Some(client) = Client::of(&socket, from.ip(), &state, &strangers) else {
                        continue;
                    };
                    let Some(activity) = stop.run_until_cancelled(connections.admit()).await else {
                        break;
                    };
                    let work = connection(socket, client, activity, Arc::clone(&state), stop.clone());
                    tasks.spawn(work);
                }
                Err(error) => refused.note(&error, &state.metrics).await,
            },
        }
    }
    drop(listener);
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            note_end(&ended, &state.metrics);
        }
    };
    if tokio::time::timeout(state.limits.grace, ended)
        .await
        .is_err()
    {
        debug!(
            left = tasks.len(),
            "cutting HTTP connections that did not end in time"
        );
    }
    tasks.shutdown().await;
    Ok(())
}

/// Who is at the other end of a connection, as the socket says.
struct Client {
    audience: Audience,
    /// The address of this machine that it is connected to.
    own: Option<IpAddr>,
    /// The place of a client from the network.
    _place: Option<OwnedSemaphorePermit>,
}

impl Client {
    fn of(
        socket: &TcpStream,
        from: IpAddr,
        state: &HttpState,
        strangers: &Arc<Semaphore>,
    ) -> Option<Self> {
        let from = from.to_canonical();
        let own = socket
            .local_addr()
            .ok()
            .map(|addr| addr.ip().to_canonical());
        let Some(networks) = &state.networks else {
            return Some(Self {
                audience: Audience::ThisMachine,
                own,
                _place: None,
            });
        };
        // No other host's packets come in under this machine's own addresses.
        if from.is_loopback() || own == Some(from) {
            return Some(Self {
                audience: Audience::ThisMachine,
                own,
                _place: None,
            });
        }
        if !networks.is_local(from) {
            return None;
        }
        let place = Arc::clone(strangers).try_acquire_owned().ok()?;
        Some(Self {
            audience: Audience::Network(from),
            own,
            _place: Some(place),
        })
    }
}

/// Failed accepts, which come in long rows.
#[derive(Default)]
struct Refused {
    warned: Option<Instant>,
}

impl Refused {
    async fn note(&mut self, error: &io::Error, metrics: &Metrics) {
        metrics.errors.inc();
        if self
            .warned
            .is_none_or(|warned| warned.elapsed() > WARN_AGAIN)
        {
            self.warned = Some(Instant::now());
            warn!(%error, "could not accept an HTTP connection");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn note_end(ended: &Result<(), JoinError>, metrics: &Metrics) {
    if ended.as_ref().is_err_and(JoinError::is_panic) {
        metrics.errors.inc();
        error!("an HTTP connection ended in a panic");
    }
}

async fn connection(
    socket: TcpStream,
    client: Client,
    activity: Admitted,
    state: Arc<HttpState>,
    stop: CancellationToken,
) {
    // A body's last piece must not wait for the client to acknowledge the one before.
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "could not set TCP_NODELAY");
    }
    let stream = ClientStream::new(socket, Arc::clone(&activity), state.limits.stall_timeout);
    let service = service_fn(|request| {
        let request_guard = activity.begin_request();
        let answer = answer(&state, &client, &activity, request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| body.holding(request_guard))) }
    });
    let serving = protocol(&state.limits).serve_connection(TokioIo::new(stream), service);
    drive(serving, &activity, &stop).await;
}

/// Answers one request. Whatever goes wrong in here is a miss for Nix.
async fn answer(
    state: &HttpState,
    client: &Client,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let route = Route::parse(request.uri().path());
    let outcome = match AssertUnwindSafe(dispatch(state, client, activity, &request, route))
        .catch_unwind()
        .await
    {
        Ok(outcome) => outcome,
        Err(_) => {
            state.metrics.errors.inc();
            error!(
                route = route.map_or("other", Route::name),
                "answering a request panicked"
            );
            Err(Refusal::NotFound)
        }
    };
    let response = outcome.unwrap_or_else(Refusal::response);
    let labels = HttpLabels {
        route: route.map_or("other", Route::name),
        code: response.status().as_u16(),
    };
    state.metrics.http_responses.get_or_create(&labels).inc();
    response
}

async fn dispatch(
    state: &HttpState,
    client: &Client,
    activity: &Arc<Activity>,
    request: &Request<Incoming>,
    route: Option<Route>,
) -> Result<Response<ResponseBody>, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    guard::admit(request.uri(), headers, client.own)?;
    let is_change = matches!(route, Some(Route::Dashboard(part)) if part.is_change());
    let (is_allowed, allowed) = match is_change {
        true => (method == Method::POST, "POST"),
        false => (method == Method::GET || method == Method::HEAD, "GET, HEAD"),
    };
    if !is_allowed {
        return Err(Refusal::MethodNotAllowed { allowed });
    }
    // Logs, listings, debug info and realisations, which Nix asks caches for, are not here.
    let route = route.ok_or(Refusal::NotFound)?;
    let path = request.uri().path();
    if client.audience != Audience::ThisMachine && !route.is_for_the_network(path) {
        return Err(match route.is_about_a_path() {
            true => Refusal::NotFound,
            false => Refusal::Forbidden,
        });
    }
    match route {
        Route::CacheInfo => Ok(cache_info::answer(state, method)),
        Route::NarInfo(path_hash) => narinfo::answer(state, method, path_hash).await,
        Route::Nar(nar_hash) => {
            let path_hash = route::nar_query(request.uri().query()).ok_or(Refusal::NotFound)?;
            nar::answer(state, activity, method, headers, nar_hash, path_hash).await
        }
        Route::LocalNarInfo(path_hash) => {
            local::narinfo(state, method, path_hash, client.audience).await
        }
        Route::LocalNar(_) => {
            let store_path = route::local_nar_path(path).ok_or(Refusal::NotFound)?;
            local::nar(
                state,
                activity,
                method,
                headers,
                &store_path,
                client.audience,
            )
            .await
        }
        Route::Health => Ok(health::answer(state, method)),
        Route::Metrics => Ok(metrics::answer(state, method, headers)),
        Route::Status => Ok(status::answer(state, method)),
        Route::Peers => Ok(peers::answer(state, method)),
        Route::Dashboard(part) => dashboard::answer(state, request, part).await,
    }
}
