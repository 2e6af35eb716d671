//! The ways in which the agent gets its events, and the circumstances it must cope with, each tried on every kernel; and what
//! `doctor` must say in each.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

use super::cells::{ALL, Cell, ONE_EACH, SERIES};

/// One way to run the agent.
pub struct Mode {
    /// How the table calls it.
    pub name: &'static str,
    /// What is particular about it, as a sentence for the page.
    pub about: &'static str,
    /// Lines for the section `[ebpf]` of its configuration.
    pub ebpf: &'static str,
    /// Lines for the section `[alerting]`.
    pub alerting: &'static str,
    /// What the agent finds when it starts.
    circumstances: Circumstances,
    /// Whether a signal's probe is to be attached.
    probed: fn(&str) -> bool,
    /// What the source of a probed signal must name.
    transport: &'static str,
    /// The faults.
    pub cells: &'static [&'static Cell],
}

/// What is other than on a host that keeps nothing from the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Circumstances {
    Plain,
    /// The agent is an ordinary user with [`CAPABILITIES`] and, as BPF before 5.11 asks for it, no limit of locked memory.
    Unprivileged,
    /// tracefs is mounted nowhere, as far as the agent sees.
    NoTracefs,
    /// `lockdown=confidentiality` (man 7 kernel_lockdown). There is no way back, so it comes last.
    Lockdown,
}

/// Those that docs/architecture.md names for an agent without root: BPF, PERFMON, DAC_READ_SEARCH, SYSLOG and SYS_PTRACE, by
/// their numbers in linux/capability.h, which every `setpriv` knows.
const CAPABILITIES: [u32; 5] = [39, 38, 2, 34, 19];
/// The user without privileges.
const NOBODY: u32 = 65534;
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const TRACEFS: &str = "/sys/kernel/tracing";

/// All modes, in the order in which they are tried.
pub const MODES: [Mode; 7] = [
    Mode {
        name: "ring buffer",
        about: "As root, events through BPF ring buffers.",
        ebpf: "transport = 'ringbuf'\ntcp_retransmit_burst = 2",
        alerting: "",
        circumstances: Circumstances::Plain,
        probed: |_| true,
        transport: "ring buffer",
        cells: &ALL,
    },
    Mode {
        name: "perf array",
        about: "As root, events through perf event arrays.",
        ebpf: "transport = 'perf'\ntcp_retransmit_burst = 2",
        alerting: "",
        circumstances: Circumstances::Plain,
        probed: |_| true,
        transport: "perf event array",
        cells: &ALL,
    },
    Mode {
        name: "without BPF",
        about: "As root, with `enabled = false` in `[ebpf]`: the kernel log, `/proc` and `/sys` alone.",
        ebpf: "enabled = false\ntcp_retransmit_burst = 2",
        alerting: "",
        circumstances: Circumstances::Plain,
        probed: |_| false,
        transport: "",
        cells: &ALL,
    },
    Mode {
        name: "one after the other",
        about: "As root, the transport that the agent chooses; a hundred victims of the OOM killer in a row.",
        ebpf: "",
        alerting: "dedup_window_secs = 20",
        circumstances: Circumstances::Plain,
        probed: |_| true,
        transport: "ring buffer",
        cells: &SERIES,
    },
    Mode {
        name: "without root",
        about: "As an ordinary user with CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH, CAP_SYSLOG and CAP_SYS_PTRACE, and without a \
                limit of locked memory.\nWhat this costs is the kernel stack of a hung task.",
        ebpf: "tcp_retransmit_burst = 2",
        alerting: "",
        circumstances: Circumstances::Unprivileged,
        probed: |_| true,
        transport: "ring buffer",
        cells: &ONE_EACH,
    },
    Mode {
        name: "without tracefs",
        about: "As root, tracefs not mounted.",
        ebpf: "tcp_retransmit_burst = 2",
        alerting: "",
        circumstances: Circumstances::NoTracefs,
        probed: |_| true,
        transport: "ring buffer",
        cells: &ONE_EACH,
    },
    Mode {
        name: "locked down",
        about: "As root, with `lockdown=confidentiality`: no kprobes, no tracefs, and no BPF program that reads the kernel's memory through a \
                helper.\nWhat is left are programs whose arguments say everything, or which the verifier lets load it.",
        ebpf: "tcp_retransmit_burst = 2",
        alerting: "",
        circumstances: Circumstances::Lockdown,
        probed: |signal| signal == "block_io" || signal == "fd",
        transport: "ring buffer",
        cells: &ONE_EACH,
    },
];

