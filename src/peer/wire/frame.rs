//! Frames: a byte for the kind, three for the length (little endian), then the payload.
//!
//! A compressed frame belongs to a zstd stream whose window goes on from frame to frame, past raw
//! frames between them: compressing in small frames costs next to nothing. A stream is begun anew
//! where the level changes. It is flushed at the end of each frame and never ended.

use crate::limits;

/// Bytes in front of each payload.
pub const HEADER: usize = 4;

/// How a zstd stream begins; other formats (skippable and legacy ones) are never decoded.
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bytes themselves.
    Raw,
    /// The beginning of a zstd stream, up to a flush.
    Begin,
    /// More of the zstd stream begun before, up to a flush.
    Continue,
}

/// What stands in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Its length in bytes, at least 1.
    pub len: usize,
}

impl Header {
    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Raw => 0,
            Kind::Begin => 1,
            Kind::Continue => 2,
        };
        let [a, b, c, ..] = self.len.to_le_bytes();
        [kind, a, b, c]
    }

    /// Reads a header; `None` for a kind that there is not or a length out of bounds.
    pub fn decode([kind, a, b, c]: [u8; HEADER]) -> Option<Self> {
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        let (kind, most) = match kind {
            0 => (Kind::Raw, limits::WIRE_FRAME),
            1 => (Kind::Begin, limits::WIRE_FRAME_COMPRESSED),
            2 => (Kind::Continue, limits::WIRE_FRAME_COMPRESSED),
            _ => return None,
        };
        (1..=most).contains(&len).then_some(Self { kind, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_was_put_in() {
        for kind in [Kind::Raw, Kind::Begin, Kind::Continue] {
            for len in [1, 255, 65_537, limits::WIRE_FRAME] {
                let header = Header { kind, len };
                assert_eq!(Header::decode(header.encode()), Some(header));
            }
        }
    }

    #[test]
    fn a_length_out_of_bounds_and_an_unknown_kind_are_refused() {
        for bytes in [[0; 4], [3, 1, 0, 0], [0, 1, 0, 2], [1, 0, 8, 2], [255; 4]] {
            assert_eq!(Header::decode(bytes), None, "{bytes:?}");
        }
    }
}
