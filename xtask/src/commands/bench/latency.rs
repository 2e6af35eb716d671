//! How long it takes from a kernel event until its alert is at the receiver.
//!
//! The probe takes `CLOCK_MONOTONIC` when the event happens, the receiver when the first byte of the request is there; every
//! event is real, and of a process of its own, so that nothing is folded into an earlier alert.

use std::any::Any;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agent_process::AgentProcess;
use xtask::faults::fd_exhaustion::Kind;
use xtask::faults::{FdExhaustion, MemcgOom};
use xtask::receiver::{EACH, Receiver};

/// Real events of each kind.
const EVENTS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(agent: &Path) -> Result<()> {
    println!("\nkernel event → first byte at the webhook's receiver, {EVENTS} real events each, in ms");
    println!("{:<38}{:>9}{:>9}{:>9}", "event", "p50", "p99", "max");
    let mut oom = || -> Result<(u32, Box<dyn Any>)> {
        let oom = MemcgOom::cause(4 << 20)?;
        Ok((oom.pid, Box::new(oom)))
    };
    let quiet = QuietConsole::new()?;
    let mut refused = || -> Result<(u32, Box<dyn Any>)> {
        let exhaustion = FdExhaustion::cause(Kind::File)?;
        Ok((exhaustion.pid, Box::new(exhaustion)))
    };
    // On the disk of the build, as a temporary directory may be no disk at all.
    let disk = tempfile::tempdir_in("target").context("cannot make a directory for the outbox")?;
    measure(agent, None, "oom/mark_victim", "kernel_oom_kill", &mut oom)?;
    measure(agent, Some(disk.path()), "oom/mark_victim, outbox on disk", "kernel_oom_kill", &mut oom)?;
    measure(agent, None, "descriptor refused", "kernel_fd_exhausted", &mut refused)?;
    measure(agent, Some(disk.path()), "descriptor refused, outbox on disk", "kernel_fd_exhausted", &mut refused)?;
    drop(quiet);
    // The CPU that writes the kill to a serial console takes no interrupt meanwhile, the one that wakes the agent included.
    measure(agent, None, "oom/mark_victim, console as it is", "kernel_oom_kill", &mut oom)
}

/// Keeps the kernel's messages from the console (Documentation/admin-guide/sysctl/kernel.rst, "printk") until it is dropped.
struct QuietConsole {
    before: String,
}

impl QuietConsole {
    const PATH: &str = "/proc/sys/kernel/printk";

    fn new() -> Result<Self> {
        let before = fs::read_to_string(Self::PATH).context("cannot read the console's log level")?;
        fs::write(Self::PATH, "1").context("cannot set the console's log level")?;
        Ok(Self { before })
    }
}

impl Drop for QuietConsole {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.before);
    }
}

/// What causes an event: the process that it befalls, and what undoes it.
type Cause<'a> = &'a mut dyn FnMut() -> Result<(u32, Box<dyn Any>)>;

/// Alerts wait in memory where there is no directory for them.
fn measure(agent: &Path, data_dir: Option<&Path>, name: &str, metric: &str, cause: Cause<'_>) -> Result<()> {
    let receiver = Receiver::start()?;
    let data_dir = data_dir.unwrap_or(Path::new("/nonexistent")).display();
    let config = format!(
        "[agent]\nlog_level = \"warn\"\ndata_dir = \"{data_dir}\"\n{EACH}[alerting.webhook]\nenabled = true\nurl = \"{}\"\n",
        receiver.url()
    );
    let mut agent = AgentProcess::start(agent, &config, &[])?;
    let mut latencies = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        let (pid, guard) = cause()?;
        let pid = pid.to_string();
        let received = receiver.wait_for(PATIENCE, |body| body["metric"] == metric && body["labels"]["pid"] == pid.as_str())?;
        drop(guard);
        let happened = received.body["evidence"]["monotonic_ns"].as_u64().context("the alert has no evidence.monotonic_ns")?;
        ensure!(received.arrived_ns > happened, "the alert arrived before its event");
        latencies.push(received.arrived_ns - happened);
    }
    agent.stop(Duration::from_secs(10))?;
    latencies.sort_unstable();
    let quantile =
        |percent: usize| latencies.get((latencies.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    let ms = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    println!("{name:<38}{:>9.2}{:>9.2}{:>9.2}", ms(quantile(50)), ms(quantile(99)), ms(quantile(100)));
    Ok(())
}
