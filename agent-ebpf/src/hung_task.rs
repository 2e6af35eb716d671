//! Probe `hung_task`: the kernel's detector found a task blocked for too long (`sched/sched_process_hang`).
//!
//! Runs in khungtaskd, so a stack taken here would be the detector's; the blocked task's own is read in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]

use agent_common::COMM_LEN;
use agent_common::hung_task::{Fields, HungTaskRecord};
use agent_ebpf::{comm_field, comm_member, field, global, member, monotonic_ns, send, trace};
use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{raw_tracepoint, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;

/// `sched/sched_process_hang`
#[tracepoint]
pub fn sched_process_hang(ctx: TracePointContext) -> u32 {
    let fields = global!(FIELDS);
    hung(&ctx, field(&ctx, fields.pid, 0), || comm_field(&ctx, fields.comm, fields.comm_is_data_loc != 0));
    0
}

/// Raw `sched_process_hang`, whose argument is the blocked task
#[raw_tracepoint(tracepoint = "sched_process_hang")]
pub fn sched_process_hang_raw(ctx: RawTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    hung(&ctx, member(task, global!(FIELDS.pid), 0), || comm_member(task, global!(FIELDS.comm)));
    0
}

#[inline(always)]
fn hung(ctx: &impl EbpfContext, pid: u32, comm: impl FnOnce() -> [u8; COMM_LEN]) {
    trace!(ctx, "sched_process_hang: task {}", pid);
    send::<HungTaskRecord>(ctx, |record| {
        record.write(HungTaskRecord { monotonic_ns: monotonic_ns(), pid, pad: 0, comm: comm() });
    });
}
