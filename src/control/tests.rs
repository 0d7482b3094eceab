//! The control socket from both sides.

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use iroh::EndpointAddr;
use tokio_util::sync::CancellationToken;

use super::*;

const YES: ShareHow = ShareHow {
    yes: true,
    private: false,
};
const PATH: &str = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello";

#[derive(Default)]
struct FakeDaemon {
    peers: Mutex<Vec<EndpointAddr>>,
    scans: AtomicUsize,
    /// Counts operations that never end and were dropped.
    dropped: Arc<AtomicUsize>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Operations for FakeDaemon {
    fn status(&self) -> BoxFuture<'_, serde_json::Value> {
        Box::pin(async { serde_json::json!({"mode": "iroh"}) })
    }

    fn peers(&self) -> BoxFuture<'_, serde_json::Value> {
        Box::pin(async { serde_json::json!({"peers": [], "count": 0}) })
    }

    fn report(&self) -> BoxFuture<'_, Report> {
        Box::pin(async { Report::default() })
    }

    fn why(&self, path_hash: StorePathHash) -> BoxFuture<'_, WhyReport> {
        Box::pin(async move {
            WhyReport {
                hash: path_hash.to_string(),
                ..WhyReport::default()
            }
        })
    }

    fn reload(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn store_uri(&self) -> String {
        "auto".to_owned()
    }

    fn shared(&self) -> BoxFuture<'_, Result<Vec<SharedPath>, OperationError>> {
        Box::pin(async {
            Ok(vec![SharedPath {
                store_path: PATH.to_owned(),
                shared_at: 7,
                closure_paths: 2,
                private: false,
            }])
        })
    }

    fn ticket(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "peerixabc".to_owned() })
    }

    fn share(
        &self,
        paths: Vec<StorePath>,
        how: ShareHow,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<Shared, OperationError>> {
        Box::pin(async move {
            let paths: Vec<String> = paths.iter().map(StorePath::to_absolute_path).collect();
            if paths[0].ends_with("-endless") {
                let _guard = CountDrop(self.dropped.clone());
                std::future::pending::<()>().await;
            }
            if !how.yes {
                return Err(OperationError::Unconfirmed {
                    paths,
                    makes_key: false,
                });
            }
            let step = Progress::Hashing {
                paths_done: 1,
                paths_total: 2,
                bytes_done: 3,
                bytes_total: 4,
            };
            progress.send(step).await.unwrap();
            tokio::task::yield_now().await;
            Ok(Shared {
                ticket: "peerixabc".to_owned(),
                paths,
                closure_paths: 2,
                closure_bytes: 4,
            })
        })
    }

    fn unshare(&self, paths: Vec<StorePath>) -> BoxFuture<'_, Result<(), OperationError>> {
        Box::pin(async move {
            Err(OperationError::Refused {
                message: format!("{} is not shared", paths[0]),
            })
        })
    }

    fn pause(&self, _pause: bool) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn verify(
        &self,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<VerifySummary, OperationError>> {
        Box::pin(async move {
            let step = Progress::Verifying {
                blobs_done: 1,
                blobs_total: 2,
                bytes_done: 3,
                bytes_total: 4,
            };
            let _ = progress.send(step).await;
            Ok(VerifySummary {
                right: 2,
                bytes: 4,
                dropped: Vec::new(),
            })
        })
    }

    fn forget(&self, paths: Vec<StorePath>) -> BoxFuture<'_, Result<Vec<String>, OperationError>> {
        Box::pin(async move { Ok(paths.iter().map(StorePath::to_absolute_path).collect()) })
    }

    fn store_stats(&self) -> BoxFuture<'_, Result<serde_json::Value, OperationError>> {
        Box::pin(async { Ok(serde_json::json!({"hashed": 1})) })
    }

    fn pause_uploads(&self, _seconds: Option<u64>) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn resume_uploads(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn trust(
        &self,
        _key: TrustedPublicKey,
        progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        Box::pin(async move {
            let _guard = CountDrop(self.dropped.clone());
            let _ = progress.send(Progress::Trusted).await;
            std::future::pending().await
        })
    }

    fn add_peer(
        &self,
        peer: PeerAddr,
        _token: Option<ShareToken>,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        self.peers.lock().unwrap().push(peer.addr);
        Box::pin(async { Ok(()) })
    }

    fn scan(
        &self,
        _progress: mpsc::Sender<Progress>,
    ) -> BoxFuture<'_, Result<ScanSummary, OperationError>> {
        self.scans.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            Ok(ScanSummary {
                paths: 3,
                offered: 1,
            })
        })
    }

    fn http_address(&self) -> SocketAddr {
        "127.0.0.1:12304".parse().unwrap()
    }
}

