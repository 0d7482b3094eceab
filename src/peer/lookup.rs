//! The lookup protocol: who has these paths, and under which blob hash.
//!
//! A requester opens a bidirectional stream on a kept connection, writes one [`Request`] and
//! finishes its side. The provider writes one [`Answer`] for each path hash, in order, and
//! finishes. Every message is a frame: its length as a little-endian `u32`, then postcard.
//! Nothing that an answer says is believed before its signatures were checked, and it carries no
//! URL: a narinfo is rebuilt from the signed fields.

use std::collections::BTreeSet;

use iroh::endpoint::{RecvStream, SendStream};
use peerix_store::{
    BlobHash, PathInfo,
    nix::{NarHash, StorePath, StorePathHash},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{limits, share::ShareToken};

/// The protocol's name on the wire, for the public swarm.
pub const ALPN: &[u8] = b"peerix/lookup/1";

/// What a requester wants to know of each path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The signed fields; may start the hashing of a small NAR.
    Narinfo,
    /// Only whether it is there; starts nothing. For references.
    Presence,
    /// The NAR is wanted now: hashing starts whatever its size.
    WantedNow,
}

/// A lookup of up to [`limits::LOOKUP_MAX_PATHS`] paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to tell of each.
    pub mode: Mode,
    /// The paths.
    pub path_hashes: Vec<StorePathHash>,
    /// Tokens of this provider's private shares that the requester was given.
    pub tokens: Vec<ShareToken>,
}

impl Request {
    /// Asks for these paths, without a token.
    pub fn new(mode: Mode, path_hashes: Vec<StorePathHash>) -> Self {
        Self {
            mode,
            path_hashes,
            tokens: Vec::new(),
        }
    }
}

/// The answer for one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Not here, or not offered: the two look alike.
    Absent,
    /// It is here and its blob hash is being computed, or waits to be.
    Hashing {
        /// Bytes hashed so far.
        done: u64,
        /// The NAR's size in bytes.
        total: u64,
        /// The signed fields, unless only presence was asked for.
        fields: Option<SignedFields>,
    },
    /// It can be fetched.
    Ready {
        /// BLAKE3 of the NAR: the provider's claim.
        blob_hash: [u8; 32],
        /// The signed fields, unless only presence was asked for.
        fields: Option<SignedFields>,
    },
    /// It is on its way here, and what has come can be fetched: observing the blob tells what.
    Part {
        /// BLAKE3 of the NAR, as somebody else claims it.
        blob_hash: [u8; 32],
        /// The signed fields, unless only presence was asked for.
        fields: Option<SignedFields>,
    },
    /// It can't be told, or fetched, now: whether it is here stays open.
    NotNow,
}

/// What a signature covers, with the signatures themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFields {
    /// The store path's name, behind the hash that was asked for.
    pub name: String,
    /// SHA-256 of the NAR.
    pub nar_hash: [u8; 32],
    /// Size of the NAR in bytes.
    pub nar_size: u64,
    /// Base names of the references.
    pub references: Vec<String>,
    /// Signatures, `name:base64`.
    pub signatures: Vec<String>,
    /// Content address; only one that proves the path is ever used.
    pub content_address: Option<String>,
}

/// Why a lookup message could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame is larger than its limit.
    #[error("a lookup message of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// The size announced.
        size: usize,
        /// The limit for this kind of message.
        limit: usize,
    },
    /// The stream ended or failed.
    #[error("the lookup stream ended early")]
    Stream,
    /// The bytes are not a message of this protocol.
    #[error("a lookup message does not parse")]
    Malformed,
    /// The answer is not about the path that was asked for, or holds impossible fields.
    #[error("a lookup answer holds an impossible {field}")]
    Field {
        /// Which field.
        field: &'static str,
    },
}

impl SignedFields {
    /// Takes the fields of a path of this machine.
    pub fn of(info: &PathInfo) -> Self {
        Self {
            name: info.store_path.name().to_owned(),
            nar_hash: *info.nar_hash.as_bytes(),
            nar_size: info.nar_size,
            references: info.references.iter().map(StorePath::to_basename).collect(),
            signatures: info.signatures.clone(),
            content_address: info.content_address.clone(),
        }
    }

