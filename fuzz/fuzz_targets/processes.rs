//! What is found out about a process for evidence: any of its files says anything.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sysops_agent_fuzz::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::new("processes"));

fuzz_target!(|input: &[u8]| {
    for file in ["stat", "status", "cgroup", "stack", "limits", "cmdline", "comm", "wchan", "syscall"] {
        TREE.write(&format!("proc/7/{file}"), input);
    }
    let host = TREE.host();
    let process = host.process(7);
    process.blocked_facts(&mut |_, _| {});
    let _ = (process.start_ticks(), process.switches(), process.descriptor_limit(), process.comm());
    if let Some(cgroup) = process.cgroup("memory") {
        host.memory_limit(&cgroup);
    }
});
