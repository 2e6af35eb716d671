//! Real faults, caused on purpose in processes, devices and namespaces of their own.
//!
//! One file per fault. Each fault is a guard: it tells the facts to assert on (pid, command name, device, addresses), and
//! dropping it undoes everything, also after a panic; [`Undo`] does so even when this process is killed. Names are unique, so
//! that several processes may cause faults at the same time. Nothing here simulates: what it causes, the kernel reports.

pub mod block_io;
pub mod dead_mount;
pub mod fd_exhaustion;
pub mod global_oom;
pub mod hung_task;
pub mod oom;
pub mod scsi_disk;
pub mod shared_oom;
pub mod syn_flood;
pub mod tcp_loss;
pub mod trace;
pub mod vfork;

mod loop_device;
mod process;
mod undo;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use block_io::{FailingDevice, SlowDevice};
pub use dead_mount::DeadMounts;
pub use fd_exhaustion::FdExhaustion;
pub use global_oom::GlobalOom;
pub use hung_task::FrozenFilesystem;
pub use loop_device::RamDisk;
pub use oom::MemcgOom;
pub use process::KillOnDrop;
pub use scsi_disk::ScsiDisk;
pub use shared_oom::SharedOom;
pub use syn_flood::SynFlood;
pub use tcp_loss::TcpLoss;
pub use trace::Trace;
pub use undo::Undo;
pub use vfork::VforkWait;

/// Environment variable that names a file to which every skipped test is appended, so that a run which must not skip
/// anything can tell.
pub const SKIPS_FILE: &str = "SYSOPS_AGENT_SKIPS";

/// Whether the calling test must be skipped because it isn't root; says so, and notes it in the file of [`SKIPS_FILE`].
pub fn needs_root() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("root");
        return true;
    }
    false
}

/// Whether the calling test must be skipped because a program is not installed; says so in the same way, with the package that
/// Debian has it in.
pub fn needs_program(name: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(name).is_file()) {
        return false;
    }
    skip(&format!("{name} (package {package})"));
    true
}

/// Says that the calling test is skipped, and notes it in the file of [`SKIPS_FILE`].
pub(crate) fn skip(need: &str) {
    let test = thread::current().name().unwrap_or("test").to_owned();
    println!("{test}: skipped: needs {need}");
    if let Some(path) = std::env::var_os(SKIPS_FILE) {
        let noted =
            OpenOptions::new().append(true).create(true).open(&path).and_then(|mut file| writeln!(file, "{test}: needs {need}"));
        if let Err(error) = noted {
            eprintln!("cannot note the skipped test {test} in {}: {error}", path.display());
        }
    }
}

/// Looks again and again until `look` finds something.
///
/// # Errors
/// What `look` returns, or that `what` didn't happen within `limit`.
pub fn poll<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for this: {what}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A name that no other fault on this machine has: `prefix`, this process' id and a counter.
fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Runs a program to its end and returns what it printed, without the final newline.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let output = match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("cannot run `{}`: {program} is not installed; the package {} has it", shown(), package_of(program))
        }
        Err(error) => return Err(error).with_context(|| format!("cannot run `{}`", shown())),
    };
    if !output.status.success() {
        bail!("`{}` failed with {}: {}", shown(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The package that holds a program, on Debian and its derivatives.
fn package_of(program: &str) -> &'static str {
    match program {
        "mkfs.ext4" => "e2fsprogs",
        "ip" => "iproute2",
        "nft" => "nftables",
        "modprobe" => "kmod",
        "losetup" | "fsfreeze" | "mount" => "util-linux",
        _ => "coreutils",
    }
}
