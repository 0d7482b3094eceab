//! The daemon's HTTP face, as `get` uses it.

use std::{net::SocketAddr, time::Duration};

use peerix_store::nix::{StorePath, StorePathHash};
use reqwest::{Client, StatusCode, Url};
use tokio::time::{Instant, sleep};

use super::super::{Failure, output};
use crate::outgoing::with_causes;

/// Longest wait for a connection to the daemon, which is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without a byte: a peer may have to hash a large NAR first.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for a peer that was only just made known: a connection through a relay takes
/// seconds, and the daemon answers Nix with a miss until there is one.
const PEER_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two questions meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// The daemon's substituter.
#[derive(Debug)]
pub(super) struct Substituter {
    client: Client,
    url: String,
}

impl Substituter {
    pub(super) fn new(address: SocketAddr) -> Result<Self, Failure> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // The daemon is on this machine, whatever proxies the environment names.
            .no_proxy()
            .build()
            .map_err(|error| {
                Failure::failed(format!(
                    "can't make an HTTP client: {}",
                    with_causes(&error)
                ))
            })?;
        Ok(Substituter {
            client,
            url: format!("http://{address}"),
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What Nix is given as a substituter.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn narinfo_url(&self, path: &StorePath) -> Result<Url, Failure> {
        Url::parse(&format!(
            "{}/{}.narinfo",
            self.url,
            StorePathHash::from(path)
        ))
        .map_err(|error| Failure::failed(format!("the daemon's address can't be used: {error}")))
    }

    /// Waits until the daemon has found each of `paths`, at most [`PEER_TIMEOUT`], and says what
    /// it didn't find.
    pub(super) async fn wait_for(&self, paths: &[StorePath]) {
        self.wait_until(paths, Instant::now() + PEER_TIMEOUT).await;
    }

    async fn wait_until(&self, paths: &[StorePath], deadline: Instant) {
        for path in paths {
            while !self.is_offered(path).await {
                if Instant::now() >= deadline {
                    output::hint(&format!(
                        "peerix: no peer offers {path} with a signature that is trusted here, so far"
                    ));
                    break;
                }
                sleep(PAUSE).await;
            }
        }
    }

    async fn is_offered(&self, path: &StorePath) -> bool {
        let Ok(url) = self.narinfo_url(path) else {
            return false;
        };
        self.client
            .head(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status() == StatusCode::OK)
    }
}
