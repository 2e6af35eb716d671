//! One process grows until the kernel kills another, which shares a limit with it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::oom::make_cgroup;
use super::poll;
use super::process::{ForkedChild, pause};
use super::trace::write;
use super::undo::{Undo, quoted};

const MIB: usize = 1 << 20;
/// What the limit is, in MiB, what the victim holds of it, and where the grower stops.
const LIMIT: usize = 96;
const VICTIM: usize = 40;
const GROWER: usize = 72;

/// Two processes in cgroups of their own below one that has a limit. The one grows by some 10 MB a second, for six seconds; the
/// other is killed for it, and the first stops where the memory of the second is enough.
#[derive(Debug)]
pub struct SharedOom {
    /// The process that grows.
    pub grower: u32,
    /// Its cgroup, as `/proc/PID/cgroup` names it.
    pub grower_cgroup: String,
    /// The process that is killed.
    pub victim: u32,
    /// The victim's cgroup.
    pub victim_cgroup: String,
    /// The cgroup with the limit.
    pub limit_cgroup: String,
    victim_directory: std::path::PathBuf,
    grower_child: ForkedChild,
    victim_child: ForkedChild,
    /// The victim's like that came after it.
    successor: Option<ForkedChild>,
    _undo: Undo,
}

impl SharedOom {
    /// The command name of the process that grows.
    pub const GROWER: &'static str = "fault-grower";
    /// The command name of the victim.
    pub const VICTIM: &'static str = "fault-victim";

    /// Starts both.
    ///
    /// # Errors
    /// If no memory cgroup can be made here.
    pub fn begin() -> Result<Self> {
        let mut undo = Undo::new()?;
        let (top, v2) = make_cgroup(&mut undo)?;
        if v2 {
            write(&top.join("cgroup.subtree_control"), "+memory")?;
        }
        // Version 1: a limit on memory with swap would be hit first, and newer kernels do not count that.
        let (limit, no_swap) =
            if v2 { ("memory.max", "memory.swap.max") } else { ("memory.limit_in_bytes", "memory.swappiness") };
        write(&top.join(limit), &(LIMIT * MIB).to_string())?;
        if top.join(no_swap).exists() {
            write(&top.join(no_swap), "0")?;
        }
        let make = |name: &str, undo: &mut Undo| -> Result<_> {
            let directory = top.join(name);
            fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
            undo.push(format_args!(
                "for i in 1 2 3 4 5 6 7 8; do rmdir {} 2>/dev/null && break; sleep 0.2; done",
                quoted(&directory)
            ))?;
            Ok(directory)
        };
        let (grower_directory, victim_directory) = (make("grower", &mut undo)?, make("victim", &mut undo)?);
        let victim_child = eat(Self::VICTIM, VICTIM, 0, &victim_directory)?;
        write(Path::new(&format!("/proc/{}/oom_score_adj", victim_child.pid())), "1000")?;
        poll("the victim's memory", Duration::from_secs(10), || {
            Ok((resident(victim_child.pid())? >= VICTIM * MIB).then_some(()))
        })?;
        let grower_child = eat(Self::GROWER, GROWER, 90, &grower_directory)?;
        let cgroup = |pid: u32, end: &str| -> Result<String> {
            let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            let path = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.ends_with(end));
            path.map(str::to_owned).with_context(|| format!("process {pid} is in no cgroup {end}"))
        };
        let victim_cgroup = cgroup(victim_child.pid(), "/victim")?;
        Ok(Self {
            grower: grower_child.pid(),
            grower_cgroup: cgroup(grower_child.pid(), "/grower")?,
            victim: victim_child.pid(),
            limit_cgroup: victim_cgroup.trim_end_matches("/victim").to_owned(),
            victim_cgroup,
            victim_directory,
            grower_child,
            victim_child,
            successor: None,
            _undo: undo,
        })
    }

    /// Waits for the kill.
    ///
    /// # Errors
    /// If the victim is not killed within 30 s, or the grower is.
    pub fn wait(&self) -> Result<()> {
        poll("the victim's end", Duration::from_secs(30), || Ok(self.victim_child.check_alive().is_err().then_some(())))?;
        self.grower_child.check_alive()
    }

    /// Starts a process like the victim, as a supervisor would; its pid.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self) -> Result<u32> {
        let child = eat(Self::VICTIM, 4, 0, &self.victim_directory)?;
        let pid = child.pid();
        self.successor = Some(child);
        Ok(pid)
    }
}

/// A process in a cgroup that takes so many MiB, one every `pause_ms`, and holds them.
fn eat(comm: &str, mebibytes: usize, pause_ms: u32, cgroup: &Path) -> Result<ForkedChild> {
    // Shared with the child, which must not begin before it is in its cgroup.
    // SAFETY: a mapping of its own, of one page.
    let go = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            size_of::<AtomicBool>(),
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::SHARED,
        )
    };
    // SAFETY: the page is zero, which is `false`, and is never unmapped.
    let go: &'static AtomicBool = unsafe { &*go.context("cannot map a page")?.cast() };
    let mut eaten = 0;
    // SAFETY: mmap, writes to what it gave, and nanosleep.
    let child = unsafe {
        ForkedChild::fork(comm, move || {
            if !go.load(Ordering::Acquire) || eaten >= mebibytes {
                pause(50);
                return true;
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(std::ptr::null_mut(), MIB, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if memory == libc::MAP_FAILED {
                return false;
            }
            libc::memset(memory, 1, MIB);
            eaten += 1;
            if pause_ms > 0 {
                pause(pause_ms);
            }
            true
        })
    }?;
    write(&cgroup.join("cgroup.procs"), &child.pid().to_string())?;
    go.store(true, Ordering::Release);
    Ok(child)
}

/// Resident memory in bytes.
fn resident(pid: u32) -> Result<usize> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).with_context(|| format!("process {pid} has gone"))?;
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).context("statm has no second number")?;
    Ok(pages * rustix::param::page_size())
}
