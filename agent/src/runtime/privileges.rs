//! Gives up, before anything else is done, the privileges that no part of the agent uses.
//!
//! A service manager does better: it starts the agent as a user of its own with these capabilities and no others. This is for
//! the agent that was started as root all the same.

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What is kept where it was given, and for what (capabilities(7)).
///
/// - `BPF` and `PERFMON`: loading and attaching BPF programs, now and after a reload.
/// - `DAC_READ_SEARCH`: tracefs, which is mode 0700, and files of other users' processes.
/// - `SYSLOG`: `/dev/kmsg` where `kernel.dmesg_restrict` is set.
/// - `SYS_PTRACE`: descriptors, namespaces, `wchan` and system call of other users' processes.
/// - `SYS_ADMIN`: the kernel stack of a blocked task (`proc_pid_stack`, fs/proc/base.c), and all of BPF before Linux 5.8.
const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_ADMIN);

/// Keeps of this thread's capabilities those that are used, and lets nothing that it executes gain any. Threads that are started
/// later have the same. Returns what did not work, in words; the agent runs all the same.
pub fn shed() -> Vec<String> {
    let mut troubles = Vec::new();
    let mut attempt = |what: &str, result: rustix::io::Result<()>| {
        if let Err(error) = result {
            troubles.push(format!("cannot {what}: {error}; the agent has more privileges than it uses"));
        }
    };
    // Before Linux 5.11 BPF maps count as locked memory. Where this is not allowed, loading a probe says what to do.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    attempt("set no_new_privs", set_no_new_privs(true));
    let held = match capabilities(None) {
        Ok(held) => held,
        Err(error) => {
            attempt("read the capabilities", Err(error));
            return troubles;
        }
    };
    // Needs SETPCAP, so before that one goes; without it there is nothing in reach that could be gained either.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(KEPT).iter() {
            // A kernel that does not know one of them does not have it to give.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    let kept = CapabilitySets {
        effective: held.effective.intersection(KEPT),
        permitted: held.permitted.intersection(KEPT),
        inheritable: CapabilitySet::empty(),
    };
    attempt("drop capabilities", set_capabilities(None, kept));
    troubles
}