    /// Reads the fields of the path that was asked for, as claimed and not yet trusted.
    ///
    /// # Errors
    /// [`WireError::Field`] where a name, a reference, a signature or the size is impossible.
    pub fn into_info(self, path_hash: StorePathHash) -> Result<PathInfo, WireError> {
        let store_path = StorePath::from_parts(*path_hash.as_bytes(), &self.name)
            .map_err(|_| WireError::Field { field: "name" })?;
        if self.nar_size == 0 || self.nar_size > i64::MAX as u64 {
            return Err(WireError::Field { field: "NAR size" });
        }
        let references = self
            .references
            .iter()
            .map(|name| StorePath::from_basename(name.as_bytes()))
            .collect::<Result<BTreeSet<_>, _>>()
            .map_err(|_| WireError::Field { field: "reference" })?;
        let printable = |text: &String| text.bytes().all(|b| b.is_ascii_graphic());
        if !self.signatures.iter().all(printable) {
            return Err(WireError::Field { field: "signature" });
        }
        if !self.content_address.iter().all(printable) {
            return Err(WireError::Field {
                field: "content address",
            });
        }
        Ok(PathInfo {
            store_path,
            nar_hash: NarHash::from_bytes(self.nar_hash),
            nar_size: self.nar_size,
            references,
            deriver: None,
            signatures: self.signatures,
            content_address: self.content_address,
            registration_time: 0,
        })
    }
}

/// What a provider says it has, read and bounded, not yet trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Not there.
    Absent,
    /// There, without a blob hash yet; `done` of `total` bytes are hashed.
    Hashing {
        /// Bytes hashed so far.
        done: u64,
        /// Bytes to hash.
        total: u64,
        /// The claimed fields, where they were asked for.
        info: Option<Box<PathInfo>>,
    },
    /// There, under this blob hash.
    Ready {
        /// The claimed BLAKE3 of the NAR.
        blob_hash: BlobHash,
        /// The claimed fields, where they were asked for.
        info: Option<Box<PathInfo>>,
    },
    /// A part of it is there, under this blob hash, which another claims.
    Part {
        /// The claimed BLAKE3 of the NAR.
        blob_hash: BlobHash,
        /// The claimed fields, where they were asked for.
        info: Option<Box<PathInfo>>,
    },
    /// It does not tell now.
    NotNow,
}

impl Claim {
    /// Whether it says that something is there.
    pub fn is_there(&self) -> bool {
        !matches!(self, Self::Absent | Self::NotNow)
    }
}

impl Answer {
    /// Reads an answer about `path_hash`.
    ///
    /// # Errors
    /// [`WireError::Field`] where it holds impossible fields.
    pub fn into_claim(self, path_hash: StorePathHash) -> Result<Claim, WireError> {
        let read = |fields: Option<SignedFields>| {
            fields
                .map(|fields| fields.into_info(path_hash).map(Box::new))
                .transpose()
        };
        Ok(match self {
            Self::Absent => Claim::Absent,
            Self::NotNow => Claim::NotNow,
            Self::Hashing {
                done,
                total,
                fields,
            } => Claim::Hashing {
                done,
                total,
                info: read(fields)?,
            },
            Self::Ready { blob_hash, fields } => Claim::Ready {
                blob_hash: BlobHash::from_bytes(blob_hash),
                info: read(fields)?,
            },
            Self::Part { blob_hash, fields } => Claim::Part {
                blob_hash: BlobHash::from_bytes(blob_hash),
                info: read(fields)?,
            },
        })
    }
}

/// Encodes one frame.
///
/// # Errors
/// [`WireError::TooLarge`] above `limit` bytes.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(|_| WireError::Malformed)?;
    let size = frame.len() - 4;
    let length = u32::try_from(size).map_err(|_| WireError::TooLarge { size, limit })?;
    if size > limit {
        return Err(WireError::TooLarge { size, limit });
    }
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Decodes the inside of a frame.
///
/// # Errors
/// [`WireError::Malformed`] for anything but exactly one message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Malformed),
    }
}

