//! The kernel's BTF, which every way to attach a probe reads.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sysops_agent::config::Ebpf;
use sysops_agent::probes::{Kernel, PROBES};
use sysops_agent_fuzz::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::new("btf"));

fuzz_target!(|input: &[u8]| {
    TREE.write("sys/kernel/btf/vmlinux", input);
    let kernel = Kernel::new(TREE.host());
    for rung in PROBES.iter().flat_map(|row| row.rungs) {
        let _ = rung(&kernel, &Ebpf::default());
    }
});
