//! One HTTP cache: its narinfos, its NARs, and how it has been.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use lru::LruCache;
use peerix_store::nix::{MAX_NARINFO_SIZE, StorePathHash};
use reqwest::{Client, Response, StatusCode, Url, header};
use tokio::sync::Semaphore;

use super::{
    UpstreamError,
    backoff::Backoff,
    decode,
    record::{self, Record},
};
use crate::{
    limits,
    metrics::Fault,
    outgoing::{self, BodyError},
    transfer::whole::NarStream,
};

/// Makes the client of all caches: what is configured decides, not the process's surroundings.
pub(crate) fn client(allow_insecure_http: bool) -> Result<Client, UpstreamError> {
    Ok(
        outgoing::client(allow_insecure_http, limits::UPSTREAM_REDIRECTS)
            .connect_timeout(limits::UPSTREAM_CONNECT)
            .read_timeout(limits::STALL)
            .build()?,
    )
}

/// One HTTP cache.
pub(super) struct Cache {
    url: String,
    /// The same, ending in a slash.
    base: Url,
    client: Client,
    streams: Arc<Semaphore>,
    backoff: Mutex<Backoff>,
    records: Mutex<LruCache<StorePathHash, Record>>,
}

impl Cache {
    pub(super) fn new(
        url: &str,
        client: Client,
        streams: Arc<Semaphore>,
    ) -> Result<Self, UpstreamError> {
        let base = outgoing::base(url).map_err(|reason| UpstreamError::Url {
            url: url.to_owned(),
            reason,
        })?;
        let remembered = NonZeroUsize::new(limits::UPSTREAM_RECORDS).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            url: url.to_owned(),
            base,
            client,
            streams,
            backoff: Mutex::default(),
            records: Mutex::new(LruCache::new(remembered)),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Whether a URL lies in this cache.
    pub(super) fn is_within(&self, url: &Url) -> bool {
        url.as_str().starts_with(self.base.as_str())
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> MutexGuard<'_, LruCache<StorePathHash, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn may_ask(&self, now: Instant) -> bool {
        self.backoff().may_ask(now)
    }

    pub(super) fn is_failing(&self, now: Instant) -> bool {
        self.backoff().is_failing(now)
    }

    pub(super) fn fails(&self, now: Instant) {
        self.backoff().fails(now);
    }

    pub(super) fn succeeds(&self) {
        self.backoff().succeeds();
    }

    /// What this cache said of a path lately.
    pub(super) fn recall(&self, path_hash: StorePathHash) -> Option<Record> {
        self.records().get(&path_hash).cloned()
    }

    /// Asks for a narinfo; returned with its text, `None` if the cache does not have it.
    pub(super) async fn narinfo(
        &self,
        path_hash: StorePathHash,
    ) -> Result<Option<(Record, Vec<u8>)>, Fault> {
        let asked = self.ask_narinfo(path_hash).await;
        match &asked {
            Ok(found) => {
                self.succeeds();
                if let Some((record, _)) = found {
                    self.records().put(path_hash, record.clone());
                }
            }
            Err(_) => self.fails(Instant::now()),
        }
        asked
    }

    async fn ask_narinfo(
        &self,
        path_hash: StorePathHash,
    ) -> Result<Option<(Record, Vec<u8>)>, Fault> {
        let url = self.base.join(&format!("{path_hash}.narinfo"));
        let url = url.map_err(|_| Fault::Refused)?;
        let Some(response) = self.get(url).await? else {
            return Ok(None);
        };
        let text = outgoing::body_up_to(response, MAX_NARINFO_SIZE).await;
        let text = text.map_err(|error| match error {
            BodyError::TooLong => Fault::BadData,
            BodyError::Broken(error) => fault_of(&error),
        })?;
        let record = record::parse(&text, &self.base, path_hash)?;
        Ok(Some((record, text)))
    }

    /// Asks for the NAR of a record.
    pub(super) async fn nar(&self, record: &Record) -> Result<NarStream, Fault> {
        // Held for as long as the stream: each may need memory to decompress.
        let stream = self.streams.clone().acquire_owned().await;
        let stream = stream.map_err(|_| Fault::Refused)?;
        let response = self.get(record.url.clone()).await?.ok_or(Fault::Absent)?;
        let body = response.bytes_stream().map_err(io::Error::other);
        let pieces = decode::decode(body, record.codec, record.info.nar_size);
        let held = pieces.map(move |piece| {
            let _until_the_end = &stream;
            piece
        });
        Ok(held.boxed())
    }

    /// A response with a body, `None` for what the cache does not have.
    async fn get(&self, url: Url) -> Result<Option<Response>, Fault> {
        let request = self.client.get(url);
        // Whatever encoded it on the way, we would not decode it.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        let response = request.send().await.map_err(|error| fault_of(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => return Ok(None),
            _ => return Err(Fault::Refused),
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(Fault::BadData);
        }
        Ok(Some(response))
    }
}

fn fault_of(error: &reqwest::Error) -> Fault {
    if error.is_timeout() {
        Fault::Silent
    } else if error.is_redirect() || error.is_builder() {
        Fault::Refused
    } else {
        Fault::Disconnected
    }
}