/// Reads one frame of at most `limit` bytes, buffering no more than has arrived, and tells its size.
///
/// # Errors
/// Where the frame is too large, cut short, or not a message.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<(T, usize), WireError> {
    let mut length = [0; 4];
    stream
        .read_exact(&mut length)
        .await
        .map_err(|_| WireError::Stream)?;
    let size = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if size > limit {
        return Err(WireError::TooLarge { size, limit });
    }
    let mut bytes = Vec::with_capacity(size.min(16 * 1024));
    while bytes.len() < size {
        let chunk = stream
            .read_chunk(size - bytes.len())
            .await
            .map_err(|_| WireError::Stream)?
            .ok_or(WireError::Stream)?;
        bytes.extend_from_slice(&chunk);
    }
    Ok((decode(&bytes)?, size))
}

/// Writes one frame.
///
/// # Errors
/// Where the message is too large or the stream failed.
pub async fn write_frame<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
    limit: usize,
) -> Result<usize, WireError> {
    let frame = encode(message, limit)?;
    stream
        .write_all(&frame)
        .await
        .map_err(|_| WireError::Stream)?;
    Ok(frame.len())
}

/// Checks what a stranger's request asks for.
///
/// # Errors
/// [`WireError::Field`] for more paths or tokens than a request may hold.
pub fn check_request(request: &Request) -> Result<(), WireError> {
    if request.path_hashes.len() > limits::LOOKUP_MAX_PATHS {
        return Err(WireError::Field { field: "batch" });
    }
    if request.tokens.len() > limits::LOOKUP_MAX_TOKENS {
        return Err(WireError::Field { field: "tokens" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields() -> SignedFields {
        SignedFields {
            name: "hello-1.0".into(),
            nar_hash: [7; 32],
            nar_size: 120,
            references: vec!["00000000000000000000000000000000-glibc".into()],
            signatures: vec!["key-1:AAAA".into()],
            content_address: None,
        }
    }

    #[test]
    fn an_answer_survives_the_wire() {
        let answer = Answer::Ready {
            blob_hash: [3; 32],
            fields: Some(fields()),
        };
        let frame = encode(&answer, limits::LOOKUP_MAX_ANSWER).unwrap();
        assert_eq!(decode::<Answer>(&frame[4..]).unwrap(), answer);
        let path_hash = StorePathHash::from_bytes([9; 20]);
        let Claim::Ready {
            info: Some(info), ..
        } = answer.into_claim(path_hash).unwrap()
        else {
            panic!("not ready")
        };
        assert_eq!(info.path_hash(), path_hash);
        assert_eq!(SignedFields::of(&info), fields());
    }

    #[test]
    fn impossible_fields_are_refused() {
        let path_hash = StorePathHash::from_bytes([9; 20]);
        for (field, bad) in [
            (
                "name",
                SignedFields {
                    name: "../x".into(),
                    ..fields()
                },
            ),
            (
                "NAR size",
                SignedFields {
                    nar_size: 0,
                    ..fields()
                },
            ),
            (
                "NAR size",
                SignedFields {
                    nar_size: u64::MAX,
                    ..fields()
                },
            ),
            (
                "reference",
                SignedFields {
                    references: vec!["x".into()],
                    ..fields()
                },
            ),
            (
                "signature",
                SignedFields {
                    signatures: vec!["a:b\nURL: x".into()],
                    ..fields()
                },
            ),
            (
                "content address",
                SignedFields {
                    content_address: Some("a b".into()),
                    ..fields()
                },
            ),
        ] {
            match bad.into_info(path_hash) {
                Err(WireError::Field { field: found }) => assert_eq!(found, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_batch_above_the_limit_is_refused() {
        let request = |n| Request::new(Mode::Narinfo, vec![StorePathHash::from_bytes([1; 20]); n]);
        assert!(check_request(&request(limits::LOOKUP_MAX_PATHS)).is_ok());
        assert!(check_request(&request(limits::LOOKUP_MAX_PATHS + 1)).is_err());
        assert!(
            encode(
                &request(limits::LOOKUP_MAX_PATHS),
                limits::LOOKUP_MAX_REQUEST
            )
            .is_ok()
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let path_hash = StorePathHash::from_bytes([9; 20]);
            if let Ok(answer) = decode::<Answer>(&bytes) {
                let _ = answer.into_claim(path_hash);
            }
            let _ = decode::<Request>(&bytes);
        }
    }
}
