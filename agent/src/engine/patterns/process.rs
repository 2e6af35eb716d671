//! Processes that the kernel ended for a fault of their own.

use super::Pattern;
use crate::model::{Metric, Severity, Unit};

/// `kernel_segfault`
pub static SEGFAULT: Metric = Metric::gauge(
    "kernel_segfault",
    Unit::Count,
    "Processes that died of a bad memory access or instruction, by command name; label comm.",
);

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "segfault",
        metric: &SEGFAULT,
        severity: Severity::Warn,
        signal: None,
        needles: &["]: segfault at "],
        // arch/x86/mm/fault.c, show_signal_msg(). Each process of a service that dies again and again has another pid.
        regex: r"^(?P<comm>.+)\[(?P<pid>[0-9]+)\]: segfault at (?P<address>[0-9a-f]+) ip (?P<ip>[0-9a-fx]+) sp [0-9a-fx]+ error (?P<error_code>[0-9a-f]+)(?: in (?P<object>[^\[]+)\[)?",
        read: |line, found| {
            found.label(line, "comm");
            ["pid", "address", "object"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "trap",
        metric: &SEGFAULT,
        severity: Severity::Warn,
        signal: None,
        needles: &["] general protection", "] trap ", "]: unhandled "],
        // arch/x86/kernel/traps.c; arch/arm64/kernel/traps.c.
        regex: r"^(?:traps: (?P<comm>.+)\[(?P<pid>[0-9]+)\] (?:trap )?(?P<trap>general protection(?: fault)?|invalid opcode|divide error|stack segment|overflow|bounds|alignment check) ip:[0-9a-f]+ sp:[0-9a-f]+ error:[0-9a-f]+(?: in (?P<object>[^\[]+)\[)?|(?P<arm_comm>.+)\[(?P<arm_pid>[0-9]+)\]: unhandled (?:exception|level [0-9] [a-z]+ fault|translation fault|alignment fault)[^,]*)",
        read: |line, found| {
            for (label, pid) in [("comm", "pid"), ("arm_comm", "arm_pid")] {
                if let Some(comm) = line.text(label) {
                    found.labels.set("comm", comm);
                    line.number(pid).into_iter().for_each(|pid| drop(found.evidence.insert("pid".into(), pid.into())));
                }
            }
            ["trap", "object"].iter().for_each(|name| found.fact(line, name));
        },
    },
];
