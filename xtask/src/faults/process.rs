//! Child processes that never outlive their guard.

use std::ffi::CString;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use super::poll;

/// A spawned program that is killed and reaped when the guard is dropped.
#[derive(Debug)]
pub struct KillOnDrop(Child);

impl KillOnDrop {
    /// Takes charge of `child`.
    pub const fn new(child: Child) -> Self {
        Self(child)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its ends of the pipes.
    pub const fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// If it has gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("a child with an impossible pid")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to process {}", self.0.id()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it goes on longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of process {}", self.0.id());
        poll(&what, limit, || Ok(self.0.try_wait()?))
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It may have ended by itself. One that is stuck in the kernel dies when it is freed, and init reaps it.
        let _ = self.0.kill();
        let _ = self.wait(Duration::from_secs(5));
    }
}

/// A copy of this process that runs a few system calls under a name of its own, until it is killed or its parent ends.
///
/// For what no program at hand does: to run out of descriptors of one kind, to own one end of a known connection.
#[derive(Debug)]
pub(super) struct ForkedChild(Pid);

impl ForkedChild {
    /// Forks. The child is named `comm` (at most 15 bytes are kept), has no descriptors but `/dev/null` as 0, 1 and 2, and
    /// calls `step` until that returns `false` or the parent has gone.
    ///
    /// # Safety
    /// This process may have threads, so the child has only what POSIX calls async-signal-safe: `step` must not allocate,
    /// lock, print or panic.
    pub(super) unsafe fn fork(comm: &str, mut step: impl FnMut() -> bool) -> Result<Self> {
        let comm = CString::new(comm).context("a command name holds a zero byte")?;
        // SAFETY: getpid has no preconditions.
        let parent = unsafe { libc::getpid() };
        // SAFETY: the child calls only system calls until it exits; the caller promises the same of `step`.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("cannot fork"),
            0 => {
                // A panic must not unwind into a second copy of the caller.
                let _exit = ExitOnDrop;
                detach(&comm);
                // SAFETY: getppid has no preconditions.
                while unsafe { libc::getppid() } == parent && step() {}
                // SAFETY: _exit has no preconditions.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self(Pid::from_raw(pid).context("fork returned an impossible pid")?)),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// Fails if the child has ended; a zombie counts as ended.
    pub(super) fn check_alive(&self) -> Result<()> {
        match rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::NOHANG) {
            Ok(None) => Ok(()),
            Ok(Some((_, status))) => bail!("the child process {} ended early: {status:?}", self.pid()),
            Err(error) => bail!("the child process {} has gone: {error}", self.pid()),
        }
    }

    /// Sends a signal to it.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.0, signal).with_context(|| format!("cannot send {signal:?} to process {}", self.pid()))
    }

    /// Kills it, and returns when it is gone.
    pub fn end(&self) {
        // It may have been reaped already; then the pid is nobody's child and must not be signalled.
        if self.check_alive().is_ok() {
            let _ = rustix::process::kill_process(self.0, Signal::KILL);
            let _ = rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::empty());
        }
    }
}

impl Drop for ForkedChild {
    fn drop(&mut self) {
        self.end();
    }
}

struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        // SAFETY: _exit has no preconditions.
        unsafe { libc::_exit(101) }
    }
}

/// Makes the forked child a process of its own: its name, no inherited descriptors (they hold pipes open whose end others
/// wait for), and its own process group.
fn detach(comm: &CString) {
    // SAFETY: plain system calls; the strings are terminated by zero and outlive the calls.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, comm.as_ptr());
        libc::setpgid(0, 0);
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
            // Before Linux 5.9.
            for descriptor in 0..4096 {
                libc::close(descriptor);
            }
        }
        for _ in 0..3 {
            libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        }
    }
}

/// Sleeps; safe in a forked child.
pub(super) fn pause(milliseconds: u32) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(milliseconds.min(999)) * 1_000_000 };
    // SAFETY: `time` is a valid timespec, and no remainder is asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}
