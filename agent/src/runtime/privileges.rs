//! Gives up, before anything else is done, the privileges that no part of the agent uses.
//!
//! A service manager does better: it starts the agent as a user of its own with these capabilities and no others. This is for
//! the agent that was started as root all the same.

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities as capabilities_of, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::capabilities;

/// What the OOM killer is told of this process (proc_pid_oom_score_adj(5)): with its few megabytes the agent frees nothing worth
/// having, and whoever looks for the cause needs it then. It stays a possible victim, in case it is the agent that leaks.
const OOM_SCORE_ADJ: i32 = -500;

/// Asks the OOM killer to choose others first. Whoever started the agent may have asked for more, which stays. A memory cgroup
/// of its own is another matter: there it is the only candidate.
///
/// # Errors
/// The process may not do that: it takes `CAP_SYS_RESOURCE`.
pub fn avoid_oom_killer() -> std::io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let present: i32 = std::fs::read_to_string(FILE)?.trim().parse().unwrap_or(0);
    if present > OOM_SCORE_ADJ { std::fs::write(FILE, OOM_SCORE_ADJ.to_string()) } else { Ok(()) }
}

/// Keeps of this thread's capabilities those that are used, and lets nothing that it executes gain any. Threads that are started
/// later have the same. Returns what did not work, in words; the agent runs all the same.
pub fn shed() -> Vec<String> {
    let used = capabilities::USED.iter().fold(CapabilitySet::empty(), |all, used| all | used.bit);
    let mut troubles = Vec::new();
    let mut attempt = |what: &str, result: rustix::io::Result<()>| {
        if let Err(error) = result {
            troubles.push(format!("cannot {what}: {error}; the agent has more privileges than it uses"));
        }
    };
    // Before Linux 5.11 BPF maps count as locked memory. Where this is not allowed, loading a probe says what to do.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    attempt("set no_new_privs", set_no_new_privs(true));
    let held = match capabilities_of(None) {
        Ok(held) => held,
        Err(error) => {
            attempt("read the capabilities", Err(error));
            return troubles;
        }
    };
    // Needs SETPCAP, so before that one goes; without it there is nothing in reach that could be gained either.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(used).iter() {
            // A kernel that does not know one of them does not have it to give.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    let kept = CapabilitySets {
        effective: held.effective.intersection(used),
        permitted: held.permitted.intersection(used),
        inheritable: CapabilitySet::empty(),
    };
    attempt("drop capabilities", set_capabilities(None, kept));
    troubles
}
