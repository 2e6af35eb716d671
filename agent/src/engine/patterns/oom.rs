//! OOM kills, and the lines before them that say whose memory it is and who asked for more.

use std::time::Duration;

use regex::Captures;
use serde_json::json;

use super::Pattern;
use crate::engine::analyzers::event;
use crate::model::{Severity, Timestamp};

/// How long after the line that names its cgroup an OOM kill may come.
const SCOPE_LIFETIME: Duration = Duration::from_secs(10);

pub(super) const PATTERNS: &[Pattern] = &[Pattern {
    name: "oom_kill",
    metric: &event::OOM_KILL,
    severity: Severity::Critical,
    signal: Some("oom"),
    // mm/oom_kill.c: 3.10 and 4.19 without prefix; the middle generations and those from 5.4 with it.
    needles: &["Killed process "],
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
}];

/// The probe's name of what memory was short of (`enum oom_constraint`, include/linux/oom.h).
fn constraint(text: &str) -> &'static str {
    match text {
        "MEMCG" => "memcg",
        "CPUSET" => "cpuset",
        "MEMORY_POLICY" => "memory_policy",
        _ => "none",
    }
}

/// Whose memory an OOM kill is about, and who asked for more: comes in lines of its own before the kill, all of them limited in
/// their rate.
#[derive(Debug, Default)]
pub(super) struct Scope {
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

/// A line of [`SCOPES`]: what it contains in any case, and its expression.
pub(super) struct ScopeLine {
    pub(super) needle: &'static str,
    pub(super) regex: &'static str,
}

/// Lines that say whose memory it is, from 5.0 and before; and who asked for more, with the line of the stack that follows.
pub(super) const SCOPES: [ScopeLine; 4] = [
    ScopeLine {
        needle: "oom-kill:constraint=",
        regex: r"^oom-kill:constraint=CONSTRAINT_(?P<constraint>[A-Z_]+),(?:.*,)?(?:oom_memcg=(?P<limit>.*)|global_oom),task_memcg=(?P<cgroup>.*),task=.*,pid=(?P<pid>[0-9]+),uid=[0-9]+$",
    },
    ScopeLine {
        needle: "killed as a result of limit of ",
        regex: r"^Task in (?P<cgroup>/.*) killed as a result of limit of (?P<limit>/.*)$",
    },
    ScopeLine { needle: "invoked oom-killer: ", regex: r"^(?P<trigger>.*) invoked oom-killer: gfp_mask=" },
    ScopeLine { needle: " Comm: ", regex: r"^CPU: [0-9]+ (?:UID: [0-9]+ )?PID: (?P<trigger_pid>[0-9]+) Comm: " },
];

impl Scope {
    /// What is known after a line of [`SCOPES`].
    pub(super) fn after(scope: Option<Self>, at: Timestamp, captures: &Captures<'_>) -> Self {
        let owned = |name: &str| captures.name(name).map(|found| found.as_str().to_owned());
        let known = scope.filter(|scope| scope.is_of(at)).unwrap_or_default();
        let trigger_pid = captures.name("trigger_pid").and_then(|pid| pid.as_str().parse().ok());
        match (owned("trigger"), owned("cgroup")) {
            (Some(trigger), _) => Self { at, trigger_comm: Some(trigger), ..Self::default() },
            (None, Some(cgroup)) => Self {
                at,
                pid: owned("pid"),
                cgroup: Some(cgroup),
                constraint: captures.name("constraint").map(|text| constraint(text.as_str())),
                limit_cgroup: owned("limit"),
                ..known
            },
            // Any stack in the log has such a line; only the one behind a trigger is the trigger's.
            (None, None) if known.trigger_comm.is_some() => Self { trigger_pid: known.trigger_pid.or(trigger_pid), ..known },
            (None, None) => known,
        }
    }

    /// Whether it may still be about a kill at `at`.
    pub(super) fn is_of(&self, at: Timestamp) -> bool {
        at.since(self.at) <= SCOPE_LIFETIME
    }
}
