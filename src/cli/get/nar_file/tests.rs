//! A NAR into a file, from a daemon that does what daemons do on bad days.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};

use sha2::{Digest, Sha256};

use super::*;

const PATH: &str = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello";

/// What the daemon does with one request for the NAR.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Everything from where the request starts.
    Whole,
    /// So many bytes, and then it breaks off.
    Cut(usize),
    /// All of it, whatever range was asked for.
    IgnoreRange,
    /// Another byte at the very end.
    Wrong,
    /// This status.
    Status(u16),
}

struct Daemon {
    nar: Vec<u8>,
    /// What to do with the coming requests; the last one stays.
    answers: Mutex<Vec<Answer>>,
    /// The `Range` headers that came.
    ranges: Mutex<Vec<Option<String>>>,
}

struct Lab {
    directory: tempfile::TempDir,
    daemon: Arc<Daemon>,
    address: SocketAddr,
}

impl Lab {
    async fn new(size: usize, answers: &[Answer]) -> Self {
        // Failing means that another test was first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let nar = (0..size).map(|index| (index * 7 % 251) as u8).collect();
        let daemon = Arc::new(Daemon {
            nar,
            answers: Mutex::new(answers.iter().rev().copied().collect()),
            ranges: Mutex::default(),
        });
        let app = Router::new()
            .route("/17bh691vzkqk8hv1i7xiaqff85b85br3.narinfo", get(narinfo))
            .route("/nar/x.nar", get(nar_answer))
            .with_state(daemon.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Lab {
            directory: tempfile::tempdir().unwrap(),
            daemon,
            address,
        }
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("hello.nar")
    }

    async fn fetch(&self) -> Result<Written, Failure> {
        fetch(
            &Substituter::new(self.address).unwrap(),
            &StorePath::from_absolute_path(PATH.as_bytes()).unwrap(),
            &self.target(),
        )
        .await
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.daemon.ranges.lock().unwrap().clone()
    }

    /// The names in the directory.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn assert_whole(&self) {
        assert_eq!(self.files(), ["hello.nar"]);
        assert_eq!(fs::read(self.target()).unwrap(), self.daemon.nar);
    }
}

async fn narinfo(State(daemon): State<Arc<Daemon>>) -> String {
    let nar_hash = NarHash::from_bytes(Sha256::digest(&daemon.nar).into());
    let size = daemon.nar.len();
    format!(
        "StorePath: {PATH}\nURL: nar/x.nar\nCompression: none\nNarHash: {nar_hash}\nNarSize: {size}\nReferences: \n"
    )
}

async fn nar_answer(State(daemon): State<Arc<Daemon>>, headers: HeaderMap) -> Response<Body> {
    let range = headers
        .get("range")
        .map(|value| value.to_str().unwrap().to_owned());
    daemon.ranges.lock().unwrap().push(range.clone());
    let answer = {
        let mut answers = daemon.answers.lock().unwrap();
        if answers.len() > 1 {
            answers.pop().unwrap()
        } else {
            answers[0]
        }
    };
    let mut start = range.map_or(0, |range| {
        range
            .strip_prefix("bytes=")
            .unwrap()
            .strip_suffix('-')
            .unwrap()
            .parse::<usize>()
            .unwrap()
    });
    let mut bytes = daemon.nar.clone();
    let mut sent = bytes.len();
    match answer {
        Answer::Whole => {}
        Answer::Cut(length) => sent = start + length,
        Answer::IgnoreRange => start = 0,
        Answer::Wrong => *bytes.last_mut().unwrap() ^= 1,
        Answer::Status(status) => {
            return Response::builder()
                .status(status)
                .body(Body::empty())
                .unwrap();
        }
    }
    let response = Response::builder().header("content-length", bytes.len() - start);
    let response = match start {
        0 => response,
        _ => response.status(206).header(
            "content-range",
            format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
        ),
    };
    let is_cut = sent < bytes.len();
    let part = Bytes::from(bytes).slice(start..sent);
    let end = stream::iter(is_cut.then_some(())).then(|()| async {
        // What came before has to leave first.
        tokio::task::yield_now().await;
        Err(io::Error::other("cut"))
    });
    response
        .body(Body::from_stream(stream::iter([Ok(part)]).chain(end)))
        .unwrap()
}

