//! One NAR into a file: checked, continued where it was left, and there only when it is whole.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use peerix_store::nix::{NarHash, NarInfo, NixHash, StoreDir, StorePath};
use reqwest::{StatusCode, header};
use serde::Serialize;

use super::{
    super::{Failure, progress},
    Substituter,
};
use crate::outgoing::with_causes;

mod part;

use part::Part;

/// Tries that bring nothing before it is given up.
const FRUITLESS_TRIES: u32 = 3;
/// Longest narinfo in bytes.
const MAX_NARINFO: usize = 1 << 20;

/// What was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    store_path: String,
    file: PathBuf,
    nar_hash: String,
    nar_size: u64,
}

struct Wanted {
    url: reqwest::Url,
    nar_hash: NarHash,
    nar_size: u64,
}

/// Fetches the NAR of `path` from the daemon's `substituter` into `file`.
///
/// Until it is whole and its SHA-256 is right, it is a file beside `file` that begins with a dot
/// and ends in `.part`; what is there of it is kept and continued.
pub(super) async fn fetch(
    substituter: &Substituter,
    path: &StorePath,
    file: &Path,
) -> Result<Written, Failure> {
    let wanted = ask(substituter, path).await?;
    let bar = progress::bytes(path.name(), wanted.nar_size);
    let mut part = Part::open(file, wanted.nar_hash, wanted.nar_size, &bar)?;
    let mut fruitless = 0;
    while part.size < wanted.nar_size {
        let before = part.size;
        let outcome = receive(substituter, &wanted, &mut part, &bar).await;
        if part.size > before {
            fruitless = 0;
            continue;
        }
        fruitless += 1;
        if fruitless >= FRUITLESS_TRIES {
            part.keep()?;
            let reason = outcome
                .err()
                .unwrap_or_else(|| "the daemon sent nothing".to_owned());
            let (have, of) = (part.size, wanted.nar_size);
            return Err(Failure::failed(format!(
                "{have} of {of} bytes came, and no more: {reason}; run it again to go on"
            )));
        }
    }
    bar.finish_and_clear();
    part.finish(file, wanted.nar_hash)?;
    Ok(Written {
        store_path: path.to_absolute_path(),
        file: file.to_owned(),
        nar_hash: wanted.nar_hash.to_string(),
        nar_size: wanted.nar_size,
    })
}

async fn ask(substituter: &Substituter, path: &StorePath) -> Result<Wanted, Failure> {
    let unusable = |reason: String| {
        Failure::failed(format!(
            "the daemon's answer for {path} can't be used: {reason}"
        ))
    };
    let url = substituter.narinfo_url(path)?;
    let answer = substituter
        .client()
        .get(url.clone())
        .send()
        .await
        .map_err(|error| unusable(with_causes(&error)))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(Failure::failed(format!(
                "no peer offers {path} with a signature that is trusted here: is the peer's daemon running, and is the path shared there?"
            )));
        }
        status => return Err(unusable(status.to_string())),
    }
    if answer
        .content_length()
        .is_some_and(|length| length > MAX_NARINFO as u64)
    {
        return Err(unusable("the narinfo is too long".to_owned()));
    }
    let text = answer
        .bytes()
        .await
        .map_err(|error| unusable(with_causes(&error)))?;
    let narinfo = NarInfo::parse_in(&StoreDir::default(), &text)
        .map_err(|error| unusable(error.to_string()))?;
    if narinfo.store_path() != path {
        return Err(unusable(format!("it is for {}", narinfo.store_path())));
    }
    Ok(Wanted {
        url: url
            .join(narinfo.url())
            .map_err(|error| unusable(error.to_string()))?,
        nar_hash: match narinfo.nar_hash() {
            NixHash::Sha256(bytes) => NarHash::from_bytes(*bytes),
            _ => return Err(unusable("its NAR hash is no SHA-256".to_owned())),
        },
        nar_size: narinfo.nar_size(),
    })
}

/// Receives as much as comes in one answer, from where `part` ends.
async fn receive(
    substituter: &Substituter,
    wanted: &Wanted,
    part: &mut Part,
    bar: &ProgressBar,
) -> Result<(), String> {
    let mut request = substituter.client().get(wanted.url.clone());
    if part.size > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", part.size));
    }
    let mut answer = request.send().await.map_err(|error| with_causes(&error))?;
    match answer.status() {
        StatusCode::PARTIAL_CONTENT if starts_at(&answer, part.size) => {}
        StatusCode::OK if part.size == 0 => {}
        // No continuation: what is there may be wrong, so all of it comes again.
        StatusCode::OK => part.restart().map_err(|error| error.to_string())?,
        status => {
            if part.size > 0 {
                part.restart().map_err(|error| error.to_string())?;
                bar.set_position(0);
            }
            return Err(format!("the daemon answered {status}"));
        }
    }
    while let Some(bytes) = answer.chunk().await.map_err(|error| with_causes(&error))? {
        if part.size + bytes.len() as u64 > wanted.nar_size {
            return Err("more came than the NAR is long".to_owned());
        }
        part.append(&bytes).map_err(|error| error.to_string())?;
        bar.set_position(part.size);
    }
    Ok(())
}

fn starts_at(answer: &reqwest::Response, offset: u64) -> bool {
    let range = answer
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

#[cfg(test)]
mod tests;
