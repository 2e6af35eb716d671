//! Probe `fd`: a process was refused a file descriptor.
//!
//! The refusal leaves no trace in the kernel log, so without this probe only polling finds the processes near their limit.
//! What the process has open, by kind and place, is read from procfs at that moment.

use std::sync::Arc;

use agent_common::Record as _;
use agent_common::fd::{FdRecord, Fields};

use super::tracefs::{Format, events_dir};
use super::{Facts, Hook, Kernel, Probe, Rung, Unavailable, comm, registers};
use crate::config;
use crate::host::Host;
use crate::model::{Evidence, KernelEvent, Labels};

/// System calls that give a descriptor, of those that a process at its limit makes again and again. Each one more makes a
/// stop longer by some 80 ms, because the kernel waits for all CPUs with every tracepoint that it takes a program from. The
/// raw tracepoint behind all of them needs no such wait, but runs with every system call of the host, and that costs more.
const SYSCALLS: &[&str] = &["open", "openat", "openat2", "socket", "accept", "accept4", "dup", "pipe2", "epoll_create1"];

/// The names of the function that allocates a descriptor.
const FUNCTIONS: [&str; 2] = ["__alloc_fd", "alloc_fd"];
/// The function that allocates an open file.
const SYSTEM_FUNCTION: &str = "alloc_empty_file";

/// `EMFILE` on every architecture with the generic numbers.
const EMFILE: u32 = 24;

/// The kernel's function that allocates a descriptor, at its return, and the one that allocates an open file.
pub fn fexit(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    // Until 5.10 the first is what the second and others call. The result follows the arguments, and where that is must be a
    // constant of the program.
    let functions = kernel.btf()?.function_arguments(&[FUNCTIONS[0], FUNCTIONS[1], SYSTEM_FUNCTION]);
    let known = FUNCTIONS.iter().find_map(|function| Some((*function, *functions.get(function)?)));
    let program = |arguments| match arguments {
        2 => Some("alloc_fd_exit2"),
        3 => Some("alloc_fd_exit3"),
        4 => Some("alloc_fd_exit4"),
        _ => None,
    };
    let Some((function, program)) = known.and_then(|(function, arguments)| Some((function, program(arguments)?))) else {
        return Err(Unavailable::new(
            format!("this kernel's BTF has no function {} or {} of a form that is known", FUNCTIONS[0], FUNCTIONS[1]),
            "nothing to do; it depends on how the kernel was built",
        ));
    };
    let system_limit = Hook::Fexit { program: "alloc_empty_file_exit", function: SYSTEM_FUNCTION };
    let system_limit = (functions.get(SYSTEM_FUNCTION) == Some(&2)).then_some(system_limit);
    let rung = Rung::new("fexit alloc_fd", &Fields::ABSENT, vec![Hook::Fexit { program, function }]);
    Ok(rung.and_optional(system_limit.into_iter().collect()))
}

/// The same by kretprobes. Either costs only where one is allocated,
/// while a tracepoint on system calls makes each call of the host a little slower; dup2 and dup3 allocate elsewhere.
pub fn kretprobes(_: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    let hook = Hook::Kprobe { program: "alloc_fd", functions: &FUNCTIONS };
    let system_limit = Hook::Kprobe { program: "alloc_empty_file", functions: &[SYSTEM_FUNCTION] };
    Ok(Rung::new("kretprobe alloc_fd", &Fields::ABSENT, vec![hook])
        .and_optional(vec![system_limit])
        .with("REGISTERS", &registers()?))
}

