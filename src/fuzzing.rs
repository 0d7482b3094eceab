//! Ways into parsers that are nobody else's business, for the fuzz targets.

use std::ops::Range;

/// The part of a NAR of `size` bytes that a `Range` header asks for, where it can be had.
#[must_use]
pub fn selected_range(value: &[u8], size: u64) -> Option<Range<u64>> {
    crate::http::selected_range(value, size)
}

/// Whether the HTTP face has a resource at this path.
#[must_use]
pub fn is_route(path: &str) -> bool {
    crate::http::is_route(path)
}

/// Whether this is the line of a signing key.
#[must_use]
pub fn is_signing_key(text: &str) -> bool {
    crate::signing::is_key(text)
}
