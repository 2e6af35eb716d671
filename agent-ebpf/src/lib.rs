//! What the BPF programs share: the way out to user space, the counters, the folding of repetitions, field access.
//!
//! One program file per probe stands beside this file and becomes one object. Nothing here depends on a kernel's layout of a
//! tracepoint: offsets arrive as globals that user space fills in from the kernel's own description.

#![no_std]
#![expect(internal_features, reason = "core::sync::atomic has no fetch_add on this target, the intrinsic works")]
#![feature(core_intrinsics)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::MaybeUninit;

use agent_common::{ABSENT, COMM_LEN, COUNTS as COUNT_SLOTS, Count, Record};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TracePointContext;
use aya_ebpf::{EbpfContext, helpers};

/// Records on their way to user space. The loader sets the size that the probe's row asks for.
#[cfg(not(feature = "perf"))]
#[map]
static EVENTS: aya_ebpf::maps::RingBuf = aya_ebpf::maps::RingBuf::with_byte_size(64 * 1024, 0);

/// Records on their way to user space, for kernels without ring buffers. The loader gives each CPU a buffer.
#[cfg(feature = "perf")]
#[map]
static EVENTS: aya_ebpf::maps::PerfEventArray<u8> = aya_ebpf::maps::PerfEventArray::new(0);

/// What became of the events, by [`Count`].
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNT_SLOTS, 0);

/// The licence under which the kernel lets these programs call helpers that are for GPL-compatible code alone.
#[used]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Adds one to a word that other CPUs, or an interrupt on this one, may be adding to.
///
/// # Safety
/// `word` points to a whole word in the value of a map.
#[inline(always)]
pub unsafe fn increment(word: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(what: Count) {
    if let Some(slot) = COUNTS.get_ptr_mut(what as u32) {
        // SAFETY: the verifier checks that the pointer is into the map's value, which is eight bytes and aligned.
        unsafe { increment(slot) };
    }
}

/// Sends one record to user space. Counts it as sent, and where there is no room for it as lost as well.
///
/// The context is for the transport that needs one; here none does.
#[cfg(not(feature = "perf"))]
#[inline(always)]
pub fn send<R: Record + 'static>(_: &impl EbpfContext, fill: impl FnOnce(&mut MaybeUninit<R>)) {
    count(Count::Sent);
    match EVENTS.reserve::<R>(0) {
        Some(mut entry) => {
            fill(&mut entry);
            entry.submit(0);
        }
        None => count(Count::Lost),
    }
}

/// Sends one record to user space. Counts it as sent, and where there is no room for it as lost as well.
///
/// The record is made on the stack: in a per-CPU map, another program that interrupts this one would overwrite it.
#[cfg(feature = "perf")]
#[inline(always)]
pub fn send<R: Record + 'static>(ctx: &impl EbpfContext, fill: impl FnOnce(&mut MaybeUninit<R>)) {
    count(Count::Sent);
    let mut record = MaybeUninit::<R>::uninit();
    fill(&mut record);
    let map = (&raw const EVENTS).cast_mut().cast();
    let this_cpu = aya_ebpf::bindings::BPF_F_CURRENT_CPU;
    // aya's own way to call this helper does not say whether there was room.
    // SAFETY: the verifier checks context, map and record; each `fill` writes a whole record, which has no padding.
    let result =
        unsafe { helpers::bpf_perf_event_output(ctx.as_ptr(), map, this_cpu, record.as_mut_ptr().cast(), size_of::<R>() as u64) };
    if result < 0 {
        count(Count::Lost);
    }
}

/// Folds repetitions of one subject: passes the first few of each second, and gives the next one that passes the number of
/// those it held back.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Fold {
    window_start_ns: u64,
    passed: u32,
    held: u32,
}

impl Fold {
    const WINDOW_NS: u64 = 1_000_000_000;

    /// The state before the first event.
    pub const NONE: Self = Self { window_start_ns: 0, passed: 0, held: 0 };

    /// The state after a first event at `now_ns`, which passes.
    #[inline(always)]
    pub fn first(now_ns: u64) -> Self {
        Self { window_start_ns: now_ns, passed: 1, held: 0 }
    }

