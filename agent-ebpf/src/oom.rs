//! Probe `oom`: the OOM killer marked a victim (`oom/mark_victim`).
//!
//! Runs in the context of the task whose allocation failed, so the current task is the trigger. Whether the kill really
//! happened, the victim's cgroup and its command line are found out in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]

use agent_common::oom::{Fields, OomRecord};
use agent_ebpf::{comm_field, current_comm, current_process, field, global, monotonic_ns, send, trace};
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;

/// `oom/mark_victim`
#[tracepoint]
pub fn mark_victim(ctx: TracePointContext) -> u32 {
    let fields = global!(FIELDS);
    let victim_pid = field(&ctx, fields.pid, 0);
    trace!(&ctx, "oom/mark_victim: victim {} triggered by {}", victim_pid, current_process());
    send::<OomRecord>(&ctx, |record| {
        record.write(OomRecord {
            monotonic_ns: monotonic_ns(),
            // SAFETY: the helper has no preconditions.
            trigger_cgroup: unsafe { bpf_get_current_cgroup_id() },
            total_vm_kb: field(&ctx, fields.total_vm, OomRecord::UNKNOWN),
            anon_rss_kb: field(&ctx, fields.anon_rss, OomRecord::UNKNOWN),
            file_rss_kb: field(&ctx, fields.file_rss, OomRecord::UNKNOWN),
            shmem_rss_kb: field(&ctx, fields.shmem_rss, OomRecord::UNKNOWN),
            pgtables_kb: field(&ctx, fields.pgtables, OomRecord::UNKNOWN),
            victim_pid,
            victim_uid: field(&ctx, fields.uid, u32::MAX),
            trigger_pid: current_process(),
            oom_score_adj: field(&ctx, fields.oom_score_adj, i16::MIN),
            pad: 0,
            victim_comm: comm_field(&ctx, fields.comm, true),
            trigger_comm: current_comm(),
        });
    });
    0
}
