//! The record of probe `hung_task`: the kernel's detector found a task blocked for too long.

use crate::{COMM_LEN, Record};

/// One `sched/sched_process_hang` event (include/trace/events/sched.h).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HungTaskRecord {
    /// `CLOCK_MONOTONIC` when the probe ran, in nanoseconds.
    pub monotonic_ns: u64,
    /// Thread id of the blocked task.
    pub pid: u32,
    /// Zero.
    pub pad: u32,
    /// Command name of the blocked task.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<HungTaskRecord>() == 8 + 2 * 4 + COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for HungTaskRecord {}