    /// Takes one more event. `Some(n)`: report it, as `n` events. `None`: it was held back, and counted.
    #[inline(always)]
    pub fn admit(&mut self, now_ns: u64, by_second: u32) -> Option<u32> {
        if now_ns.wrapping_sub(self.window_start_ns) >= Self::WINDOW_NS {
            self.window_start_ns = now_ns;
            self.passed = 0;
        }
        if self.passed >= by_second {
            self.held = self.held.wrapping_add(1);
            count(Count::Limited);
            return None;
        }
        self.passed += 1;
        let events = self.held.wrapping_add(1);
        self.held = 0;
        Some(events)
    }
}

/// Reads the field at `offset` of a tracepoint's record; `absent` where this kernel's record has no such field.
#[inline(always)]
pub fn field<T: Copy>(ctx: &TracePointContext, offset: u16, absent: T) -> T {
    if offset == ABSENT {
        return absent;
    }
    // SAFETY: the helper checks the address itself; the offset and the size come from the kernel's own `format` file.
    unsafe { ctx.read_at(usize::from(offset)) }.unwrap_or(absent)
}

/// Reads a command name that the record holds either as an array at `offset` or as a `__data_loc` word there.
#[inline(always)]
pub fn comm_field(ctx: &TracePointContext, offset: u16, data_loc: bool) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    if offset == ABSENT {
        return comm;
    }
    let at = if data_loc { field::<u32>(ctx, offset, 0) & 0xffff } else { u32::from(offset) };
    // SAFETY: the helper checks the address itself, and writes no more than the length of `comm`.
    let read = unsafe { bpf_probe_read_kernel_str_bytes(ctx.as_ptr().cast::<u8>().add(at as usize), &mut comm) };
    if read.is_err() {
        return [0; COMM_LEN];
    }
    comm
}

/// Reads the `T` at `offset` of the kernel structure at `base`; `absent` where it cannot be read, or this kernel's structure has no
/// such member.
#[inline(always)]
pub fn member<T: Copy>(base: u64, offset: u16, absent: T) -> T {
    if offset == ABSENT {
        return absent;
    }
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.unwrap_or(absent)
}

/// Reads a command name that is a member of a kernel structure.
#[inline(always)]
pub fn comm_member(base: u64, offset: u16) -> [u8; COMM_LEN] {
    member(base, offset, [0; COMM_LEN])
}

/// Reads the register at `offset` of a function's probe, which is an argument or the result.
#[inline(always)]
pub fn register(ctx: &impl EbpfContext, offset: u16) -> u64 {
    // SAFETY: the helper checks the address itself. It takes the context as any other address, which the verifier, as the
    // compiler knows no register of this processor, would not let be read.
    unsafe { bpf_probe_read_kernel(ctx.as_ptr().cast::<u8>().add(usize::from(offset)).cast::<u64>()) }.unwrap_or(0)
}

/// Command name of the current task; empty where the kernel refuses.
#[inline(always)]
pub fn current_comm() -> [u8; COMM_LEN] {
    helpers::bpf_get_current_comm().unwrap_or([0; COMM_LEN])
}

/// Process (thread-group) id of the current task.
#[inline(always)]
pub fn current_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn monotonic_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// Reads a global that the loader may have overwritten, or a member of one, which the compiler must not fold away. What is
/// read is loaded at every run, so a program asks for the members that it needs.
#[macro_export]
macro_rules! global {
    ($($place:tt)+) => {
        // SAFETY: a reference to an initialised static.
        unsafe { core::ptr::read_volatile(&raw const $($place)+) }
    };
}

/// A debug message through aya-log, in the builds that have it.
#[macro_export]
macro_rules! trace {
    ($ctx:expr, $($args:tt)*) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!($ctx, $($args)*);
        // A program that needs its context for this alone needs it in the other build, too.
        #[cfg(not(feature = "log"))]
        let _ = $ctx;
    };
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier would refuse a program in which this can be reached.
    loop {}
}
