//! What the kernel writes to its log, as findings: one row in [`PATTERNS`] a kind of line, for all generations of its wording.
//!
//! Every expression is anchored at the start of the line, so that a program that merely quotes the kernel is not mistaken for
//! it. Rows with a signal stand in for that signal's probe; rows without one are seen only here. Nothing is decided here: the
//! reader of a line gets its facts.

use std::cell::OnceCell;
use std::time::Duration;

use regex::{Captures, Regex, RegexSet};
use serde_json::json;

use super::analyzers::event;
use crate::model::{Evidence, Labels, Metric, Severity, Timestamp, Unit};

/// Bytes of a line that are looked at.
const MAX_LINE: usize = 1024;
/// How long after the line that names its cgroup an OOM kill may come.
const SCOPE_LIFETIME: Duration = Duration::from_secs(10);

/// `kernel_hardware_error`
pub static HARDWARE_ERROR: Metric = Metric::gauge(
    "kernel_hardware_error",
    Unit::Count,
    "Hardware errors that the kernel logged: machine checks, memory controller (EDAC) and firmware (APEI) reports.",
);
/// `kernel_filesystem_error`
pub static FILESYSTEM_ERROR: Metric = Metric::gauge(
    "kernel_filesystem_error",
    Unit::Count,
    "File system errors that the kernel logged, and file systems it made read-only for them; label device.",
);
/// `kernel_lockup`
pub static LOCKUP: Metric = Metric::gauge(
    "kernel_lockup",
    Unit::Seconds,
    "A CPU that does not get out of the kernel: soft and hard lockups, RCU stalls; how long, 0 where unknown; label kind.",
);
/// `kernel_oops`
pub static OOPS: Metric =
    Metric::gauge("kernel_oops", Unit::Count, "Faults of the kernel itself that it logged: BUG, Oops, general protection fault.");
/// `kernel_link_down`
pub static LINK_DOWN: Metric =
    Metric::gauge("kernel_link_down", Unit::Count, "Network links that a driver logged as down; label interface.");

/// A kind of line.
pub struct Pattern {
    /// What it is called.
    pub name: &'static str,
    /// The metric of its findings.
    pub metric: &'static Metric,
    /// How bad it is.
    pub severity: Severity,
    /// The probe that sees the same thing, if there is one.
    pub signal: Option<&'static str>,
    /// The line; begins with `^`.
    regex: &'static str,
    read: fn(&Line<'_>, &mut Found),
}

/// The facts of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Labels as a probe would set them, as far as the line knows them.
    pub labels: Labels,
    /// In the unit of the metric.
    pub value: f64,
    /// One sentence.
    pub message: String,
    /// Everything else.
    pub evidence: Evidence,
    /// Whether the line only says more about something that another line has said.
    pub is_detail: bool,
}

/// A matching line, taken apart.
struct Line<'a> {
    captures: Captures<'a>,
    scope: Option<&'a Scope>,
}