#[tokio::test]
async fn a_nar_arrives_and_nothing_is_left_beside_it() {
    for size in [1, 1_000_000] {
        let lab = Lab::new(size, &[Answer::Whole]).await;
        assert_eq!(lab.fetch().await.unwrap().nar_size, size as u64);
        lab.assert_whole();
    }
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_was() {
    let lab = Lab::new(1000, &[Answer::Cut(300), Answer::Cut(300), Answer::Whole]).await;
    lab.fetch().await.unwrap();
    lab.assert_whole();
    let ranges = lab.ranges();
    assert_eq!(ranges[0], None);
    assert!(
        ranges[1..]
            .iter()
            .all(|range| range.as_ref().is_some_and(|range| range != "bytes=0-")),
        "{ranges:?}"
    );
}

#[tokio::test]
async fn what_an_earlier_run_got_is_kept_and_continued() {
    let lab = Lab::new(1000, &[Answer::Cut(400), Answer::Cut(0)]).await;
    let error = lab.fetch().await.unwrap_err();
    assert!(
        error.message().contains("of 1000 bytes came"),
        "{}",
        error.message()
    );
    let [part] = lab.files().try_into().unwrap();
    assert!(
        part.starts_with(".hello.nar.") && part.ends_with(".part"),
        "{part}"
    );
    let kept = fs::metadata(lab.directory.path().join(part)).unwrap().len();
    assert!(kept > 0);
    *lab.daemon.answers.lock().unwrap() = vec![Answer::Whole];
    lab.daemon.ranges.lock().unwrap().clear();
    lab.fetch().await.unwrap();
    lab.assert_whole();
    assert_eq!(lab.ranges(), [Some(format!("bytes={kept}-"))]);
}

#[tokio::test]
async fn a_daemon_that_knows_no_ranges_sends_all_of_it_again() {
    let lab = Lab::new(1000, &[Answer::Cut(300), Answer::IgnoreRange]).await;
    lab.fetch().await.unwrap();
    lab.assert_whole();
}

#[tokio::test]
async fn a_refused_continuation_begins_anew() {
    let lab = Lab::new(
        1000,
        &[Answer::Cut(300), Answer::Status(404), Answer::Whole],
    )
    .await;
    lab.fetch().await.unwrap();
    lab.assert_whole();
    assert_eq!(lab.ranges().last().unwrap(), &None);
}

#[tokio::test]
async fn a_wrong_nar_never_gets_the_name() {
    let lab = Lab::new(1000, &[Answer::Wrong]).await;
    fs::write(lab.target(), "older").unwrap();
    let error = lab.fetch().await.unwrap_err();
    assert!(
        error.message().contains("its hash is wrong"),
        "{}",
        error.message()
    );
    assert_eq!(lab.files(), ["hello.nar"]);
    assert_eq!(fs::read(lab.target()).unwrap(), b"older");
}

#[tokio::test]
async fn what_nobody_sends_is_no_file() {
    let lab = Lab::new(1000, &[Answer::Status(404)]).await;
    let error = lab.fetch().await.unwrap_err();
    assert!(
        error.message().contains("the daemon answered 404"),
        "{}",
        error.message()
    );
    assert_eq!(lab.files(), Vec::<String>::new());
    let lab = Lab::new(0, &[Answer::Whole]).await;
    let error = lab.fetch().await.unwrap_err();
    assert!(
        error.message().contains("can't be used"),
        "{}",
        error.message()
    );
    assert_eq!(lab.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_path_that_no_peer_has_is_said_to_be_missing() {
    let lab = Lab::new(1, &[Answer::Whole]).await;
    let other = StorePath::from_absolute_path(b"/nix/store/27bh691vzkqk8hv1i7xiaqff85b85br3-other")
        .unwrap();
    let error = fetch(
        &Substituter::new(lab.address).unwrap(),
        &other,
        &lab.target(),
    )
    .await
    .unwrap_err();
    assert!(
        error
            .message()
            .starts_with("no peer offers /nix/store/27bh691vzkqk8hv1i7xiaqff85b85br3-other"),
        "{}",
        error.message()
    );
}
