//! Records of the BPF programs: the number of a probe, one byte, and the record.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use sysops_agent::config::Ebpf;
use sysops_agent::probes::{PROBES, Probe};
use sysops_agent_fuzz::Tree;

static ALL: LazyLock<Vec<Arc<dyn Probe>>> = LazyLock::new(|| {
    let host = Tree::new("records").host();
    PROBES.iter().map(|row| (row.build)(&host, &Ebpf::default())).collect()
});

fuzz_target!(|input: &[u8]| {
    let Some((&number, record)) = input.split_first() else { return };
    let probe = &ALL[usize::from(number) % ALL.len()];
    if let Some(event) = probe.decode(record) {
        assert!(!probe.describe(&event).is_empty());
    }
});
