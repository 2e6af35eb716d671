//! Probe `oom`: the OOM killer marked a victim (`oom/mark_victim`), or is about to kill it (`oom_kill_process`).
//!
//! Runs in the context of the task whose allocation failed, so the current task is the trigger. Whether the kill really
//! happened, the victim's cgroup and its command line are found out in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]

use agent_common::oom::{Fields, OomRecord, Structures};
use agent_common::{COMM_LEN, Registers};
use agent_ebpf::{
    comm_field, comm_member, current_comm, current_process, field, global, member, monotonic_ns, register, send, trace,
};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::macros::{kprobe, raw_tracepoint, tracepoint};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, TracePointContext};

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;
/// Where the members of structures are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static STRUCTURES: Structures = Structures::ABSENT;
/// Where arguments are on this processor; filled in by the loader.
#[unsafe(no_mangle)]
static REGISTERS: Registers = Registers::ABSENT;

/// What is known of a victim.
struct Victim {
    total_vm_kb: u64,
    anon_rss_kb: u64,
    file_rss_kb: u64,
    shmem_rss_kb: u64,
    pgtables_kb: u64,
    pid: u32,
    uid: u32,
    oom_score_adj: i16,
    comm: [u8; COMM_LEN],
}

impl Victim {
    const UNKNOWN: Self = Self {
        total_vm_kb: OomRecord::UNKNOWN,
        anon_rss_kb: OomRecord::UNKNOWN,
        file_rss_kb: OomRecord::UNKNOWN,
        shmem_rss_kb: OomRecord::UNKNOWN,
        pgtables_kb: OomRecord::UNKNOWN,
        pid: 0,
        uid: u32::MAX,
        oom_score_adj: i16::MIN,
        comm: [0; COMM_LEN],
    };
}

/// `oom/mark_victim`
#[tracepoint]
pub fn mark_victim(ctx: TracePointContext) -> u32 {
    let fields = global!(FIELDS);
    let victim = Victim {
        total_vm_kb: field(&ctx, fields.total_vm, OomRecord::UNKNOWN),
        anon_rss_kb: field(&ctx, fields.anon_rss, OomRecord::UNKNOWN),
        file_rss_kb: field(&ctx, fields.file_rss, OomRecord::UNKNOWN),
        shmem_rss_kb: field(&ctx, fields.shmem_rss, OomRecord::UNKNOWN),
        pgtables_kb: field(&ctx, fields.pgtables, OomRecord::UNKNOWN),
        pid: field(&ctx, fields.pid, 0),
        uid: field(&ctx, fields.uid, u32::MAX),
        oom_score_adj: field(&ctx, fields.oom_score_adj, i16::MIN),
        comm: comm_field(&ctx, fields.comm, true),
    };
    marked(&ctx, victim);
    0
}

/// Raw `mark_victim`, whose argument is the victim, or on older kernels its id alone
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn mark_victim_raw(ctx: RawTracePointContext) -> i32 {
    let victim: u64 = ctx.arg(0);
    if global!(STRUCTURES.argument_is_pid) == 0 {
        chosen(&ctx, victim);
    } else {
        marked(&ctx, Victim { pid: victim as u32, ..Victim::UNKNOWN });
    }
    0
}

/// `oom_kill_process(struct oom_control *oc, const char *message)`
#[kprobe]
pub fn oom_kill_process(ctx: ProbeContext) -> u32 {
    let control = register(&ctx, global!(REGISTERS.arguments[0]));
    chosen(&ctx, member(control, global!(STRUCTURES.oom_control_chosen), 0));
    0
}

/// The victim is the task at `task`.
#[inline(always)]
fn chosen(ctx: &impl EbpfContext, task: u64) {
    let at = global!(STRUCTURES);
    let pages = member(member(task, at.task_mm, 0), at.mm_total_vm, OomRecord::UNKNOWN);
    let victim = Victim {
        total_vm_kb: if pages == OomRecord::UNKNOWN { pages } else { pages.wrapping_mul(u64::from(at.page_kb)) },
        pid: member(task, at.task_pid, 0),
        uid: member(member(task, at.task_cred, 0), at.cred_uid, u32::MAX),
        oom_score_adj: member(member(task, at.task_signal, 0), at.signal_oom_score_adj, i16::MIN),
        comm: comm_member(task, at.task_comm),
        ..Victim::UNKNOWN
    };
    marked(ctx, victim);
}

#[inline(always)]
fn marked(ctx: &impl EbpfContext, victim: Victim) {
    trace!(ctx, "oom: victim {} triggered by {}", victim.pid, current_process());
    send::<OomRecord>(ctx, |record| {
        record.write(OomRecord {
            monotonic_ns: monotonic_ns(),
            // SAFETY: the helper has no preconditions.
            trigger_cgroup: unsafe { bpf_get_current_cgroup_id() },
            total_vm_kb: victim.total_vm_kb,
            anon_rss_kb: victim.anon_rss_kb,
            file_rss_kb: victim.file_rss_kb,
            shmem_rss_kb: victim.shmem_rss_kb,
            pgtables_kb: victim.pgtables_kb,
            victim_pid: victim.pid,
            victim_uid: victim.uid,
            trigger_pid: current_process(),
            oom_score_adj: victim.oom_score_adj,
            pad: 0,
            victim_comm: victim.comm,
            trigger_comm: current_comm(),
        });
    });
}
