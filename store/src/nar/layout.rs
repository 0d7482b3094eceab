//! Walks a store path once and notes where every byte of its NAR comes from.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    vec,
};

use thiserror::Error;

use crate::limits;

/// What Nix puts behind a name on macOS, and a number, where another of the directory differs from
/// it in case alone.
const CASE_HACK: &[u8] = b"~nix~case~hack~";

/// Whether names on the disk may have Nix's case hack, which a NAR's have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaseHack {
    /// Names are what they are on the disk.
    Kept,
    /// Names end before [`CASE_HACK`], as Nix dumps them on macOS.
    Stripped,
}

impl CaseHack {
    /// What Nix does by default on this system.
    pub(crate) const SYSTEM: CaseHack = if cfg!(target_os = "macos") {
        CaseHack::Stripped
    } else {
        CaseHack::Kept
    };

    /// The name in the NAR of what is called `name` on the disk.
    fn name_in_nar(self, name: &OsStr) -> &OsStr {
        let bytes = name.as_bytes();
        let found = || {
            bytes
                .windows(CASE_HACK.len())
                .position(|part| part == CASE_HACK)
        };
        match self {
            CaseHack::Kept => name,
            CaseHack::Stripped => found().map_or(name, |end| OsStr::from_bytes(&bytes[..end])),
        }
    }
}

/// A store path could not be laid out.
#[derive(Debug, Error)]
pub(crate) enum LayoutError {
    /// An entry can't be read, or is of a kind that no NAR has.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// The NAR has another size than it should.
    #[error("its NAR is {actual}, not {expected} bytes")]
    Size {
        expected: u64,
        /// The size, or a lower bound for it.
        actual: String,
    },
}

/// Where every byte of one NAR comes from.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    size: u64,
    /// Everything that is not the content of a file, in order.
    framing: Box<[u8]>,
    /// The files with content, in order.
    files: Box<[FileSpan]>,
    /// The names of `files` relative to `root`, one after the other.
    names: Box<[u8]>,
}

/// The content of one file.
#[derive(Debug)]
struct FileSpan {
    /// Offset of the content in the NAR.
    start: u64,
    /// Length of the content in bytes.
    len: u64,
    /// Framing bytes before the content, in the whole NAR.
    framing_before: u64,
    /// End of the file's name in `names`; it starts where the previous one ends.
    name_end: usize,
}

/// A stretch of the NAR that comes from one place.
#[derive(Debug)]
pub(crate) enum Segment<'a> {
    /// Bytes of the framing.
    Framing(&'a [u8]),
    /// The content of file `index` from `offset`, `len` bytes.
    File { index: usize, offset: u64, len: u64 },
}

impl Layout {
    /// Walks `root`, whose NAR should have `expected_size` bytes. Blocks.
    ///
    /// # Errors
    /// Stops as soon as the NAR is larger than expected, so a foreign tree costs no more memory
    /// than the right one would.
    pub(crate) fn build(root: &Path, expected_size: u64) -> Result<Self, LayoutError> {
        Self::build_with(root, expected_size, CaseHack::SYSTEM)
    }

    /// [`Layout::build`] where names are read as `case_hack` says.
    ///
    /// # Errors
    /// Those of [`Layout::build`].
    pub(crate) fn build_with(
        root: &Path,
        expected_size: u64,
        case_hack: CaseHack,
    ) -> Result<Self, LayoutError> {
        let mut builder = Builder::new(expected_size, case_hack);
        builder.walk(root)?;
        if builder.size != expected_size {
            return Err(LayoutError::Size {
                expected: expected_size,
                actual: builder.size.to_string(),
            });
        }
        Ok(Self {
            root: root.to_owned(),
            size: builder.size,
            framing: builder.framing.into_boxed_slice(),
            files: builder.files.into_boxed_slice(),
            names: builder.names.into_boxed_slice(),
        })
    }

