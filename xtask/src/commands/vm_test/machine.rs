//! One virtual machine: QEMU without acceleration, so that it runs wherever a program runs.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::faults::KillOnDrop;

use super::kernels::Kernel;
use crate::workspace::find_program;

/// How long a machine may run. Its slowest part is its processor, which is emulated.
const PATIENCE: Duration = Duration::from_secs(900);

/// Everything that QEMU can emulate but `cmpxchg16b`, after which QEMU 7.2 leaves garbage in the flags, the trap flag included; the
/// kernel's allocator, which uses it where it is there, then destroys its own lists.
const PROCESSOR: &str = "max,cx16=off";

/// The machine's clock counts its instructions, four nanoseconds each, and jumps where it waits: so a busy host makes no deadline of
/// a test pass, and waiting takes no time. That needs a machine with one processor.
const CLOCK: &str = "shift=2,sleep=off";

/// Lines of the console that an error quotes.
const QUOTED_LINES: usize = 40;

/// Boots the kernel, waits until the machine has switched itself off, and gives what it reported.
///
/// # Errors
/// When it does not come to its end: it says what the console showed last.
pub fn run(kernel: &Kernel, initramfs: &Path, directory: &Path) -> Result<Vec<Value>> {
    let (console, report) = (directory.join("console"), directory.join("report"));
    let qemu = find_program("qemu-system-x86_64").context("qemu-system-x86_64 is not in reach (package qemu-system-x86)")?;
    let file = |path: &Path| format!("file:{}", path.display());
    let mut command = Command::new(qemu);
    command
        .args([
            "-accel", "tcg", "-icount", CLOCK, "-cpu", PROCESSOR, "-smp", "1", "-m", "640", "-nic", "none", "-display", "none",
            "-monitor", "none",
        ])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 loglevel=5 oops=panic panic=-1 rdinit=/bin/xtask -- vm-guest"])
        .args(["-serial", &file(&console), "-serial", &file(&report)])
        .stdin(Stdio::null());
    // SAFETY: prctl is one system call; it touches no memory.
    unsafe {
        // Not even `kill -9` of this process may leave a machine behind.
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut machine = KillOnDrop::new(command.spawn().context("cannot start qemu-system-x86_64")?);
    let ended = machine.wait(PATIENCE);
    drop(machine);
    let text = fs::read(&report).unwrap_or_default();
    let lines =
        String::from_utf8_lossy(&text).lines().map(|line| serde_json::from_str(line.trim())).collect::<Result<Vec<Value>, _>>();
    let shown = || {
        let console = fs::read(&console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> = console.lines().collect();
        let last = lines.get(lines.len().saturating_sub(QUOTED_LINES)..).unwrap_or_default().join("\n");
        format!("the machine with kernel {} did not do its work; its console ended with:\n{last}", kernel.release)
    };
    let status = ended.with_context(shown)?;
    ensure!(status.success(), "QEMU ended with {status}");
    let lines = lines.context("the machine's report is no JSON").with_context(shown)?;
    ensure!(lines.last().is_some_and(|line| line["end"] == true), "{}", shown());
    Ok(lines)
}
