//! The record of probe `oom`: the OOM killer marked a victim.

use crate::{ABSENT, COMM_LEN, Global, Record};

/// One `oom/mark_victim` event.
///
/// Memory sizes are in kilobytes as the tracepoint gives them (include/trace/events/oom.h); [`OomRecord::UNKNOWN`] where the
/// kernel's layout of the tracepoint has no such field.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OomRecord {
    /// `CLOCK_MONOTONIC` when the probe ran, in nanoseconds.
    pub monotonic_ns: u64,
    /// Cgroup id (version 2 hierarchy) of the task that triggered the OOM killer.
    pub trigger_cgroup: u64,
    /// The victim's address space.
    pub total_vm_kb: u64,
    /// Anonymous memory of the victim.
    pub anon_rss_kb: u64,
    /// File-backed resident memory of the victim.
    pub file_rss_kb: u64,
    /// Shared resident memory of the victim.
    pub shmem_rss_kb: u64,
    /// Page tables of the victim.
    pub pgtables_kb: u64,
    /// Thread id of the victim, which need not be its thread-group leader.
    pub victim_pid: u32,
    /// User id of the victim; `u32::MAX` where unknown.
    pub victim_uid: u32,
    /// Process (thread-group) id of the task that triggered the OOM killer.
    pub trigger_pid: u32,
    /// The victim's `oom_score_adj`; `i16::MIN` where unknown.
    pub oom_score_adj: i16,
    /// Zero.
    pub pad: u16,
    /// Command name of the victim; empty where the tracepoint does not carry it.
    pub victim_comm: [u8; COMM_LEN],
    /// Command name of the trigger.
    pub trigger_comm: [u8; COMM_LEN],
}

impl OomRecord {
    /// A size that the kernel's tracepoint does not report.
    pub const UNKNOWN: u64 = u64::MAX;
}

/// Offsets of the tracepoint's fields, by their names in its `format` file; [`ABSENT`](crate::ABSENT) where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the tracepoint's own")]
pub struct Fields {
    pub pid: u16,
    pub comm: u16,
    pub total_vm: u16,
    pub anon_rss: u16,
    pub file_rss: u16,
    pub shmem_rss: u16,
    pub uid: u16,
    pub pgtables: u16,
    pub oom_score_adj: u16,
}

impl Fields {
    /// A tracepoint without any field.
    pub const ABSENT: Self = Self {
        pid: ABSENT,
        comm: ABSENT,
        total_vm: ABSENT,
        anon_rss: ABSENT,
        file_rss: ABSENT,
        shmem_rss: ABSENT,
        uid: ABSENT,
        pgtables: ABSENT,
        oom_score_adj: ABSENT,
    };
}

/// Offsets for the raw tracepoint and for the probe on `oom_kill_process`, by structure and member; [`ABSENT`](crate::ABSENT) where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the kernel's own")]
pub struct Structures {
    pub oom_control_chosen: u16,
    pub task_pid: u16,
    pub task_comm: u16,
    pub task_cred: u16,
    pub cred_uid: u16,
    pub task_signal: u16,
    pub signal_oom_score_adj: u16,
    pub task_mm: u16,
    pub mm_total_vm: u16,
    /// Size of a page in kilobytes.
    pub page_kb: u16,
    /// One where the argument of the raw tracepoint is the victim's id, zero where it is the victim.
    pub argument_is_pid: u16,
}

impl Structures {
    /// A kernel of which nothing is known.
    pub const ABSENT: Self = Self {
        oom_control_chosen: ABSENT,
        task_pid: ABSENT,
        task_comm: ABSENT,
        task_cred: ABSENT,
        cred_uid: ABSENT,
        task_signal: ABSENT,
        signal_oom_score_adj: ABSENT,
        task_mm: ABSENT,
        mm_total_vm: ABSENT,
        page_kb: 0,
        argument_is_pid: 0,
    };
}

const _: () = assert!(size_of::<Structures>() == 11 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Structures {}

const _: () = assert!(size_of::<OomRecord>() == 7 * 8 + 4 * 4 + 2 * COMM_LEN);

// SAFETY: repr(C), integers and byte arrays only, the size assertion above excludes padding.
unsafe impl Record for OomRecord {}

const _: () = assert!(size_of::<Fields>() == 9 * 2);

// SAFETY: repr(C), 16-bit integers only.
unsafe impl Global for Fields {}