impl<'a> Line<'a> {
    fn text(&self, name: &str) -> Option<&str> {
        self.captures.name(name).map(|found| found.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

impl Found {
    fn label(&mut self, line: &Line<'_>, name: &'static str) {
        if let Some(value) = line.text(name) {
            self.labels.set(name, value);
        }
    }

    fn fact(&mut self, line: &Line<'_>, name: &str) {
        if let Some(value) = line.text(name) {
            self.evidence.insert(name.to_owned(), value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number)));
        }
    }
}

/// All patterns. The first that matches a line is taken.
pub const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "oom_kill",
        metric: &event::OOM_KILL,
        severity: Severity::Critical,
        signal: Some("oom"),
        // mm/oom_kill.c: 3.10 and 4.19 without prefix; the middle generations and those from 5.4 with it.
        regex: r"^(?:(?P<constraint>Memory cgroup out of memory|Out of memory)[^:]*: )?Killed process (?P<pid>[0-9]+) \((?P<comm>.*)\),? (?:UID (?P<uid_before>[0-9]+), )?total-vm:(?P<total_vm_kb>[0-9]+)kB, anon-rss:(?P<anon_rss_kb>[0-9]+)kB, file-rss:(?P<file_rss_kb>[0-9]+)kB(?:, shmem-rss:(?P<shmem_rss_kb>[0-9]+)kB)?(?:, UID:(?P<uid>[0-9]+) pgtables:(?P<pgtables_kb>[0-9]+)kB oom_score_adj:(?P<oom_score_adj>-?[0-9]+))?",
        read: |line, found| {
            found.label(line, "pid");
            found.label(line, "comm");
            let facts = ["total_vm_kb", "anon_rss_kb", "file_rss_kb", "shmem_rss_kb", "pgtables_kb", "uid", "oom_score_adj"];
            facts.iter().for_each(|name| found.fact(line, name));
            if let Some(uid) = line.number("uid_before") {
                found.evidence.insert("uid".into(), json!(uid));
            }
            found.evidence.insert("killed".into(), json!(true));
            let scope = line.scope.filter(|scope| scope.pid.as_deref().is_none_or(|pid| Some(pid) == line.text("pid")));
            if let Some(cgroup) = scope.and_then(|scope| scope.cgroup.as_ref()) {
                found.labels.set("cgroup", cgroup);
            }
            let limited = scope.and_then(|scope| scope.limit_cgroup.as_ref());
            let constraint = match (scope.and_then(|scope| scope.constraint), line.text("constraint")) {
                _ if limited.is_some() => Some("memcg"),
                (_, Some(text)) if text.starts_with("Memory") => Some("memcg"),
                (Some(constraint), _) => Some(constraint),
                (None, Some(_)) => Some("none"),
                (None, None) => None,
            };
            let mut fact = |name: &str, fact: Option<&str>| {
                if let Some(fact) = fact {
                    found.evidence.insert(name.into(), json!(fact));
                }
            };
            fact("limit_cgroup", limited.map(String::as_str));
            fact("constraint", constraint);
            fact("trigger_comm", scope.and_then(|scope| scope.trigger_comm.as_deref()));
            if let Some(pid) = scope.and_then(|scope| scope.trigger_pid) {
                found.evidence.insert("trigger_pid".into(), json!(pid));
            }
            let rss = ["anon_rss_kb", "file_rss_kb", "shmem_rss_kb"].iter().filter_map(|name| line.number(name));
            let rss = rss.fold(0, u64::saturating_add);
            let (comm, pid) = (line.text("comm").unwrap_or_default(), line.text("pid").unwrap_or_default());
            found.message = format!("OOM killer killed {comm} (pid {pid}), resident memory {} MiB", rss / 1024);
        },
    },
    Pattern {
        name: "hung_task",
        metric: &event::HUNG_TASK,
        severity: Severity::Warn,
        signal: Some("hung_task"),
        regex: r"^INFO: task (?P<comm>.*):(?P<pid>[0-9]+) blocked (?P<wait>in I/O wait )?for more than (?P<secs>[0-9]+) seconds",
        read: |line, found| {
            found.label(line, "pid");
            found.label(line, "comm");
            let secs = line.number("secs").and_then(|secs| u32::try_from(secs).ok()).unwrap_or(0);
            found.value = f64::from(secs);
            let wait = line.text("wait").unwrap_or_default();
            if !wait.is_empty() {
                found.evidence.insert("io_wait".into(), json!(true));
            }
            let (comm, pid) = (line.text("comm").unwrap_or_default(), line.text("pid").unwrap_or_default());
            found.message = format!("Task {comm} (pid {pid}) blocked {wait}for more than {secs} s");
        },
    },
    Pattern {
        name: "hung_task_owner",
        metric: &event::HUNG_TASK,
        severity: Severity::Warn,
        signal: Some("hung_task"),
        // kernel/hung_task.c, debug_show_blocker(): follows the line above.
        regex: r"^INFO: task (?P<comm>.*):(?P<pid>[0-9]+)(?: <[a-z]+>)? (?:is )?blocked on an? (?P<lock>mutex|semaphore|rw-semaphore)(?: likely (?:owned|last held) by task (?P<owner_comm>.*):(?P<owner_pid>[0-9]+)|,)",
        read: |line, found| {
            found.label(line, "pid");
            found.label(line, "comm");
            ["lock", "owner_comm", "owner_pid"].iter().for_each(|name| found.fact(line, name));
            found.is_detail = true;
        },
    },
    Pattern {
        name: "block_io_error",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: Some("block_io"),
        // block/blk-core.c, blk-mq.c. "operation not supported" is no failure of the device.
        regex: r"^(?:end_request: |blk_update_request: |print_req_error: )?(?P<error>I/O|critical (?:target|nexus|medium|space allocation)|timeout|recoverable transport|protection|device offline|device resource) error, dev (?P<device>[^ ,]+), sector (?P<sector>[0-9]+)(?:.* op 0x[0-9a-f]+:\((?P<op>[A-Z_]+)\))?",
        read: |line, found| {
            found.label(line, "device");
            if let Some(operation) = line.text("op").and_then(operation) {
                found.labels.set("operation", operation);
            }
            found.fact(line, "sector");
            let error = line.text("error").unwrap_or_default();
            found.evidence.insert("error".into(), json!(error_name(error).unwrap_or(error)));
        },
    },
    Pattern {
        name: "buffer_io_error",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: Some("block_io"),
        regex: r"^Buffer I/O error on dev(?:ice)? (?P<device>[^ ,]+), logical block (?P<logical_block>[0-9]+)",
        read: |line, found| {
            found.label(line, "device");
            found.fact(line, "logical_block");
        },
    },
    Pattern {
        name: "machine_check",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        regex: r"^(?:mce: )?\[Hardware Error\]: CPU (?P<cpu>[0-9]+): Machine Check(?: Exception)?: .*Bank (?P<bank>[0-9]+)",
        read: |line, found| {
            found.labels.set("kind", "machine_check");
            found.label(line, "cpu");
            found.label(line, "bank");
        },
    },
    Pattern {
        name: "machine_check_logged",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        regex: r"^(?:mce: )?\[Hardware Error\]: Machine check events logged",
        read: |_, found| found.labels.set("kind", "machine_check"),
    },
    Pattern {
        name: "apei",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        regex: r"^(?:\{[0-9]+\})?\[Hardware Error\]: Hardware error from APEI Generic Hardware Error Source: (?P<error_source>[0-9]+)",
        read: |line, found| {
            found.labels.set("kind", "apei");
            found.label(line, "error_source");
        },
    },
    Pattern {
        name: "edac",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        regex: r"^EDAC (?P<controller>MC[0-9]+)[^ ]*: (?P<errors>[0-9]+ )?(?P<class>CE|UE) ",
        read: |line, found| {
            found.labels.set("kind", if line.text("class") == Some("UE") { "memory_uncorrected" } else { "memory_corrected" });
            found.label(line, "controller");
            let errors = line.text("errors").and_then(|errors| errors.trim_end().parse::<u32>().ok());
            found.value = f64::from(errors.unwrap_or(1));
        },
    },
    Pattern {
        name: "ext4_error",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        regex: r"^EXT4-fs error \(device (?P<device>[^)]+)\)(?:: (?P<function>[A-Za-z0-9_]+):(?P<source_line>[0-9]+))?(?:: inode #(?P<inode>[0-9]+))?(?:: (?:block [0-9]+: )?comm (?P<comm>.*?): )?",
        read: |line, found| {
            found.label(line, "device");
            ["function", "source_line", "inode", "comm"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "remounted_read_only",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        regex: r"^EXT[234]-fs \((?P<device>[^)]+)\): Remounting filesystem read-only",
        read: |line, found| {
            found.label(line, "device");
            found.evidence.insert("remounted_read_only".into(), json!(true));
        },
    },
    Pattern {
        name: "soft_lockup",
        metric: &LOCKUP,
        severity: Severity::Critical,
        signal: None,
        regex: r"^(?:(?:NMI )?watchdog: )?BUG: soft lockup - CPU#(?P<cpu>[0-9]+) stuck for (?P<secs>[0-9]+)s! \[(?P<comm>.*):(?P<pid>[0-9]+)\]",
        read: |line, found| {
            found.labels.set("kind", "soft");
            ["cpu", "comm", "pid"].iter().for_each(|name| found.label(line, name));
            found.value = line.number("secs").and_then(|secs| u32::try_from(secs).ok()).map_or(0.0, f64::from);
        },
    },
    Pattern {
        name: "hard_lockup",
        metric: &LOCKUP,
        severity: Severity::Critical,
        signal: None,
        regex: r"^(?:(?:NMI )?watchdog: )?Watchdog detected hard LOCKUP on cpu (?P<cpu>[0-9]+)",
        read: |line, found| {
            found.labels.set("kind", "hard");
            found.label(line, "cpu");
            found.value = 0.0;
        },
    },
    Pattern {
        name: "rcu_stall",
        metric: &LOCKUP,
        severity: Severity::Critical,
        signal: None,
        regex: r"^(?:rcu: )?INFO: (?P<rcu>rcu_[a-z_]+)(?: self-detected stall on CPU| detected (?:expedited )?stalls on CPUs/tasks)",
        read: |line, found| {
            found.labels.set("kind", "rcu_stall");
            found.fact(line, "rcu");
            found.value = 0.0;
        },
    },
    Pattern {
        name: "oops",
        metric: &OOPS,
        severity: Severity::Critical,
        signal: None,
        // One fault writes several of these lines; without labels they fold into one incident.
        regex: r"^(?:BUG: (?:unable to handle|kernel NULL pointer dereference)|kernel BUG at |(?:Internal error: )?Oops(?:: |\[)|general protection fault(?:, [^:]*)?: .*\[#[0-9]+\])",
        read: |_, _| {},
    },
    Pattern {
        name: "link_down",
        metric: &LINK_DOWN,
        severity: Severity::Warn,
        signal: None,
        // Drivers word it as they like; `driver [pci] interface: [driver: interface] NIC Link is Down` is the common form.
        regex: r"^[A-Za-z0-9_-]+:?(?: [0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])? (?P<interface>[A-Za-z][A-Za-z0-9_.@-]*):? (?:[A-Za-z0-9_-]+: )?(?:[A-Za-z0-9_.@-]+ )?(?:NIC )?(?:Copper )?Link (?:is )?[Dd]own\b",
        read: |line, found| found.label(line, "interface"),
    },
];

/// The probe's name of an operation that the kernel's log writes in capitals (include/linux/blk_types.h).
fn operation(op: &str) -> Option<&'static str> {
    Some(match op {
        "READ" => "read",
        "WRITE" => "write",
        "FLUSH" => "flush",
        "DISCARD" | "SECURE_ERASE" => "discard",
        _ => return None,
    })
}

