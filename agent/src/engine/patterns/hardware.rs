//! What the hardware reports about itself: machine checks, memory, PCI Express, GPUs, temperature.

use super::Pattern;
use crate::model::{Metric, Severity, Unit};

/// `kernel_hardware_error`
pub static HARDWARE_ERROR: Metric = Metric::gauge(
    "kernel_hardware_error",
    Unit::Count,
    "Hardware errors that the kernel logged: machine checks, memory (EDAC), firmware (APEI), PCIe, GPUs, overheating; label kind.",
);
/// `kernel_cpu_throttled`
pub static CPU_THROTTLED: Metric = Metric::gauge(
    "kernel_cpu_throttled",
    Unit::Count,
    "CPUs that the kernel logged as slowed down because they are too hot; label scope: core or package.",
);

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "machine_check",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["Machine Check"],
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
        needles: &["Machine check events logged"],
        regex: r"^(?:mce: )?\[Hardware Error\]: Machine check events logged",
        read: |_, found| found.labels.set("kind", "machine_check"),
    },
    Pattern {
        name: "apei",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["Hardware error from APEI "],
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
        needles: &["EDAC MC"],
        regex: r"^EDAC (?P<controller>MC[0-9]+)[^ ]*: (?P<errors>[0-9]+ )?(?P<class>CE|UE) ",
        read: |line, found| {
            found.labels.set("kind", if line.text("class") == Some("UE") { "memory_uncorrected" } else { "memory_corrected" });
            found.label(line, "controller");
            let errors = line.text("errors").and_then(|errors| errors.trim_end().parse::<u32>().ok());
            found.value = f64::from(errors.unwrap_or(1));
        },
    },
    Pattern {
        name: "memory_failure",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &[": recovery action for "],
        // mm/memory-failure.c, action_result(); before 4.x `MCE 0x…`.
        regex: r"^(?:Memory failure:|MCE) (?P<page>0x[0-9a-f]+): recovery action for (?P<page_kind>.*): (?P<result>Ignored|Failed|Delayed|Recovered)",
        read: |line, found| {
            found.labels.set("kind", "memory_failure");
            ["page", "page_kind", "result"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "pcie_error",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["PCIe Bus Error: severity="],
        // drivers/pci/pcie/aer.c: 3.10 with the id of the reporter, later with the role of the agent; 6.10 and later say
        // "Correctable".
        regex: r"^[^ ]+ (?P<device>[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]): (?:AER: )?PCIe Bus Error: severity=(?P<class>Correct|Uncorrect)(?:ed|able)(?: \((?P<fatal>Fatal|Non-Fatal)\))?, type=(?P<layer>[^,]+)",
        read: |line, found| {
            found.labels.set("kind", if line.text("class") == Some("Correct") { "pcie_corrected" } else { "pcie_uncorrected" });
            found.label(line, "device");
            ["layer", "fatal"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "gpu_xid",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["NVRM: Xid "],
        // https://docs.nvidia.com/deploy/xid-errors/: with and without "PCI:", process id in quotes where it is unknown.
        regex: r"^NVRM: Xid \((?:PCI:)?(?P<device>[0-9a-fA-F:.]+)\): (?P<xid>[0-9]+),(?:.*? pid='?(?P<pid>[0-9]+)'?)?(?:,? name=(?P<comm>[^,]+))?",
        read: |line, found| {
            found.labels.set("kind", "gpu_xid");
            ["device", "xid"].iter().for_each(|name| found.label(line, name));
            ["pid", "comm"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "nmi",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["NMI: "],
        // arch/x86/kernel/nmi.c.
        regex: r"^NMI: (?P<error>PCI system error \(SERR\)|IOCK error|memory parity error)",
        read: |line, found| {
            found.labels.set("kind", "nmi");
            found.fact(line, "error");
        },
    },
    Pattern {
        name: "critical_temperature",
        metric: &HARDWARE_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["ritical temperature reached"],
        // drivers/thermal/thermal_core.c, drivers/acpi/thermal.c before 3.x.
        regex: r"^(?:thermal (?P<zone>thermal_zone[0-9]+): (?:[^ ]+: )?c|ACPI: C|C)ritical temperature reached(?: ?\((?P<celsius>[0-9]+) ?C\))?",
        read: |line, found| {
            found.labels.set("kind", "thermal");
            found.label(line, "zone");
            found.fact(line, "celsius");
        },
    },
    Pattern {
        name: "cpu_throttled",
        metric: &CPU_THROTTLED,
        severity: Severity::Warn,
        signal: None,
        needles: &["temperature above threshold", "temperature is above threshold"],
        // arch/x86/kernel/cpu/mce/therm_throt.c, drivers/thermal/intel/therm_throt.c. All CPUs of a package say the same.
        regex: r"^(?:mce: )?CPU(?P<cpu>[0-9]+): (?P<scope>Core|Package) temperature (?:is )?above threshold, cpu clock (?:is )?throttled(?: \(total events = (?P<events>[0-9]+)\))?",
        read: |line, found| {
            found.labels.set("scope", if line.text("scope") == Some("Core") { "core" } else { "package" });
            ["cpu", "events"].iter().for_each(|name| found.fact(line, name));
        },
    },
];
