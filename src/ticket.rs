//! Tickets: one pasteable word that says where a peer is and what it shares.
//!
//! A ticket is `peerix` followed by base32 of a version byte, a postcard body and four bytes of
//! the BLAKE3 of both, so that a ticket that was cut or mistyped is told from a foreign one before
//! anything is done with it.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr};

use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};
use iroh_tickets::{ParseError, Ticket as _};
use peerix_store::nix::{StorePath, TrustedPublicKey};
use serde::{Deserialize, Serialize};

use crate::{share::ShareToken, swarm};

/// Longest ticket that is read, in characters: what [`MAX_PATHS`] paths with the longest names and
/// [`MAX_ADDRESSES`] addresses can take, rounded up.
pub const MAX_TICKET_LENGTH: usize = 128 * 1024;
/// Most paths that a ticket names.
pub const MAX_PATHS: usize = 256;
/// Most addresses that a ticket carries; an endpoint has a handful.
pub const MAX_ADDRESSES: usize = 32;

/// What every ticket can be read as.
const VERSION: u8 = 1;
/// With a key and a token, which older builds don't know of.
const VERSION_WITH_SECRETS: u8 = 2;
/// With all that, and the name of a swarm other than the public one.
const VERSION_WITH_SWARM: u8 = 3;
/// Longest name of a key in a ticket.
const MAX_KEY_NAME: usize = 256;
const CHECKSUM_LENGTH: usize = 4;

/// Where a peer is, and what it shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The peer.
    pub addr: EndpointAddr,
    /// The store paths that are shared; none in a ticket that names the peer alone.
    pub paths: Vec<StorePath>,
    /// The key that the peer signed them with, where nobody else did. Not trusted for being here.
    pub key: Option<TrustedPublicKey>,
    /// What opens them, where they were shared in private.
    pub token: Option<ShareToken>,
    /// The name of the swarm that the peer is of, where it is not the public one.
    pub swarm: Option<String>,
}

/// Why a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It doesn't begin like one.
    #[error("not a peerix ticket: those begin with `peerix`{hint}")]
    Foreign {
        /// What it looks like instead, or nothing.
        hint: &'static str,
    },
    /// It is longer than any ticket.
    #[error("not a peerix ticket: longer than {MAX_TICKET_LENGTH} characters")]
    TooLong,
    /// It begins like one and doesn't go on like one.
    #[error("this ticket is cut short or mistyped: copy all of it again")]
    Damaged,
    /// It is of a version that this build doesn't know.
    #[error("this ticket is of version {version}, made by a newer peerix: update this one")]
    Newer {
        /// Its version.
        version: u8,
    },
    /// It is of a peer that this machine can't speak with.
    #[error(
        "this ticket is of a peer of the swarm `{theirs}`, and this machine is of `{ours}`: peers of different swarms don't speak with each other (--swarm)"
    )]
    OtherSwarm {
        /// The peer's swarm.
        theirs: String,
        /// This machine's.
        ours: String,
    },
    /// A peer that is neither a ticket nor `ID@ADDR:PORT`.
    #[error("`{text}` is neither a ticket nor ID@ADDR:PORT: {reason}")]
    Peer {
        /// As given, shortened.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Body {
    id: [u8; 32],
    relays: Vec<String>,
    addresses: Vec<SocketAddr>,
    paths: Vec<([u8; 20], String)>,
}

/// What follows the body in a ticket of [`VERSION_WITH_SECRETS`].
#[derive(Default, Serialize, Deserialize)]
struct Secrets {
    key: Option<(String, [u8; 32])>,
    token: Option<ShareToken>,
}

impl Ticket {
    /// A ticket that names a peer and what it shares, openly.
    pub fn new(addr: EndpointAddr, paths: Vec<StorePath>) -> Self {
        Self {
            addr,
            paths,
            key: None,
            token: None,
            swarm: None,
        }
    }

    /// As it is, of a peer of the swarm `name`.
    pub fn in_swarm(self, name: &str) -> Self {
        let swarm = (name != swarm::id::PUBLIC).then(|| name.to_owned());
        Self { swarm, ..self }
    }