impl Mode {
    /// Brings the machine into the mode's state.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prepare(&self) -> Result<()> {
        if self.circumstances == Circumstances::Lockdown {
            fs::write(LOCKDOWN, "confidentiality").with_context(|| format!("cannot write to {LOCKDOWN}"))?;
        }
        Ok(())
    }

    /// What starts the program at `agent` as the mode has it.
    pub fn command(&self, agent: &str) -> Command {
        let mut command = Command::new(agent);
        match self.circumstances {
            Circumstances::Plain | Circumstances::Lockdown => {}
            Circumstances::Unprivileged => {
                let capabilities = CAPABILITIES.map(|number| format!("+cap_{number}")).join(",");
                command = Command::new("setpriv");
                command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]).args([
                    format!("--inh-caps={capabilities}"),
                    format!("--ambient-caps={capabilities}"),
                    agent.into(),
                ]);
                // SAFETY: between fork and exec one system call is made.
                unsafe { command.pre_exec(|| Ok(setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?)) };
            }
            Circumstances::NoTracefs => {
                // SAFETY: between fork and exec only three system calls are made.
                unsafe { command.pre_exec(hide_tracefs) };
            }
        }
        command
    }

    /// Compares what `doctor` says with what is true here: of all kernels of the matrix, that they have BTF, all tracepoints and the
    /// ring buffer; of the machine, what the mode made it.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, doctor: &Value) -> Result<()> {
        let unprivileged = self.circumstances == Circumstances::Unprivileged;
        let user = if unprivileged { format!("uid {NOBODY}") } else { "root".into() };
        let lockdown = if self.circumstances == Circumstances::Lockdown { "confidentiality" } else { "none" };
        let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        for (fact, truth) in [("kernel BTF", "yes"), ("user", &user), ("lockdown", lockdown), ("kernel", running.trim())] {
            ensure!(doctor["host"][fact] == truth, "doctor says {fact}: {}, the truth is {truth:?}", doctor["host"][fact]);
        }
        let capabilities = doctor["host"]["capabilities"].as_str().unwrap_or_default();
        ensure!(capabilities.contains("SYS_ADMIN") != unprivileged, "doctor says that it has {capabilities}");
        ensure!(doctor["kernel_log"]["readable"] == true, "doctor says the kernel log cannot be read: {}", doctor["kernel_log"]);
        ensure!(signals(doctor).len() == 5, "doctor knows {} signals", signals(doctor).len());
        for signal in signals(doctor) {
            let name = signal["signal"].as_str().unwrap_or_default();
            let source = signal["source"].as_str().with_context(|| format!("{name} has no source: {}", signal["better"]))?;
            let probed = (self.probed)(name);
            ensure!(signal["probe"] == probed, "{name} comes from {source}: {}", signal["better"]);
            ensure!(!probed || source.contains(self.transport), "{name} comes through another transport: {source}");
            let ways = signal["rungs"].as_array().map(Vec::as_slice).unwrap_or_default();
            // Somebody from whom nothing is kept can attach it in every way.
            if probed && self.circumstances == Circumstances::Plain {
                ensure!(!ways.is_empty(), "doctor tried no way to attach {name}");
                if let Some(way) = ways.iter().find(|way| way["works"] != true) {
                    bail!("{name} cannot be attached to {}: {}", way["source"], way["why"]);
                }
            }
        }
        for collector in doctor["collectors"].as_array().into_iter().flatten() {
            let name = &collector["collector"];
            ensure!(collector["error"].is_null(), "the collector {name} fails: {}", collector["error"]);
            if collector["skipped"] != 0 {
                bail!("the collector {name} skips {}: {}", collector["skipped"], collector["first_skip"]);
            }
        }
        Ok(())
    }
}

/// Gives this process mounts of its own, without tracefs.
fn hide_tracefs() -> std::io::Result<()> {
    // SAFETY: nothing is shared with another thread that could notice: there is none between fork and exec.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    unmount(TRACEFS, UnmountFlags::DETACH)?;
    Ok(())
}

/// What `doctor` says of each signal.
pub fn signals(doctor: &Value) -> &[Value] {
    doctor["signals"].as_array().map(Vec::as_slice).unwrap_or_default()
}
