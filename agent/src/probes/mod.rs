//! The user half of the BPF probes: one file a probe, one row in [`PROBES`] each.
//!
//! A probe says what it needs of the kernel, turns the records that the kernel half sends into events, and finds out about
//! those whom they befell. Loading, attaching, reading and counting is done once for all, in `attach` and `reader`.

mod attach;
mod block_io;
mod btf;
mod control;
mod fd;
mod hung_task;
mod oom;
mod pulse;
mod reader;
mod reading;
mod tcp_retransmit;
mod tracefs;
mod transport;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_common::{Global, Registers};
pub use attach::{Attached, Refused, Wanted, attach, attach_by};
pub use control::Control;
pub use pulse::Pulse;
pub use reader::{ProbeReader, Seen, Step, What};
pub use reading::METRICS;
use serde_json::Value;

use crate::config;
use crate::host::Host;
pub use crate::host::Unavailable;
use crate::model::{Histogram, KernelEvent, Metric, Sample};

/// The objects that `cargo xtask ebpf` built for a probe.
macro_rules! objects {
    ($probe:literal) => {
        Objects {
            ring: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/", $probe, ".o")),
            log: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/", $probe, ".log.o")),
            perf: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/", $probe, ".perf.o")),
        }
    };
}

/// All probes, in the order in which they are shown.
pub const PROBES: &[Row] = &[
    Row {
        name: "oom",
        summary: "the OOM killer chose a victim",
        objects: objects!("oom"),
        ring_bytes: 32 << 10,
        rungs: &[oom::tracepoint, oom::raw_tracepoint, oom::kprobe],
        build: oom::build,
        // A host without memory pages its programs in again before they answer.
        deadline: Duration::from_millis(500),
        fallbacks: &[
            Fallback::KernelLog,
            Fallback::Procfs { file: "vmstat", has: "oom_kill ", what: "/proc/vmstat oom_kill (a count, no victim)" },
        ],
        pulse: Some(pulse::OOM),
        metrics: &[],
    },
    Row {
        name: "hung_task",
        summary: "a task is blocked for too long",
        objects: objects!("hung_task"),
        ring_bytes: 16 << 10,
        rungs: &[hung_task::tracepoint, hung_task::raw_tracepoint],
        build: hung_task::build,
        deadline: Duration::from_millis(250),
        fallbacks: &[
            Fallback::KernelLog,
            Fallback::Procfs {
                file: "sys/kernel/hung_task_detect_count",
                has: "",
                what: "/proc/sys/kernel/hung_task_detect_count (a count, no task)",
            },
            Fallback::Procfs { file: "self/stat", has: "", what: "/proc/PID/stat (tasks in state D, polled)" },
        ],
        pulse: Some(pulse::HUNG_TASK),
        metrics: &[],
    },
    Row {
        name: "block_io",
        summary: "a block request is slow or fails",
        objects: objects!("block_io"),
        ring_bytes: 128 << 10,
        rungs: &[block_io::btf_tracepoints, block_io::raw_tracepoints, block_io::tracepoints, block_io::kprobes],
        build: block_io::build,
        deadline: Duration::from_millis(50),
        fallbacks: &[
            Fallback::KernelLog,
            Fallback::Procfs { file: "diskstats", has: "", what: "/proc/diskstats (mean latencies, polled)" },
        ],
        pulse: Some(pulse::BLOCK_IO),
        metrics: block_io::METRICS,
    },
    Row {
        name: "tcp_retransmit",
        summary: "a TCP segment is sent again",
        objects: objects!("tcp_retransmit"),
        ring_bytes: 128 << 10,
        rungs: &[tcp_retransmit::tracepoint, tcp_retransmit::raw_tracepoint],
        build: tcp_retransmit::build,
        deadline: Duration::from_millis(250),
        fallbacks: &[Fallback::Procfs {
            file: "net/snmp",
            has: "Tcp:",
            what: "/proc/net/snmp RetransSegs, /proc/net/tcp (polled)",
        }],
        pulse: Some(pulse::TCP_RETRANSMIT),
        metrics: &[],
    },
    Row {
        name: "fd",
        summary: "a process is refused a file descriptor",
        objects: objects!("fd"),
        ring_bytes: 64 << 10,
        rungs: &[fd::fexit, fd::kretprobes, fd::syscall_exits],
        build: fd::build,
        deadline: Duration::from_millis(100),
        fallbacks: &[Fallback::Procfs {
            file: "sys/fs/file-nr",
            has: "",
            what: "/proc/PID/fd against its limit, /proc/sys/fs/file-nr (polled)",
        }],
        pulse: None,
        metrics: &[],
    },
];