    /// Length of the NAR in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The store path's physical place.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of memory the layout takes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.framing.len() + self.names.len() + size_of_val(&*self.files)
    }

    /// The physical place of file `index`.
    pub(crate) fn file_path(&self, index: usize) -> PathBuf {
        let start = match index.checked_sub(1) {
            Some(previous) => self.files[previous].name_end,
            None => 0,
        };
        let name = &self.names[start..self.files[index].name_end];
        if name.is_empty() {
            self.root.clone()
        } else {
            self.root.join(OsStr::from_bytes(name))
        }
    }

    /// What follows at `offset`, which must lie below [`Layout::size`].
    ///
    /// `hint` is the file that was read last: reading in order never searches.
    pub(crate) fn segment(&self, offset: u64, hint: usize) -> Segment<'_> {
        let next = self.next_file(offset, hint);
        let (framing_start, len_before) = match next.checked_sub(1) {
            Some(index) => {
                let file = &self.files[index];
                let end = file.start + file.len;
                if offset < end {
                    return Segment::File {
                        index,
                        offset: offset - file.start,
                        len: end - offset,
                    };
                }
                (
                    file.framing_before + (offset - end),
                    end - file.framing_before,
                )
            }
            None => (offset, 0),
        };
        let framing_end = match self.files.get(next) {
            Some(file) => file.framing_before,
            None => self.size - len_before,
        };
        // Both lie within the framing, which is in memory.
        Segment::Framing(&self.framing[framing_start as usize..framing_end as usize])
    }

    /// Index of the first file that starts after `offset`.
    fn next_file(&self, offset: u64, hint: usize) -> usize {
        let after = |index: usize| self.files.get(index).is_none_or(|f| f.start > offset);
        for candidate in hint..=hint + 2 {
            let starts_before = match candidate.checked_sub(1) {
                Some(index) => self.files.get(index).is_some_and(|f| f.start <= offset),
                None => true,
            };
            if starts_before && after(candidate) {
                return candidate;
            }
        }
        self.files.partition_point(|file| file.start <= offset)
    }
}

/// A directory whose entries are being written.
struct Frame {
    entries: vec::IntoIter<Entry>,
    /// Length of the relative path up to and including this directory.
    path_len: usize,
}

struct Entry {
    /// Name in the directory; the NAR has [`CaseHack::name_in_nar`].
    name: OsString,
    kind: Kind,
}

impl Entry {
    fn name_in_nar(&self, case_hack: CaseHack) -> &OsStr {
        case_hack.name_in_nar(&self.name)
    }
}

enum Kind {
    Regular { executable: bool, len: u64 },
    Symlink,
    Directory,
}

struct Builder {
    case_hack: CaseHack,
    expected_size: u64,
    size: u64,
    entries: usize,
    framing: Vec<u8>,
    files: Vec<FileSpan>,
    names: Vec<u8>,
}

impl Builder {
    fn new(expected_size: u64, case_hack: CaseHack) -> Self {
        Self {
            case_hack,
            expected_size,
            size: 0,
            entries: 0,
            framing: Vec::new(),
            files: Vec::new(),
            names: Vec::new(),
        }
    }

    fn walk(&mut self, root: &Path) -> Result<(), LayoutError> {
        self.text(b"nix-archive-1")?;
        let kind = kind(root, &fs::symlink_metadata(root)?)?;
        let mut stack = Vec::new();
        // The path being visited, relative to the root.
        let mut relative = Vec::new();
        self.node(root, &mut relative, &kind, &mut stack)?;
        while let Some(frame) = stack.last_mut() {
            relative.truncate(frame.path_len);
            let Some(entry) = frame.entries.next() else {
                self.text(b")")?;
                stack.pop();
                if !stack.is_empty() {
                    self.text(b")")?;
                }
                continue;
            };
            self.text(b"entry")?;
            self.text(b"(")?;
            self.text(b"name")?;
            self.text(entry.name_in_nar(self.case_hack).as_bytes())?;
            self.text(b"node")?;
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(entry.name.as_bytes());
            let depth = stack.len();
            self.node(root, &mut relative, &entry.kind, &mut stack)?;
            if stack.len() == depth {
                self.text(b")")?;
            }
        }
        Ok(())
    }

