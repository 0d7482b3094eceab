//! The accept loop.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Face, address::From, answers::Cut, router};
use crate::http::{
    HttpLimits,
    connection::{Admitted, Connections, drive, protocol},
    stream::ClientStream,
};

/// Pause after the system refused to hand out a connection, which it will do again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections at once. One too many closes the one that idled longest.
const CONNECTIONS: usize = 4096;

/// Serves a face to the clients of `listener` until it is stopped; then requests under way have a
/// few seconds to end, and what is left is cut.
///
/// # Errors
/// None so far: a failing `accept` is tried again, as descriptors may become free.
pub async fn serve(listener: TcpListener, face: Arc<Face>) -> io::Result<()> {
    let limits = HttpLimits {
        connections: CONNECTIONS,
        ..HttpLimits::default()
    };
    let connections = Connections::new(limits, Arc::clone(&face.metrics.connections));
    let stop = face.stop.clone();
    let router = router::router(Arc::clone(&face));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let Some(activity) = stop.run_until_cancelled(connections.admit()).await else {
                        break;
                    };
                    let stop = stop.clone();
                    tasks.spawn(connection(socket, activity, limits, router.clone(), stop));
                }
                Err(error) => {
                    tracing::debug!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, ended).await.is_err() {
        tracing::debug!(left = tasks.len(), "cutting connections that did not end");
    }
    tasks.shutdown().await;
    Ok(())
}

async fn connection(
    socket: TcpStream,
    activity: Admitted,
    limits: HttpLimits,
    router: axum::Router,
    stop: CancellationToken,
) {
    let Ok(from) = socket.peer_addr() else {
        return;
    };
    // An answer must not wait for the client to acknowledge its head.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let stream = ClientStream::new(socket, Arc::clone(&activity), limits.stall_timeout);
    let service = TowerToHyperService::new(router);
    let requests = Arc::clone(&activity);
    let (tell, cuts) = watch::channel(CancellationToken::new());
    let service = service_fn(move |mut request: Request<Incoming>| {
        // While it is answered, a connection is not idle.
        let under_way = requests.begin_request();
        request.extensions_mut().insert(From(from.ip()));
        let answer = hyper::service::Service::call(&service, request);
        let tell = tell.clone();
        async move {
            let answer = answer.await?;
            if let Some(Cut(cut)) = answer.extensions().get() {
                tell.send_replace(cut.clone());
            }
            drop(under_way);
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = protocol(&limits).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = drive(serving, &activity, &stop) => {}
        () = last_is_cut(cuts) => tracing::debug!("cut a client that took its answer too slowly"),
    }
}

/// Waits until the answer must be cut that is on its way last.
async fn last_is_cut(mut cuts: watch::Receiver<CancellationToken>) {
    loop {
        let cut = cuts.borrow_and_update().clone();
        tokio::select! {
            () = cut.cancelled() => return,
            changed = cuts.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
        }
    }
}
