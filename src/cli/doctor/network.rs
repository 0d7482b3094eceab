//! Relays, addresses, upstream caches, trackers and the clock.

use std::time::{Duration, SystemTime};

use iroh::{SecretKey, TransportAddr, address_lookup::MemoryLookup};
use peerix_gossip::Links;
use reqwest::{Client, header};

use super::{Finding, Running};
use crate::{
    announcing,
    authorities::Authorities,
    config::{Config, Mode, Relay},
    lan::networks::is_private,
    outgoing::{self, with_causes},
    peer::{self, admission::Admission, endpoint::Relays, open::OpenConnections},
    upstream,
};

/// Longest wait for a relay.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer over HTTP.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// A clock this far off breaks certificates, and other machines' idea of what is new.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

pub(super) async fn examine(config: &Config, running: Option<&Running>) -> Vec<Finding> {
    let authorities = config.ca_file.as_deref().map(Authorities::load);
    let authorities = match authorities.transpose() {
        Ok(authorities) => authorities.unwrap_or_default(),
        Err(error) => {
            let todo = "correct --ca-file";
            return vec![Finding::failure(CONNECTIVITY, error.to_string(), todo)];
        }
    };
    let mut findings = vec![match running {
        Some(running) => as_the_daemon_sees_it(config, running),
        None => as_an_endpoint_sees_it(config, &authorities).await,
    }];
    // As the daemon asks them.
    let mut clock = None;
    if let Ok(client) = upstream::client(config.allow_insecure_http) {
        for cache in &config.upstream_caches {
            let answer = ask(&client, cache, "nix-cache-info").await;
            findings.push(reached(
                "upstream cache",
                cache,
                &answer,
                "peers alone can serve without it; --upstream-cache none says so",
            ));
            clock = clock.or(answer.ok().flatten());
        }
    }
    if let Ok(client) = announcing::client(config.allow_insecure_http, &authorities) {
        for tracker in &config.trackers {
            let answer = ask(&client, tracker, "status").await;
            let todo = match answer {
                Err(Unasked::Distrusted(_)) => "--ca-file names the authority that vouches for it",
                _ => {
                    "peers are found by gossip, tickets and the local network without it; --tracker none says so"
                }
            };
            findings.push(reached("tracker", tracker, &answer, todo));
            clock = clock.or(answer.ok().flatten());
        }
    }
    findings.extend(clock.map(|(theirs, ours)| compare(theirs, ours)));
    findings
}

const CONNECTIVITY: &str = "connectivity";

fn as_the_daemon_sees_it(config: &Config, running: &Running) -> Finding {
    let node = &running.report.node;
    connectivity(config, node.relay_url.as_deref(), &node.direct_addrs)
}

/// Binds an endpoint for a moment, on any port, and looks at what it finds out about itself.
async fn as_an_endpoint_sees_it(config: &Config, authorities: &Authorities) -> Finding {
    let secret_key = SecretKey::generate();
    let admission = Admission::new(secret_key.public(), &[], &[], None);
    let bound = peer::endpoint::bind(
        secret_key,
        Relays {
            relays: &config.relay,
            authorities,
        },
        Some(([0, 0, 0, 0], 0).into()),
        MemoryLookup::new(),
        admission,
        OpenConnections::default(),
        Links::new(""),
    );
    let endpoint = match bound.await {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return Finding::failure(
                CONNECTIVITY,
                error.to_string(),
                "without a UDP socket no peer can be reached: look at firewall and sandbox",
            );
        }
    };
    if config.relay != Relay::Off {
        // What is there by then is told.
        let _late = tokio::time::timeout(RELAY_TIMEOUT, endpoint.online()).await;
    }
    let (mut relay, mut direct) = (None, Vec::new());
    for addr in endpoint.addr().addrs {
        match addr {
            TransportAddr::Relay(url) => relay = Some(url.to_string()),
            TransportAddr::Ip(addr) => direct.push(addr.to_string()),
            _ => {}
        }
    }
    endpoint.close().await;
    connectivity(config, relay.as_deref(), &direct)
}

