//! Loads the kernel halves and attaches them, each on its own: one that fails costs only itself.

use std::cell::OnceCell;
use std::error::Error;
use std::fmt::Write as _;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use agent_common::{COUNTS, Count};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::Program;
use aya::{Btf, BtfError, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;

use super::transport::{Kind, Transport};
use super::{Hook, Kernel, Row, Rung, Unavailable};
use crate::config;

/// Where the kernel says how functions are probed.
const FUNCTION_PROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// A probe whose programs are in the kernel. Dropping it takes them out.
pub struct Attached {
    /// Which probe.
    pub row: &'static Row,
    /// What it is attached to, in words.
    pub source: &'static str,
    /// The place of that way among the row's, best first.
    pub(super) rung: usize,
    /// Why the better ways did not work, where there are any.
    pub refused: Vec<Unavailable>,
    /// Memory of its maps as the kernel accounts it, and of its perf buffers where it has any, in bytes.
    pub map_bytes: u64,
    pub(super) ebpf: Ebpf,
    pub(super) transport: Transport,
    pub(super) log: Option<EbpfLogger<LogToTracing>>,
    pub(super) counts: Counts,
    pub(super) links: Links,
}

/// A probe to be attached, and the rungs of its ladder to try.
pub struct Wanted {
    /// Which probe.
    pub row: &'static Row,
    /// Places of the rungs, best first.
    pub rungs: Range<usize>,
}

impl Wanted {
    /// The probe in the best way that works.
    pub const fn any(row: &'static Row) -> Self {
        Self { row, rungs: 0..row.rungs.len() }
    }
}

/// The kernel's type information as aya wants it, parsed when the first program asks for it.
type KernelTypes = OnceCell<Result<Btf, BtfError>>;

/// A probe that could be attached in no way.
pub struct Refused {
    /// Which probe.
    pub row: &'static Row,
    /// Why, by rung, best first.
    pub reasons: Vec<Unavailable>,
}

impl Attached {
    /// What its records travel in, in words.
    pub const fn transport(&self) -> &'static str {
        self.transport.kind().name()
    }
}

/// What the kernel half of one probe counts. It can be read when its programs are attached nowhere any more, too.
pub struct Counts {
    map: PerCpuArray<MapData, u64>,
    programs: Vec<OwnedFd>,
}

impl Counts {
    /// One of the counters, over all CPUs.
    pub fn get(&self, which: Count) -> u64 {
        self.map.get(&(which as u32), 0).map_or(0, |by_cpu| by_cpu.iter().sum())
    }

    /// Runs of the programs that the kernel left out, because they would have interrupted another BPF program on their CPU;
    /// nothing else counts these. Zero where the kernel does not tell.
    pub fn recursion_misses(&self) -> u64 {
        self.programs.iter().filter_map(|program| fdinfo(program.as_fd(), "recursion_misses")).sum()
    }

    /// Nanoseconds that the programs ran for and how often they ran, while the kernel kept such statistics.
    pub fn run_time(&self) -> (u64, u64) {
        let sum = |key| self.programs.iter().filter_map(|program| fdinfo(program.as_fd(), key)).sum();
        (sum("run_time_ns"), sum("run_cnt"))
    }
}

/// What holds the programs of a probe where they are attached: the descriptors of their BPF links, by number, and what the kernel
/// says each is.
///
/// Before Linux 5.15 a tracepoint's program is held by a perf event without a link; there is nothing here for such a one.
pub struct Links(Vec<(RawFd, String)>);

impl Links {
    /// The links of `programs` among this process's descriptors.
    fn of(programs: &[OwnedFd]) -> Self {
        let ids: Vec<String> = programs.iter().filter_map(|program| word(&own_fdinfo(program.as_raw_fd())?, "prog_id")).collect();
        let numbers = std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
        let found = numbers.filter_map(|entry| {
            let fd: RawFd = entry.file_name().to_str()?.parse().ok()?;
            let text = own_fdinfo(fd)?;
            let id = word(&text, "link_id")?;
            ids.contains(&word(&text, "prog_id")?).then_some((fd, id))
        });
        Self(found.collect())
    }

    /// How many of them are no more what they were, where there are such.
    pub fn gone(&self) -> Option<String> {
        let same = |fd: RawFd, id: &str| own_fdinfo(fd).and_then(|text| word(&text, "link_id")).is_some_and(|now| now == id);
        let gone = self.0.iter().filter(|(fd, id)| !same(*fd, id)).count();
        (gone > 0).then(|| format!("{gone} of the {} BPF links of its programs are gone", self.0.len()))
    }
}