/// The probe's name of what memory was short of (`enum oom_constraint`, include/linux/oom.h).
fn constraint(text: &str) -> &'static str {
    match text {
        "MEMCG" => "memcg",
        "CPUSET" => "cpuset",
        "MEMORY_POLICY" => "memory_policy",
        _ => "none",
    }
}

/// The probe's name of an error that the kernel's log puts into words (blk_errors, block/blk-core.c).
fn error_name(error: &str) -> Option<&'static str> {
    Some(match error {
        "I/O" => "EIO",
        "timeout" => "ETIMEDOUT",
        "recoverable transport" => "ENOLINK",
        "critical target" => "EREMOTEIO",
        "critical nexus" => "EBADE",
        "critical medium" => "ENODATA",
        "critical space allocation" => "ENOSPC",
        "protection" => "EILSEQ",
        _ => return None,
    })
}

/// Whose memory an OOM kill is about, and who asked for more: comes in lines of its own before the kill, all of them limited in
/// their rate.
#[derive(Debug, Default)]
struct Scope {
    at: Timestamp,
    pid: Option<String>,
    cgroup: Option<String>,
    /// The probe's name of what memory was short of.
    constraint: Option<&'static str>,
    /// The cgroup whose limit was hit; `None` where the host ran out.
    limit_cgroup: Option<String>,
    trigger_comm: Option<String>,
    trigger_pid: Option<u32>,
}

