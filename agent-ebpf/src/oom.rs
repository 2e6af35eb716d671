//! Probe `oom`: the OOM killer marked a victim (`oom/mark_victim`), or is about to kill it (`oom_kill_process`).
//!
//! Runs in the context of the task whose allocation failed, so the current task is the trigger. Whether the kill really
//! happened, the victim's cgroup and its command line are found out in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]

use agent_common::Registers;
use agent_common::oom::{Fields, OomRecord, Structures};
use agent_ebpf::{
    comm_field, comm_member, current_comm, current_process, field, global, member, monotonic_ns, register, send, trace,
};
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::macros::{kprobe, tracepoint};
use aya_ebpf::programs::{ProbeContext, TracePointContext};

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;
/// Where the members of structures are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static STRUCTURES: Structures = Structures::ABSENT;
/// Where arguments are on this processor; filled in by the loader.
#[unsafe(no_mangle)]
static REGISTERS: Registers = Registers::ABSENT;

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
            is_function: 0,
            victim_comm: comm_field(&ctx, fields.comm, true),
            trigger_comm: current_comm(),
        });
    });
    0
}

/// `oom_kill_process(struct oom_control *oc, const char *message)`
#[kprobe]
pub fn oom_kill_process(ctx: ProbeContext) -> u32 {
    let at = global!(STRUCTURES);
    let control = register(&ctx, global!(REGISTERS.arguments[0]));
    let victim: u64 = member(control, at.oom_control_chosen, 0);
    let victim_pid = member(victim, at.task_pid, 0);
    trace!(&ctx, "oom_kill_process: victim {} triggered by {}", victim_pid, current_process());
    let pages = member(member(victim, at.task_mm, 0), at.mm_total_vm, OomRecord::UNKNOWN);
    send::<OomRecord>(&ctx, |record| {
        record.write(OomRecord {
            monotonic_ns: monotonic_ns(),
            // SAFETY: the helper has no preconditions.
            trigger_cgroup: unsafe { bpf_get_current_cgroup_id() },
            total_vm_kb: if pages == OomRecord::UNKNOWN { pages } else { pages.wrapping_mul(u64::from(at.page_kb)) },
            anon_rss_kb: OomRecord::UNKNOWN,
            file_rss_kb: OomRecord::UNKNOWN,
            shmem_rss_kb: OomRecord::UNKNOWN,
            pgtables_kb: OomRecord::UNKNOWN,
            victim_pid,
            victim_uid: member(member(victim, at.task_cred, 0), at.cred_uid, u32::MAX),
            trigger_pid: current_process(),
            oom_score_adj: member(member(victim, at.task_signal, 0), at.signal_oom_score_adj, i16::MIN),
            is_function: 1,
            victim_comm: comm_member(victim, at.task_comm),
            trigger_comm: current_comm(),
        });
    });
    0
}
