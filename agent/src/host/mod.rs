//! The host's file systems behind one type, so that a container or a test can point them elsewhere.

mod cgroup;
mod clock;
mod facts;
mod file;
mod isolate;
mod kmsg;
mod mounts;
mod process;
mod scrub;
mod sockets;
mod tcp_segments;
mod tcp_states;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use clock::{Clock, clock};
pub use facts::Tell;
pub use file::{ProcFile, ReadError, Text};
pub use isolate::{Isolate, Question, Stuck};
pub use kmsg::{Kmsg, KmsgRead, KmsgRecord};
pub use mounts::{Mount, parse_mount};
pub use process::{Descriptors, Process, cgroup_of};
pub use sockets::{Retransmitting, SocketOwner};
pub use tcp_segments::TcpSegments;
pub use tcp_states::TcpStates;

use rustix::time::{ClockId, clock_gettime};

use crate::config::HostRoots;
use crate::model::Timestamp;

/// Where the host's procfs, sysfs and root directory are seen from here, and the threads that ask what may not answer.
#[derive(Clone, Debug)]
pub struct Host {
    roots: HostRoots,
    isolate: Isolate,
}

impl Host {
    /// The host behind `roots`.
    pub fn new(roots: HostRoots) -> Self {
        Self { roots, isolate: Isolate::new() }
    }

    /// The same host with threads of its own for what can block, so that what is waited for in vain takes none from others.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::new(self.roots.clone())
    }

    /// Runs what can block; shared by all clones.
    pub fn isolate(&self) -> &Isolate {
        &self.isolate
    }

    /// A path below procfs; `relative` has no leading slash.
    pub fn procfs(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.roots.procfs.join(relative)
    }

    /// A file below procfs that shows namespaces, as PID 1 sees it: in a container, `mountinfo` and `net/dev` of the host and
    /// not of the container. Where PID 1 is hidden (`hidepid`), as this process sees it.
    pub fn procfs_of_init(&self, relative: impl AsRef<Path>) -> PathBuf {
        let of_init = self.procfs("1").join(relative.as_ref());
        if of_init.exists() { of_init } else { self.procfs("self").join(relative) }
    }

    /// A path below sysfs; `relative` has no leading slash.
    pub fn sysfs(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.roots.sysfs.join(relative)
    }

    /// A path below the host's root directory, which may be absolute as the host itself would write it.
    pub fn rootfs(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.roots.rootfs.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}

/// Time since the boot, without what the machine slept.
pub fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Why something cannot be had, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What was tried, on what, and why it failed.
    pub why: String,
    /// What to do about it.
    pub advice: String,
}

impl Unavailable {
    /// Says why and what to do.
    pub fn new(why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { why: why.into(), advice: advice.into() }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.advice)
    }
}
