//! A process runs out of file descriptors, and goes on trying.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::poll;
use super::process::{ForkedChild, pause};
use super::undo::Undo;

/// The process' limit of descriptors (`RLIMIT_NOFILE`, getrlimit(2)).
const LIMIT: u64 = 64;
/// Descriptors 0, 1 and 2, which are `/dev/null`.
const STANDARD: u64 = 3;
/// The process tries again this often.
const RETRY_EVERY_MS: u32 = 50;

/// What the process opens until it can open no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The same regular file, again and again.
    File,
    /// TCP sockets without a connection.
    Socket,
    /// Pipes; each takes two descriptors.
    Pipe,
}

impl Kind {
    /// Command name of a process that leaks this kind.
    const fn comm(self) -> &'static str {
        match self {
            Self::File => "leak-files",
            Self::Socket => "leak-sockets",
            Self::Pipe => "leak-pipes",
        }
    }

    /// Descriptors of this kind that are open when one more cannot be had.
    const fn most(self) -> u64 {
        let free = LIMIT - STANDARD;
        match self {
            Self::File | Self::Socket => free,
            Self::Pipe => free / 2 * 2,
        }
    }
}

/// A process that has no descriptor left.
#[derive(Debug)]
pub struct FdExhaustion {
    /// The process.
    pub pid: u32,
    /// Its command name.
    pub comm: &'static str,
    /// What it opened.
    pub kind: Kind,
    /// How many of that kind it has open.
    pub of_kind: u64,
    /// How many descriptors it has open in all.
    pub open: u64,
    /// How many it may have open.
    pub limit: u64,
    _leaker: ForkedChild,
    _undo: Undo,
}

impl FdExhaustion {
    /// Starts the process and returns when it has no descriptor left. Until it is dropped, it tries again every 50 ms, and
    /// each time the kernel answers `EMFILE`.
    ///
    /// # Errors
    /// If the process ends, or has descriptors left after 5 s.
    pub fn cause(kind: Kind) -> Result<Self> {
        let mut undo = Undo::new()?;
        let file = undo.directory()?.join("leaked");
        fs::write(&file, "").with_context(|| format!("cannot make {}", file.display()))?;
        let path = CString::new(file.as_os_str().as_bytes()).context("a temporary directory with a zero byte in its name")?;
        let mut limited = false;
        // SAFETY: the step makes only system calls, on memory that it owns.
        let leaker = unsafe {
            ForkedChild::fork(kind.comm(), move || {
                if !limited {
                    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
                    limited = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0;
                    return limited;
                }
                let mut ends = [-1; 2];
                let opened = match kind {
                    Kind::File => libc::open(path.as_ptr(), libc::O_RDONLY),
                    Kind::Socket => libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0),
                    Kind::Pipe => libc::pipe2(ends.as_mut_ptr(), 0),
                };
                if opened < 0 {
                    pause(RETRY_EVERY_MS);
                }
                true
            })?
        };
        let open = STANDARD + kind.most();
        let descriptors = format!("/proc/{}/fd", leaker.pid());
        poll("a process without a free descriptor", Duration::from_secs(5), || {
            leaker.check_alive()?;
            let entries = fs::read_dir(&descriptors).with_context(|| format!("cannot list {descriptors}"))?;
            Ok((entries.count() as u64 == open).then_some(()))
        })?;
        Ok(Self {
            pid: leaker.pid(),
            comm: kind.comm(),
            kind,
            of_kind: kind.most(),
            open,
            limit: LIMIT,
            _leaker: leaker,
            _undo: undo,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Trace, needs_root};

    fn exhausts(kind: Kind, syscall: &str, link: &str) {
        if needs_root() {
            return;
        }
        let tracepoint = format!("sys_exit_{syscall}");
        let trace = Trace::start(&[&format!("syscalls/{tracepoint}")]).unwrap();
        let leak = FdExhaustion::cause(kind).unwrap();
        // The kernel's trace prints results of system calls in hexadecimal: -EMFILE.
        let event = trace
            .wait_for(Duration::from_secs(5), |seen| seen.pid == leak.pid && seen.fields.ends_with("0xffffffffffffffe8"))
            .unwrap();
        assert_eq!(event.comm, leak.comm);
        let entries = fs::read_dir(format!("/proc/{}/fd", leak.pid)).unwrap();
        let targets = entries.map(|entry| fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned());
        assert_eq!(targets.filter(|target| target.contains(link)).count() as u64, leak.of_kind);
        let pid = leak.pid;
        drop(leak);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn sockets_run_out() {
        exhausts(Kind::Socket, "socket", "socket:[");
    }

    #[test]
    fn files_run_out() {
        exhausts(Kind::File, "openat", "/leaked");
    }

    #[test]
    fn pipes_run_out() {
        exhausts(Kind::Pipe, "pipe2", "pipe:[");
    }
}