/// Whom or what a line names that more can be found out about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A task that is blocked.
    Blocked(u32),
    /// The victim of the OOM killer, on its way out.
    Killed {
        /// Its process id.
        pid: u32,
        /// Whether a cgroup was out of memory, and not the host.
        of_cgroup: bool,
    },
    /// The cgroup whose limit makes the next victim.
    Limiting(&'a str),
}

impl Named<'_> {
    /// The stem of the probe that finds this out where it is attached.
    pub const fn signal(self) -> &'static str {
        match self {
            Self::Blocked(_) => "hung_task",
            Self::Killed { .. } | Self::Limiting(_) => "oom",
        }
    }
}

/// Looks at a line of the kernel's log for what the host can still tell about; costs far less than reading it.
pub fn named(text: &str) -> Option<Named<'_>> {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    if let Some(rest) = text.strip_prefix("INFO: task ") {
        let (task, _) = rest.split_once(" blocked ")?;
        return task.rsplit_once(':')?.1.parse().ok().map(Named::Blocked);
    }
    if let Some(rest) = text.strip_prefix("oom-kill:") {
        return Some(Named::Limiting(rest.split_once(",oom_memcg=")?.1.split_once(",task_memcg=")?.0));
    }
    let (start, rest) = text.split_once("Killed process ")?;
    let is_kernels = start.is_empty() || start.starts_with("Out of memory") || start.starts_with("Memory cgroup out of memory");
    let of_cgroup = start.starts_with("Memory");
    if is_kernels { number(rest).map(|pid| Named::Killed { pid, of_cgroup }) } else { None }
}

