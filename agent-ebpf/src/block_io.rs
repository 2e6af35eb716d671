//! Probe `block_io`: latency of every block request, and the requests that were slow or failed.
//!
//! Three ways to see the same. BTF and raw tracepoints are cheaper and key a request by its address, but need offsets from the
//! kernel's BTF; the first read its structures by plain loads, the second through a helper. Ordinary tracepoints need only
//! their `format` files, but key by device and sector. The loader attaches one of the three.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "without the borrow the value is copied once more")]

use agent_common::block_io::{BUCKETS, BlockIoRecord, Fields, Histogram, HistogramKey, Operation, RequestFields};
use agent_common::{ABSENT, COMM_LEN, Count};
use agent_ebpf::{Fold, count, current_comm, current_process, field, global, monotonic_ns, send, trace};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::{btf_tracepoint, map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext, TracePointContext};

/// Records of one CPU that pass each second.
const BY_SECOND: u32 = 200;

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;
/// Requests slower than this are reported.
#[unsafe(no_mangle)]
static SLOW_NS: u64 = 100_000_000;

#[derive(Clone, Copy)]
#[repr(C)]
struct Start {
    ns: u64,
    pid: u32,
    /// The requests that it stands for, itself included.
    one_in: u32,
    comm: [u8; COMM_LEN],
}

#[derive(Clone, Copy)]
struct Request {
    device: u32,
    operation: Operation,
    sector: u64,
    bytes: u32,
}

/// Requests that were issued and are not complete.
#[map]
static IN_FLIGHT: HashMap<u64, Start> = HashMap::with_max_entries(8192, 0);

/// Latencies by device and operation.
#[map]
static HISTOGRAMS: PerCpuHashMap<HistogramKey, Histogram> = PerCpuHashMap::with_max_entries(256, 0);

/// A histogram without entries, from which new ones are made: it is too large for the stack.
#[map]
static EMPTY: PerCpuArray<Histogram> = PerCpuArray::with_max_entries(1, 0);

/// One request in so many is tracked, all of them where it says 0 or 1; user space writes it while the programs run.
#[map]
static SAMPLING: Array<u32> = Array::with_max_entries(1, 0);

/// The rate limit of the records, by CPU.
#[map]
static LIMIT: PerCpuArray<Fold> = PerCpuArray::with_max_entries(1, 0);

