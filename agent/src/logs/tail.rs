//! Follows a file that is written line by line, through rotation by rename and by truncation.
//!
//! Asks again and again instead of waiting for notifications, which network and overlay file systems do not send. Does not see the
//! lines that a file lost between two readings because it was truncated in between.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lines::{Line, Lines};
use super::{Begin, MAX_TEXT, Position};

/// Bytes before the end from which a file is read where a reader was away for longer.
const MAX_BEHIND: u64 = 4 << 20;
/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;
/// Bytes before the position that are remembered: others there mean another content.
const REMEMBERED: usize = 64;
/// How long a file that was renamed is still written to: until its writer is told.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// A file that is followed.
pub struct Tail {
    path: PathBuf,
    file: File,
    device: u64,
    inode: u64,
    /// Bytes that were read.
    offset: u64,
    /// Bytes up to the last end of a line.
    complete: u64,
    /// Where the file ended when it was opened.
    backlog: u64,
    last: Vec<u8>,
    lines: Lines,
    /// Whether the first line is the rest of one.
    skips_one: bool,
    renamed: Option<Instant>,
    buffer: Vec<u8>,
}

/// A line, and where it stands.
pub struct Tailed<'a> {
    /// The line.
    pub line: Line<'a>,
    /// Where the next one begins.
    pub position: Position,
    /// Whether it was there when the file was opened.
    pub is_backlog: bool,
}

impl Tail {
    /// Opens the file.
    ///
    /// # Errors
    /// There is no such file, it is no file, or may not be read.
    pub fn open(path: &Path, begin: Begin<'_>) -> io::Result<Self> {
        let (file, metadata) = open(path)?;
        let len = metadata.len();
        let mut tail = Self {
            path: path.to_owned(),
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            offset: len,
            complete: len,
            backlog: len,
            last: Vec::new(),
            lines: Lines::new(MAX_TEXT),
            skips_one: false,
            renamed: None,
            buffer: vec![0; CHUNK],
        };
        if let Begin::At(Position::Byte { device, inode, offset }) = begin {
            if (*device, *inode) == (tail.device, tail.inode) {
                // Shorter than it was: truncated, and written anew.
                tail.go_to(if *offset <= len { *offset } else { 0 });
            } else if let Some((file, metadata)) = renamed(path, *device, *inode) {
                (tail.file, tail.device, tail.inode, tail.backlog) = (file, *device, *inode, metadata.len());
                tail.go_to((*offset).min(metadata.len()));
                // Nobody writes to it any more.
                tail.renamed = Some(Instant::now().checked_sub(AFTERLIFE).unwrap_or_else(Instant::now));
            } else {
                tail.go_to(0);
            }
        }
        Ok(tail)
    }

    /// Bytes that lie before where it begins, because it was away for too long.
    fn go_to(&mut self, offset: u64) {
        let earliest = self.backlog.saturating_sub(MAX_BEHIND);
        self.skips_one = offset < earliest;
        self.offset = offset.max(earliest);
        self.complete = self.offset;
        self.last.clear();
        self.lines.clear();
    }

    /// Reads what is there, and hands on its lines as long as `each` says so. Whether there may be more at once.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, each: &mut dyn FnMut(Tailed<'_>) -> bool) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.offset || self.is_another()? {
            self.begin_anew();
        }
        let read = self.file.read_at(&mut self.buffer, self.offset)?;
        if read == 0 {
            return self.at_end(each);
        }
        let bytes = self.buffer.get(..read).unwrap_or_default();
        self.offset += bytes.len() as u64;
        let keep = bytes.len().saturating_sub(REMEMBERED);
        self.last = bytes.get(keep..).unwrap_or_default().to_owned();
        let (mut at, skips_one, backlog) = (self.complete, &mut self.skips_one, self.backlog);
        let (device, inode) = (self.device, self.inode);
        self.lines.take(bytes, |line| {
            let is_backlog = at < backlog;
            at += line.len;
            let position = Position::Byte { device, inode, offset: at };
            std::mem::take(skips_one) || each(Tailed { line, position, is_backlog })
        });
        self.complete = at;
        Ok(true)
    }

    /// Whether other bytes stand where those were that were read last: the file was truncated and has grown beyond since.
    fn is_another(&self) -> io::Result<bool> {
        let mut bytes = [0; REMEMBERED];
        let bytes = bytes.get_mut(..self.last.len()).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(false);
        }
        match self.file.read_exact_at(bytes, self.offset.saturating_sub(bytes.len() as u64)) {
            Ok(()) => Ok(*bytes != *self.last),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn begin_anew(&mut self) {
        self.backlog = 0;
        self.go_to(0);
    }

    /// Goes on with the file that has taken the name, once the old one is no longer written to.
    fn at_end(&mut self, each: &mut dyn FnMut(Tailed<'_>) -> bool) -> io::Result<bool> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) != (self.device, self.inode) => metadata,
            // Also where the name is free for a moment.
            _ => {
                self.renamed = None;
                return Ok(false);
            }
        };
        let since = *self.renamed.get_or_insert_with(Instant::now);
        // A writer that has begun the new file is done with the old one.
        if metadata.len() == 0 && since.elapsed() < AFTERLIFE {
            return Ok(false);
        }
        // What came after the look at the end.
        if self.file.metadata()?.len() > self.offset {
            return Ok(true);
        }
        let (file, metadata) = open(&self.path)?;
        let position = Position::Byte { device: metadata.dev(), inode: metadata.ino(), offset: 0 };
        let is_backlog = self.complete < self.backlog;
        self.lines.rest(|line| {
            // Whether more is wanted is asked with the next line.
            each(Tailed { line, position, is_backlog });
        });
        (self.file, self.device, self.inode, self.renamed) = (file, metadata.dev(), metadata.ino(), None);
        self.begin_anew();
        Ok(true)
    }
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opening a FIFO would wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("not a regular file")) }
}