/// All patterns, compiled, and what must be remembered between two lines.
pub struct Patterns {
    set: RegexSet,
    /// The expressions of [`PATTERNS`] and [`SCOPES`], each compiled when a line matches it for the first time: together they
    /// take half a megabyte, and most hosts never log most of these lines.
    each: Vec<(&'static str, OnceCell<Regex>)>,
    scope: Option<Scope>,
}

/// Lines that say whose memory it is, from 5.0 and before; and who asked for more, with the line of the stack that follows.
const SCOPES: [&str; 4] = [
    r"^oom-kill:constraint=CONSTRAINT_(?P<constraint>[A-Z_]+),(?:.*,)?(?:oom_memcg=(?P<limit>.*)|global_oom),task_memcg=(?P<cgroup>.*),task=.*,pid=(?P<pid>[0-9]+),uid=[0-9]+$",
    r"^Task in (?P<cgroup>/.*) killed as a result of limit of (?P<limit>/.*)$",
    r"^(?P<trigger>.*) invoked oom-killer: gfp_mask=",
    r"^CPU: [0-9]+ (?:UID: [0-9]+ )?PID: (?P<trigger_pid>[0-9]+) Comm: ",
];

impl Default for Patterns {
    fn default() -> Self {
        Self::new()
    }
}

impl Patterns {
    /// Compiles the table.
    #[expect(clippy::expect_used, reason = "constants, compiled by every test that reads a line")]
    pub fn new() -> Self {
        let each: Vec<_> =
            PATTERNS.iter().map(|pattern| pattern.regex).chain(SCOPES).map(|regex| (regex, OnceCell::new())).collect();
        let set = RegexSet::new(each.iter().map(|(regex, _)| regex)).expect("the table of patterns holds no regular expression");
        Self { set, each, scope: None }
    }

    /// The facts of a line of the kernel's log, if they are of interest.
    pub fn read(&mut self, at: Timestamp, text: &str) -> Option<(&'static Pattern, Found)> {
        let text = text.get(..text.floor_char_boundary(MAX_LINE)).unwrap_or_default();
        let matched = self.set.matches(text).into_iter().next()?;
        let (source, regex) = self.each.get(matched)?;
        let regex = match regex.get() {
            Some(regex) => regex,
            None => {
                // It is part of the set, so it cannot fail.
                let compiled = Regex::new(source).ok()?;
                regex.get_or_init(|| compiled)
            }
        };
        let captures = regex.captures(text)?;
        let Some(pattern) = PATTERNS.get(matched) else {
            let owned = |name: &str| captures.name(name).map(|found| found.as_str().to_owned());
            let known = self.scope.take().filter(|scope| at.since(scope.at) <= SCOPE_LIFETIME).unwrap_or_default();
            let trigger_pid = captures.name("trigger_pid").and_then(|pid| pid.as_str().parse().ok());
            self.scope = Some(match (owned("trigger"), owned("cgroup")) {
                (Some(trigger), _) => Scope { at, trigger_comm: Some(trigger), ..Scope::default() },
                (None, Some(cgroup)) => Scope {
                    at,
                    pid: owned("pid"),
                    cgroup: Some(cgroup),
                    constraint: captures.name("constraint").map(|text| constraint(text.as_str())),
                    limit_cgroup: owned("limit"),
                    ..known
                },
                // Any stack in the log has such a line; only the one behind a trigger is the trigger's.
                (None, None) if known.trigger_comm.is_some() => Scope { trigger_pid: known.trigger_pid.or(trigger_pid), ..known },
                (None, None) => known,
            });
            return None;
        };
        let scope = self.scope.as_ref().filter(|scope| at.since(scope.at) <= SCOPE_LIFETIME);
        let mut found =
            Found { labels: Labels::new(), value: 1.0, message: text.to_owned(), evidence: Evidence::new(), is_detail: false };
        found.evidence.insert("line".into(), json!(text));
        (pattern.read)(&Line { captures, scope }, &mut found);
        if pattern.metric == &event::OOM_KILL {
            self.scope = None;
        }
        Some((pattern, found))
    }
}
