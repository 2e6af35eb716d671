//! Probe `block_io`: latency of every block request, and the requests that were slow or failed.
//!
//! Four ways to see the same. BTF and raw tracepoints are cheaper and key a request by its address, but need offsets from the
//! kernel's BTF; the first read its structures by plain loads, the second through a helper. Ordinary tracepoints need only
//! their `format` files, but key by device and sector. Probes on functions are as the raw
//! tracepoints, but completions in batches pass them by. The loader attaches one of the four.
//!
//! A request belongs to the process that inserted it into a scheduler's queue, where one did, because it may be issued by a
//! worker of the kernel; else to the one that issued it. A request that goes back into the queue keeps its owner.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "without the borrow the value is copied once more")]

use agent_common::block_io::{BUCKETS, BlockIoRecord, Fields, Histogram, HistogramKey, Operation, RequestFields};
use agent_common::{ABSENT, COMM_LEN, Count, Registers};
use agent_ebpf::{Fold, count, current_process, field, global, member, monotonic_ns, register, send, trace};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::generated::bpf_get_current_comm;
use aya_ebpf::macros::{btf_tracepoint, kprobe, map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::programs::{BtfTracePointContext, ProbeContext, RawTracePointContext, TracePointContext};

/// Records of one CPU that pass each second.
const BY_SECOND: u32 = 200;

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;
/// Where arguments are on this processor; filled in by the loader.
#[unsafe(no_mangle)]
static REGISTERS: Registers = Registers::ABSENT;
/// Requests slower than this are reported.
#[unsafe(no_mangle)]
static SLOW_NS: u64 = 100_000_000;

/// A request from the time it was inserted or issued until it is complete.
#[derive(Clone, Copy)]
#[repr(C)]
struct InFlight {
    /// When it was issued; before that [`INSERTED`] or [`REQUEUED`], and [`IDLE`] where no request has this address.
    ns: u64,
    /// Cgroup id (version 2 hierarchy) of its owner.
    cgroup: u64,
    /// Process (thread-group) id of its owner.
    pid: u32,
    /// The requests that it stands for, itself included.
    one_in: u32,
    /// Command name of its owner.
    comm: [u8; COMM_LEN],
}

/// Operations from here on are commands of a driver, or of a program through `ioctl`, that are not about the device's data
/// (`REQ_OP_SCSI_IN` or `REQ_OP_DRV_IN`, include/linux/blk_types.h). They may fail, or take hours, as a matter of course.
const PASS_THROUGH: u32 = 32;

const IDLE: u64 = 0;
const INSERTED: u64 = 1;
const REQUEUED: u64 = 2;

#[derive(Clone, Copy)]
struct Request {
    device: u32,
    operation: Operation,
    sector: u64,
    bytes: u32,
}

/// Requests under way. Those keyed by address stay when they are complete, as the kernel uses the same few structures again and
/// again: finding an entry costs less than making and removing one.
#[map]
static IN_FLIGHT: HashMap<u64, InFlight> = HashMap::with_max_entries(8192, 0);

/// One since there was no room in `IN_FLIGHT` and entries are removed on completion; user space removes the idle ones, then
/// writes 2.
#[map]
static CROWDED: Array<u32> = Array::with_max_entries(1, 0);

/// Requests keyed by place that were inserted and not issued. A merge changes places, so the oldest make room.
#[map]
static WAITING: LruHashMap<u64, InFlight> = LruHashMap::with_max_entries(1024, 0);

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

/// BTF tracepoint `block_rq_insert`
#[btf_tracepoint(function = "block_rq_insert")]
pub fn block_rq_insert_btf(ctx: BtfTracePointContext) -> i32 {
    inserted::<Loaded>(if global!(FIELDS.insert_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// BTF tracepoint `block_rq_requeue`
#[btf_tracepoint(function = "block_rq_requeue")]
pub fn block_rq_requeue_btf(ctx: BtfTracePointContext) -> i32 {
    requeued(if global!(FIELDS.requeue_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// BTF tracepoint `block_rq_merge`
#[btf_tracepoint(function = "block_rq_merge")]
pub fn block_rq_merge_btf(ctx: BtfTracePointContext) -> i32 {
    merged(if global!(FIELDS.merge_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// BTF tracepoint `block_rq_issue`
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue_btf(ctx: BtfTracePointContext) -> i32 {
    issued::<Loaded>(if global!(FIELDS.issue_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// BTF tracepoint `block_rq_complete`
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete_btf(ctx: BtfTracePointContext) -> i32 {
    completed::<Loaded>(&ctx, ctx.arg(0), ctx.arg::<u64>(1) as i32, ctx.arg::<u64>(2) as u32)
}

/// Raw `block_rq_insert`
#[raw_tracepoint(tracepoint = "block_rq_insert")]
pub fn block_rq_insert_raw(ctx: RawTracePointContext) -> i32 {
    inserted::<Copied>(if global!(FIELDS.insert_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// Raw `block_rq_requeue`
#[raw_tracepoint(tracepoint = "block_rq_requeue")]
pub fn block_rq_requeue_raw(ctx: RawTracePointContext) -> i32 {
    requeued(if global!(FIELDS.requeue_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// Raw `block_rq_merge`
#[raw_tracepoint(tracepoint = "block_rq_merge")]
pub fn block_rq_merge_raw(ctx: RawTracePointContext) -> i32 {
    merged(if global!(FIELDS.merge_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// Raw `block_rq_issue`
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_rq_issue_raw(ctx: RawTracePointContext) -> i32 {
    issued::<Copied>(if global!(FIELDS.issue_rq_argument) == 0 { ctx.arg(0) } else { ctx.arg(1) })
}

/// Raw `block_rq_complete`
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_rq_complete_raw(ctx: RawTracePointContext) -> i32 {
    completed::<Copied>(&ctx, ctx.arg(0), ctx.arg::<u64>(1) as i32, ctx.arg::<u64>(2) as u32)
}

/// `blk_mq_start_request(struct request *rq)`
#[kprobe]
pub fn blk_mq_start_request(ctx: ProbeContext) -> u32 {
    issued::<Copied>(register(&ctx, global!(REGISTERS.arguments[0])));
    0
}

/// `blk_update_request(struct request *rq, blk_status_t error, unsigned int nr_bytes)`
#[kprobe]
pub fn blk_update_request(ctx: ProbeContext) -> u32 {
    let [rq, error, bytes] = global!(REGISTERS.arguments).map(|offset| register(&ctx, offset));
    // The status is a byte, and the size an int: the rest of their registers is anything.
    completed::<Copied>(&ctx, rq, i32::from(error as u8), bytes as u32);
    0
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
        member(base, offset, T::default())
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
fn inserted<M: Memory>(rq: u64) -> i32 {
    if let Some(one_in) = one_in(|| M::member(rq, global!(FIELDS.rq_sector)))
        && let Some(entry) = entry(rq)
    {
        if entry.ns != REQUEUED {
            entry.own(one_in);
        }
        entry.ns = INSERTED;
    }
    0
}

#[inline(always)]
fn issued<M: Memory>(rq: u64) -> i32 {
    if let Some(one_in) = one_in(|| M::member(rq, global!(FIELDS.rq_sector)))
        && let Some(entry) = entry(rq)
    {
        // What else is there is from a request whose completion was not seen.
        if entry.ns != INSERTED && entry.ns != REQUEUED {
            entry.own(one_in);
        }
        entry.ns = monotonic_ns();
    }
    0
}

/// The driver gave the request back: it keeps its owner.
#[inline(always)]
fn requeued(rq: u64) -> i32 {
    if let Some(entry) = known(rq)
        && entry.ns > REQUEUED
    {
        entry.ns = REQUEUED;
    }
    0
}

/// The request has become a part of another one.
#[inline(always)]
fn merged(rq: u64) -> i32 {
    if let Some(entry) = known(rq) {
        entry.ns = IDLE;
    }
    0
}

/// The entry of the request at `rq`, where there is one.
#[inline(always)]
fn known(rq: u64) -> Option<&'static mut InFlight> {
    // SAFETY: the verifier checks the pointer; of the stations of one request, each comes after the one before.
    IN_FLIGHT.get_ptr_mut(rq).map(|entry| unsafe { &mut *entry })
}

/// The entry of the request at `rq`, made where there is none.
#[inline(always)]
fn entry(rq: u64) -> Option<&'static mut InFlight> {
    let found = known(rq);
    if found.is_some() {
        return found;
    }
    if IN_FLIGHT.insert(rq, &InFlight::NONE, 0).is_err() {
        count(Count::Untracked);
        let _ = CROWDED.set(0, 1, 0);
        return None;
    }
    known(rq)
}

#[inline(always)]
fn completed<M: Memory>(ctx: &impl EbpfContext, rq: u64, error: i32, completed: u32) -> i32 {
    let entry = known(rq);
    if error == 0 && entry.as_ref().is_none_or(|entry| entry.ns <= REQUEUED) {
        if let Some(entry) = entry {
            entry.ns = IDLE;
        }
        return 0;
    }
    let bytes: u32 = M::member(rq, global!(FIELDS.rq_data_len));
    if error == 0 && completed < bytes {
        // Part of the request; the rest completes later.
        return 0;
    }
    let disk: u64 = if global!(FIELDS.q_disk) == ABSENT {
        M::member(rq, global!(FIELDS.rq_disk))
    } else {
        M::member(M::member(rq, global!(FIELDS.rq_q)), global!(FIELDS.q_disk))
    };
    let device =
        M::member::<u32>(disk, global!(FIELDS.disk_major)) << 20 | M::member::<u32>(disk, global!(FIELDS.disk_first_minor));
    let operation = M::member::<u32>(rq, global!(FIELDS.rq_cmd_flags)) & 0xff;
    if operation >= PASS_THROUGH {
        if let Some(entry) = entry {
            entry.ns = IDLE;
        }
        return 0;
    }
    let operation = match operation {
        0 => Operation::Read,
        1 => Operation::Write,
        2 => Operation::Flush,
        3 | 5 => Operation::Discard,
        _ => Operation::Other,
    };
    let request = Request { device, operation, sector: M::member(rq, global!(FIELDS.rq_sector)), bytes };
    match entry {
        // The owner in an idle entry is that of an earlier request.
        Some(entry) if entry.ns != IDLE => {
            complete(ctx, entry, error, request);
            entry.ns = IDLE;
            // SAFETY: the verifier checks the pointer; a word is read whole.
            if CROWDED.get_ptr(0).is_some_and(|crowded| unsafe { crowded.read_volatile() } != 0) {
                let _ = IN_FLIGHT.remove(rq);
            }
        }
        _ => complete(ctx, &InFlight::NONE, error, request),
    }
    0
}

/// `block/block_rq_insert`
#[tracepoint]
pub fn block_rq_insert(ctx: TracePointContext) -> u32 {
    let request = request(&ctx, &global!(FIELDS.insert));
    let key = key_of(&request);
    // SAFETY: the verifier checks the pointer; a word is read whole.
    if WAITING.get_ptr(key).is_some_and(|waiting| unsafe { (*waiting).ns } == REQUEUED) {
        return 0;
    }
    if let Some(one_in) = one_in(|| key) {
        let mut entry = InFlight::NONE;
        entry.own(one_in);
        entry.ns = INSERTED;
        let _ = WAITING.insert(key, &entry, 0);
    }
    0
}

/// `block/block_rq_issue`
#[tracepoint]
pub fn block_rq_issue(ctx: TracePointContext) -> u32 {
    let request = request(&ctx, &global!(FIELDS.issue));
    let key = key_of(&request);
    let Some(one_in) = one_in(|| key) else { return 0 };
    let mut entry = InFlight::NONE;
    match WAITING.get_ptr(key) {
        Some(waiting) => {
            // SAFETY: the verifier checks the pointer; the request is not inserted again while it is issued.
            entry = unsafe { *waiting };
            let _ = WAITING.remove(key);
        }
        None => entry.own(one_in),
    }
    entry.ns = monotonic_ns();
    if IN_FLIGHT.insert(key, &entry, 0).is_err() {
        count(Count::Untracked);
    }
    0
}

/// `block/block_rq_requeue`
#[tracepoint]
pub fn block_rq_requeue(ctx: TracePointContext) -> u32 {
    let key = key_of(&request(&ctx, &global!(FIELDS.requeue)));
    if let Some(entry) = known(key) {
        entry.ns = REQUEUED;
        let _ = WAITING.insert(key, &*entry, 0);
        let _ = IN_FLIGHT.remove(key);
    }
    0
}

/// `block/block_rq_complete`
#[tracepoint]
pub fn block_rq_complete(ctx: TracePointContext) -> u32 {
    let fields = global!(FIELDS.complete);
    let request = request(&ctx, &fields);
    let error = field(&ctx, fields.error, 0_i32);
    // A command to something that is no disk yet.
    if request.device == 0 {
        return 0;
    }
    let key = key_of(&request);
    match known(key) {
        Some(entry) => {
            complete(&ctx, entry, error, request);
            let _ = IN_FLIGHT.remove(key);
        }
        None if error == 0 => {}
        None => complete(&ctx, &InFlight::NONE, error, request),
    }
    0
}

impl InFlight {
    const NONE: Self = Self { ns: IDLE, cgroup: 0, pid: 0, one_in: 1, comm: [0; COMM_LEN] };

    /// Makes the current task its owner.
    #[inline(always)]
    fn own(&mut self, one_in: u32) {
        self.pid = current_process();
        self.one_in = one_in;
        // SAFETY: the helper has no preconditions.
        self.cgroup = unsafe { bpf_get_current_cgroup_id() };
        // Straight into the map: aya's own way to call this helper copies.
        // SAFETY: the verifier checks the place and the length.
        unsafe { bpf_get_current_comm((&raw mut self.comm).cast(), COMM_LEN as u32) };
    }
}

/// How many requests this one stands for, where it is to be tracked.
#[inline(always)]
fn one_in(place: impl FnOnce() -> u64) -> Option<u32> {
    // SAFETY: the verifier checks the pointer; a word is read whole.
    let one_in = SAMPLING.get_ptr(0).map_or(1, |one_in| unsafe { one_in.read_volatile() });
    if one_in <= 1 {
        return Some(1);
    }
    selected(place(), monotonic_ns(), one_in).then_some(one_in)
}

/// Whether this request is the one in so many. The answer is the same at each of its stations, as these follow each other
/// within the four seconds or so after which a place is asked about anew.
#[inline(always)]
fn selected(place: u64, now: u64, one_in: u32) -> bool {
    // Knuth's multiplicative hash, whose upper bits are the good ones.
    let mixed = (place ^ (now >> 32).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as u32).is_multiple_of(one_in)
}

#[inline(always)]
fn complete(ctx: &impl EbpfContext, entry: &InFlight, error: i32, request: Request) {
    let now = monotonic_ns();
    // Of a request that was issued before the probe was attached, or not tracked, or failed before it was issued, there is no
    // latency to tell.
    let issued = if entry.ns > REQUEUED { entry.ns } else { now };
    let latency_ns = now.saturating_sub(issued);
    if entry.ns > REQUEUED {
        record_latency(&request, latency_ns, entry.one_in);
    }
    if (latency_ns < global!(SLOW_NS) && error == 0) || !admitted(now) {
        return;
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
            pid: entry.pid,
            one_in: entry.one_in,
            cgroup: entry.cgroup,
            comm: entry.comm,
        });
    });
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
