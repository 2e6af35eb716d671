//! The record of probe `fd`: a process was refused a file descriptor.

use crate::{COMM_LEN, Record};

/// Refusals of one process since its last record.
///
/// The first refusal is reported at once, later ones are folded into at most one record an interval.
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
    /// Number of the system call that was refused, on this architecture.
    pub syscall: u32,
    /// Command name of the process.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<FdRecord>() == 2 * 8 + 4 * 4 + COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for FdRecord {}
