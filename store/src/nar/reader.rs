//! Reads any part of a NAR through its layout.

use std::{fs::File, io, sync::Arc};

use rustix::{
    buffer::spare_capacity,
    fs::{CWD, Mode, OFlags, openat},
};

use super::layout::{Layout, Segment};

/// A reader of one NAR that keeps the file it read last open.
#[derive(Debug)]
pub(crate) struct LayoutReader {
    layout: Arc<Layout>,
    open: Option<(usize, File)>,
    hint: usize,
}

impl LayoutReader {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self {
            layout,
            open: None,
            hint: 0,
        }
    }

    /// Appends the `len` bytes of the NAR at `offset` to `buffer`, all or an error. Blocks.
    pub(crate) fn append(
        &mut self,
        mut offset: u64,
        len: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        buffer.reserve(len);
        let end = offset
            .checked_add(len as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if end > self.layout.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let layout = self.layout.clone();
        while offset < end {
            let left = end - offset;
            match layout.segment(offset, self.hint) {
                Segment::Framing(bytes) => {
                    let bytes = &bytes[..left.min(bytes.len() as u64) as usize];
                    buffer.extend_from_slice(bytes);
                    offset += bytes.len() as u64;
                }
                Segment::File {
                    index,
                    offset: file_offset,
                    len,
                } => {
                    self.hint = index + 1;
                    let take = left.min(len);
                    let file = self.file(index)?;
                    append_from_file(file, file_offset, take as usize, buffer)?;
                    offset += take;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, index: usize) -> io::Result<&File> {
        let file = match self.open.take() {
            Some((open, file)) if open == index => file,
            _ => {
                let path = self.layout.file_path(index);
                // Whatever took the file's place, it must neither block nor lead elsewhere.
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let opened = openat(CWD, &path, flags, Mode::empty()).map_err(|errno| {
                    let error = io::Error::from(errno);
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
                File::from(opened)
            }
        };
        Ok(&self.open.insert((index, file)).1)
    }
}

/// Appends `len` bytes of `file` at `offset` to `buffer`, without zeroing them first.
pub(crate) fn append_from_file(
    file: &File,
    mut offset: u64,
    len: usize,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    buffer.reserve(len);
    let end = buffer.len() + len;
    while buffer.len() < end {
        match rustix::io::pread(file, spare_capacity(buffer), offset) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "a file is shorter than it was",
                ));
            }
            Ok(read) => offset += read as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // The buffer may have had room for more than was asked.
    buffer.truncate(end);
    Ok(())
}
