//! Reading files of procfs and sysfs.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Most that is read of one file: a host with 4,096 CPUs has a `/proc/stat` of about 1 MB.
const MAX_LEN: usize = 16 << 20;

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {cause}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: io::Error,
}

/// What a file said, and which file it was.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The file.
    pub path: &'a Path,
    /// All of it.
    pub bytes: &'a [u8],
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// A file of procfs or sysfs that stays open and is read again and again into the same buffer.
///
/// Such a file gives a fresh text with every read from its start, so neither opening nor allocating is needed. A read that
/// fails (the device behind it is gone) closes the file, and the next read opens it again.
#[derive(Debug)]
pub struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl ProcFile {
    /// The file at `path`, which is opened with the first read.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, buffer: Vec::new() }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's present text.
    ///
    /// # Errors
    /// The file does not exist, may not be read, vanished while it was read, or is longer than 16 MiB.
    pub fn read(&mut self) -> Result<Text<'_>, ReadError> {
        let result = match self.file.take() {
            Some(file) => Ok(file),
            None => File::open(&self.path),
        }
        .and_then(|file| read_whole(&file, &mut self.buffer).map(|len| (file, len)));
        match result {
            Ok((file, len)) => {
                self.file = Some(file);
                Ok(Text { path: &self.path, bytes: self.buffer.get(..len).unwrap_or_default() })
            }
            Err(cause) => Err(ReadError { path: self.path.clone(), cause }),
        }
    }

    /// The file's present text, or `None` where this kernel has no such file.
    ///
    /// # Errors
    /// As [`Self::read`], but for a file that does not exist.
    pub fn read_if_exists(&mut self) -> Result<Option<Text<'_>>, ReadError> {
        match self.read() {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads a file from its start into `buffer`, which grows as needed and never shrinks; gives the length read.
fn read_whole(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    if buffer.is_empty() {
        buffer.resize(4096, 0);
    }
    let mut len = 0;
    loop {
        let Some(free) = buffer.get_mut(len..).filter(|free| !free.is_empty()) else {
            if buffer.len() >= MAX_LEN {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 16 MiB"));
            }
            buffer.resize(buffer.len() * 2, 0);
            continue;
        };
        match file.read_at(free, len as u64) {
            Ok(0) => return Ok(len),
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