/// Attaches the given probes, with debug messages where `log` says so and the transport carries them.
pub fn attach(
    wanted: impl IntoIterator<Item = Wanted>,
    kernel: &Kernel,
    settings: &config::Ebpf,
    log: bool,
) -> Vec<Result<Attached, Refused>> {
    let wanted: Vec<Wanted> = wanted.into_iter().collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    // The loader borrows what it writes into the objects, so all rungs are worked out before it is made. And there is only
    // one of it: making one parses the kernel's whole type information, which none of the objects needs.
    let find = |Wanted { row, rungs }: &Wanted| {
        let finders = row.rungs.get(rungs.clone()).unwrap_or_default();
        finders.iter().map(|find| find(kernel, settings)).collect()
    };
    let rungs: Vec<Vec<Result<Rung, Unavailable>>> = wanted.iter().map(find).collect();
    if !rungs.iter().flatten().any(Result::is_ok) {
        let reasons = |rungs: Vec<Result<Rung, Unavailable>>| rungs.into_iter().filter_map(Result::err).collect();
        let refused = wanted.into_iter().zip(rungs);
        return refused.map(|(Wanted { row, .. }, rungs)| Err(Refused { row, reasons: reasons(rungs) })).collect();
    }
    let (kind, no_ring_buffer) = Kind::choose(settings.transport);
    if log && kind != Kind::RingBuffer {
        tracing::warn!("--probe-log has nothing to show: debug messages travel in a ring buffer, and the transport is another");
    }
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    let types = KernelTypes::new();
    let mut results = Vec::new();
    for (Wanted { row, rungs: places }, rungs) in wanted.into_iter().zip(&rungs) {
        let mut reasons: Vec<Unavailable> = no_ring_buffer.iter().cloned().collect();
        let mut attached = None;
        for (place, rung) in places.zip(rungs) {
            let attempt = match rung {
                Ok(rung) => climb(&mut loader, row, rung, kind, log, &types),
                Err(unavailable) => Err(unavailable.clone()),
            };
            match attempt {
                Ok(success) => {
                    attached = Some(Attached { rung: place, ..success });
                    break;
                }
                Err(unavailable) => reasons.push(unavailable),
            }
        }
        results.push(match attached {
            Some(attached) => Ok(Attached { refused: reasons, ..attached }),
            None => Err(Refused { row, reasons }),
        });
    }
    drop((loader, types));
    // SAFETY: malloc_trim has no preconditions. It gives back what parsing took, which is a multiple of what the agent keeps.
    unsafe { libc::malloc_trim(0) };
    results
}

/// Attaches a probe in its way number `rung` alone, counted from the best one on. Dropping it takes it out again.
///
/// # Errors
/// Why this way does not work here, whether or not another one does.
pub fn attach_by(row: &'static Row, rung: usize, kernel: &Kernel, settings: &config::Ebpf) -> Result<Attached, Unavailable> {
    let none = || Unavailable::new(format!("probe {} has {} ways to attach", row.name, row.rungs.len()), "ask for one of those");
    match attach([Wanted { row, rungs: rung..rung + 1 }], kernel, settings, false).pop() {
        Some(Ok(attached)) => Ok(attached),
        Some(Err(Refused { mut reasons, .. })) => Err(reasons.pop().unwrap_or_else(none)),
        None => Err(none()),
    }
}

fn climb<'a>(
    loader: &mut EbpfLoader<'a>,
    row: &'static Row,
    rung: &'a Rung,
    kind: Kind,
    log: bool,
    types: &KernelTypes,
) -> Result<Attached, Unavailable> {
    for (name, value) in &rung.globals {
        loader.override_global(name, value.as_slice(), false);
    }
    let (object, log) = match kind {
        Kind::RingBuffer if log => (row.objects.log, true),
        Kind::RingBuffer => (row.objects.ring, false),
        Kind::PerfArray => (row.objects.perf, false),
    };
    if kind == Kind::RingBuffer {
        loader.map_max_entries("EVENTS", row.ring_bytes);
    }
    let mut ebpf = loader.load(object).map_err(|error| explain(&format!("load the maps of probe {}", row.name), &error))?;
    let log = log.then(|| EbpfLogger::init_with_logger(&mut ebpf, LogToTracing)).transpose();
    let log = log.map_err(|error| explain(&format!("read the debug messages of probe {}", row.name), &error))?;
    let map_bytes: u64 = ebpf.maps().filter_map(|(_, map)| memory_of(map)).sum();
    let (Some(events), Some(counts)) = (ebpf.take_map("EVENTS"), ebpf.take_map("COUNTS")) else {
        return Err(Unavailable::new(format!("the object of probe {} lacks a map", row.name), "rebuild it: cargo xtask ebpf"));
    };
    let failed = |error| explain(&format!("open the maps of probe {}", row.name), &error);
    let counts = PerCpuArray::<MapData, u64>::try_from(counts).map_err(failed)?;
    if counts.len() != COUNTS {
        return Err(Unavailable::new(
            format!("the object of probe {} has other counters", row.name),
            "rebuild it: cargo xtask ebpf",
        ));
    }
    let transport = Transport::open(kind, events, row)?;
    let map_bytes = map_bytes + transport.buffer_bytes();
    // Last, so that the first event finds its way.
    for hook in &rung.hooks {
        hook.attach(&mut ebpf, types)?;
    }
    for hook in &rung.optional {
        if let Err(Unavailable { why, .. }) = hook.attach(&mut ebpf, types) {
            tracing::info!("probe {}: goes without a hook: {why}", row.name);
        }
    }
    let loaded = ebpf.programs().filter_map(|(_, program)| program.fd().ok()?.as_fd().try_clone_to_owned().ok());
    let counts = Counts { map: counts, programs: loaded.collect() };
    let links = Links::of(&counts.programs);
    Ok(Attached { row, source: rung.source, rung: 0, refused: Vec::new(), map_bytes, ebpf, transport, log, counts, links })
}

