//! Whom or what a line names that the host can still tell more about, found without reading the whole line.

/// Whom or what a line names that more can be found out about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A task that is blocked.
    Blocked(u32),
    /// The victim of the OOM killer, on its way out.
    Killed {
        /// Its process id.
        pid: u32,
        /// Whether a cgroup was out of memory, and not the host.
        of_cgroup: bool,
    },
    /// The cgroup whose limit makes the next victim.
    Limiting(&'a str),
}

impl Named<'_> {
    /// The stem of the probe that finds this out where it is attached.
    pub const fn signal(self) -> &'static str {
        match self {
            Self::Blocked(_) => "hung_task",
            Self::Killed { .. } | Self::Limiting(_) => "oom",
        }
    }
}

/// Looks at a line of the kernel's log for what the host can still tell about; costs far less than reading it.
pub fn named(text: &str) -> Option<Named<'_>> {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    if let Some(rest) = text.strip_prefix("INFO: task ") {
        let (task, _) = rest.split_once(" blocked ")?;
        return task.rsplit_once(':')?.1.parse().ok().map(Named::Blocked);
    }
    if let Some(rest) = text.strip_prefix("oom-kill:") {
        return Some(Named::Limiting(rest.split_once(",oom_memcg=")?.1.split_once(",task_memcg=")?.0));
    }
    let (start, rest) = text.split_once("Killed process ")?;
    let is_kernels = start.is_empty() || start.starts_with("Out of memory") || start.starts_with("Memory cgroup out of memory");
    let of_cgroup = start.starts_with("Memory");
    if is_kernels { number(rest).map(|pid| Named::Killed { pid, of_cgroup }) } else { None }
}
