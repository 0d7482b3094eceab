//! Requests of this process to others over HTTP: what is configured decides, not the process's
//! surroundings.

use std::{error::Error, io};

use futures_util::StreamExt as _;
use reqwest::{Client, ClientBuilder, Response, Url, redirect::Policy};

/// The beginnings of a client: without the environment's proxies, and with at most `redirects`
/// redirects, none of them to another scheme. Only the time to wait is for the caller to say.
pub(crate) fn client(allow_insecure_http: bool, redirects: usize) -> ClientBuilder {
    let redirects = Policy::custom(move |attempt| {
        let first = attempt.previous().first();
        let stays = first.is_some_and(|url| url.scheme() == attempt.url().scheme());
        if !stays {
            attempt.error("a redirect to another scheme")
        } else if attempt.previous().len() > redirects {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .user_agent(concat!("peerix/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .https_only(!allow_insecure_http)
        .redirect(redirects)
        .referer(false)
}

/// The URL below which everything of a server lies, with a slash at its end.
///
/// # Errors
/// Why `url` is none, for a person.
pub(crate) fn base(url: &str) -> Result<Url, String> {
    let mut base = Url::parse(url).map_err(|error| error.to_string())?;
    base.set_query(None);
    base.set_fragment(None);
    base.path_segments_mut()
        .map_err(|()| "nothing can lie below it".to_owned())?
        .pop_if_empty()
        .push("");
    Ok(base)
}

/// A body that was not read to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is longer than was allowed.
    TooLong,
    /// The connection failed.
    Broken(reqwest::Error),
}

/// Reads a body that may not be longer than `most` bytes.
pub(crate) async fn body_up_to(response: Response, most: usize) -> Result<Vec<u8>, BodyError> {
    if response
        .content_length()
        .is_some_and(|length| length > most as u64)
    {
        return Err(BodyError::TooLong);
    }
    let mut bytes = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(BodyError::Broken)?;
        if bytes.len() + piece.len() > most {
            return Err(BodyError::TooLong);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// An error with what caused it, on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Why a server's certificate was not taken, where that is what went wrong.
pub(crate) fn distrusted(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(reason.to_string());
        }
        // What an I/O error was made of does not count as its source.
        let io = error.downcast_ref::<io::Error>();
        next = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}