    /// Writes a node up to its closing parenthesis; that of a directory comes with its last entry.
    fn node(
        &mut self,
        root: &Path,
        relative: &mut [u8],
        kind: &Kind,
        stack: &mut Vec<Frame>,
    ) -> Result<(), LayoutError> {
        let full_path = || {
            if relative.is_empty() {
                root.to_owned()
            } else {
                root.join(OsStr::from_bytes(relative))
            }
        };
        self.entries += 1;
        if self.entries > limits::MAX_ENTRIES || stack.len() > limits::MAX_DEPTH {
            return Err(unsupported(&full_path(), "has too many entries or levels").into());
        }
        self.text(b"(")?;
        self.text(b"type")?;
        match kind {
            Kind::Regular { executable, len } => {
                self.text(b"regular")?;
                if *executable {
                    self.text(b"executable")?;
                    self.text(b"")?;
                }
                self.text(b"contents")?;
                self.content(relative, *len)?;
                self.text(b")")
            }
            Kind::Symlink => {
                self.text(b"symlink")?;
                self.text(b"target")?;
                let path = full_path();
                let target = fs::read_link(&path).map_err(|error| at(&path, &error))?;
                self.text(target.as_os_str().as_bytes())?;
                self.text(b")")
            }
            Kind::Directory => {
                self.text(b"directory")?;
                let path = full_path();
                let entries = read_dir(&path, self.case_hack).map_err(|error| at(&path, &error))?;
                stack.push(Frame {
                    entries: entries.into_iter(),
                    path_len: relative.len(),
                });
                Ok(())
            }
        }
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.grow(8 + bytes.len().next_multiple_of(8) as u64)?;
        self.framing
            .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.framing.extend_from_slice(bytes);
        self.pad(bytes.len() as u64);
        Ok(())
    }

    fn content(&mut self, name: &[u8], len: u64) -> Result<(), LayoutError> {
        let padded = len
            .checked_next_multiple_of(8)
            .ok_or_else(|| self.too_large())?;
        self.grow(8)?;
        self.framing.extend_from_slice(&len.to_le_bytes());
        if len > 0 {
            let start = self.size;
            self.grow(padded)?;
            self.names.extend_from_slice(name);
            self.files.push(FileSpan {
                start,
                len,
                framing_before: self.framing.len() as u64,
                name_end: self.names.len(),
            });
            self.pad(len);
        }
        Ok(())
    }

    fn pad(&mut self, len: u64) {
        let padding = (len.wrapping_neg() % 8) as usize;
        self.framing.extend_from_slice(&[0; 8][..padding]);
    }

    fn grow(&mut self, by: u64) -> Result<(), LayoutError> {
        self.size = self
            .size
            .checked_add(by)
            .filter(|&size| size <= self.expected_size)
            .ok_or_else(|| self.too_large())?;
        Ok(())
    }

    fn too_large(&self) -> LayoutError {
        LayoutError::Size {
            expected: self.expected_size,
            actual: format!("more than {}", self.size),
        }
    }
}

/// Lists a directory in the order of a NAR: by the bytes of the names there.
///
/// # Errors
/// Two names that the NAR would have once are refused, as Nix refuses them.
fn read_dir(path: &Path, case_hack: CaseHack) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let file_type = entry.file_type()?;
        let kind = if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_symlink() {
            Kind::Symlink
        } else {
            kind(&entry.path(), &entry.metadata()?)?
        };
        entries.push(Entry {
            name: entry.file_name(),
            kind,
        });
    }
    entries.sort_unstable_by(|a, b| a.name_in_nar(case_hack).cmp(b.name_in_nar(case_hack)));
    if entries
        .windows(2)
        .any(|pair| pair[0].name_in_nar(case_hack) == pair[1].name_in_nar(case_hack))
    {
        return Err(unsupported(path, "has two entries of one name"));
    }
    Ok(entries)
}

fn kind(path: &Path, metadata: &Metadata) -> io::Result<Kind> {
    let file_type = metadata.file_type();
    if file_type.is_file() {
        Ok(Kind::Regular {
            executable: metadata.mode() & 0o100 != 0,
            len: metadata.len(),
        })
    } else if file_type.is_symlink() {
        Ok(Kind::Symlink)
    } else if file_type.is_dir() {
        Ok(Kind::Directory)
    } else {
        Err(unsupported(
            path,
            "is neither a file, a directory nor a symlink",
        ))
    }
}

fn unsupported(path: &Path, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} {what}", path.display()),
    )
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
