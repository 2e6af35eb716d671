//! What one screen shows, as plain values: the same for people and, as JSON, for scripts.
//!
//! A value that this host does not give, or that needs two readings and has one, is `None` and `null`. Texts are as they
//! came; whoever prints them escapes them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::model::Timestamp;

/// What is known beside what the engine was told.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Name of the host in alerts.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// When watching began.
    pub since: Timestamp,
    /// When the screen is made.
    pub now: Timestamp,
    /// In which zone times are told.
    pub zone: TimeZone,
    /// Memory of the BPF maps, in bytes.
    pub bpf_map_bytes: u64,
    /// Time of all BPF programs in percent of one core.
    pub bpf_program_percent: Option<f64>,
}

/// One screen.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Of the program.
    pub version: &'static str,
    /// RFC 3339, with zone.
    pub time: String,
    /// How long this program has been looking.
    pub watched_seconds: f64,
    /// Whom it looks at.
    pub host: HostView,
    /// What looking costs.
    pub agent: Cost,
    /// Which signals have their probe.
    pub signals: Vec<SignalView>,
    /// Whether the kernel log is read.
    pub kernel_log_read: bool,
    /// Collectors whose last run failed.
    pub collectors_failing: Vec<String>,
    /// Processors.
    pub cpu: Cpu,
    /// Memory and swap.
    pub memory: Memory,
    /// Pressure by resource; empty where the kernel does not measure it.
    pub pressure: Vec<Pressure>,
    /// Block devices, the busiest first.
    pub disks: Vec<Disk>,
    /// Mounted file systems, the fullest first.
    pub file_systems: Vec<FileSystem>,
    /// Network interfaces, the busiest first.
    pub networks: Vec<Interface>,
    /// Processes.
    pub processes: Processes,
    /// Kernel events and errors in the kernel log since watching began, the newest first.
    pub events: Vec<Event>,
    /// Open alerts, the worst first and of those the youngest.
    pub alerts: Vec<Open>,
}

/// The host.
#[derive(Clone, Debug, Serialize)]
pub struct HostView {
    /// Name in alerts.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Since boot.
    pub uptime_seconds: Option<f64>,
    /// Logical processors that are online.
    pub cores: Option<u64>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [Option<f64>; 3],
}

/// What this program costs.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Processor time in percent of one core, without BPF programs.
    pub cpu_percent: Option<f64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Memory of BPF maps.
    pub bpf_map_bytes: u64,
    /// Time of all BPF programs in percent of one core, where the kernel tells.
    pub bpf_program_percent: Option<f64>,
    /// Series in memory.
    pub series: u64,
}

/// A signal.
#[derive(Clone, Debug, Serialize)]
pub struct SignalView {
    /// The stem of its probe.
    pub signal: &'static str,
    /// Whether the probe is attached; else what `doctor` names stands in.
    pub probe: bool,
}

/// Shares of processor time of all cores, in percent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cpu {
    /// Neither idle nor waiting for I/O.
    pub usage_percent: Option<f64>,
    /// In user mode.
    pub user_percent: Option<f64>,
    /// In kernel mode.
    pub system_percent: Option<f64>,
    /// Idle while I/O was outstanding.
    pub iowait_percent: Option<f64>,
    /// In hardware interrupts.
    pub irq_percent: Option<f64>,
    /// In softirqs.
    pub softirq_percent: Option<f64>,
    /// Given to other guests.
    pub steal_percent: Option<f64>,
    /// Tasks that run or could.
    pub running: Option<u64>,
    /// Tasks that wait for I/O.
    pub blocked: Option<u64>,
}

/// Memory and swap.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Usable memory.
    pub total_bytes: Option<u64>,
    /// Total less available.
    pub used_bytes: Option<u64>,
    /// Used by total.
    pub usage_percent: Option<f64>,
    /// Page cache.
    pub cached_bytes: Option<u64>,
    /// Waits to be written.
    pub dirty_bytes: Option<u64>,
    /// Swap space.
    pub swap_total_bytes: Option<u64>,
    /// Swap in use.
    pub swap_used_bytes: Option<u64>,
    /// Swap used by total.
    pub swap_usage_percent: Option<f64>,
}

/// Share of time, over 10 s, in which work waited for a resource.
#[derive(Clone, Debug, Serialize)]
pub struct Pressure {
    /// cpu, io, memory or irq.
    pub resource: String,
    /// Some tasks waited.
    pub some_percent: Option<f64>,
    /// All tasks that were not idle waited.
    pub full_percent: Option<f64>,
}

/// A block device.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// Its name.
    pub device: String,
    /// Read.
    pub read_bytes_per_second: Option<f64>,
    /// Written.
    pub written_bytes_per_second: Option<f64>,
    /// Share of time with requests in flight.
    pub utilization_percent: Option<f64>,
    /// Mean time of a request.
    pub await_seconds: Option<f64>,
}

/// A mounted file system.
#[derive(Clone, Debug, Serialize)]
pub struct FileSystem {
    /// Where.
    pub mount: String,
    /// Space in use.
    pub usage_percent: f64,
    /// Space that is left.
    pub available_bytes: Option<u64>,
}

/// A network interface.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// Its name.
    pub interface: String,
    /// Received.
    pub receive_bytes_per_second: Option<f64>,
    /// Sent.
    pub transmit_bytes_per_second: Option<f64>,
}

/// Processes.
#[derive(Clone, Debug, Serialize)]
pub struct Processes {
    /// All, kernel threads included.
    pub count: Option<u64>,
    /// Threads of all.
    pub threads: Option<u64>,
    /// Ended and not waited for.
    pub zombies: Option<u64>,
    /// In uninterruptible sleep.
    pub uninterruptible: Option<u64>,
    /// Those that take most processor time or memory or that `track_patterns` names, by processor time.
    pub top: Vec<Process>,
}

/// A process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: u64,
    /// Its command's name.
    pub comm: String,
    /// Processor time; 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open descriptors.
    pub fds: Option<u64>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// RFC 3339, with zone.
    pub time: String,
    /// Who told: `probe`, `poll`, `kmsg`, or `kmsg_user` for what a process wrote into the kernel log.
    pub source: &'static str,
    /// What.
    pub text: String,
}

/// An open alert.
#[derive(Clone, Debug, Serialize)]
pub struct Open {
    /// Of its incident.
    pub id: String,
    /// The worst so far.
    pub severity: &'static str,
    /// What was measured.
    pub metric: Cow<'static, str>,
    /// What it is about.
    pub labels: BTreeMap<String, String>,
    /// What the latest finding said.
    pub message: String,
    /// When it began: RFC 3339, with zone.
    pub since: String,
    /// How long ago that was.
    pub age_seconds: u64,
    /// Single events or passing samples so far.
    pub count: u64,
}

/// By what processes are sorted, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Processor time.
    #[default]
    Cpu,
    /// Resident memory.
    Rss,
}

/// Sorts processes; where they are equal, by the other measure and then by their ids.
pub fn sort(processes: &mut [Process], by: Sort) {
    processes.sort_by(|a, b| {
        let cpu = b.cpu_percent.unwrap_or(0.0).total_cmp(&a.cpu_percent.unwrap_or(0.0));
        let rss = b.rss_bytes.cmp(&a.rss_bytes);
        let measured = if by == Sort::Cpu { cpu.then(rss) } else { rss.then(cpu) };
        measured.then(a.pid.cmp(&b.pid))
    });
}
