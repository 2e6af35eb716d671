//! The record of probe `hung_task`: the kernel's detector found a task blocked for too long.

use crate::{ABSENT, COMM_LEN, Global, Record};

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

/// Offsets of the tracepoint's fields, by their names in its `format` file; of the raw tracepoint, in `struct task_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fields {
    /// `pid`
    pub pid: u16,
    /// `comm`, an array on older kernels, a `__data_loc` word on newer ones.
    pub comm: u16,
    /// One where `comm` is a `__data_loc` word.
    pub comm_is_data_loc: u16,
}

impl Fields {
    /// A tracepoint without any field.
    pub const ABSENT: Self = Self { pid: ABSENT, comm: ABSENT, comm_is_data_loc: 0 };
}

const _: () = assert!(size_of::<HungTaskRecord>() == 8 + 2 * 4 + COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for HungTaskRecord {}

const _: () = assert!(size_of::<Fields>() == 3 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Fields {}
