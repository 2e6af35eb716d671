//! The ways in which the agent gets its events, each tried on every kernel, and what `doctor` must say in each.

use anyhow::{Result, bail, ensure};
use serde_json::Value;

/// One way to run the agent.
pub struct Mode {
    /// How the table calls it.
    pub name: &'static str,
    /// Lines for the section `[ebpf]` of its configuration.
    pub ebpf: &'static str,
    /// Whether probes are to be attached.
    pub probed: bool,
    /// What the source of a probed signal must name.
    transport: &'static str,
}

/// Faster than by default, so that few faults suffice.
macro_rules! with {
    ($line:literal) => {
        concat!($line, "\ntcp_retransmit_burst = 2")
    };
}

/// All modes, in the order in which they are tried.
pub const MODES: [Mode; 3] = [
    Mode { name: "ring buffer", ebpf: with!("transport = 'auto'"), probed: true, transport: "ring buffer" },
    Mode { name: "perf array", ebpf: with!("transport = 'perf'"), probed: true, transport: "perf" },
    Mode { name: "without BPF", ebpf: with!("enabled = false"), probed: false, transport: "" },
];

impl Mode {
    /// Whether the agent does what was asked of it, as far as its own account goes.
    ///
    /// # Errors
    /// It uses another transport.
    pub fn is_honoured(&self, doctor: &Value) -> Result<()> {
        for signal in signals(doctor).iter().filter(|signal| signal["probe"] == true) {
            let source = signal["source"].as_str().unwrap_or_default();
            ensure!(source.contains(self.transport), "{} comes through another transport: {source}", signal["signal"]);
        }
        Ok(())
    }

    /// Compares what `doctor` says with what is known of all kernels of the matrix: they have BTF, all tracepoints and the ring
    /// buffer, the machine has no lockdown, and its user is root.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, doctor: &Value) -> Result<()> {
        for (fact, truth) in [("kernel BTF", "yes"), ("user", "root"), ("lockdown", "none")] {
            ensure!(doctor["host"][fact] == truth, "doctor says {fact}: {}, the truth is {truth:?}", doctor["host"][fact]);
        }
        let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        ensure!(doctor["host"]["kernel"] == running.trim(), "doctor says kernel {}", doctor["host"]["kernel"]);
        ensure!(doctor["kernel_log"]["readable"] == true, "doctor says the kernel log cannot be read: {}", doctor["kernel_log"]);
        ensure!(signals(doctor).len() == 5, "doctor knows {} signals", signals(doctor).len());
        for signal in signals(doctor) {
            let name = &signal["signal"];
            ensure!(signal["source"].is_string(), "{name} has no source: {}", signal["better"]);
            ensure!(signal["probe"] == self.probed, "{name} comes from {}: {}", signal["source"], signal["better"]);
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

/// What `doctor` says of each signal.
pub fn signals(doctor: &Value) -> &[Value] {
    doctor["signals"].as_array().map(Vec::as_slice).unwrap_or_default()
}
