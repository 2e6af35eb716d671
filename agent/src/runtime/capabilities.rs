//! The capabilities that the agent uses (capabilities(7)), and what each costs where it is missing.

use rustix::thread::{CapabilitySet, capabilities};

/// One of them.
#[derive(Debug)]
pub struct Capability {
    /// Its name without `CAP_`.
    pub name: &'static str,
    /// Itself.
    pub bit: CapabilitySet,
    /// What there is not without it.
    pub costs: &'static str,
}

/// All that are used.
pub const USED: [Capability; 6] = [
    Capability { name: "BPF", bit: CapabilitySet::BPF, costs: "every probe: events come from the kernel log, /proc and /sys" },
    Capability {
        name: "PERFMON",
        bit: CapabilitySet::PERFMON,
        costs: "every probe: events come from the kernel log, /proc and /sys",
    },
    Capability {
        name: "DAC_READ_SEARCH",
        bit: CapabilitySet::DAC_READ_SEARCH,
        costs: "tracefs where it is closed to this user, and with it some ways to attach a probe",
    },
    Capability {
        name: "SYSLOG",
        bit: CapabilitySet::SYSLOG,
        costs: "the kernel log where kernel.dmesg_restrict is 1: the second witness of most events, and what only the log tells",
    },
    Capability {
        name: "SYS_PTRACE",
        bit: CapabilitySet::SYS_PTRACE,
        costs: "kinds of other users' descriptors, owners of their sockets, and where in the kernel their tasks are blocked",
    },
    Capability {
        name: "SYS_ADMIN",
        bit: CapabilitySet::SYS_ADMIN,
        costs: "the kernel stack of a hung task, and the time that BPF programs take; before Linux 5.8 every probe",
    },
];

/// Those that this process does not have and that would make a difference.
pub fn missing() -> Vec<&'static Capability> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // What the two split off from it allow, it allows as well (bpf_capable and perfmon_capable, include/linux/capability.h).
    let implied = if held.contains(CapabilitySet::SYS_ADMIN) {
        CapabilitySet::BPF | CapabilitySet::PERFMON
    } else {
        CapabilitySet::empty()
    };
    USED.iter().filter(|used| !(held | implied).contains(used.bit)).collect()
}
