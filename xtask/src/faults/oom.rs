//! A memory cgroup runs out of memory, and the kernel kills the process in it.
//!
//! Works on cgroup v1 and v2, whichever holds the memory controller. Nothing outside the new cgroup is short of memory.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::process::KillOnDrop;
use super::trace::write;
use super::undo::{Undo, quoted};
use super::{poll, unique};

/// Enters the cgroup `$1`, waits for a line, and then becomes a process that eats memory without end.
const EATER: &str = r#"echo $$ > "$1/cgroup.procs" && read -r go && exec tail /dev/zero"#;

/// A process in a memory cgroup of its own, killed there or about to be.
#[derive(Debug)]
pub struct MemcgOom {
    /// The victim; it is also the one whose allocation triggers the kill.
    pub pid: u32,
    /// The victim's command name when it is killed.
    pub comm: &'static str,
    /// The victim's cgroup in the memory hierarchy, as `/proc/PID/cgroup` names it.
    pub cgroup: String,
    /// The cgroup's limit.
    pub limit_bytes: u64,
    directory: PathBuf,
    eater: KillOnDrop,
    _undo: Undo,
}

impl MemcgOom {
    /// Prepares and fires.
    ///
    /// # Errors
    /// As those two.
    pub fn cause(limit_bytes: u64) -> Result<Self> {
        let mut oom = Self::prepare(limit_bytes)?;
        oom.fire()?;
        Ok(oom)
    }

    /// Makes a cgroup with that limit and puts a process into it that doesn't eat yet.
    ///
    /// # Errors
    /// If no memory cgroup can be made here.
    pub fn prepare(limit_bytes: u64) -> Result<Self> {
        let mut undo = Undo::new()?;
        let (directory, v2) = make_cgroup(&mut undo)?;
        let limit = |file: &str, value: String, optional: bool| {
            let path = directory.join(file);
            if optional && !path.exists() { Ok(()) } else { write(&path, &value) }
        };
        if v2 {
            limit("memory.max", limit_bytes.to_string(), false)?;
            limit("memory.swap.max", "0".into(), true)?;
        } else {
            limit("memory.limit_in_bytes", limit_bytes.to_string(), false)?;
            limit("memory.memsw.limit_in_bytes", limit_bytes.to_string(), true)?;
        }
        let eater = Command::new("sh")
            .args(["-c", EATER, "sh"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start `sh`, which becomes the process that eats memory")?;
        let mut eater = KillOnDrop::new(eater);
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cgroup = poll("the process' entry into its cgroup", Duration::from_secs(5), || {
            if let Some(status) = eater.child().try_wait()? {
                bail!("the process could not enter {}: {status}", directory.display());
            }
            let path = format!("/proc/{}/cgroup", eater.pid());
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            Ok(text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.ends_with(&name)).map(str::to_owned))
        })?;
        Ok(Self { pid: eater.pid(), comm: "tail", cgroup, limit_bytes, directory, eater, _undo: undo })
    }

    /// Lets the process eat, and returns when the kernel has killed it.
    ///
    /// # Errors
    /// If it isn't killed within 30 s, or ends in another way.
    pub fn fire(&mut self) -> Result<()> {
        // The end of the pipe would do as well as a line, but must not be what a crash of this process does.
        let mut go = self.eater.child().stdin.take().context("this out-of-memory has been fired already")?;
        std::io::Write::write_all(&mut go, b"\n").context("the process that eats memory has gone")?;
        let status = self.eater.wait(Duration::from_secs(30))?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("the process that eats memory ended with {status} instead of being killed");
        }
        if self.kills()? == Some(0) {
            bail!("process {} was killed, but {} counts no OOM kill", self.pid, self.directory.display());
        }
        Ok(())
    }

    /// OOM kills that the cgroup itself counts; `None` before Linux 4.13.
    fn kills(&self) -> Result<Option<u64>> {
        let path =
            ["memory.events", "memory.oom_control"].map(|file| self.directory.join(file)).into_iter().find(|path| path.exists());
        let path = path.with_context(|| format!("{} has no file that counts events", self.directory.display()))?;
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()))
    }
}

/// Makes a cgroup with a memory limit to set, at the root of the hierarchy or, where that is closed, below our own cgroup.
/// Returns its directory and whether it is of version 2.
pub(super) fn make_cgroup(undo: &mut Undo) -> Result<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let (mount, v2) = memory_hierarchy(&mounts).context("no cgroup hierarchy with the memory controller is mounted")?;
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let own = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let own =
        own.filter(|(controllers, _)| if v2 { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") });
    let below_own = own.map(|(_, path)| mount.join(path.trim_start_matches('/')));
    let mut failures = Vec::new();
    for parent in std::iter::once(mount.clone()).chain(below_own) {
        match make_cgroup_below(undo, &parent, v2) {
            Ok(directory) => return Ok((directory, v2)),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!("cannot make a memory cgroup: {}", failures.join("; "))
}

fn make_cgroup_below(undo: &mut Undo, parent: &Path, v2: bool) -> Result<PathBuf> {
    let directory = parent.join(unique("sysops-fault"));
    fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // A cgroup whose last process has just died stays busy for a moment.
    undo.push(format_args!("for i in 1 2 3 4 5 6 7 8; do rmdir {} 2>/dev/null && break; sleep 0.2; done", quoted(&directory)))?;
    if v2 && !directory.join("memory.max").exists() {
        // It stays on, as under systemd: others may use it by then.
        write(&parent.join("cgroup.subtree_control"), "+memory")?;
    }
    Ok(directory)
}

/// The mount point of the hierarchy that has the memory controller, and whether it is of version 2.
fn memory_hierarchy(mountinfo: &str) -> Option<(PathBuf, bool)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        Some((PathBuf::from(mount.split(' ').nth(4)?), filesystem.next()?, filesystem.nth(1)?))
    });
    mounts.into_iter().find_map(|(point, kind, options)| match kind {
        "cgroup" if options.split(',').any(|option| option == "memory") => Some((point, false)),
        "cgroup2" => {
            let controllers = fs::read_to_string(point.join("cgroup.controllers")).ok()?;
            controllers.split_whitespace().any(|controller| controller == "memory").then_some((point, true))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Trace, needs_root};

    #[test]
    fn the_kernel_marks_the_victim_and_the_cgroup_goes() {
        if needs_root() {
            return;
        }
        let trace = Trace::start(&["oom/mark_victim"]).unwrap();
        let oom = MemcgOom::cause(16 << 20).unwrap();
        let victim = format!("pid={} ", oom.pid);
        let event = trace.wait_for(Duration::from_secs(5), |event| format!("{} ", event.fields).contains(&victim)).unwrap();
        assert_eq!((event.comm.as_str(), event.pid), ("tail", oom.pid), "the victim is its own trigger: {event:?}");
        let directory = oom.directory.clone();
        assert!(directory.exists());
        drop(oom);
        assert!(!directory.exists());
    }

    #[test]
    fn an_unfired_one_leaves_nothing_behind() {
        if needs_root() {
            return;
        }
        let oom = MemcgOom::prepare(16 << 20).unwrap();
        assert!(oom.cgroup.starts_with('/'), "{}", oom.cgroup);
        let (pid, directory) = (oom.pid, oom.directory.clone());
        drop(oom);
        assert!(!directory.exists() && !Path::new(&format!("/proc/{pid}")).exists());
    }
}
