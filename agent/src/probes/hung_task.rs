//! Probe `hung_task`: the kernel's detector found a task blocked for too long.
//!
//! The detector reports a task again with each of its rounds for as long as it stays blocked, so the time since the first
//! report of the same task (pid and start time) is added to the detector's own limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use agent_common::hung_task::{Fields, HungTaskRecord};
use agent_common::{ABSENT, Record as _};

use super::tracefs::Format;
use super::{Facts, Hook, Kernel, Probe, Rung, Unavailable, comm};
use crate::config;
use crate::host::Host;
use crate::model::{Evidence, KernelEvent, Labels};

/// Blocked tasks that are remembered; more than this at a time is a host where each alert says the same.
const MAX_REMEMBERED: usize = 1024;
/// A report of the same task within this time continues the earlier one.
const FORGET_NS: u64 = 3600 * 1_000_000_000;

/// `sched/sched_process_hang`, with offsets from its `format` file.
pub fn tracepoint(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    needs_detector(&kernel.host)?;
    let format = Format::read(&kernel.host, "sched", "sched_process_hang")?;
    let (comm, comm_is_data_loc) = format.text("comm");
    let pid = format.required("sched/sched_process_hang", "pid", 4)?;
    let fields = Fields { pid, comm, comm_is_data_loc: u16::from(comm_is_data_loc) };
    let hook = Hook::Tracepoint { program: "sched_process_hang", category: "sched", name: "sched_process_hang".into() };
    Ok(Rung::new("tracepoint sched/sched_process_hang", &fields, vec![hook]))
}

/// The same as a raw tracepoint, with offsets from the kernel's BTF: does without tracefs.
pub fn raw_tracepoint(kernel: &Kernel, _: &config::Ebpf) -> Result<Rung, Unavailable> {
    needs_detector(&kernel.host)?;
    let [pid, comm] = [("task_struct", "pid"), ("task_struct", "comm")];
    let offsets = kernel.btf()?.required_offsets(&[pid, comm])?;
    let at = |member| offsets.get(&member).copied().unwrap_or(ABSENT);
    let fields = Fields { pid: at(pid), comm: at(comm), comm_is_data_loc: 0 };
    let hook = Hook::RawTracepoint { program: "sched_process_hang_raw", name: "sched_process_hang" };
    Ok(Rung::new("raw tracepoint sched_process_hang", &fields, vec![hook]))
}

fn needs_detector(host: &Host) -> Result<(), Unavailable> {
    match timeout_secs(host) {
        Some(_) => Ok(()),
        None => Err(Unavailable::new(
            "this kernel has no hung-task detector (kernel.hung_task_timeout_secs)",
            "a kernel built with CONFIG_DETECT_HUNG_TASK has it",
        )),
    }
}

/// Makes the user half.
pub fn build(host: &Host, _: &config::Ebpf) -> Arc<dyn Probe> {
    Arc::new(HungTask { host: host.clone(), first_seen: Mutex::default() })
}

/// The detector's limit; 0 switches it off (Documentation/admin-guide/sysctl/kernel.rst, hung_task_timeout_secs).
fn timeout_secs(host: &Host) -> Option<u64> {
    std::fs::read_to_string(host.procfs("sys/kernel/hung_task_timeout_secs")).ok()?.trim().parse().ok()
}

struct HungTask {
    host: Host,
    /// When a task was first reported, and last, by pid and start time.
    first_seen: Mutex<HashMap<(u32, u64), (u64, u64)>>,
}

impl Probe for HungTask {
    fn decode(&self, record: &[u8]) -> Option<KernelEvent> {
        let record = HungTaskRecord::from_bytes(record)?;
        let mut evidence = Evidence::new();
        evidence.insert("monotonic_ns".into(), record.monotonic_ns.into());
        let labels = Labels::new().with("pid", record.pid.to_string()).with("comm", comm(&record.comm));
        let metric = "kernel_hung_task";
        Some(KernelEvent {
            metric,
            labels,
            value: 0.0,
            threshold: None,
            count: 1,
            message: String::new(),
            source: "probe",
            evidence,
        })
    }

    fn enrich(&self, record: &[u8], facts: &Facts) {
        let Some(record) = HungTaskRecord::from_bytes(record) else { return };
        let task = self.host.process(record.pid);
        let limit = timeout_secs(&self.host).unwrap_or(0);
        let before = task.start_ticks().map_or(0, |start| self.blocked_before((record.pid, start), record.monotonic_ns));
        #[expect(clippy::cast_precision_loss, reason = "seconds since boot are far below 2^53")]
        {
            facts.value((limit + before) as f64);
            facts.threshold(limit as f64);
        }
        task.blocked_facts(&mut |name, fact| facts.evidence(name, Some(fact)));
    }

    fn describe(&self, event: &KernelEvent) -> String {
        let label = |name| event.labels.get(name).unwrap_or("?");
        let place = event.evidence.get("wchan").and_then(|value| value.as_str());
        let place = place.map_or(String::new(), |function| format!(" in {function}"));
        format!("{} (pid {}) has been blocked for more than {} s{place}", label("comm"), label("pid"), event.value)
    }
}

impl HungTask {
    /// Seconds since the task was first reported.
    fn blocked_before(&self, task: (u32, u64), now_ns: u64) -> u64 {
        let mut first_seen = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if first_seen.len() >= MAX_REMEMBERED {
            first_seen.retain(|_, (_, last)| now_ns.saturating_sub(*last) < FORGET_NS);
        }
        if first_seen.len() >= MAX_REMEMBERED && !first_seen.contains_key(&task) {
            return 0;
        }
        let (first, last) = first_seen.entry(task).or_insert((now_ns, now_ns));
        if now_ns.saturating_sub(*last) >= FORGET_NS {
            *first = now_ns;
        }
        *last = now_ns;
        now_ns.saturating_sub(*first) / 1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_reports_of_one_task_add_up_and_a_reused_pid_starts_anew() {
        let probe = HungTask { host: Host::new(config::HostRoots::default()), first_seen: Mutex::default() };
        let second = 1_000_000_000;
        assert_eq!(probe.blocked_before((7, 100), second), 0);
        assert_eq!(probe.blocked_before((7, 100), 6 * second), 5);
        assert_eq!(probe.blocked_before((7, 200), 7 * second), 0);
        assert_eq!(probe.blocked_before((7, 100), 2 * FORGET_NS), 0);
    }

    #[test]
    fn the_memory_of_tasks_is_bounded() {
        let probe = HungTask { host: Host::new(config::HostRoots::default()), first_seen: Mutex::default() };
        for pid in 0..2 * u32::try_from(MAX_REMEMBERED).unwrap() {
            probe.blocked_before((pid, 1), 1);
        }
        assert_eq!(probe.first_seen.lock().unwrap().len(), MAX_REMEMBERED);
    }
}
