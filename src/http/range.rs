//! Ranges of a NAR, by RFC 9110 section 14.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{IF_RANGE, RANGE};

/// Which part of a NAR a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// All of it: there is no `Range`, several ranges, another unit, or `If-Range` names
    /// something else.
    Whole,
    /// From `first` to `last` inclusive, or to the end.
    From { first: u64, last: Option<u64> },
    /// The last bytes.
    Suffix(u64),
    /// A single byte range that makes no sense.
    Invalid,
}

/// A [`ByteRange`] of a NAR whose size is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

impl ByteRange {
    /// Reads `Range` and `If-Range` of a GET.
    pub(super) fn of_request(headers: &HeaderMap, etag: &str) -> Self {
        let mut ranges = headers.get_all(RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Self::Whole;
        };
        // Only a strong entity tag can match: a NAR has no date.
        if headers
            .get_all(IF_RANGE)
            .iter()
            .any(|condition| condition != etag)
        {
            return Self::Whole;
        }
        Self::parse(range.as_bytes())
    }

    fn parse(value: &[u8]) -> Self {
        let Ok(value) = std::str::from_utf8(value) else {
            return Self::Whole;
        };
        let Some((unit, range)) = value.split_once('=') else {
            return Self::Whole;
        };
        if !unit.eq_ignore_ascii_case("bytes") || range.contains(',') {
            return Self::Whole;
        }
        match range.trim_matches([' ', '\t']).split_once('-') {
            Some(("", length)) => number(length).map_or(Self::Invalid, Self::Suffix),
            Some((first, "")) => {
                number(first).map_or(Self::Invalid, |first| Self::From { first, last: None })
            }
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => Self::From {
                    first,
                    last: Some(last),
                },
                _ => Self::Invalid,
            },
            None => Self::Invalid,
        }
    }

    /// Returns whether the client wants something else than the start, so that it has a prefix
    /// already.
    pub(super) const fn skips_the_start(self) -> bool {
        match self {
            Self::Whole => false,
            Self::From { first, .. } => first > 0,
            Self::Suffix(_) | Self::Invalid => true,
        }
    }

    /// Applies it to a NAR of `size` bytes.
    pub(super) fn select(self, size: u64) -> Selected {
        match self {
            Self::Whole => Selected::Whole,
            Self::From { first, last } if first < size => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                Selected::Part(first..end)
            }
            Self::Suffix(length) if length > 0 && size > 0 => {
                Selected::Part(size.saturating_sub(length)..size)
            }
            Self::From { .. } | Self::Suffix(_) | Self::Invalid => Selected::Unsatisfiable,
        }
    }
}

/// Parses digits; what is beyond 64 bits is as far past the end as the largest number.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}