fn connectivity(config: &Config, relay: Option<&str>, direct: &[String]) -> Finding {
    let addresses = match direct {
        [] => "no address".to_owned(),
        addresses => addresses.join(", "),
    };
    let public = direct.iter().any(|addr| {
        addr.parse::<std::net::SocketAddr>()
            .is_ok_and(|addr| !addr.ip().is_loopback() && !is_private(addr.ip()))
    });
    match (&config.relay, relay) {
        _ if direct.is_empty() => Finding::failure(
            CONNECTIVITY,
            "this machine has no address that a peer could use",
            "connect it to a network",
        ),
        _ if config.mode == Mode::Lan => Finding::ok(
            CONNECTIVITY,
            format!("the local network alone, at {addresses}"),
        ),
        (Relay::Off, _) => Finding::ok(
            CONNECTIVITY,
            format!("without relays, as configured; reachable at {addresses}"),
        ),
        (_, Some(relay)) if public => Finding::ok(
            CONNECTIVITY,
            format!("reachable through {relay}; direct addresses {addresses}"),
        ),
        (_, Some(relay)) => Finding::warning(
            CONNECTIVITY,
            format!("reachable through {relay}; no public address was found out ({addresses})"),
            "UDP seems to be blocked: let UDP out, or peers on the internet are reached through the relay alone",
        ),
        (_, None) => Finding::warning(
            CONNECTIVITY,
            format!("no relay answers; direct addresses {addresses}"),
            "let HTTPS and UDP out to the relays; --relay off says that there are none",
        ),
    }
}

/// The time that the server tells, and when it was heard.
type Heard = Option<(SystemTime, SystemTime)>;

/// Why a server was not asked.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error("{0}")]
    Failed(String),
    #[error("its certificate is not trusted here ({0})")]
    Distrusted(String),
}

impl From<reqwest::Error> for Unasked {
    fn from(error: reqwest::Error) -> Self {
        match outgoing::distrusted(&error) {
            Some(reason) => Self::Distrusted(reason),
            None => Self::Failed(with_causes(&error.without_url())),
        }
    }
}

/// Asks for what lies at `path` below `url`.
async fn ask(client: &Client, url: &str, path: &str) -> Result<Heard, Unasked> {
    let url = outgoing::base(url).map_err(Unasked::Failed)?.join(path);
    let url = url.map_err(|error| Unasked::Failed(error.to_string()))?;
    let answer = client.get(url).timeout(HTTP_TIMEOUT).send().await?;
    if !answer.status().is_success() {
        return Err(Unasked::Failed(format!("it answers {}", answer.status())));
    }
    let date = answer.headers().get(header::DATE);
    let theirs = date
        .and_then(|date| date.to_str().ok())
        .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
        .and_then(|date| u64::try_from(date.timestamp().as_second()).ok())
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    Ok(theirs.map(|theirs| (theirs, SystemTime::now())))
}

fn reached(name: &'static str, url: &str, answer: &Result<Heard, Unasked>, todo: &str) -> Finding {
    match answer {
        Ok(_) => Finding::ok(name, format!("{url} answers")),
        Err(reason) => Finding::warning(name, format!("{url} can't be asked: {reason}"), todo),
    }
}

fn compare(theirs: SystemTime, ours: SystemTime) -> Finding {
    let apart = theirs
        .duration_since(ours)
        .unwrap_or_else(|error| error.duration());
    let rounded = Duration::from_secs(apart.as_secs());
    match apart > CLOCK_TOLERANCE {
        false => Finding::ok("clock", "it agrees with the servers that were asked"),
        true => Finding::failure(
            "clock",
            format!("it is {} off", humantime::format_duration(rounded)),
            "set it, or have it set (timedatectl set-ntp true): certificates fail otherwise",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_clock_that_is_minutes_off_is_broken() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(compare(now, now).outcome, Outcome::Ok);
        for theirs in [now + hour, now - hour] {
            let finding = compare(theirs, now);
            assert_eq!(finding.outcome, Outcome::Failure);
            assert!(finding.message.contains("1h"), "{}", finding.message);
        }
    }
}
