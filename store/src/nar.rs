//! The NAR of a store path as positions in live files, so that it can be read without a copy.
//!
//! A NAR is a deterministic sequence of framing bytes and file contents. A [`Layout`] holds the
//! framing and where each file's content goes; a [`LayoutReader`] reads any part of the NAR
//! through it. Nothing here knows whether the files are still what they were: that is for whoever
//! checks the bytes against an outboard.

mod layout;
mod reader;

pub(crate) use layout::{Layout, LayoutError};
pub(crate) use reader::{LayoutReader, append_from_file};

#[cfg(test)]
mod tests;