struct Lab {
    directory: tempfile::TempDir,
    daemon: Arc<FakeDaemon>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(&directory.path().join("run/control.sock")).unwrap();
        let (daemon, stop) = (Arc::new(FakeDaemon::default()), CancellationToken::new());
        let served = tokio::spawn(serve(socket, daemon.clone(), stop.clone()));
        Lab {
            directory,
            daemon,
            stop,
            served,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/control.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&[self.path()]).await.unwrap()
    }
}

fn path(text: &str) -> StorePath {
    StorePath::from_absolute_path(text.as_bytes()).unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what} within 10 s");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_command_reaches_the_daemon_and_its_answer_comes_back() {
    let lab = Lab::new();
    let client = lab.client().await;
    let info = client.daemon().await.unwrap();
    assert_eq!(
        (
            info.http_address.port(),
            info.store_uri.as_str(),
            info.process_id
        ),
        (12304, "auto", std::process::id())
    );
    assert_eq!(client.report("status").await.unwrap()["mode"], "iroh");
    assert_eq!(client.report("peers").await.unwrap()["count"], 0);
    assert_eq!(client.shared().await.unwrap()[0].store_path, PATH);
    assert_eq!(client.ticket().await.unwrap(), "peerixabc");
    assert_eq!(
        client.scan(|_| {}).await.unwrap(),
        ScanSummary {
            paths: 3,
            offered: 1
        }
    );
    let mut steps = Vec::new();
    let shared = client
        .share(&[path(PATH)], YES, |step| steps.push(step))
        .await
        .unwrap();
    assert_eq!((shared.paths, steps.len()), (vec![PATH.to_owned()], 1));
    let id = iroh::SecretKey::from_bytes(&[1; 32]).public();
    client
        .add_peer(&format!("{id}@10.0.0.1:12306"))
        .await
        .unwrap();
    assert_eq!(lab.daemon.peers.lock().unwrap()[0].id, id);
}

#[tokio::test]
async fn a_refusal_comes_back_as_what_it_is() {
    let lab = Lab::new();
    let client = lab.client().await;
    let unconfirmed = client
        .share(&[path(PATH)], ShareHow::default(), |_| {})
        .await
        .unwrap_err();
    assert!(
        matches!(unconfirmed, ClientError::Operation(OperationError::Unconfirmed { paths, .. }) if paths == [PATH])
    );
    let refused = client.unshare(&[path(PATH)]).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("{PATH} is not shared"));
    let refused = client.add_peer("peerixabc").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this ticket is cut short or mistyped: copy all of it again"
    );
    let unknown = client.report("dashboard").await.unwrap_err();
    assert!(unknown.to_string().contains("another version"), "{unknown}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_operation() {
    let lab = Lab::new();
    let client = lab.client().await;
    let endless = path("/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-endless");
    let asking = tokio::spawn(async move { client.share(&[endless], YES, |_| {}).await });
    until("the operation started", || {
        Arc::strong_count(&lab.daemon.dropped) == 2
    })
    .await;
    asking.abort();
    until("the operation was dropped", || {
        lab.daemon.dropped.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn stopping_removes_the_socket_whatever_clients_do() {
    let lab = Lab::new();
    let client = lab.client().await;
    let endless = path("/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-endless");
    let _asking = tokio::spawn(async move { client.share(&[endless], YES, |_| {}).await });
    let _silent = tokio::net::UnixStream::connect(lab.path()).await.unwrap();
    until("the operation started", || {
        Arc::strong_count(&lab.daemon.dropped) == 2
    })
    .await;
    lab.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), lab.served)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!lab.directory.path().join("run/control.sock").exists());
}

#[tokio::test]
async fn hangup_scans() {
    let lab = Lab::new();
    // It listens to the signal before it answers anyone.
    lab.client().await.daemon().await.unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    until("a scan", || lab.daemon.scans.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn the_socket_is_open_to_all_and_bound_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let socket = ControlSocket::bind(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o666
    );
    let error = ControlSocket::bind(&path).unwrap_err().to_string();
    assert!(
        error.starts_with("another peerix daemon listens at "),
        "{error}"
    );
    assert!(path.exists(), "the first one's socket was not touched");
    drop(socket);
    assert!(!path.exists());
    ControlSocket::bind(&path).unwrap();
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_anything_else_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(
        Client::connect(std::slice::from_ref(&path)).await,
        Err(ClientError::NoDaemon { .. })
    ));
    drop(ControlSocket::bind(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        ControlSocket::bind(&path),
        Err(SocketError::Obstructed { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let long = directory.path().join("x".repeat(120)).join("control.sock");
    assert!(matches!(
        ControlSocket::bind(&long),
        Err(SocketError::TooLong { .. })
    ));
}

#[tokio::test]
async fn without_a_daemon_the_places_are_named() {
    let error = Client::connect(&["/none/a.sock".into(), "/none/b.sock".into()])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no peerix daemon answers at /none/a.sock, /none/b.sock: start one with `peerix daemon`, or say which with --state-dir"
    );
}
