//! A process blocks on a frozen file system for longer than the kernel's hung-task detector allows.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::loop_device::{Freeze, LoopFilesystem};
use super::poll;
use super::process::KillOnDrop;
use super::trace::write;
use super::undo::{Undo, quoted};

const SYSCTL: &str = "/proc/sys/kernel";

/// A process in uninterruptible sleep, for as long as this lives.
///
/// The fields are dropped in this order: the thaw must come before the wait for the blocked process.
#[derive(Debug)]
pub struct FrozenFilesystem {
    freeze: Freeze,
    writer: KillOnDrop,
    _undo: Undo,
    _detector: Detector,
    /// Where the frozen file system is mounted.
    pub mount_point: PathBuf,
    /// The blocked process.
    pub pid: u32,
    /// Its command name.
    pub comm: &'static str,
    /// Its command line.
    pub command_line: String,
    /// How long a task may block before the detector reports it. The report comes up to two seconds later.
    pub timeout: Duration,
}

impl FrozenFilesystem {
    /// Tightens the detector to `timeout` (whole seconds), freezes a file system of its own, and blocks a process on it.
    ///
    /// # Errors
    /// If the kernel has no hung-task detector, or a step fails; then everything is undone.
    pub fn freeze(timeout: Duration) -> Result<Self> {
        let detector = Detector::tighten(timeout)?;
        let mut undo = Undo::new()?;
        let filesystem = LoopFilesystem::mount(&mut undo)?;
        let freeze = filesystem.freeze(&mut undo)?;
        let script = format!("echo x > {}", quoted(&filesystem.mount_point.join("file")));
        let writer = Command::new("sh").args(["-c", &script]).spawn().context("cannot start `sh`, which is to block")?;
        let frozen = Self {
            pid: writer.id(),
            freeze,
            writer: KillOnDrop::new(writer),
            mount_point: filesystem.mount_point,
            _undo: undo,
            _detector: detector,
            comm: "sh",
            command_line: format!("sh -c {script}"),
            timeout,
        };
        poll("uninterruptible sleep of the writer", Duration::from_secs(5), || Ok((frozen.state()? == 'D').then_some(())))?;
        Ok(frozen)
    }

    /// The functions on the kernel stack of the blocked process, innermost first.
    ///
    /// # Errors
    /// If the kernel doesn't show stacks (`CONFIG_STACKTRACE`).
    pub fn stack(&self) -> Result<Vec<String>> {
        let text = self.proc_file("stack")?;
        Ok(text.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('+').next()).map(str::to_owned).collect())
    }

    /// The function that it sleeps in.
    ///
    /// # Errors
    /// If the process has gone.
    pub fn wchan(&self) -> Result<String> {
        self.proc_file("wchan")
    }

    /// Thaws the file system and waits until the writer has come to its natural end.
    ///
    /// # Errors
    /// If it doesn't within 5 s.
    pub fn thaw(self) -> Result<()> {
        let Self { freeze, mut writer, .. } = self;
        drop(freeze);
        let status = writer.wait(Duration::from_secs(5))?;
        if status.success() { Ok(()) } else { bail!("the writer was thawed and failed: {status}") }
    }

    /// The state letter of `/proc/PID/stat` (proc_pid_stat(5)).
    fn state(&self) -> Result<char> {
        let text = self.proc_file("stat")?;
        text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).context("/proc/PID/stat without a state")
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// The hung-task detector in its tightened state (Documentation/admin-guide/sysctl/kernel.rst).
#[derive(Debug)]
pub(super) struct Detector {
    _undo: Undo,
    /// Holds the lock that lets one process at a time change the detector, so that none takes another's values for the
    /// host's own and restores those.
    _turn: File,
}

impl Detector {
    pub(super) fn tighten(timeout: Duration) -> Result<Self> {
        let path = Path::new(SYSCTL).join("hung_task_timeout_secs");
        let turn = File::open(&path).with_context(|| {
            format!("cannot open {}: this kernel has no hung-task detector (CONFIG_DETECT_HUNG_TASK)", path.display())
        })?;
        poll("our turn with the hung-task detector", Duration::from_secs(60), || {
            Ok(flock(&turn, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(()))
        })?;
        let mut undo = Undo::new()?;
        let timeout = timeout.as_secs().max(1).to_string();
        // A host that panics on a hung task must not panic on this one. Each report takes one from the allowance of warnings.
        for (name, value) in [
            ("hung_task_panic", Some("0")),
            ("hung_task_warnings", None),
            ("hung_task_check_interval_secs", Some("1")),
            ("hung_task_timeout_secs", Some(&*timeout)),
        ] {
            let path = Path::new(SYSCTL).join(name);
            // The check interval is younger than the detector.
            let Ok(old) = fs::read_to_string(&path) else { continue };
            undo.push(format_args!("echo {} > {}", old.trim_end(), path.display()))?;
            if let Some(value) = value {
                write(&path, value)?;
            }
        }
        Ok(Self { _undo: undo, _turn: turn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Trace, needs_root};

    #[test]
    fn the_detector_reports_the_writer_and_is_restored() {
        if needs_root() {
            return;
        }
        let trace = Trace::start(&["sched/sched_process_hang"]).unwrap();
        let frozen = FrozenFilesystem::freeze(Duration::from_secs(2)).unwrap();
        let hung = format!("comm=sh pid={}", frozen.pid);
        trace.wait_for(Duration::from_secs(10), |event| event.fields == hung).unwrap();
        let stack = frozen.stack().unwrap();
        assert!(
            stack.iter().any(|function| function.contains("percpu_rwsem") || function.contains("sb_start_write")),
            "{stack:?}"
        );
        assert_eq!(fs::read_to_string(format!("{SYSCTL}/hung_task_timeout_secs")).unwrap().trim(), "2");
        let (mount_point, pid) = (frozen.mount_point.clone(), frozen.pid);
        frozen.thaw().unwrap();
        assert!(!mount_point.exists() && !Path::new(&format!("/proc/{pid}")).exists());
    }
}
