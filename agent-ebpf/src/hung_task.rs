//! Probe `hung_task`: the kernel's detector found a task blocked for too long (`sched/sched_process_hang`).
//!
//! Runs in khungtaskd, so a stack taken here would be the detector's; the blocked task's own is read in user space.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]

use agent_common::hung_task::{Fields, HungTaskRecord};
use agent_ebpf::{comm_field, field, global, monotonic_ns, send, trace};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;

/// `sched/sched_process_hang`
#[tracepoint]
pub fn sched_process_hang(ctx: TracePointContext) -> u32 {
    let fields = global!(FIELDS);
    let pid = field(&ctx, fields.pid, 0);
    trace!(&ctx, "sched/sched_process_hang: task {}", pid);
    send::<HungTaskRecord>(&ctx, |record| {
        record.write(HungTaskRecord {
            monotonic_ns: monotonic_ns(),
            pid,
            pad: 0,
            comm: comm_field(&ctx, fields.comm, fields.comm_is_data_loc != 0),
        });
    });
    0
}
