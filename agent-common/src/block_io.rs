//! The records of probe `block_io`: slow and failed block requests, and the latency histogram.

use crate::{COMM_LEN, Record};

/// What a request does, folded from the kernel's operations (include/linux/blk_types.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// `REQ_OP_READ`.
    Read = 0,
    /// `REQ_OP_WRITE` and its relatives.
    Write = 1,
    /// `REQ_OP_FLUSH`.
    Flush = 2,
    /// `REQ_OP_DISCARD` and `REQ_OP_SECURE_ERASE`.
    Discard = 3,
    /// Anything else: zone management, pass-through commands.
    Other = 4,
}

/// Buckets of the latency histogram: bucket `i` holds latencies from 2^i up to 2^(i+1) microseconds, the first also those below
/// one microsecond, the last also everything longer (from 2^26 us, 67 s, on).
pub const BUCKETS: usize = 27;

/// Key of the histogram map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HistogramKey {
    /// Device number as the kernel holds it: major << 20 | minor.
    pub device: u32,
    /// An [`Operation`].
    pub operation: u32,
}

/// Latency histogram of one device and operation on one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Histogram {
    /// Completed requests by bucket.
    pub buckets: [u32; BUCKETS],
    /// Zero.
    pub pad: u32,
    /// Sum of the latencies in nanoseconds.
    pub sum_ns: u64,
}

const _: () = assert!(size_of::<Histogram>() == 4 * (BUCKETS + 1) + 8);

/// A request that took longer than the limit, or failed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockIoRecord {
    /// `CLOCK_MONOTONIC` at completion, in nanoseconds.
    pub monotonic_ns: u64,
    /// From issue to completion, in nanoseconds; zero where the issue was not seen.
    pub latency_ns: u64,
    /// First sector, in units of 512 bytes.
    pub sector: u64,
    /// Size in bytes.
    pub bytes: u32,
    /// Device number as the kernel holds it: major << 20 | minor.
    pub device: u32,
    /// An [`Operation`].
    pub operation: u32,
    /// The error as a positive errno, zero for success.
    pub errno: u32,
    /// Process (thread-group) id that issued the request; zero where it was issued by the kernel outside any process.
    pub pid: u32,
    /// Zero.
    pub pad: u32,
    /// Command name of the issuer.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<BlockIoRecord>() == 3 * 8 + 6 * 4 + COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for BlockIoRecord {}
