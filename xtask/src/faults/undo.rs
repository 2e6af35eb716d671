//! The way back: steps that are run in reverse order when a fault ends, however it ends.
//!
//! The steps live in a shell that waits for the end of its standard input. That comes when the guard is dropped, and also
//! when this process is killed, so that not even `kill -9` leaves a file system frozen or a loop device attached.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::poll;

/// Collects the steps, one a line, last one first, until its input ends; then runs them all, whether or not one fails.
const SHELL: &str = r#"trap '' HUP INT TERM
steps=
while IFS= read -r step; do steps="$step
$steps"; done
eval "$steps""#;

/// How long the steps may take before the guard gives up waiting for them (they go on nevertheless).
const PATIENCE: Duration = Duration::from_secs(10);

/// A stack of steps back.
#[derive(Debug)]
pub struct Undo {
    shell: Child,
    steps: Option<ChildStdin>,
}

impl Undo {
    /// Nothing to undo so far.
    ///
    /// # Errors
    /// If no shell can be started.
    pub fn new() -> Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", SHELL])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // In a process group of its own: Ctrl-C must reach the one who caused the fault, not the one who undoes it.
            .process_group(0)
            .spawn()
            .context("cannot start `sh`, which undoes faults")?;
        let steps = shell.stdin.take();
        Ok(Self { shell, steps })
    }

    /// Adds a step, a shell command on one line; it runs before those that were added earlier.
    ///
    /// # Errors
    /// If the shell has gone.
    pub fn push(&mut self, step: impl Display) -> Result<()> {
        let steps = self.steps.as_mut().context("the steps back are already running")?;
        writeln!(steps, "{step}").with_context(|| format!("cannot note the step back `{step}`"))
    }

    /// A new directory that is removed with everything in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn directory(&mut self) -> Result<PathBuf> {
        let directory = tempfile::Builder::new()
            .prefix("sysops-fault-")
            .tempdir()
            .with_context(|| format!("cannot make a directory in {}", std::env::temp_dir().display()))?;
        self.push(format_args!("rm -rf --one-file-system {}", quoted(directory.path())))?;
        Ok(directory.keep())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        drop(self.steps.take());
        let ended = poll("the end of the steps back", PATIENCE, || Ok(self.shell.try_wait()?));
        if let Err(error) = ended {
            eprintln!("a fault is not undone yet: {error:#}");
        }
    }
}

/// `path` as one word of a shell command.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_last_first_and_a_failing_one_stops_none() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("it's a log");
        let mut undo = Undo::new().unwrap();
        undo.push(format_args!("echo first >> {}", quoted(&log))).unwrap();
        undo.push("false").unwrap();
        undo.push(format_args!("echo second >> {}", quoted(&log))).unwrap();
        assert!(!log.exists());
        drop(undo);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "second\nfirst\n");
    }
}
