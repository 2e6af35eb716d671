//! The records of probe `block_io`: slow and failed block requests, and the latency histogram.

use crate::{ABSENT, COMM_LEN, Global, Record};

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
    /// Completed requests by bucket; while only one in so many is tracked, each stands for that many.
    pub buckets: [u32; BUCKETS],
    /// Zero.
    pub pad: u32,
    /// Sum of the latencies in nanoseconds.
    pub sum_ns: u64,
}

const _: () = assert!(size_of::<Histogram>() == 4 * (BUCKETS + 1) + 8);

/// Where things are on this kernel: offsets in structures from its BTF for the raw tracepoints, offsets in records from the
/// `format` files for the ordinary ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fields {
    /// Position of `struct request *` among the raw arguments of `block_rq_insert`: 1 where a queue comes first, else 0.
    pub insert_rq_argument: u16,
    /// The same of `block_rq_issue`
    pub issue_rq_argument: u16,
    /// The same of `block_rq_requeue`
    pub requeue_rq_argument: u16,
    /// The same of `block_rq_merge`
    pub merge_rq_argument: u16,
    /// `struct request`: `q`
    pub rq_q: u16,
    /// `struct request`: `rq_disk`, before 5.17.
    pub rq_disk: u16,
    /// `struct request_queue`: `disk`, since 5.17.
    pub q_disk: u16,
    /// `struct request`: `cmd_flags`
    pub rq_cmd_flags: u16,
    /// `struct request`: `__data_len`
    pub rq_data_len: u16,
    /// `struct request`: `__sector`
    pub rq_sector: u16,
    /// `struct gendisk`: `major`
    pub disk_major: u16,
    /// `struct gendisk`: `first_minor`
    pub disk_first_minor: u16,
    /// Record of `block_rq_insert`
    pub insert: RequestFields,
    /// Record of `block_rq_requeue`
    pub requeue: RequestFields,
    /// Record of `block_rq_issue`
    pub issue: RequestFields,
    /// Record of `block_rq_complete`
    pub complete: RequestFields,
}

/// Offsets in the record of one of the tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the tracepoint's own")]
pub struct RequestFields {
    pub dev: u16,
    pub sector: u16,
    pub nr_sector: u16,
    pub rwbs: u16,
    pub error: u16,
}

impl RequestFields {
    /// A tracepoint without any field.
    pub const ABSENT: Self = Self { dev: ABSENT, sector: ABSENT, nr_sector: ABSENT, rwbs: ABSENT, error: ABSENT };
}

impl Fields {
    /// A kernel of which nothing is known.
    pub const ABSENT: Self = Self {
        insert_rq_argument: 0,
        issue_rq_argument: 0,
        requeue_rq_argument: 0,
        merge_rq_argument: 0,
        rq_q: ABSENT,
        rq_disk: ABSENT,
        q_disk: ABSENT,
        rq_cmd_flags: ABSENT,
        rq_data_len: ABSENT,
        rq_sector: ABSENT,
        disk_major: ABSENT,
        disk_first_minor: ABSENT,
        insert: RequestFields::ABSENT,
        requeue: RequestFields::ABSENT,
        issue: RequestFields::ABSENT,
        complete: RequestFields::ABSENT,
    };
}

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
    /// The error as the tracepoint gives it: zero for success, a negative errno, or a positive `blk_status_t`.
    pub error: i32,
    /// Process (thread-group) id that the request belongs to: it inserted the request into a scheduler's queue, or issued it;
    /// zero where the kernel did outside any process.
    pub pid: u32,
    /// While only one request in so many is tracked, that number; else one.
    pub one_in: u32,
    /// Cgroup id (version 2 hierarchy) of that process at that time; zero where unknown.
    pub cgroup: u64,
    /// Command name of that process.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<BlockIoRecord>() == 4 * 8 + 6 * 4 + COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for BlockIoRecord {}

const _: () = assert!(size_of::<Fields>() == 32 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Fields {}