    fn secrets(&self) -> Option<Secrets> {
        let has_secrets = self.key.is_some() || self.token.is_some() || self.swarm.is_some();
        has_secrets.then(|| Secrets {
            key: self
                .key
                .as_ref()
                .map(|key| (key.name.clone(), *key.key.as_bytes())),
            token: self.token,
        })
    }

    fn body(&self) -> Body {
        let paths = self.paths.iter().take(MAX_PATHS);
        Body {
            id: *self.addr.id.as_bytes(),
            relays: self
                .addr
                .relay_urls()
                .take(MAX_ADDRESSES)
                .map(ToString::to_string)
                .collect(),
            addresses: self.addr.ip_addrs().take(MAX_ADDRESSES).copied().collect(),
            paths: paths
                .map(|path| (*path.digest(), path.name().to_owned()))
                .collect(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        let (versioned, checksum) = bytes
            .split_last_chunk::<CHECKSUM_LENGTH>()
            .ok_or(TicketError::Damaged)?;
        if checksum_of(versioned) != *checksum {
            return Err(TicketError::Damaged);
        }
        let (&version, body) = versioned.split_first().ok_or(TicketError::Damaged)?;
        if !(VERSION..=VERSION_WITH_SWARM).contains(&version) {
            return Err(TicketError::Newer { version });
        }
        let (body, rest) =
            postcard::take_from_bytes::<Body>(body).map_err(|_| TicketError::Damaged)?;
        let (secrets, rest) = match version {
            VERSION => (Secrets::default(), rest),
            _ => postcard::take_from_bytes(rest).map_err(|_| TicketError::Damaged)?,
        };
        let (swarm, rest): (Option<String>, _) = match version {
            VERSION_WITH_SWARM => {
                let read = postcard::take_from_bytes(rest);
                let (name, rest) = read.map_err(|_| TicketError::Damaged)?;
                (Some(name), rest)
            }
            _ => (None, rest),
        };
        if swarm
            .as_deref()
            .is_some_and(|name| !swarm::id::is_name(name))
        {
            return Err(TicketError::Damaged);
        }
        let within_limits = body.relays.len() <= MAX_ADDRESSES
            && body.addresses.len() <= MAX_ADDRESSES
            && body.paths.len() <= MAX_PATHS;
        if !rest.is_empty() || !within_limits {
            return Err(TicketError::Damaged);
        }
        let mut ticket = Ticket::try_from(body)?;
        ticket.key = secrets.key.map(key).transpose()?;
        ticket.token = secrets.token;
        ticket.swarm = swarm;
        Ok(ticket)
    }
}

/// Reads a key, which people are shown: its name has nothing in it that a terminal acts on.
fn key((name, bytes): (String, [u8; 32])) -> Result<TrustedPublicKey, TicketError> {
    let is_name = name.len() <= MAX_KEY_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
    let encoded = data_encoding::BASE64.encode(&bytes);
    TrustedPublicKey::parse(&format!("{name}:{encoded}"))
        .ok()
        .filter(|_| is_name)
        .ok_or(TicketError::Damaged)
}

impl TryFrom<Body> for Ticket {
    type Error = TicketError;

    fn try_from(body: Body) -> Result<Self, TicketError> {
        let id = EndpointId::from_bytes(&body.id).map_err(|_| TicketError::Damaged)?;
        let mut addrs: BTreeSet<TransportAddr> =
            body.addresses.into_iter().map(TransportAddr::Ip).collect();
        for relay in body.relays {
            let url: RelayUrl = relay.parse().map_err(|_| TicketError::Damaged)?;
            addrs.insert(TransportAddr::Relay(url));
        }
        let paths = body.paths.into_iter().map(|(digest, name)| {
            StorePath::from_parts(digest, &name).map_err(|_| TicketError::Damaged)
        });
        let addr = EndpointAddr { id, addrs };
        Ok(Ticket::new(addr, paths.collect::<Result<_, _>>()?))
    }
}

impl iroh_tickets::Ticket for Ticket {
    const KIND: &'static str = "peerix";

    fn encode_bytes(&self) -> Vec<u8> {
        // Writing plain data to a growing vector fails in no way that postcard knows.
        let secrets = self.secrets();
        let version = match (&secrets, &self.swarm) {
            (None, None) => VERSION,
            (Some(_), None) => VERSION_WITH_SECRETS,
            (_, Some(_)) => VERSION_WITH_SWARM,
        };
        let mut bytes = postcard::to_extend(&self.body(), vec![version]).unwrap_or_default();
        if let Some(secrets) = secrets {
            bytes = postcard::to_extend(&secrets, bytes).unwrap_or_default();
        }
        if let Some(swarm) = &self.swarm {
            bytes = postcard::to_extend(swarm, bytes).unwrap_or_default();
        }
        let checksum = checksum_of(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        Ticket::decode(bytes).map_err(|error| {
            ParseError::verification_failed(match error {
                TicketError::Newer { .. } => "made by a newer peerix",
                _ => "cut short or mistyped",
            })
        })
    }
}

fn checksum_of(bytes: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut checksum = [0; CHECKSUM_LENGTH];
    blake3::Hasher::new_derive_key("peerix ticket checksum")
        .update(bytes)
        .finalize_xof()
        .fill(&mut checksum);
    checksum
}

impl fmt::Display for Ticket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.encode_string())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.len() > MAX_TICKET_LENGTH {
            return Err(TicketError::TooLong);
        }
        let text = text.trim().to_ascii_lowercase();
        let body = text
            .strip_prefix(Self::KIND)
            .ok_or_else(|| TicketError::Foreign {
                hint: foreign_kind(&text),
            })?;
        let bytes = data_encoding::BASE32_NOPAD
            .decode(body.to_ascii_uppercase().as_bytes())
            .map_err(|_| TicketError::Damaged)?;
        Ticket::decode(&bytes)
    }
}

