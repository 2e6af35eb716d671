//! What the host tells about one process, for evidence (proc(5), Documentation/filesystems/proc.rst).
//!
//! Every answer is optional: a process may end at any moment, or be out of reach for this user, and neither is an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use super::{Host, scrub};

/// Most descriptors that are looked at one by one.
const MAX_DESCRIPTORS: usize = 4096;
/// Most bytes of a command line that are kept.
const MAX_COMMAND_LINE: usize = 1024;
/// Most bytes of one that are looked at.
const MAX_READ: u64 = 64 << 10;

/// A directory `/proc/PID`.
#[derive(Clone, Debug)]
pub struct Process {
    dir: PathBuf,
}

/// A process' open descriptors by what they refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Number of descriptors.
    pub open: u64,
    /// Number of descriptors by kind: `file`, `socket`, `pipe`, `eventfd`, …; empty where their kinds are kept from this process.
    pub kinds: BTreeMap<String, u64>,
    /// Number of descriptors by directory, of those that are files.
    pub directories: BTreeMap<String, u64>,
    /// Inodes of the sockets.
    pub sockets: Vec<u64>,
    /// Whether there were more than are looked at.
    pub cut: bool,
}

impl Host {
    /// The process (or thread) `pid`, which need not exist.
    pub fn process(&self, pid: u32) -> Process {
        Process { dir: self.procfs(pid.to_string()) }
    }

    /// Ids of all processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        let entries = fs::read_dir(self.procfs("")).into_iter().flatten();
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }
}

impl Process {
    /// Command name, as in `comm`.
    pub fn comm(&self) -> Option<String> {
        self.text("comm")
    }

    /// The process that a thread belongs to: `Tgid` of `status`.
    pub fn leader(&self) -> Option<u32> {
        self.status("Tgid")?.parse().ok()
    }

    /// State letter and word, such as `D (disk sleep)`.
    pub fn state(&self) -> Option<String> {
        self.status("State")
    }

    /// Real user id.
    pub fn uid(&self) -> Option<u32> {
        self.status("Uid")?.split_whitespace().next()?.parse().ok()
    }

    /// The parent's process id.
    pub fn parent(&self) -> Option<u32> {
        self.status("PPid")?.parse().ok()
    }

    /// Start time in clock ticks after boot, which with the pid identifies a process: field 22 of `stat`.
    pub fn start_ticks(&self) -> Option<u64> {
        let stat = fs::read(self.dir.join("stat")).ok()?;
        let end_of_comm = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = String::from_utf8_lossy(stat.get(end_of_comm + 1..)?).into_owned();
        rest.split_whitespace().nth(19)?.parse().ok()
    }

    /// Command line with spaces between its arguments, without the secrets in it (`scrub`). Reading it may wait for the process'
    /// memory lock: only call it where waiting is allowed.
    pub fn command_line(&self) -> Option<String> {
        let mut bytes = Vec::new();
        fs::File::open(self.dir.join("cmdline")).ok()?.take(MAX_READ).read_to_end(&mut bytes).ok()?;
        // Half a secret may look like none.
        if bytes.len() as u64 == MAX_READ {
            bytes.truncate(bytes.iter().rposition(|byte| *byte == 0).unwrap_or(0));
        }
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        let mut line = scrub::command_line(&bytes);
        line.truncate(MAX_COMMAND_LINE);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
    }