/// BTF tracepoint `block_rq_issue`
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue_btf(ctx: BtfTracePointContext) -> i32 {
    issued::<Loaded>(if global!(FIELDS).issue_rq_argument == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// BTF tracepoint `block_rq_complete`
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete_btf(ctx: BtfTracePointContext) -> i32 {
    completed::<Loaded>(&ctx, ctx.arg(0), ctx.arg::<u64>(1) as i32, ctx.arg::<u64>(2) as u32)
}

/// Raw `block_rq_issue`
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_rq_issue_raw(ctx: RawTracePointContext) -> i32 {
    issued::<Copied>(if global!(FIELDS).issue_rq_argument == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// Raw `block_rq_complete`
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_rq_complete_raw(ctx: RawTracePointContext) -> i32 {
    completed::<Copied>(&ctx, ctx.arg(0), ctx.arg::<u64>(1) as i32, ctx.arg::<u64>(2) as u32)
}

/// How a member of a kernel structure is read.
trait Memory {
    /// The `T` at `offset` of the structure at `base`; zero where it cannot be read.
    fn member<T: Copy + Default>(base: u64, offset: u16) -> T;
}

/// By the helper, which takes any address.
struct Copied;

impl Memory for Copied {
    #[inline(always)]
    fn member<T: Copy + Default>(base: u64, offset: u16) -> T {
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.unwrap_or_default()
    }
}

/// By a load of the program, where the verifier knows what the address points to.
struct Loaded;

impl Memory for Loaded {
    #[inline(always)]
    fn member<T: Copy + Default>(base: u64, offset: u16) -> T {
        // SAFETY: the verifier lets this pass only for members of the structure, and a load that faults gives zero.
        unsafe { *((base + u64::from(offset)) as *const T) }
    }
}

#[inline(always)]
fn issued<M: Memory>(rq: u64) -> i32 {
    issue(rq, || M::member(rq, global!(FIELDS).rq_sector))
}

#[inline(always)]
fn completed<M: Memory>(ctx: &impl EbpfContext, rq: u64, error: i32, completed: u32) -> i32 {
    let fields = global!(FIELDS);
    let bytes: u32 = M::member(rq, fields.rq_data_len);
    if error == 0 && completed < bytes {
        // Part of the request; the rest completes later.
        return 0;
    }
    let disk: u64 = if fields.q_disk == ABSENT {
        M::member(rq, fields.rq_disk)
    } else {
        M::member(M::member(rq, fields.rq_q), fields.q_disk)
    };
    let device = M::member::<u32>(disk, fields.disk_major) << 20 | M::member::<u32>(disk, fields.disk_first_minor);
    let operation = match M::member::<u32>(rq, fields.rq_cmd_flags) & 0xff {
        0 => Operation::Read,
        1 => Operation::Write,
        2 => Operation::Flush,
        3 | 5 => Operation::Discard,
        _ => Operation::Other,
    };
    complete(ctx, rq, error, Request { device, operation, sector: M::member(rq, fields.rq_sector), bytes })
}

/// `block/block_rq_issue`
#[tracepoint]
pub fn block_rq_issue(ctx: TracePointContext) -> u32 {
    let request = request(&ctx, &global!(FIELDS).issue);
    issue(key_of(&request), || request.sector);
    0
}

/// `block/block_rq_complete`
#[tracepoint]
pub fn block_rq_complete(ctx: TracePointContext) -> u32 {
    let fields = global!(FIELDS).complete;
    let request = request(&ctx, &fields);
    let error = field(&ctx, fields.error, 0_i32);
    complete(&ctx, key_of(&request), error, request);
    0
}

#[inline(always)]
fn issue(key: u64, sector: impl FnOnce() -> u64) -> i32 {
    let one_in = one_in();
    let ns = monotonic_ns();
    if one_in > 1 && !selected(key, sector(), ns, one_in) {
        return 0;
    }
    let start = Start { ns, pid: current_process(), one_in, comm: current_comm() };
    if IN_FLIGHT.insert(key, &start, 0).is_err() {
        count(Count::Untracked);
    }
    0
}

/// One request in so many is to be tracked.
#[inline(always)]
fn one_in() -> u32 {
    // SAFETY: the verifier checks the pointer; a word is read whole.
    SAMPLING.get_ptr(0).map_or(1, |one_in| unsafe { one_in.read_volatile() }).max(1)
}

/// Whether this request is the one in so many. The answer is the same at each of its stations, and another one for the same
/// place and request structure some 17 seconds later.
#[inline(always)]
fn selected(key: u64, sector: u64, now: u64, one_in: u32) -> bool {
    // Knuth's multiplicative hash, whose upper bits are the good ones.
    let mixed = (key ^ sector.rotate_left(24) ^ (now >> 34).rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as u32).is_multiple_of(one_in)
}

#[inline(always)]
fn complete(ctx: &impl EbpfContext, key: u64, error: i32, request: Request) -> i32 {
    let now = monotonic_ns();
    let start = IN_FLIGHT.get_ptr(key).map(|start| {
        // SAFETY: the verifier checks the pointer; the request is ours until its completion, which is now.
        let start = unsafe { *start };
        let _ = IN_FLIGHT.remove(key);
        start
    });
    // Issued before the probe was attached, or not tracked: there is no latency to tell, but a failure counts.
    if start.is_none() && error == 0 {
        return 0;
    }
    if let Some(start) = &start {
        record_latency(&request, now.saturating_sub(start.ns), start.one_in);
    }
    let start = start.unwrap_or(Start { ns: now, pid: 0, one_in: 1, comm: [0; COMM_LEN] });
    let latency_ns = now.saturating_sub(start.ns);
    if (latency_ns < global!(SLOW_NS) && error == 0) || !admitted(now) {
        return 0;
    }
    trace!(ctx, "block_rq_complete: device {:x}, {} us, error {}", request.device, latency_ns / 1000, error);
    send::<BlockIoRecord>(ctx, |record| {
        record.write(BlockIoRecord {
            monotonic_ns: now,
            latency_ns,
            sector: request.sector,
            bytes: request.bytes,
            device: request.device,
            operation: request.operation as u32,
            error,
            pid: start.pid,
            one_in: start.one_in,
            comm: start.comm,
        });
    });
    0
}

#[inline(always)]
fn record_latency(request: &Request, latency_ns: u64, requests: u32) {
    let key = HistogramKey { device: request.device, operation: request.operation as u32 };
    let mut histogram = HISTOGRAMS.get_ptr_mut(&key);
    if histogram.is_none() {
        let Some(empty) = EMPTY.get_ptr(0) else { return };
        // SAFETY: the verifier checks the pointer; nothing ever writes to this map.
        let _ = HISTOGRAMS.insert(&key, unsafe { &*empty }, 0);
        histogram = HISTOGRAMS.get_ptr_mut(&key);
    }
    let Some(histogram) = histogram else { return count(Count::Untracked) };
    let bucket = bucket_of(latency_ns / 1000);
    if bucket >= BUCKETS {
        return;
    }
    // SAFETY: the verifier checks the pointer and the index; an interrupt in between costs at most one count.
    unsafe {
        let slot = (&raw mut (*histogram).buckets).cast::<u32>().add(bucket);
        *slot = (*slot).wrapping_add(requests);
        (*histogram).sum_ns = (*histogram).sum_ns.wrapping_add(latency_ns.wrapping_mul(u64::from(requests)));
    }
}

/// Floor of the binary logarithm, within the histogram's range.
#[inline(always)]
fn bucket_of(microseconds: u64) -> usize {
    let mut rest = if microseconds >> 32 == 0 { microseconds as u32 } else { u32::MAX };
    let mut log = 0;
    if rest >> 16 != 0 {
        rest >>= 16;
        log += 16;
    }
    if rest >> 8 != 0 {
        rest >>= 8;
        log += 8;
    }
    if rest >> 4 != 0 {
        rest >>= 4;
        log += 4;
    }
    if rest >> 2 != 0 {
        rest >>= 2;
        log += 2;
    }
    if rest >> 1 != 0 {
        log += 1;
    }
    if log < BUCKETS { log } else { BUCKETS - 1 }
}

#[inline(always)]
fn admitted(now: u64) -> bool {
    let Some(limit) = LIMIT.get_ptr_mut(0) else { return false };
    // SAFETY: the verifier checks the pointer; an interrupt in between costs at most one count of the limit.
    unsafe { &mut *limit }.admit(now, BY_SECOND).is_some()
}

#[inline(always)]
fn request(ctx: &TracePointContext, fields: &RequestFields) -> Request {
    let rwbs = field(ctx, fields.rwbs, [0_u8; 2]);
    // A leading F is a flush before the operation itself, and FF the flush alone (blk_fill_rwbs, kernel/trace/blktrace.c).
    let letter = if rwbs[0] == b'F' { rwbs[1] } else { rwbs[0] };
    let operation = match letter {
        b'R' => Operation::Read,
        b'W' => Operation::Write,
        b'F' => Operation::Flush,
        b'D' => Operation::Discard,
        _ => Operation::Other,
    };
    Request {
        device: field(ctx, fields.dev, 0),
        operation,
        sector: field(ctx, fields.sector, 0),
        bytes: field(ctx, fields.nr_sector, 0_u32) << 9,
    }
}

/// Device and sector in one word: the low 44 bits of the sector, and 20 bits of the device.
#[inline(always)]
fn key_of(request: &Request) -> u64 {
    (u64::from(request.device) << 44) | (request.sector & ((1 << 44) - 1))
}
