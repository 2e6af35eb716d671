//! Probe `fd`: a process was refused a file descriptor.
//!
//! Two places to see it: the result of the kernel's function that allocates descriptors, with that of the one that allocates open
//! files, or one program attached to many `syscalls/sys_exit_*` tracepoints, which share one layout.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros that declare programs drop their docs")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "without the borrow the value is copied once more")]

use agent_common::fd::{FdRecord, Fields};
use agent_common::{Count, Registers};
use agent_ebpf::{Fold, count, current_comm, current_process, field, global, increment, monotonic_ns, register, send, trace};
use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{fexit, kretprobe, map, tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{FExitContext, RetProbeContext, TracePointContext};

/// Records of one process that pass each second.
const BY_SECOND: u32 = 1;
/// "Too many open files in system", errno(3).
const ENFILE: i64 = 23;
/// "Too many open files", errno(3).
const EMFILE: i64 = 24;

#[derive(Clone, Copy)]
#[repr(C)]
struct State {
    allocated: u64,
    fold: Fold,
}

/// Where the fields are on this kernel; filled in by the loader.
#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::ABSENT;
/// Where results are on this processor; filled in by the loader.
#[unsafe(no_mangle)]
static REGISTERS: Registers = Registers::ABSENT;

/// Processes that were given or refused descriptors; the longest silent ones make room.
#[map]
static PROCESSES: LruHashMap<u32, State> = LruHashMap::with_max_entries(2048, 0);

/// `syscalls/sys_exit_*`
#[tracepoint]
pub fn sys_exit(ctx: TracePointContext) -> u32 {
    let result: i64 = field(&ctx, global!(FIELDS.ret), 0);
    returned(&ctx, result, || field(&ctx, global!(FIELDS.syscall_nr), 0)) as u32
}

/// Return of `alloc_fd(start, flags)`: a descriptor, or `-EMFILE`
#[fexit(function = "alloc_fd")]
pub fn alloc_fd_exit2(ctx: FExitContext) -> i32 {
    exited(&ctx, ctx.arg(2))
}

/// Return of `alloc_fd(start, end, flags)`
#[fexit(function = "alloc_fd")]
pub fn alloc_fd_exit3(ctx: FExitContext) -> i32 {
    exited(&ctx, ctx.arg(3))
}

/// Return of `__alloc_fd(files, start, end, flags)`
#[fexit(function = "__alloc_fd")]
pub fn alloc_fd_exit4(ctx: FExitContext) -> i32 {
    exited(&ctx, ctx.arg(4))
}

/// Return of `alloc_empty_file(flags, cred)`: an open file, or `-ENFILE` as a pointer
#[fexit(function = "alloc_empty_file")]
pub fn alloc_empty_file_exit(ctx: FExitContext) -> i32 {
    refused_a_file(&ctx, ctx.arg(2))
}

/// Return of `alloc_fd`: a descriptor, or `-EMFILE`
#[kretprobe]
pub fn alloc_fd(ctx: RetProbeContext) -> u32 {
    exited(&ctx, register(&ctx, global!(REGISTERS.result))) as u32
}

/// Return of `alloc_empty_file`: an open file, or `-ENFILE` as a pointer
#[kretprobe]
pub fn alloc_empty_file(ctx: RetProbeContext) -> u32 {
    refused_a_file(&ctx, register(&ctx, global!(REGISTERS.result))) as u32
}

#[inline(always)]
fn exited(ctx: &impl EbpfContext, result: u64) -> i32 {
    // An int: the upper half of the register is anything.
    returned(ctx, i64::from(result as i32), || FdRecord::UNKNOWN)
}

#[inline(always)]
fn refused_a_file(ctx: &impl EbpfContext, result: u64) -> i32 {
    if result as i64 == -ENFILE { returned(ctx, -ENFILE, || FdRecord::UNKNOWN) } else { 0 }
}

#[inline(always)]
fn returned(ctx: &impl EbpfContext, result: i64, syscall: impl FnOnce() -> u32) -> i32 {
    let refused = result == -EMFILE || result == -ENFILE;
    if result < 0 && !refused {
        return 0;
    }
    let pid = current_process();
    let known = PROCESSES.get_ptr_mut(pid);
    if !refused {
        match known {
            // SAFETY: the verifier checks that the pointer is into the map's value, whose first eight bytes these are.
            Some(state) => unsafe { increment(&raw mut (*state).allocated) },
            None => return remember(pid, State { allocated: 1, fold: Fold::NONE }),
        };
        return 0;
    }
    let now = monotonic_ns();
    let (events, allocated) = match known {
        Some(state) => {
            // SAFETY: the verifier checks the pointer; a race with another CPU costs at most a count of the fold.
            let state = unsafe { &mut *state };
            let Some(events) = state.fold.admit(now, BY_SECOND) else { return 0 };
            (events, state.allocated)
        }
        None => {
            remember(pid, State { allocated: 0, fold: Fold::first(now) });
            (1, 0)
        }
    };
    trace!(ctx, "fd: process {} was refused a descriptor, {}", pid, result);
    send::<FdRecord>(ctx, |record| {
        record.write(FdRecord {
            monotonic_ns: now,
            allocated,
            pid,
            errno: if result == -ENFILE { ENFILE as u32 } else { EMFILE as u32 },
            count: events,
            syscall: syscall(),
            comm: current_comm(),
        });
    });
    0
}

#[inline(always)]
fn remember(pid: u32, state: State) -> i32 {
    if PROCESSES.insert(pid, &state, 0).is_err() {
        count(Count::Untracked);
    }
    0
}