/// A row of the table: what there is to say about a probe without loading it.
pub struct Row {
    /// The stem: file, configuration value, label.
    pub name: &'static str,
    /// What it fires on, in a few words.
    pub summary: &'static str,
    /// The kernel half.
    pub objects: Objects,
    /// Size of the ring buffer: a power of two, and at least a page. The CPUs share as much in a perf event array.
    pub ring_bytes: u32,
    /// The ways to attach it, best first.
    pub rungs: &'static [FindRung],
    /// Makes the user half.
    pub build: fn(&Host, &config::Ebpf) -> Arc<dyn Probe>,
    /// How long an event may wait for what is found out about it.
    pub deadline: Duration,
    /// What stands in for it where it cannot be attached, as far as the host has it.
    pub fallbacks: &'static [Fallback],
    /// What the kernel counts of the same things by itself, where it does: that the probe is blind is known from it.
    pub pulse: Option<Pulse>,
    /// Metrics that it samples, beside those that all probes have.
    pub metrics: &'static [Metric],
}

/// The builds of a kernel half. A map exists from the moment its object is loaded, so what needs another map is another object.
pub struct Objects {
    /// With a ring buffer.
    pub ring: &'static [u8],
    /// With a ring buffer, and debug messages.
    pub log: &'static [u8],
    /// With a perf event array.
    pub perf: &'static [u8],
}

/// A source that stands in for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Lines of the kernel log.
    KernelLog,
    /// A file below procfs.
    Procfs {
        /// The file.
        file: &'static str,
        /// What must stand in it.
        has: &'static str,
        /// What to call it.
        what: &'static str,
    },
}

/// Works out one way to attach a probe on this kernel, or says why there is none.
pub type FindRung = fn(&Kernel, &config::Ebpf) -> Result<Rung, Unavailable>;

/// The user half of one probe.
pub trait Probe: Send + Sync {
    /// Turns a record into an event without its message; `None` where the bytes are not a record.
    fn decode(&self, record: &[u8]) -> Option<KernelEvent>;

    /// Finds out what the record does not say. Runs where it may wait; what it found by the deadline is used.
    fn enrich(&self, record: &[u8], facts: &Facts);

    /// One sentence about the event, from what is known of it.
    fn describe(&self, event: &KernelEvent) -> String;

    /// Reads what the kernel half aggregated.
    fn sample(&self, _maps: &aya::Ebpf, _samples: &mut Vec<Sample>, _histograms: &mut Vec<Histogram>) {}

    /// Has the kernel half look at one event in `one_in` only, so that it costs less; with 1 at all of them again. What it
    /// aggregates stays an estimate of all. Says whether the probe can do this and did.
    fn shed(&self, _maps: &mut aya::Ebpf, _one_in: u32) -> bool {
        false
    }
}

/// One way to attach a probe, worked out for this kernel.
pub struct Rung {
    /// What it attaches to, in words.
    pub source: &'static str,
    /// What the kernel half must be told, by the name of its static.
    pub globals: Vec<(&'static str, Vec<u8>)>,
    /// Where its programs go. All of them must attach.
    pub hooks: Vec<Hook>,
    /// Where programs go that make it tell more; each of them may fail.
    pub optional: Vec<Hook>,
}

impl Rung {
    /// A rung that hands `fields` to the kernel half.
    pub fn new(source: &'static str, fields: &impl Global, hooks: Vec<Hook>) -> Self {
        Self { source, globals: Vec::new(), hooks, optional: Vec::new() }.with("FIELDS", fields)
    }

    /// The same, with hooks that it can do without.
    #[must_use]
    pub fn and_optional(mut self, hooks: Vec<Hook>) -> Self {
        self.optional = hooks;
        self
    }

    /// The same, and the static `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &impl Global) -> Self {
        self.globals.push((name, value.as_bytes().to_vec()));
        self
    }
}