/// `syscalls/sys_exit_*` of the calls in [`SYSCALLS`] that this kernel has, with offsets from their `format` files.
pub fn syscall_exits(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    let category = events_dir(&kernel.host)?.join("syscalls");
    let mut layout = None;
    let mut hooks = Vec::new();
    for syscall in SYSCALLS {
        let name = format!("sys_exit_{syscall}");
        if !category.join(&name).exists() {
            continue;
        }
        let format = Format::read(&kernel.host, "syscalls", &name)?;
        let tracepoint = format!("syscalls/{name}");
        let fields = Fields { syscall_nr: format.offset("__syscall_nr", 4), ret: format.required(&tracepoint, "ret", 8)? };
        // They share one layout on every kernel known; one that differs is left out.
        if *layout.get_or_insert(fields) == fields {
            hooks.push(Hook::Tracepoint { program: "sys_exit", category: "syscalls", name });
        }
    }
    match layout {
        Some(fields) => Ok(Rung::new("tracepoints syscalls/sys_exit_{open,socket,accept,dup,pipe,…}", &fields, hooks)),
        None => Err(Unavailable::new(
            "this kernel has no tracepoints on system calls",
            "a kernel built with CONFIG_FTRACE_SYSCALLS has them",
        )),
    }
}

/// Makes the user half.
pub fn build(host: &Host, _: &config::Ebpf) -> Arc<dyn Probe> {
    Arc::new(Fd { host: host.clone() })
}

struct Fd {
    host: Host,
}

impl Probe for Fd {
    fn decode(&self, record: &[u8]) -> Option<KernelEvent> {
        let record = FdRecord::from_bytes(record)?;
        let mut evidence = Evidence::new();
        if record.syscall != FdRecord::UNKNOWN {
            evidence.insert("syscall".into(), record.syscall.into());
        }
        evidence.insert("monotonic_ns".into(), record.monotonic_ns.into());
        evidence.insert("errno".into(), if record.errno == EMFILE { "EMFILE" } else { "ENFILE" }.into());
        evidence.insert("refused".into(), record.count.into());
        evidence.insert("allocated".into(), record.allocated.into());
        let labels = Labels::new().with("pid", record.pid.to_string()).with("comm", comm(&record.comm));
        let metric = "kernel_fd_exhausted";
        let count = u64::from(record.count);
        Some(KernelEvent {
            metric,
            labels,
            value: 0.0,
            threshold: None,
            count,
            message: String::new(),
            source: "probe",
            evidence,
        })
    }

    fn enrich(&self, record: &[u8], facts: &Facts) {
        let Some(record) = FdRecord::from_bytes(record) else { return };
        let process = self.host.process(record.pid);
        #[expect(clippy::cast_precision_loss, reason = "numbers of descriptors are far below 2^53")]
        if record.errno == EMFILE {
            let limit = process.descriptor_limit();
            facts.evidence("limit", limit);
            if let Some(limit) = limit {
                facts.threshold(limit as f64);
            }
            if let Some(open) = process.descriptors() {
                facts.value(open.open as f64);
                self.host.descriptor_facts(record.pid, &open, &mut |name, fact| facts.evidence(name, Some(fact)));
            }
        } else if let Some((used, max)) = system_descriptors(&self.host) {
            facts.evidence("limit", Some(max));
            facts.threshold(max as f64);
            facts.value(used as f64);
        }
        facts.evidence("cgroup", process.cgroup("memory"));
        facts.evidence("uid", process.uid());
        facts.evidence("command_line", process.command_line());
    }

    fn describe(&self, event: &KernelEvent) -> String {
        let label = |name| event.labels.get(name).unwrap_or("?");
        let text = |name| event.evidence.get(name).and_then(|value| value.as_str());
        let scope = if text("errno") == Some("EMFILE") { "its limit" } else { "the system's limit" };
        let limit = event.threshold.map_or(String::new(), |limit| format!(" of {limit}"));
        let kind = text("commonest").map_or(String::new(), |kind| format!(", mostly {kind}"));
        format!("{} (pid {}) was refused a file descriptor: {scope}{limit} is reached{kind}", label("comm"), label("pid"))
    }
}

/// Open file handles of the system and their limit: `file-nr` (Documentation/admin-guide/sysctl/fs.rst).
fn system_descriptors(host: &Host) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(host.procfs("sys/fs/file-nr")).ok()?;
    let mut fields = text.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}
