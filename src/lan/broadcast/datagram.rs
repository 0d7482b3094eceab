//! The datagrams of the older program's protocol, byte for byte.
//!
//! ```text
//! request    0x00 | request id, u32 big-endian | store path hash, 32 characters              37 bytes
//! response   0x01 | the same id | HTTP port, u32 big-endian | "local/<hash>.narinfo"         55 bytes
//! ```

use peerix_store::nix::StorePathHash;

/// Length of a request in bytes.
pub const REQUEST: usize = 37;

/// Length of a response in bytes.
pub const RESPONSE: usize = 55;

/// Characters of a store path hash.
const HASH_CHARS: usize = 32;

/// A datagram that is one of the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// Who has this path?
    Request {
        /// Chosen by who asks.
        id: u32,
        /// The path.
        path_hash: StorePathHash,
    },
    /// I have it, at this port.
    Response {
        /// That of the request.
        id: u32,
        /// Port of the answering host's HTTP server.
        http_port: u16,
        /// The path.
        path_hash: StorePathHash,
    },
}

/// Why bytes are no datagram of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither a request nor a response has this length.
    #[error("a datagram of the wrong length")]
    Length,
    /// The first byte is neither 0 nor 1, or does not fit the length.
    #[error("a datagram of an unknown kind")]
    Kind,
    /// There is no store path hash where one is due.
    #[error("a datagram without a store path hash")]
    Hash,
    /// No port of that number can be connected to.
    #[error("a datagram with a port out of range")]
    Port,
    /// The path of the URL is not that of a narinfo.
    #[error("a datagram with a foreign URL")]
    Url,
}

impl Malformed {
    /// The name that stands in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Kind => "kind",
            Self::Hash => "hash",
            Self::Port => "port",
            Self::Url => "url",
        }
    }
}

impl Datagram {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`Malformed`] for everything that the older program would not send.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        match (bytes.len(), bytes.first()) {
            (REQUEST, Some(0)) => Ok(Self::Request {
                id: u32_at(bytes, 1).ok_or(Malformed::Length)?,
                path_hash: path_hash(bytes.get(5..).unwrap_or_default())?,
            }),
            (RESPONSE, Some(1)) => {
                let port = u32_at(bytes, 5).ok_or(Malformed::Length)?;
                let http_port = u16::try_from(port)
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or(Malformed::Port)?;
                let hash = bytes
                    .get(9..)
                    .and_then(|url| url.strip_prefix(b"local/"))
                    .and_then(|url| url.strip_suffix(b".narinfo"))
                    .ok_or(Malformed::Url)?;
                Ok(Self::Response {
                    id: u32_at(bytes, 1).ok_or(Malformed::Length)?,
                    http_port,
                    path_hash: path_hash(hash)?,
                })
            }
            (REQUEST | RESPONSE, _) => Err(Malformed::Kind),
            _ => Err(Malformed::Length),
        }
    }

    /// Writes a datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RESPONSE);
        match self {
            Self::Request { id, path_hash } => {
                bytes.push(0);
                bytes.extend(id.to_be_bytes());
                bytes.extend(path_hash.to_string().bytes());
            }
            Self::Response {
                id,
                http_port,
                path_hash,
            } => {
                bytes.push(1);
                bytes.extend(id.to_be_bytes());
                bytes.extend(u32::from(*http_port).to_be_bytes());
                bytes.extend(format!("local/{path_hash}.narinfo").bytes());
            }
        }
        bytes
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

fn path_hash(bytes: &[u8]) -> Result<StorePathHash, Malformed> {
    if bytes.len() != HASH_CHARS {
        return Err(Malformed::Hash);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Hash)?;
    let hash: StorePathHash = text.parse().map_err(|_| Malformed::Hash)?;
    // One spelling for each path.
    (hash.to_string() == text)
        .then_some(hash)
        .ok_or(Malformed::Hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3";

    /// As captured from the older program.
    const CAPTURED_REQUEST: &str = "00 00000004 \
        3137626836393176 7a6b716b38687631 6937786961716666 3835623835627233";
    const CAPTURED_RESPONSE: &str = "01 00000004 00003010 6c6f63616c2f \
        3137626836393176 7a6b716b38687631 6937786961716666 3835623835627233 2e6e6172696e666f";

    fn hex_of(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    #[test]
    fn requests_are_read_and_written_as_captured() {
        let bytes = hex_of(CAPTURED_REQUEST);
        let request = Datagram::Request {
            id: 4,
            path_hash: HASH.parse().unwrap(),
        };
        assert_eq!(bytes.len(), REQUEST);
        assert_eq!(Datagram::parse(&bytes), Ok(request));
        assert_eq!(request.encode(), bytes);
    }

    #[test]
    fn responses_are_read_and_written_as_captured() {
        let bytes = hex_of(CAPTURED_RESPONSE);
        let response = Datagram::Response {
            id: 4,
            http_port: 12304,
            path_hash: HASH.parse().unwrap(),
        };
        assert_eq!(bytes.len(), RESPONSE);
        assert_eq!(Datagram::parse(&bytes), Ok(response));
        assert_eq!(response.encode(), bytes);
    }

    #[test]
    fn what_is_nearly_a_datagram_is_refused_with_its_reason() {
        let mut request = hex_of(CAPTURED_REQUEST);
        assert_eq!(Datagram::parse(&[]), Err(Malformed::Length));
        assert_eq!(Datagram::parse(&request[..36]), Err(Malformed::Length));
        request[0] = 1;
        assert_eq!(Datagram::parse(&request), Err(Malformed::Kind));
        request[0] = 0;
        request[36] = b'e';
        assert_eq!(Datagram::parse(&request), Err(Malformed::Hash));
        let response = Datagram::Response {
            id: 1,
            http_port: 80,
            path_hash: HASH.parse().unwrap(),
        };
        for (at, byte, error) in [
            (5, 1, Malformed::Port),
            (8, 0, Malformed::Port),
            (9, b'/', Malformed::Url),
            (20, b'u', Malformed::Hash),
            (54, b'0', Malformed::Url),
        ] {
            let mut bytes = response.encode();
            bytes[at] = byte;
            assert_eq!(Datagram::parse(&bytes), Err(error), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_back_the_same(
            response: bool, id: u32, port in 1u16.., digest: [u8; 20], flip in 0usize..55, byte: u8,
        ) {
            let path_hash = StorePathHash::from_bytes(digest);
            let datagram = if response {
                Datagram::Response { id, http_port: port, path_hash }
            } else {
                Datagram::Request { id, path_hash }
            };
            let mut bytes = datagram.encode();
            prop_assert_eq!(Datagram::parse(&bytes), Ok(datagram));
            let at = flip % bytes.len();
            bytes[at] = byte;
            if let Ok(changed) = Datagram::parse(&bytes) {
                prop_assert_eq!(changed.encode(), bytes);
            }
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(datagram) = Datagram::parse(&bytes) {
                prop_assert_eq!(datagram.encode(), bytes);
            }
        }
    }
}
