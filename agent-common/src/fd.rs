//! The record of probe `fd`: a process was refused a file descriptor.

use crate::{ABSENT, COMM_LEN, Global, Record};

/// Refusals of one process since its last record.
///
/// The first refusal is reported at once, later ones are folded into one record a second.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FdRecord {
    /// `CLOCK_MONOTONIC` when the probe ran, in nanoseconds.
    pub monotonic_ns: u64,
    /// Descriptors that the process was given since the probe first saw it.
    pub allocated: u64,
    /// Process (thread-group) id.
    pub pid: u32,
    /// `EMFILE` (24, the process' limit) or `ENFILE` (23, the system's limit), positive; see errno(3).
    pub errno: u32,
    /// Refusals since the last record of this process, this one included.
    pub count: u32,
    /// Number of the system call that was refused, on this architecture; [`FdRecord::UNKNOWN`] of a record that comes from a
    /// probe on functions.
    pub syscall: u32,
    /// Command name of the process.
    pub comm: [u8; COMM_LEN],
}

impl FdRecord {
    /// The system call where it is not known.
    pub const UNKNOWN: u32 = u32::MAX;
}

/// Offsets of the fields that all `syscalls/sys_exit_*` tracepoints share, by their names in the `format` files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fields {
    /// `__syscall_nr`
    pub syscall_nr: u16,
    /// `ret`
    pub ret: u16,
}

impl Fields {
    /// A tracepoint without any field.
    pub const ABSENT: Self = Self { syscall_nr: ABSENT, ret: ABSENT };
}

const _: () = assert!(size_of::<FdRecord>() == 2 * 8 + 4 * 4 + COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for FdRecord {}

const _: () = assert!(size_of::<Fields>() == 2 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Fields {}
