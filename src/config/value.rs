//! How values are written: sizes, rates, durations, switches, stores, URLs, keys.
//!
//! Every parser returns what is wrong and what would be right, for a message that begins with the
//! place of the value.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use iroh::{EndpointAddr, EndpointId, RelayUrl};
use peerix_store::{NixStore, nix::TrustedPublicKey};

use super::{LogFormat, Relay, UNLIMITED, WireCompression};
use crate::{
    offer::{Announce, Filter},
    peer::gate::UploadWhen,
    swarm,
    ticket::{PeerAddr, TicketError},
};

/// Whether `text` is one of the words that switch a feature off.
pub fn is_off(text: &str) -> bool {
    matches!(text, "none" | "off" | "false" | "")
}

/// `true` or `false`, as files, variables and flags write it.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// A whole number up to what `T` holds.
pub fn number<T: std::str::FromStr + Bounded>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a whole number from 0 to {}", T::MAX))
}

/// A number type with a largest value.
pub trait Bounded {
    /// The largest value.
    const MAX: u64;
}

impl Bounded for u16 {
    const MAX: u64 = u16::MAX as u64;
}

impl Bounded for u32 {
    const MAX: u64 = u32::MAX as u64;
}

/// A size in bytes: `5MB` and `5M` are 5,000,000, `5MiB` is 5,242,880, a bare number is bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not a size: write it as 500kB, 5MB, 5MiB or a number of bytes");
    let size: ByteSize = text.trim().parse().map_err(|_| wrong())?;
    // bytesize saturates where a size does not fit.
    if size.as_u64() == u64::MAX {
        Err(format!("`{text}` is too large"))
    } else {
        Ok(size.as_u64())
    }
}

/// Disk space in bytes; `none` is as much as there is.
pub fn quota(text: &str) -> Result<u64, String> {
    if is_off(text) {
        return Ok(u64::MAX);
    }
    size(text)
}

/// What may be uploaded in a day or a month, in bytes; `none` is as much as there is.
pub fn upload_quota(text: &str) -> Result<Option<u64>, String> {
    match is_off(text) {
        true => Ok(None),
        false => size(text).map(Some),
    }
}

/// How log lines are written.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "journald" => Ok(LogFormat::Journald),
        _ => Err(format!(
            "`{text}` is not a log format: use auto, text, json or journald"
        )),
    }
}

/// When to upload.
pub fn upload_when(text: &str) -> Result<UploadWhen, String> {
    match text {
        "always" => Ok(UploadWhen::Always),
        "unmetered" => Ok(UploadWhen::Unmetered),
        text if text == "never" || is_off(text) => Ok(UploadWhen::Never),
        _ => Err(format!("`{text}`: upload always, unmetered or never")),
    }
}

/// A rate in bytes a second, written as a size; `/s` may follow. `none` is [`UNLIMITED`].
pub fn rate(text: &str) -> Result<u64, String> {
    if is_off(text) {
        return Ok(UNLIMITED);
    }
    let rate = size(text.trim().trim_end_matches("/s")).map_err(|_| {
        format!("`{text}` is not a rate: write it as 500kB, 5MB or 5MiB (a second), or none")
    })?;
    if rate == 0 {
        Err("a rate of 0 would send nothing: write `none` for no limit".to_owned())
    } else {
        Ok(rate)
    }
}

/// Compression between peers: `auto`, `off` or a level.
pub fn wire_compression(text: &str) -> Result<WireCompression, String> {
    match text {
        "auto" => Ok(WireCompression::Auto),
        off if is_off(off) => Ok(WireCompression::Off),
        level => match level.parse() {
            Ok(level @ 1..=19) => Ok(WireCompression::Level(level)),
            _ => Err(format!(
                "`{text}` is neither auto nor off nor a level from 1 to 19"
            )),
        },
    }
}

/// Longest duration that is accepted: ten years.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A duration: a number of seconds, or `90s`, `10min`, `1h 30min`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    let duration = parsed.ok_or_else(|| {
        format!("`{text}` is not a duration: write it as 10, 2.5, 90s, 10min or 1h")
    })?;
    if duration > MAX_DURATION {
        Err(format!("`{text}` is longer than ten years"))
    } else {
        Ok(duration)
    }
}

/// Which Nix store, in Nix's own terms.
pub fn nix_store(text: &str) -> Result<NixStore, String> {
    const CHOICES: &str = "use auto, daemon, local, local?root=DIR or unix://PATH";
    match text {
        "auto" => return Ok(NixStore::Auto),
        "daemon" => return Ok(NixStore::Daemon { socket: None }),
        "local" => return Ok(NixStore::Local { root: None }),
        _ => {}
    }
    if let Some(socket) = text.strip_prefix("unix://") {
        if socket.contains('?') {
            return Err(format!(
                "`{text}`: a daemon's socket takes no parameters: {CHOICES}"
            ));
        }
        return match percent_decode(socket) {
            Some(socket) if socket.is_absolute() => Ok(NixStore::Daemon {
                socket: Some(socket),
            }),
            _ => Err(format!("`{text}`: the socket must be an absolute path")),
        };
    }
    let root = text
        .strip_prefix("local?root=")
        .or_else(|| text.strip_prefix("local://?root="));
    match root.map(percent_decode) {
        Some(Some(root)) if root.is_absolute() => Ok(NixStore::Local { root: Some(root) }),
        Some(_) => Err(format!("`{text}`: the root must be an absolute path")),
        None => Err(format!("`{text}` is not a store: {CHOICES}")),
    }
}

