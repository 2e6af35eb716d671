//! Hung tasks (kernel/hung_task.c).

use serde_json::json;

use super::Pattern;
use crate::engine::analyzers::event;
use crate::model::Severity;

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "hung_task",
        metric: &event::HUNG_TASK,
        severity: Severity::Warn,
        signal: Some("hung_task"),
        needles: &[" seconds"],
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
        needles: &["blocked on a"],
        regex: r"^INFO: task (?P<comm>.*):(?P<pid>[0-9]+)(?: <[a-z]+>)? (?:is )?blocked on an? (?P<lock>mutex|semaphore|rw-semaphore)(?: likely (?:owned|last held) by task (?P<owner_comm>.*):(?P<owner_pid>[0-9]+)|,)",
        read: |line, found| {
            found.label(line, "pid");
            found.label(line, "comm");
            ["lock", "owner_comm", "owner_pid"].iter().for_each(|name| found.fact(line, name));
            found.is_detail = true;
        },
    },
];