/// One program and the place it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint of tracefs.
    Tracepoint {
        /// The program's name in the object.
        program: &'static str,
        /// Directory below `events`.
        category: &'static str,
        /// Directory below the category.
        name: String,
    },
    /// A tracepoint's raw arguments, of types that the verifier knows.
    BtfTracepoint {
        /// The program's name in the object.
        program: &'static str,
        /// Name of the tracepoint.
        name: &'static str,
    },
    /// A tracepoint's raw arguments.
    RawTracepoint {
        /// The program's name in the object.
        program: &'static str,
        /// Name of the tracepoint.
        name: &'static str,
    },
    /// A function of the kernel at its return, with arguments and result of types that the verifier knows. The kernel calls the
    /// program from the function itself, which costs much less than a kprobe, and asks nobody for perf events.
    Fexit {
        /// The program's name in the object.
        program: &'static str,
        /// The function.
        function: &'static str,
    },
    /// A function of the kernel, at its start or its return, as the program says.
    Kprobe {
        /// The program's name in the object.
        program: &'static str,
        /// The names that the function has on the kernels known; the first that this kernel has is taken.
        functions: &'static [&'static str],
    },
}

/// Where the arguments and the result of a probed function are on this processor: `struct pt_regs`
/// (arch/*/include/uapi/asm/ptrace.h).
///
/// # Errors
/// Nobody has looked it up for this processor.
fn registers() -> Result<Registers, Unavailable> {
    match std::env::consts::ARCH {
        // rdi, rsi, rdx; rax
        "x86_64" => Ok(Registers { arguments: [112, 104, 96], result: 80 }),
        // x0, x1, x2; x0
        "aarch64" => Ok(Registers { arguments: [0, 8, 16], result: 0 }),
        other => Err(Unavailable::new(
            format!("this program does not know where a function's arguments are on a processor of type {other}"),
            "nothing to do; the other ways to attach do without",
        )),
    }
}

/// What rungs ask the running kernel.
pub struct Kernel {
    /// Its file systems.
    pub host: Host,
    btf: std::cell::OnceCell<Result<btf::Btf, Unavailable>>,
}

impl Kernel {
    /// The kernel behind `host`.
    pub fn new(host: Host) -> Self {
        Self { host, btf: std::cell::OnceCell::new() }
    }

    /// Its type information, read when first asked for.
    ///
    /// # Errors
    /// It has none, or it is not readable.
    fn btf(&self) -> Result<&btf::Btf, Unavailable> {
        self.btf.get_or_init(|| btf::Btf::read(&self.host)).as_ref().map_err(Clone::clone)
    }
}

/// Something that was found out about an event.
#[derive(Clone, Debug, PartialEq)]
enum Fact {
    Label(&'static str, String),
    Evidence(&'static str, Value),
    Value(f64),
    Threshold(f64),
}

/// Where a probe puts what it finds out, piece by piece, so that what is late costs only itself.
#[derive(Clone, Default)]
pub struct Facts(Arc<Mutex<Vec<Fact>>>);

impl Facts {
    /// A label of the event.
    pub fn label(&self, name: &'static str, value: impl Into<String>) {
        self.add(Fact::Label(name, value.into()));
    }

    /// A piece of evidence; `None` adds nothing.
    pub fn evidence(&self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(Fact::Evidence(name, value.into()));
        }
    }

    /// The event's measure.
    pub fn value(&self, value: f64) {
        self.add(Fact::Value(value));
    }

    /// The limit that the measure stands against.
    pub fn threshold(&self, threshold: f64) {
        self.add(Fact::Threshold(threshold));
    }

    fn add(&self, fact: Fact) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fact);
    }

    /// Puts what is known by now into the event.
    fn apply(&self, event: &mut KernelEvent) {
        for fact in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            match fact {
                Fact::Label(name, value) => event.labels.set(name, value),
                Fact::Evidence(name, value) => {
                    event.evidence.insert(name.to_owned(), value);
                }
                Fact::Value(value) => event.value = value,
                Fact::Threshold(threshold) => event.threshold = Some(threshold),
            }
        }
    }
}

/// A command name from a record, up to its first NUL.
fn comm(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostRoots;

    #[test]
    fn bytes_that_are_not_a_record_are_no_event_and_no_panic() {
        let host = Host::new(HostRoots::default());
        for row in PROBES {
            let probe = (row.build)(&host, &config::Ebpf::default());
            let is_event =
                |byte: u8, len: usize| probe.decode(&vec![byte; len]).is_some_and(|event| !probe.describe(&event).is_empty());
            let lengths: Vec<usize> = (0..512).filter(|len| is_event(0, *len)).collect();
            // A perf event array fills up what it carries to a multiple of eight bytes.
            assert!(lengths[0] > 0 && lengths == (lengths[0]..512).collect::<Vec<_>>(), "{}: {lengths:?}", row.name);
            // Numbers and names that no kernel sends, in a record of the right size.
            for byte in 1..=u8::MAX {
                is_event(byte, lengths[0]);
            }
        }
    }
}
