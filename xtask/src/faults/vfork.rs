//! A process that waits in vfork(2) for a child that does not come to an end: in state D, and skipped by the kernel's hung-task
//! detector, since a fatal signal would wake it.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};

use super::hung_task::Detector;
use super::poll;
use super::process::{ForkedChild, pause};

/// Command name of the parent, and of its child.
const COMM: &str = "vfork-parent";

/// A parent that is blocked for as long as this lives.
#[derive(Debug)]
pub struct VforkWait {
    /// The blocked process.
    pub pid: u32,
    /// Its command name.
    pub comm: &'static str,
    /// How long a task may block before it counts as hung.
    pub timeout: Duration,
    _parent: ForkedChild,
    _detector: Detector,
}

impl VforkWait {
    /// Tightens the detector to `timeout` (whole seconds), and blocks a process.
    ///
    /// # Errors
    /// If the kernel has no hung-task detector, or the process does not block within 5 s.
    pub fn block(timeout: Duration) -> Result<Self> {
        let detector = Detector::tighten(timeout)?;
        // SAFETY: the step makes only system calls.
        let parent = unsafe { ForkedChild::fork(COMM, vfork_and_wait)? };
        let stat = format!("/proc/{}/stat", parent.pid());
        poll("a process in vfork", Duration::from_secs(5), || {
            parent.check_alive()?;
            let text = fs::read_to_string(&stat).with_context(|| format!("cannot read {stat}"))?;
            Ok(text.contains(") D ").then_some(()))
        })?;
        Ok(Self { pid: parent.pid(), comm: COMM, timeout, _parent: parent, _detector: detector })
    }
}

/// Makes a child that shares this process' memory and sleeps until its parent is killed, which waits for it meanwhile.
fn vfork_and_wait() -> bool {
    // As vfork(2), but with a stack of the child's own, which Rust's compiler knows nothing of otherwise.
    let mut stack = [0_u64; 1024];
    // SAFETY: the stack outlives the child, since this process waits for it; the child calls nothing that needs more of it.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(sleep, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, std::ptr::null_mut())
    };
    child >= 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
}

extern "C" fn sleep(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: plain system calls. The child ends with its parent, whoever ends that.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // The memory is the parent's, and so is nobody's but this one's while the parent waits.
    loop {
        pause(500);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Trace, needs_root};

    #[test]
    fn the_parent_is_blocked_and_the_detector_says_nothing() {
        if needs_root() {
            return;
        }
        let trace = Trace::start(&["sched/sched_process_hang"]).unwrap();
        let wait = VforkWait::block(Duration::from_secs(1)).unwrap();
        let seen = trace.wait_for(Duration::from_secs(4), |event| event.fields.contains(&format!("pid={}", wait.pid)));
        assert!(seen.is_err(), "{seen:?}");
        let pid = wait.pid;
        drop(wait);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