    /// Path of the process' cgroup: in the hierarchy of `controller` where that is a version 1 one, else in version 2.
    pub fn cgroup(&self, controller: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir.join("cgroup")).ok()?;
        cgroup_of(&text, controller)
    }

    /// Kernel stack, innermost function first. Needs root or CAP_SYS_PTRACE and CAP_SYS_ADMIN.
    pub fn stack(&self) -> Option<Vec<String>> {
        let text = self.text("stack")?;
        let frames: Vec<String> = text.lines().filter_map(stack_function).collect();
        (!frames.is_empty()).then_some(frames)
    }

    /// Kernel function that the process sleeps in.
    pub fn wchan(&self) -> Option<String> {
        self.text("wchan").filter(|text| text != "0")
    }

    /// How often the task has been scheduled away, by itself and by others: as long as this does not change, it has not run.
    pub fn switches(&self) -> Option<u64> {
        let status = self.text("status")?;
        let count = |key| status.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        Some(count("voluntary_ctxt_switches:")?.wrapping_add(count("nonvoluntary_ctxt_switches:")?))
    }

    /// The task `tid` of this process.
    pub fn task(&self, tid: u32) -> Self {
        Self { dir: self.dir.join("task").join(tid.to_string()) }
    }

    /// Ids of the process' threads.
    pub fn threads(&self) -> impl Iterator<Item = u32> {
        let entries = fs::read_dir(self.dir.join("task")).into_iter().flatten();
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    /// Number of the system call that the process is in, where it is in one.
    pub fn syscall(&self) -> Option<u32> {
        self.text("syscall")?.split_whitespace().next()?.parse().ok()
    }

    /// Soft limit of open descriptors; `None` for "unlimited" as well.
    pub fn descriptor_limit(&self) -> Option<u64> {
        let limits = self.text("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// The open descriptors by kind.
    pub fn descriptors(&self) -> Option<Descriptors> {
        let mut found = Descriptors::default();
        for (index, entry) in fs::read_dir(self.dir.join("fd")).ok()?.flatten().enumerate() {
            if index == MAX_DESCRIPTORS {
                found.cut = true;
                break;
            }
            found.open += 1;
            if let Ok(target) = fs::read_link(entry.path()) {
                found.add(&target.to_string_lossy());
            }
        }
        Some(found)
    }

    /// Whether one of the open descriptors is the socket with this inode.
    pub fn holds_socket(&self, inode: u64) -> bool {
        let target = format!("socket:[{inode}]");
        let entries = fs::read_dir(self.dir.join("fd")).into_iter().flatten();
        entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == target.as_str()))
    }

    /// Identity of the network namespace, such as `net:[4026531840]`.
    pub fn network_namespace(&self) -> Option<String> {
        fs::read_link(self.dir.join("ns/net")).ok().map(|link| link.to_string_lossy().into_owned())
    }

    /// A file of the process as text, without white space at its ends; `None` where it is empty.
    pub fn text(&self, file: &str) -> Option<String> {
        let bytes = fs::read(self.dir.join(file)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn status(&self, key: &str) -> Option<String> {
        let status = self.text("status")?;
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    }
}

impl Descriptors {
    /// The kind of which there are most, with its number.
    pub fn commonest_kind(&self) -> Option<(&str, u64)> {
        commonest(&self.kinds)
    }

    /// The directory in which most of the open files are, with their number.
    pub fn commonest_directory(&self) -> Option<(&str, u64)> {
        commonest(&self.directories)
    }

    fn add(&mut self, target: &str) {
        let kind = if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            self.sockets.extend(inode.parse::<u64>());
            "socket"
        } else if target.starts_with("pipe:[") {
            "pipe"
        } else if let Some(rest) = target.strip_prefix("anon_inode:") {
            rest.trim_matches(['[', ']'])
        } else if target.starts_with('/') {
            let directory = target.rfind('/').and_then(|slash| target.get(..slash.max(1))).unwrap_or("/");
            *self.directories.entry(directory.to_owned()).or_default() += 1;
            "file"
        } else {
            "other"
        };
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
    }
}

fn commonest(counts: &BTreeMap<String, u64>) -> Option<(&str, u64)> {
    counts.iter().max_by_key(|(_, count)| **count).map(|(name, count)| (name.as_str(), *count))
}

/// The path of a cgroup in the text of `/proc/PID/cgroup`: `9:memory:/a/b` is version 1, `0::/a/b` version 2 (cgroups(7)).
pub fn cgroup_of(text: &str, controller: &str) -> Option<String> {
    let mut unified = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if controllers.split(',').any(|name| name == controller) {
            return Some(path.to_owned());
        }
        if id == "0" && controllers.is_empty() {
            unified = Some(path.to_owned());
        }
    }
    unified
}

/// `[<0>] percpu_rwsem_wait+0x10/0x20`
fn stack_function(line: &str) -> Option<String> {
    let name = line.split_once("] ").map_or(line, |(_, name)| name).trim();
    (!name.is_empty() && !name.starts_with("0xffffffffffffffff")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_taken_from_the_controllers_hierarchy_first() {
        let hybrid = "9:name=systemd:/\n4:memory:/app/a:b\n2:cpuacct,cpu:/cpu\n0::/unified\n";
        assert_eq!(cgroup_of(hybrid, "memory").as_deref(), Some("/app/a:b"));
        assert_eq!(cgroup_of(hybrid, "cpu").as_deref(), Some("/cpu"));
        assert_eq!(cgroup_of(hybrid, "io").as_deref(), Some("/unified"));
        assert_eq!(cgroup_of("garbage\n", "memory"), None);
    }

    #[test]
    fn stack_lines_lose_their_addresses() {
        assert_eq!(stack_function("[<0>] percpu_rwsem_wait+0x10/0x20").as_deref(), Some("percpu_rwsem_wait+0x10/0x20"));
        assert_eq!(stack_function("[<ffffffff8113c1a0>] sb_start+0x1/0x2").as_deref(), Some("sb_start+0x1/0x2"));
        assert_eq!(stack_function("[<ffffffffffffffff>] 0xffffffffffffffff"), None);
    }

    #[test]
    fn descriptors_are_sorted_by_kind() {
        let mut found = Descriptors::default();
        for target in ["socket:[12]", "socket:[x]", "pipe:[3]", "anon_inode:[eventpoll]", "/var/log/a", "/var/log/b", "/x", "?"] {
            found.add(target);
        }
        assert_eq!(found.sockets, [12]);
        assert_eq!(found.commonest_kind(), Some(("file", 3)));
        assert_eq!(found.commonest_directory(), Some(("/var/log", 2)));
        assert_eq!(found.kinds.get("eventpoll"), Some(&1));
    }

    #[test]
    fn this_process_is_known_and_a_gone_one_is_not() {
        let host = Host::new(crate::config::HostRoots::default());
        let own = host.process(std::process::id());
        assert_eq!(own.leader(), Some(std::process::id()));
        assert!(own.start_ticks().is_some() && own.command_line().is_some() && own.descriptors().is_some());
        assert!(host.pids().any(|pid| pid == std::process::id()));
        let gone = host.process(u32::MAX);
        assert_eq!((gone.comm(), gone.cgroup("memory"), gone.descriptors(), gone.stack()), (None, None, None, None));
    }
}
