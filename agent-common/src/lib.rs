//! The binary interface between the BPF programs and user space.
//!
//! One module per probe. Every record is `repr(C)`, has its padding spelled out, no implicit padding and a size assertion, so
//! that both sides, built by different compilers' back ends, read the same bytes. Nothing here knows what a record means to
//! the product; that is the business of the probe's user half.

#![no_std]

pub mod block_io;
pub mod fd;
pub mod hung_task;
pub mod oom;
pub mod tcp_retransmit;

/// Length of a task's command name, with its terminating NUL (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;

/// The offset of a field that this kernel's tracepoint does not have.
pub const ABSENT: u16 = u16::MAX;

/// A record that user space may copy out of raw bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding and no pointers, and every bit pattern is a valid value of it.
pub unsafe trait Record: Copy {
    /// Copies the record from the start of `bytes`, or says `None` where they are too short.
    ///
    /// Longer input is accepted: transports round records up to whole words.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the source may be unaligned, and the trait promises that any bits are a valid value.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) })
    }
}

/// A value that the loader writes into an object before the kernel sees it.
///
/// # Safety
/// The type is `repr(C)` and has no padding and no pointers.
pub unsafe trait Global: Copy {
    /// The value's bytes, as the object holds them.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the trait promises that every byte of the value is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast::<u8>(), size_of::<Self>()) }
    }
}

// SAFETY: an integer.
unsafe impl Global for u64 {}

/// Where a probed function's arguments and result are: offsets in `struct pt_regs` (arch/*/include/uapi/asm/ptrace.h), by the
/// processor's calling convention. So one object serves all processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// The first arguments.
    pub arguments: [u16; 3],
    /// The result, when the function returns.
    pub result: u16,
}

impl Registers {
    /// A processor of which nothing is known.
    pub const ABSENT: Self = Self { arguments: [ABSENT; 3], result: ABSENT };
}

const _: () = assert!(size_of::<Registers>() == 4 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Registers {}

/// What every BPF object counts, as indexes into its per-CPU array `COUNTS`.
///
/// Once a probe's programs are out of the kernel and its transport is empty, `Sent` is exactly what user space received and
/// `Lost` together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Count {
    /// Records that were handed to the transport, whether or not it had room for them.
    Sent = 0,
    /// Of those, the ones that it had no room for. Kernels before 5.1 do not tell of a full perf event array here.
    Lost = 1,
    /// Events that a rate limit in the kernel folded away; they are in the aggregates, not in the transport.
    Limited = 2,
    /// Events that found no room in a map of in-flight or aggregated state.
    Untracked = 3,
}

/// The number of [`Count`] slots.
pub const COUNTS: u32 = 4;
