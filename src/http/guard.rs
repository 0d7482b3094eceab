//! Which requests may come in at all.
//!
//! The face has no passwords: it is for programs on this machine, and a small part of it for other
//! hosts on the local network. Which of both a client is says its socket alone: headers of proxies
//! count for nothing. A web page in a browser on this
//! machine is not one of them, and would come with a name of its own in `Host` (a name that was
//! made to point at 127.0.0.1), with an `Origin`, or with `Sec-Fetch-Site: cross-site`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::header::{HOST, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Uri};

use super::respond::Refusal;

/// Checks who a request says it is for, and who it says it comes from.
///
/// # Errors
/// 421 unless it is for `localhost`, a loopback address or `own`, the address of this machine that
/// the client is connected to; 403 if a page from elsewhere made it.
pub(super) fn admit(uri: &Uri, headers: &HeaderMap, own: Option<IpAddr>) -> Result<(), Refusal> {
    let is_this_machine = |authority: &str| is_this_machine(authority, own);
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err(Refusal::Misdirected),
    };
    // A request for an absolute URI is for the host in that, whatever `Host` says.
    let named = uri.authority().map(|authority| authority.as_str());
    if !is_this_machine(host) || !named.is_none_or(is_this_machine) {
        return Err(Refusal::Misdirected);
    }
    if !headers
        .get_all(ORIGIN)
        .iter()
        .all(|origin| is_own_origin(origin, own))
        || is_cross_site(headers)
    {
        return Err(Refusal::Forbidden);
    }
    Ok(())
}

/// Returns whether `authority` is `localhost`, a loopback address or `own`, with or without a port.
fn is_this_machine(authority: &str, own: Option<IpAddr>) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            // A link-local address may be written with its interface.
            let address = address.split('%').next().unwrap_or_default();
            let address: Result<Ipv6Addr, _> = address.parse();
            address.is_ok_and(|address| is_own(address.to_canonical(), own))
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    let address: Result<Ipv4Addr, _> = name.parse();
    (name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| is_own(address.into(), own)))
        && port.is_none_or(is_port)
}

fn is_own(address: IpAddr, own: Option<IpAddr>) -> bool {
    address.is_loopback() || own == Some(address)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_own_origin(origin: &HeaderValue, own: Option<IpAddr>) -> bool {
    origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && is_this_machine(host, own)
        })
}

/// A link on a foreign page may be followed; a foreign page may not fetch or embed.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    is("sec-fetch-site", "cross-site")
        && !(is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document"))
}
