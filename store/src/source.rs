//! Where the bytes of a blob come from.

use std::{fs::File, io, sync::Arc};

use bytes::Bytes;

use crate::nar::{Layout, LayoutReader, append_from_file};

/// The place of a blob's bytes, open or ready to be opened.
#[derive(Debug, Clone)]
pub(crate) enum ByteSource {
    /// The live files of a store path.
    ByReference(Arc<Layout>),
    /// One data file.
    File(Arc<File>),
    /// Memory.
    Memory(Bytes),
}

impl ByteSource {
    /// Starts reading.
    pub(crate) fn cursor(&self) -> Cursor {
        match self {
            Self::ByReference(layout) => Cursor::ByReference(LayoutReader::new(layout.clone())),
            Self::File(file) => Cursor::File(file.clone()),
            Self::Memory(bytes) => Cursor::Memory(bytes.clone()),
        }
    }
}

/// A reader at any offset; reading in order is the cheap case.
#[derive(Debug)]
pub(crate) enum Cursor {
    ByReference(LayoutReader),
    File(Arc<File>),
    Memory(Bytes),
}

impl Cursor {
    /// Appends the `len` bytes at `offset` to `buffer`, all or an error. Blocks.
    pub(crate) fn append(
        &mut self,
        offset: u64,
        len: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        match self {
            Self::ByReference(reader) => reader.append(offset, len, buffer),
            Self::File(file) => append_from_file(file, offset, len, buffer),
            Self::Memory(bytes) => {
                let piece = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(len)?))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.extend_from_slice(piece);
                Ok(())
            }
        }
    }
}
