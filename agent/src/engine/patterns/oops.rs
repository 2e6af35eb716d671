//! Faults of the kernel itself.

use super::Pattern;
use crate::model::{Metric, Severity, Unit};

/// `kernel_oops`
pub static OOPS: Metric = Metric::gauge(
    "kernel_oops",
    Unit::Count,
    "Faults of the kernel itself that it logged: BUG, Oops, general protection fault, panic.",
);

pub(super) const PATTERNS: &[Pattern] = &[Pattern {
    name: "oops",
    metric: &OOPS,
    severity: Severity::Critical,
    signal: None,
    needles: &["BUG", "Oops", "[#", "Unable to handle kernel ", "Kernel panic - not syncing", "kernel tried to execute"],
    // One fault writes several of these lines; without labels they fold into one incident. 6.x puts "Oops: " before the others;
    // arm64, s390 and powerpc have their own words (arch/*/mm/fault.c, arch/*/kernel/traps.c, kernel/panic.c).
    regex: r"^(?:BUG: (?:unable to handle|kernel NULL pointer dereference|[Bb]ad |scheduling while atomic|sleeping function called|KASAN|KFENCE|stack guard page|TASK stack|IRQ stack|non-zero|spinlock|rwlock|corrupt|Dentry|workqueue leaked)|kernel BUG at |(?:Internal error: )?Oops(?:: | - |\[)|(?:Oops: )?(?:general protection fault|invalid opcode|stack segment|divide error|double fault|invalid TSS|segment not present|control protection fault)(?:, [^:]*)?: .*\[#[0-9]+\]|PANIC: double fault|[Uu]nable to handle kernel (?:NULL pointer|paging request|pointer|access|read|write|data|instruction)|kernel tried to execute |Kernel panic - not syncing: )",
    read: |_, _| {},
}];
