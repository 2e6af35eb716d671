//! `format` files of tracefs, which every way to attach a probe reads.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sysops_agent::config::Ebpf;
use sysops_agent::probes::{Kernel, PROBES};
use sysops_agent_fuzz::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::new("tracefs"));

/// Those that probes go to.
const EVENTS: [&str; 7] = [
    "oom/mark_victim",
    "sched/sched_process_hang",
    "block/block_rq_issue",
    "block/block_rq_insert",
    "block/block_rq_complete",
    "tcp/tcp_retransmit_skb",
    "syscalls/sys_exit_openat",
];

fuzz_target!(|input: &[u8]| {
    for event in EVENTS {
        TREE.write(&format!("sys/kernel/tracing/events/{event}/format"), input);
    }
    let kernel = Kernel::new(TREE.host());
    for rung in PROBES.iter().flat_map(|row| row.rungs) {
        let _ = rung(&kernel, &Ebpf::default());
    }
});