/// What a text is that is no ticket of ours, as far as its beginning tells.
fn foreign_kind(text: &str) -> &'static str {
    const KINDS: &[(&str, &str)] = &[
        ("endpoint", " (this is an iroh endpoint ticket)"),
        ("node", " (this is an iroh node ticket)"),
        ("blob", " (this is an iroh blob ticket)"),
        ("doc", " (this is an iroh document ticket)"),
        ("/nix/store/", " (this is a store path)"),
    ];
    KINDS
        .iter()
        .find(|(prefix, _)| text.starts_with(prefix))
        .map_or("", |(_, hint)| hint)
}

/// A peer as people name one: a ticket, or `ID@ADDR:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddr {
    /// Where it is.
    pub addr: EndpointAddr,
    /// The swarm that a ticket says it is of.
    pub swarm: Option<String>,
}

impl PeerAddr {
    /// Where the peer is, for a machine of the swarm `ours`.
    ///
    /// # Errors
    /// [`TicketError::OtherSwarm`] where a ticket says that it is of another one.
    pub fn of_swarm(self, ours: &str) -> Result<EndpointAddr, TicketError> {
        match self.swarm.filter(|theirs| theirs != ours) {
            None => Ok(self.addr),
            Some(theirs) => Err(TicketError::OtherSwarm {
                theirs,
                ours: ours.to_owned(),
            }),
        }
    }
}

impl FromStr for PeerAddr {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let Some((id, address)) = text.split_once('@') else {
            let Ticket { addr, swarm, .. } = text.parse()?;
            let swarm = Some(swarm.unwrap_or_else(|| swarm::id::PUBLIC.to_owned()));
            return Ok(PeerAddr { addr, swarm });
        };
        let wrong = |reason| TicketError::Peer {
            text: text.chars().take(100).collect(),
            reason,
        };
        let id: EndpointId = id
            .parse()
            .map_err(|_| wrong("the part before @ is not an endpoint id"))?;
        let address: SocketAddr = address.parse().map_err(|_| {
            wrong("after @ comes an IP address and a port, 10.0.0.1:12306 or [::1]:12306")
        })?;
        if address.port() == 0 || address.ip().is_unspecified() {
            return Err(wrong("nothing can be reached at that address"));
        }
        Ok(PeerAddr {
            addr: EndpointAddr::new(id).with_ip_addr(address),
            swarm: None,
        })
    }
}

#[cfg(test)]
mod tests;
