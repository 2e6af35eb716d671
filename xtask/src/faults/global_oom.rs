//! The whole machine runs out of memory, and the kernel kills the process that offered itself.
//!
//! Only for a machine that is there for it, such as a virtual one: everything on it is short of memory for a moment.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::process::KillOnDrop;

/// Offers itself as victim (`oom_score_adj`, proc_pid_oom_score_adj(5)), waits for a line, and eats memory without end.
const EATER: &str = "echo 1000 > /proc/self/oom_score_adj && read -r go && exec tail /dev/zero";

/// A process that was killed because the machine had no memory left.
#[derive(Clone, Copy, Debug)]
pub struct GlobalOom {
    /// The victim.
    pub pid: u32,
    /// Its command name when it was killed.
    pub comm: &'static str,
}

impl GlobalOom {
    /// Eats all memory and returns when the kernel has killed the eater.
    ///
    /// # Errors
    /// If it isn't killed within two minutes, or ends in another way.
    pub fn cause() -> Result<Self> {
        let eater = Command::new("sh")
            .args(["-c", EATER])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start `sh`, which becomes the process that eats memory")?;
        let mut eater = KillOnDrop::new(eater);
        let mut go = eater.child().stdin.take().context("the process that eats memory has no input")?;
        std::io::Write::write_all(&mut go, b"\n").context("the process that eats memory has gone")?;
        let status = eater.wait(Duration::from_secs(120))?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("the process that eats memory ended with {status} instead of being killed");
        }
        Ok(Self { pid: eater.pid(), comm: "tail" })
    }
}
