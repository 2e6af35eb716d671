//! The kernel's own record of an event, read from tracefs: the independent witness for what a fault claims to have caused.
//!
//! Uses a trace instance of its own (Documentation/trace/ftrace.rst, "Instances"), so it disturbs nobody's tracing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::undo::{Undo, quoted};
use super::{poll, run, unique};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts tracefs at its usual place unless it is there; it stays mounted, as on every distribution.
///
/// # Errors
/// If the kernel has no tracefs, or this process may not mount it.
pub fn mount_tracefs() -> Result<()> {
    let there = || Path::new(TRACEFS).join("events").exists();
    if there() {
        return Ok(());
    }
    match run("mount", &["-t", "tracefs", "tracefs", TRACEFS]) {
        // Somebody else may have mounted it in between.
        Err(_) if there() => Ok(()),
        mounted => mounted.map(drop),
    }
}

/// One event as the kernel printed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Command name of the task that was running.
    pub comm: String,
    /// Thread id of that task.
    pub pid: u32,
    /// `CLOCK_MONOTONIC` in nanoseconds; the kernel prints microseconds.
    pub at_ns: u64,
    /// The tracepoint's name; of an exit from a system call, `sys_` and the name of the call.
    pub event: String,
    /// The fields, in the tracepoint's own format.
    pub fields: String,
}

impl TraceEvent {
    /// Reads one line of a `trace` file; `None` for comments and notes about lost events.
    fn parse(line: &str) -> Option<Self> {
        let (task, rest) = line.split_once(" [")?;
        let (comm, pid) = task.trim().rsplit_once('-')?;
        let (time, rest) = rest.split_once(": ")?;
        let (seconds, micros) = time.rsplit_once(' ')?.1.split_once('.')?;
        // System calls are printed in a form of their own: `sys_openat -> 0x3`.
        let (event, fields) =
            rest.split_once(" -> ").filter(|(call, _)| call.starts_with("sys_")).or_else(|| rest.split_once(": "))?;
        Some(Self {
            comm: comm.to_owned(),
            pid: pid.parse().ok()?,
            at_ns: seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1_000,
            event: event.to_owned(),
            fields: fields.trim_end().to_owned(),
        })
    }
}

/// A running trace of some tracepoints; it ends, and its instance goes, when it is dropped.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
    _undo: Undo,
}

impl Trace {
    /// Starts to record `tracepoints`, each written `category/name`.
    ///
    /// # Errors
    /// If tracefs cannot be used, or a tracepoint does not exist.
    pub fn start(tracepoints: &[&str]) -> Result<Self> {
        mount_tracefs()?;
        let instance = Path::new(TRACEFS).join("instances").join(unique("sysops-fault"));
        let mut undo = Undo::new()?;
        fs::create_dir(&instance).with_context(|| format!("cannot make the trace instance {}", instance.display()))?;
        undo.push(format_args!("rmdir {}", quoted(&instance)))?;
        write(&instance.join("trace_clock"), "mono")?;
        for tracepoint in tracepoints {
            write(&instance.join("events").join(tracepoint).join("enable"), "1")?;
        }
        Ok(Self { instance, _undo: undo })
    }

    /// Everything recorded so far, oldest first.
    ///
    /// # Errors
    /// If the trace cannot be read.
    pub fn events(&self) -> Result<Vec<TraceEvent>> {
        let path = self.instance.join("trace");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&text).lines().filter_map(TraceEvent::parse).collect())
    }

    /// The first event that `accept` takes.
    ///
    /// # Errors
    /// If there is none within `limit`; the message shows what there was.
    pub fn wait_for(&self, limit: Duration, accept: impl Fn(&TraceEvent) -> bool) -> Result<TraceEvent> {
        poll("an event in the kernel's trace", limit, || Ok(self.events()?.into_iter().find(&accept))).with_context(|| {
            let seen: Vec<_> =
                self.events().unwrap_or_default().into_iter().map(|e| format!("{}: {}", e.event, e.fields)).collect();
            format!("the trace holds {} events, the last ones {:#?}", seen.len(), &seen[seen.len().saturating_sub(10)..])
        })
    }
}

/// Writes a file of tracefs, procfs or cgroupfs: existing, and in one write.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("cannot write {text:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_trace_are_understood() {
        let line =
            "  jbd2/loop0-8-18366   [001] ..s1.  2529.243820: block_rq_issue: 7,0 WSM 4096 () 32796 + 8 be,0,3 [jbd2/loop0-8]";
        let event = TraceEvent::parse(line).unwrap();
        assert_eq!((event.comm.as_str(), event.pid, event.at_ns), ("jbd2/loop0-8", 18366, 2_529_243_820_000));
        assert_eq!(event.event, "block_rq_issue");
        assert_eq!(event.fields, "7,0 WSM 4096 () 32796 + 8 be,0,3 [jbd2/loop0-8]");
        let exit =
            TraceEvent::parse("    leak-sockets-28646   [001] .....  2529.243820: sys_socket -> 0xffffffffffffffe8").unwrap();
        assert_eq!(
            (exit.comm.as_str(), exit.event.as_str(), exit.fields.as_str()),
            ("leak-sockets", "sys_socket", "0xffffffffffffffe8")
        );
        assert_eq!(TraceEvent::parse("# tracer: nop"), None);
        assert_eq!(TraceEvent::parse("CPU:1 [LOST 12 EVENTS]"), None);
    }
}