/// What it takes to attach to the return of a function.
const FUNCTION_EXITS: &str =
    "with CAP_BPF and CAP_PERFMON, a kernel built with BTF and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS can do it";

impl Hook {
    fn attach(&self, ebpf: &mut Ebpf, types: &KernelTypes) -> Result<(), Unavailable> {
        let name = match self {
            Self::Tracepoint { program, .. }
            | Self::BtfTracepoint { program, .. }
            | Self::RawTracepoint { program, .. }
            | Self::Fexit { program, .. }
            | Self::Kprobe { program, .. } => *program,
        };
        let missing = || Unavailable::new(format!("the object has no program {name}"), "rebuild it: cargo xtask ebpf");
        let program = ebpf.program_mut(name).ok_or_else(missing)?;
        // A program that serves many tracepoints is loaded once.
        let loaded = program.fd().is_ok();
        match (self, program) {
            (Self::Tracepoint { category, name: tracepoint, .. }, Program::TracePoint(program)) => {
                if !loaded {
                    program.load().map_err(|error| explain(&format!("load program {name}"), &error))?;
                }
                let attempt = format!("attach to tracepoint {category}/{tracepoint}");
                program.attach(category, tracepoint).map(drop).map_err(|error| explain(&attempt, &error))
            }
            (Self::BtfTracepoint { name: tracepoint, .. }, Program::BtfTracePoint(program)) => {
                let load = format!("load program {name}");
                let types = types.get_or_init(Btf::from_sys_fs).as_ref().map_err(|error| explain(&load, error))?;
                program.load(tracepoint, types).map_err(|error| explain(&load, &error))?;
                let attempt = format!("attach to BTF tracepoint {tracepoint}");
                program.attach().map(drop).map_err(|error| explain(&attempt, &error))
            }
            (Self::Fexit { function, .. }, Program::FExit(program)) => {
                let load = format!("load program {name}");
                let types = types.get_or_init(Btf::from_sys_fs).as_ref().map_err(|error| explain(&load, error))?;
                // The kernel says the same whether it is the privilege or the ability that lacks.
                let refused = |attempt: &str, error| Unavailable { advice: FUNCTION_EXITS.into(), ..explain(attempt, &error) };
                program.load(function, types).map_err(|error| refused(&load, error))?;
                let attempt = format!("attach to the return of the kernel's function {function}");
                program.attach().map(drop).map_err(|error| refused(&attempt, error))
            }
            (Self::RawTracepoint { name: tracepoint, .. }, Program::RawTracePoint(program)) => {
                if !loaded {
                    program.load().map_err(|error| explain(&format!("load program {name}"), &error))?;
                }
                let attempt = format!("attach to raw tracepoint {tracepoint}");
                program.attach(tracepoint).map(drop).map_err(|error| explain(&attempt, &error))
            }
            (Self::Kprobe { functions, .. }, Program::KProbe(program)) => {
                program.load().map_err(|error| explain(&format!("load program {name}"), &error))?;
                let mut refused = missing();
                for function in *functions {
                    match program.attach(function, 0) {
                        Ok(_) => return Ok(()),
                        Err(error) => refused = explain(&format!("probe the kernel's function {function}"), &error),
                    }
                }
                if !Path::new(FUNCTION_PROBES).exists() {
                    refused.advice = "a kernel built with CONFIG_KPROBE_EVENTS can do it".into();
                }
                Err(refused)
            }
            _ => Err(missing()),
        }
    }
}

