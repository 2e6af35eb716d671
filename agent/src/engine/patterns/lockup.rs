//! CPUs that do not get out of the kernel: soft and hard lockups, RCU stalls, stuck workqueues.

use super::Pattern;
use crate::model::{Metric, Severity, Unit};

/// `kernel_lockup`
pub static LOCKUP: Metric = Metric::gauge(
    "kernel_lockup",
    Unit::Seconds,
    "A CPU that does not get out of the kernel: soft and hard lockups, RCU stalls, workqueues; how long, 0 where unknown; label kind.",
);

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "soft_lockup",
        metric: &LOCKUP,
        severity: Severity::Critical,
        signal: None,
        needles: &["BUG: soft lockup"],
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
        needles: &["Watchdog detected hard LOCKUP"],
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
        needles: &["rcu_"],
        // kernel/rcu/tree_stall.h, kernel/rcu/tasks.h.
        regex: r"^(?:rcu: )?(?:INFO: )?(?P<rcu>rcu_[a-z_]+)(?: self-detected stall on CPU| detected (?:expedited )?stalls on (?:CPUs/)?tasks| kthread (?:starved|timer wakeup didn't happen) for )",
        read: |line, found| {
            found.labels.set("kind", "rcu_stall");
            found.fact(line, "rcu");
            found.value = 0.0;
        },
    },
    Pattern {
        name: "workqueue_lockup",
        metric: &LOCKUP,
        severity: Severity::Critical,
        signal: None,
        needles: &["BUG: workqueue lockup"],
        // kernel/workqueue.c, wq_watchdog_timer_fn().
        regex: r"^BUG: workqueue lockup - pool(?: cpus=(?P<cpu>[0-9,-]+))?.* stuck for (?P<secs>[0-9]+)s!",
        read: |line, found| {
            found.labels.set("kind", "workqueue");
            found.label(line, "cpu");
            found.value = line.number("secs").and_then(|secs| u32::try_from(secs).ok()).map_or(0.0, f64::from);
        },
    },
];