/// The file with this inode, under another name that begins alike: `syslog.1`, `messages-20261121`.
fn renamed(path: &Path, device: u64, inode: u64) -> Option<(File, Metadata)> {
    let name = path.file_name()?.to_str()?;
    let of_name = fs::read_dir(path.parent()?).ok()?.flatten().filter(|entry| {
        entry.file_name().to_str().is_some_and(|other| other.starts_with(name))
            && entry.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (device, inode))
    });
    of_name.filter_map(|entry| open(&entry.path()).ok()).next()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    struct Log {
        directory: tempfile::TempDir,
        tail: Tail,
        position: Option<Position>,
    }

    impl Log {
        fn new(begin: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("syslog");
            fs::write(&path, begin).unwrap();
            let tail = Tail::open(&path, Begin::End).unwrap();
            Self { directory, tail, position: None }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("syslog")
        }

        fn append(&self, name: &str, text: &str) {
            let path = self.directory.path().join(name);
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn lines(&mut self) -> Vec<String> {
            let mut lines = Vec::new();
            let mut position = None;
            while self
                .tail
                .read(&mut |tailed| {
                    lines.push(tailed.line.text().into_owned());
                    position = Some(tailed.position);
                    true
                })
                .unwrap()
            {}
            self.position = position.or(self.position.take());
            lines
        }

        /// As another process of the agent goes on.
        fn reopen(&mut self) {
            let position = self.position.clone().unwrap();
            self.tail = Tail::open(&self.path(), Begin::At(&position)).unwrap();
        }
    }

    #[test]
    fn lines_are_read_once_they_are_whole() {
        let mut log = Log::new("old\n");
        assert_eq!(log.lines(), [""; 0]);
        log.append("syslog", "one\ntwo\nthr");
        assert_eq!(log.lines(), ["one", "two"]);
        log.append("syslog", "ee\n");
        assert_eq!(log.lines(), ["three"]);
    }

    #[test]
    fn a_renamed_file_is_read_to_its_end_before_the_next() {
        let mut log = Log::new("");
        log.append("syslog", "one\n");
        assert_eq!(log.lines(), ["one"]);
        fs::rename(log.path(), log.directory.path().join("syslog.1")).unwrap();
        // The writer still has the old file open.
        log.append("syslog.1", "two\n");
        assert_eq!(log.lines(), ["two"]);
        log.append("syslog", "");
        log.append("syslog.1", "three\n");
        assert_eq!(log.lines(), ["three"]);
        log.append("syslog.1", "four, and no end");
        log.append("syslog", "five\n");
        assert_eq!(log.lines(), ["four, and no end", "five"]);
    }

    #[test]
    fn a_truncated_file_is_read_from_its_begin() {
        let mut log = Log::new("");
        log.append("syslog", "one\ntwo, which is long\n");
        assert_eq!(log.lines().len(), 2);
        let copy_and_truncate = |log: &Log| {
            fs::copy(log.path(), log.directory.path().join("syslog.1")).unwrap();
            OpenOptions::new().write(true).open(log.path()).unwrap().set_len(0).unwrap();
        };
        copy_and_truncate(&log);
        log.append("syslog", "three\n");
        assert_eq!(log.lines(), ["three"]);
        // Grown beyond where it was before anybody looked.
        copy_and_truncate(&log);
        log.append("syslog", "four, longer than what was there\nfive\n");
        assert_eq!(log.lines(), ["four, longer than what was there", "five"]);
    }

    #[test]
    fn a_reader_goes_on_where_the_one_before_stopped() {
        let mut log = Log::new("");
        log.append("syslog", "one\ntwo\npart");
        assert_eq!(log.lines(), ["one", "two"]);
        log.append("syslog", "ial\nthree\n");
        log.reopen();
        assert_eq!(log.lines(), ["partial", "three"]);
        // Rotated while nobody read.
        log.append("syslog", "four\n");
        fs::rename(log.path(), log.directory.path().join("syslog-20261121")).unwrap();
        log.append("syslog", "five\n");
        log.reopen();
        assert_eq!(log.lines(), ["four", "five"]);
        // Truncated while nobody read.
        fs::write(log.path(), "6\n").unwrap();
        log.reopen();
        assert_eq!(log.lines(), ["6"]);
        // Rotated away.
        fs::remove_file(log.path()).unwrap();
        log.append("other", "");
        log.append("syslog", "seven\n");
        log.reopen();
        assert_eq!(log.lines(), ["seven"]);
    }

    #[test]
    fn a_reader_that_was_away_for_long_reads_the_end() {
        let mut log = Log::new("");
        log.append("syslog", "one\n");
        log.lines();
        log.append("syslog", &"x".repeat(99).add_line().repeat(100_000));
        log.reopen();
        let lines = log.lines();
        assert!(lines.len() < 43_000 && lines.len() > 40_000, "{}", lines.len());
        assert!(lines.iter().all(|line| line.len() == 99), "the first is whole");
    }

    trait AddLine {
        fn add_line(self) -> Self;
    }

    impl AddLine for String {
        fn add_line(mut self) -> Self {
            self.push('\n');
            self
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Tail::open(directory.path(), Begin::End).is_err());
        assert!(Tail::open(&directory.path().join("none"), Begin::End).is_err());
    }
}