/// Says what was tried, why it failed with all causes, and what to do about the usual ones.
pub fn explain(attempt: &str, error: &(dyn Error + 'static)) -> Unavailable {
    let mut why = format!("cannot {attempt}: {error}");
    let mut errno = None;
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some errors say what their cause says.
        if !why.ends_with(&inner_text) {
            let _ = write!(why, ": {inner_text}");
        }
        errno = errno.or_else(|| inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error));
        cause = inner.source();
    }
    tracing::debug!("{why}");
    let why = without_verifier_log(&why);
    let advice = match errno {
        _ if why.contains("unknown func") => {
            "kernel lockdown in its mode \"confidentiality\" keeps this from every program; so do kernels that are too old for it"
        }
        Some(libc::EPERM) if why.contains("create map") => {
            "run as root, or with CAP_BPF; before Linux 5.11 with no limit of locked memory as well (LimitMEMLOCK=infinity)"
        }
        Some(libc::EACCES) if why.contains("perf_event_open") => {
            "run as root, or with CAP_PERFMON; where kernel.perf_event_paranoid is above 2, some distributions ask for CAP_SYS_ADMIN"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "run as root, or with CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH; kernel lockdown forbids it to everybody"
        }
        Some(libc::ENOSYS) => "this kernel is built without BPF (CONFIG_BPF_SYSCALL)",
        Some(libc::EINVAL) => {
            "this kernel's BPF lacks something that the probe needs; [ebpf] transport = \"auto\" does without the ring buffer"
        }
        Some(libc::ENOMEM) => "raise the locked-memory limit (LimitMEMLOCK=infinity)",
        _ => "run with --log-level debug for the details",
    };
    Unavailable::new(why, advice)
}

/// The first line of an error; of a verifier's log, which follows in hundreds of lines, the one that says what it refused.
fn without_verifier_log(why: &str) -> String {
    const LOG: &str = "Verifier output:";
    let short = |line: &str| -> String { line.chars().take(300).collect() };
    let Some((what, log)) = why.split_once(LOG) else { return short(why.lines().next().unwrap_or_default()) };
    // Behind it stand statistics.
    let verdict = log.lines().map(str::trim).rfind(|line| {
        let statistics = ["processed ", "verification time ", "stack depth ", "cgroup"];
        // Where it has said nothing, the cause of the error follows at once.
        !line.is_empty() && !line.starts_with(':') && !statistics.iter().any(|start| line.starts_with(start))
    });
    let what = what.trim_end();
    short(&verdict.map_or_else(|| what.to_owned(), |verdict| format!("{what} Verifier: {verdict}")))
}

/// What the kernel accounts to a map: `memlock` in the descriptor's fdinfo.
fn memory_of(map: &aya::maps::Map) -> Option<u64> {
    let data = match map {
        aya::maps::Map::RingBuf(data)
        | aya::maps::Map::PerfEventArray(data)
        | aya::maps::Map::PerCpuArray(data)
        | aya::maps::Map::Array(data)
        | aya::maps::Map::HashMap(data)
        | aya::maps::Map::LruHashMap(data)
        | aya::maps::Map::PerCpuHashMap(data) => data,
        _ => return None,
    };
    fdinfo(data.fd().as_fd(), "memlock")
}

/// A number that the kernel tells of a descriptor in `/proc/self/fdinfo`.
fn fdinfo(fd: BorrowedFd<'_>, key: &str) -> Option<u64> {
    word(&own_fdinfo(fd.as_raw_fd())?, key)?.parse().ok()
}

/// What the kernel tells of a descriptor of this process (proc_pid_fdinfo(5)).
fn own_fdinfo(fd: RawFd) -> Option<String> {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()
}

/// The value of one of its lines.
fn word(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

/// Waits until programs that were running when they were taken out have ended, on every CPU: taking a raw tracepoint's out
/// does not wait for that.
pub fn await_running() {
    // SAFETY: the call has no memory to touch. Where it is not available (`nohz_full`) there is nothing else to wait with, and
    // a program runs for microseconds.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

/// Hands the kernel halves' debug messages to the program's own log.
pub struct LogToTracing;

impl log::Log for LogToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "probe", "{}", record.args());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_verifier_log_only_the_verdict_is_told() {
        let log = "cannot load program x: it returned Invalid argument. Verifier output: 0: (7b) *(u64 *)(r10 -56) = r1\n\
                   ; some source\n9: (85) call bpf_probe_read_kernel#113\nunknown func bpf_probe_read_kernel#113\n\
                   processed 10 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n\n";
        let told = without_verifier_log(log);
        assert_eq!(told, "cannot load program x: it returned Invalid argument. Verifier: unknown func bpf_probe_read_kernel#113");
        assert_eq!(without_verifier_log("cannot load program x: no\nmore"), "cannot load program x: no");
        let silent = "cannot load program x: it returned no. Verifier output: : no (os error 1)";
        assert_eq!(without_verifier_log(silent), "cannot load program x: it returned no.");
    }
}
