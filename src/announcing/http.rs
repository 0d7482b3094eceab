//! Requests to one tracker over HTTP: bounded in time and size, and free of this process's
//! surroundings.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url, header};
use serde::{Serialize, de::DeserializeOwned};

use super::limits;
use crate::{
    authorities::Authorities,
    outgoing::{self, BodyError},
};

/// A tracker can't be spoken with at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// A URL is none.
    #[error("`{url}` is not the URL of a tracker: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client could not be made.
    #[error("no HTTP client for trackers: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("can't be reached: {0}")]
    Unreachable(String),
    #[error(
        "shows a certificate that is not trusted here ({0}): --ca-file names further authorities"
    )]
    Untrusted(String),
    #[error("did not answer in time")]
    Silent,
    #[error("said {status}{}", colon(.message))]
    Refused {
        status: StatusCode,
        /// What it said, made fit to be shown.
        message: String,
        retry_after: Option<Duration>,
        /// The answer, for those who know what to look for.
        body: Vec<u8>,
    },
    #[error("answered with something else than a tracker's answer: {0}")]
    Malformed(String),
}

fn colon(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(": {message}"),
    }
}

impl RequestError {
    /// How long the tracker asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The status that it refused with.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Makes the client for all trackers.
pub(crate) fn client(
    allow_insecure_http: bool,
    authorities: &Authorities,
) -> Result<Client, TrackerError> {
    Ok(outgoing::client(allow_insecure_http, limits::REDIRECTS)
        .connect_timeout(limits::CONNECT)
        .tls_certs_merge(authorities.for_http()?)
        .build()?)
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below the tracker's URL, without a leading slash.
    pub(super) path: &'a str,
    pub(super) headers: Vec<(&'static str, String)>,
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
    /// How long the tracker is asked to wait before it answers.
    pub(super) wait: Duration,
    /// Longest answer, in bytes.
    pub(super) limit: usize,
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str, limit: usize) -> Self {
        Self {
            method: Method::GET,
            path,
            headers: Vec::new(),
            body: None,
            wait: Duration::ZERO,
            limit,
        }
    }

    pub(super) fn post(path: &'a str, body: Vec<u8>, limit: usize) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            ..Self::get(path, limit)
        }
    }
}

/// What a tracker answered with success.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) etag: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, RequestError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| RequestError::Malformed(error.to_string()))
    }
}

/// The place of one tracker. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Site {
    base: Url,
    client: Client,
}

impl Site {
    pub(super) fn new(url: &str, client: Client) -> Result<Self, TrackerError> {
        let base = outgoing::base(url).map_err(|reason| TrackerError::Url {
            url: url.to_owned(),
            reason,
        })?;
        Ok(Self { base, client })
    }

    /// Sends a request and returns its answer: one that was a success, or 304.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, RequestError> {
        let body = ask.body.as_ref().map_or(0, Vec::len);
        let sending = Duration::from_secs(body as u64 / limits::UPLOAD_RATE);
        let patience = limits::REQUEST + ask.wait + sending;
        let asked = tokio::time::timeout(patience, self.send(ask));
        asked.await.unwrap_or(Err(RequestError::Silent))
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Answer, RequestError> {
        let url = self.base.join(ask.path);
        let url = url.map_err(|error| RequestError::Malformed(error.to_string()))?;
        let mut request = self.client.request(ask.method, url);
        request = request.header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if let Some(body) = ask.body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let response = request.send().await.map_err(failure)?;
        let status = response.status();
        let text_of = |name: header::HeaderName| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let etag = text_of(header::ETAG);
        let retry_after = text_of(header::RETRY_AFTER)
            .and_then(|text| text.parse().ok())
            .map(Duration::from_secs);
        let is_good = status.is_success() || status == StatusCode::NOT_MODIFIED;
        let limit = if is_good {
            ask.limit
        } else {
            limits::SHORT_ANSWER
        };
        let body = outgoing::body_up_to(response, limit).await;
        let body = body.map_err(|error| match error {
            BodyError::TooLong => RequestError::Malformed(format!("over {limit} bytes")),
            BodyError::Broken(error) => failure(error),
        })?;
        match is_good {
            true => Ok(Answer { status, etag, body }),
            false => Err(RequestError::Refused {
                status,
                message: message(&body),
                retry_after,
                body,
            }),
        }
    }
}

/// A JSON body.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, RequestError> {
    serde_json::to_vec(value).map_err(|error| RequestError::Malformed(error.to_string()))
}

fn failure(error: reqwest::Error) -> RequestError {
    if error.is_timeout() {
        return RequestError::Silent;
    }
    let error = error.without_url();
    if let Some(reason) = outgoing::distrusted(&error) {
        return RequestError::Untrusted(shown(&reason));
    }
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    RequestError::Unreachable(shown(&innermost.to_string()))
}

/// The tracker's own words for a refusal.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => shown(&refusal.error),
        Err(_) => String::new(),
    }
}

/// Text of somebody else's, fit for a log and a terminal.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().filter(|letter| !letter.is_control()) {
        if shown.len() + letter.len_utf8() > limits::MESSAGE {
            break;
        }
        shown.push(letter);
    }
    shown
}