/// Decodes `%41` as Nix does in store URIs; `None` if a `%` is not followed by two digits.
fn percent_decode(text: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// The URL of a cache or tracker, which has to be HTTPS unless insecure ones were allowed.
pub fn http_url(text: &str, what: &str, allow_insecure_http: bool) -> Result<String, String> {
    let url =
        reqwest::Url::parse(text).map_err(|error| format!("`{text}` is not a URL: {error}"))?;
    if url.host_str().is_none() || !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`{text}` is not an https:// URL"));
    }
    if url.scheme() == "http" && !allow_insecure_http {
        return Err(format!(
            "{what} URL must use HTTPS: {text} (--allow-insecure-http accepts it)"
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// What is offered, as `--filter-mode` names it.
pub fn filter(text: &str) -> Result<Filter, String> {
    match text {
        "nixpkgs" => Ok(Filter::PublicCaches),
        "rules" => Ok(Filter::Vouched),
        _ => Err(format!("`{text}` is not a filter: use nixpkgs or rules")),
    }
}

/// The swarm to take part in.
pub fn swarm(names: &[String]) -> Result<Option<String>, String> {
    let Some(name) = names.first().filter(|name| !is_off(name)) else {
        return Ok(None);
    };
    match swarm::id::is_name(name) {
        true => Ok(Some(name.clone())),
        false => Err(format!(
            "`{name}` is not a name for a swarm: use up to {} letters, digits, dots, dashes and underscores, and another beginning than `private-`",
            swarm::id::MAX_NAME
        )),
    }
}

/// A peer, which is of the swarm `name` (or of none that a ticket names).
pub fn peer(text: &str, name: Option<&str>) -> Result<EndpointAddr, String> {
    let peer: PeerAddr = text
        .parse()
        .map_err(|error: TicketError| error.to_string())?;
    let swarm = name.unwrap_or(swarm::id::PUBLIC);
    peer.of_swarm(swarm).map_err(|error| error.to_string())
}

/// What is announced.
pub fn announce(text: &str) -> Result<Announce, String> {
    match text {
        "all" => Ok(Announce::All),
        "shared" => Ok(Announce::Shared),
        text if is_off(text) => Ok(Announce::None),
        _ => Err(format!("`{text}`: announce all, shared or none")),
    }
}

/// Most requests to an upstream at once: more would be rude.
const MAX_CONCURRENCY: u16 = 100;

/// How many requests are made at once.
pub fn concurrency(text: &str) -> Result<usize, String> {
    match number::<u16>(text)? {
        count @ 1..=MAX_CONCURRENCY => Ok(count.into()),
        _ => Err(format!(
            "`{text}` is not a number from 1 to {MAX_CONCURRENCY}"
        )),
    }
}

/// An endpoint id, as `peerix status` prints it.
pub fn endpoint_id(text: &str) -> Result<EndpointId, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not an endpoint id: those are 64 hexadecimal digits"))
}

/// Reads a public key as `nix.conf` writes it.
pub fn public_key(text: &str) -> Result<TrustedPublicKey, String> {
    TrustedPublicKey::parse(text).map_err(|error| {
        format!("`{text}` is not a public key (NAME:BASE64, as in nix.conf): {error}")
    })
}

/// A public key as `nix.conf` writes it.
pub fn show_public_key(key: &TrustedPublicKey) -> String {
    let bytes = data_encoding::BASE64.encode(key.key.as_bytes());
    format!("{}:{bytes}", key.name)
}

/// Longest name under which a tracker lists a machine.
const MAX_PEER_ID: usize = 255;

/// The name under which a tracker lists this machine.
pub fn peer_id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_PEER_ID || text.contains(char::is_control) {
        return Err(format!(
            "the name must have 1 to {MAX_PEER_ID} bytes and no control characters"
        ));
    }
    Ok(text.to_owned())
}

/// Relays: `default`, `tracker`, `off`, or URLs.
pub fn relay(values: &[String]) -> Result<Relay, String> {
    match values {
        [] => return Ok(Relay::Default),
        [one] if one == "default" => return Ok(Relay::Default),
        [one] if one == "tracker" => return Ok(Relay::Tracker),
        [one] if is_off(one) => return Ok(Relay::Off),
        _ => {}
    }
    let urls = values.iter().map(|text| {
        if matches!(text.as_str(), "default" | "tracker") || is_off(text) {
            return Err(format!("`{text}` can't be combined with other relays"));
        }
        let url: RelayUrl = text
            .parse()
            .map_err(|error| format!("`{text}` is not the URL of a relay: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!(
                "`{text}` is not the URL of a relay: write https://HOST, default, tracker or off"
            ));
        }
        Ok(url)
    });
    Ok(Relay::Custom(urls.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests;
