//! How many descriptors a process has open, and how many it may have.
//!
//! Counting is cheap where the size of the directory `/proc/PID/fd` is the count (6.2 and later), and a walk through the
//! directory elsewhere. There the size of the descriptor table tells beforehand who cannot be near its limit.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, fstatfs, openat, statat};

use crate::collectors::text::{fields, number};

/// How to count on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// By the size of the directory.
    BySize,
    /// By walking through it.
    ByWalk,
}

impl Counting {
    /// Finds out, from this process' own descriptors.
    pub fn find(procfs: &OwnedFd) -> Self {
        // The size of a directory means this on procfs alone, not in a copy of it.
        let is_procfs = fstatfs(procfs).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC);
        let has_size = statat(procfs, "self/fd", AtFlags::empty()).is_ok_and(|stat| stat.st_size > 0);
        if is_procfs && has_size { Self::BySize } else { Self::ByWalk }
    }

    /// The number of descriptors behind `path`, which is `PID/fd`; `None` where the process is gone or may not be looked at.
    pub fn count(self, procfs: &OwnedFd, path: &str) -> Option<u64> {
        match self {
            Self::BySize => statat(procfs, path, AtFlags::empty()).ok().and_then(|stat| u64::try_from(stat.st_size).ok()),
            Self::ByWalk => {
                let directory = openat(procfs, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut entries = RawDir::new(directory, &mut buffer);
                let mut count = 0;
                while let Some(entry) = entries.next() {
                    let name = entry.ok()?;
                    count += u64::from(number(name.file_name().to_bytes()).is_some());
                }
                Some(count)
            }
        }
    }
}

/// The soft limit of open files in the text of `/proc/PID/limits`; `None` where there is none, or no such line.
pub fn parse_limit(text: &[u8]) -> Option<u64> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Max open files"))?;
    fields(line).number()
}

/// The size of the descriptor table in the text of `/proc/PID/status`: no less than the number of open descriptors.
pub fn parse_table_size(text: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"FDSize:")).and_then(|size| fields(size).number())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    const LIMITS: &[u8] = b"Limit                     Soft Limit           Hard Limit           Units     \n\
        Max resident set          unlimited            unlimited            bytes     \n\
        Max open files            1024                 524288               files     \n";

    #[test]
    fn limit_and_table_size_are_found() {
        assert_eq!(parse_limit(LIMITS), Some(1024));
        assert_eq!(parse_limit(b"Max open files            unlimited            unlimited            files     \n"), None);
        assert_eq!(parse_limit(b""), None);
        assert_eq!(parse_table_size(b"Name:\tcat\nFDSize:\t256\nGroups:\t0 \n"), Some(256));
    }

    #[test]
    fn both_ways_of_counting_agree() {
        let procfs: OwnedFd = std::fs::File::open("/proc").unwrap().into();
        let path = format!("{}/fd", std::process::id());
        let counted = || Counting::ByWalk.count(&procfs, &path).unwrap();
        let held: Vec<_> = (0..50).map(|_| procfs.try_clone().unwrap()).collect();
        assert!(counted() > 50, "{held:?}");
        if Counting::find(&procfs) == Counting::BySize {
            // Other tests of this process open and close descriptors all the time.
            let agrees = || Counting::BySize.count(&procfs, &path).unwrap().abs_diff(counted()) < 40;
            assert!((0..100).any(|_| agrees()));
        }
    }

    #[test]
    fn no_input_panics() {
        mangle(LIMITS, |text| {
            let _ = parse_limit(text);
        });
        mangle(b"Name:\tcat\nFDSize:\t256\nGroups:\t0 \n", |text| {
            let _ = parse_table_size(text);
        });
    }
}
