//! Control groups that have a limit: memory, processor time and tasks (Documentation/admin-guide/cgroup-v2.rst and
//! Documentation/admin-guide/cgroup-v1).
//!
//! A cgroup appears with what is limited in it and with nothing else: an ordinary host has hundreds without any limit. The walk
//! over the trees is in `tree`, what their files say in `files`.

mod files;
mod tree;

use std::time::Duration;

use super::entities::Entities;
use super::{Batch, Collector, Row, metrics};
use crate::host::{Host, ReadError};
use crate::model::{Labels, Metric, SeriesKey};

pub const ROW: Row = Row {
    name: "cgroup",
    summary: "control groups with a limit: memory, throttling, tasks",
    source: "/sys/fs/cgroup",
    interval: |config| config.agent.collect_interval.max(INTERVAL),
    build: |_, host| Box::new(Cgroups { host: host.clone(), known: Entities::default() }),
    metrics: METRICS,
};

metrics! {
    gauge MEMORY_USED: Bytes = "cgroup_memory_used_bytes",
        "Memory charged to the cgroup and those below it, page cache included (memory.current; v1 memory.usage_in_bytes).";
    gauge MEMORY_LIMIT: Bytes = "cgroup_memory_limit_bytes",
        "Most memory that the cgroup may take (memory.max; v1 memory.limit_in_bytes).";
    gauge MEMORY_USAGE: Percent = "cgroup_memory_usage_percent",
        "Memory charged by its limit; 100 is common and harmless where page cache fills the rest (cgroup-v2.rst).";
    counter MEMORY_EVENTS: Count = "cgroup_memory_events_total",
        "How often memory.high was passed (high), the limit was hit (max; v1 memory.failcnt), it could not be kept by reclaim (oom), a process was killed (oom_kill; v1 memory.oom_control, since 4.13) (memory.events).";
    gauge CPU_LIMIT: Count = "cgroup_cpu_limit_cores",
        "Processor time that the cgroup may take, by time (cpu.max; v1 cpu.cfs_quota_us by cpu.cfs_period_us, Documentation/scheduler/sched-bwc.rst).";
    counter CPU_USED: Seconds = "cgroup_cpu_used_seconds_total",
        "Processor time that the cgroup took (cpu.stat usage_usec; v1 cpuacct.usage).";
    counter CPU_PERIODS: Count = "cgroup_cpu_periods_total",
        "Periods in which the cgroup had something to run (cpu.stat nr_periods, Documentation/scheduler/sched-bwc.rst).";
    counter CPU_THROTTLED_PERIODS: Count = "cgroup_cpu_throttled_periods_total",
        "Periods in which the cgroup had used up its time and was stopped (cpu.stat nr_throttled, Documentation/scheduler/sched-bwc.rst).";
    counter CPU_THROTTLED: Seconds = "cgroup_cpu_throttled_seconds_total",
        "Time that the cgroup's runnable tasks were stopped, by processor (cpu.stat throttled_usec; v1 throttled_time).";
    gauge PIDS: Count = "cgroup_pids", "Tasks in the cgroup and those below it (pids.current).";
    gauge PIDS_LIMIT: Count = "cgroup_pids_limit", "Most tasks that the cgroup may have (pids.max).";
    gauge PIDS_USAGE: Percent = "cgroup_pids_usage_percent", "Tasks by the most that the cgroup may have (pids.max).";
    counter PIDS_REFUSED: Count = "cgroup_pids_refused_total",
        "How often a fork failed because of the limit; absent before 4.8 (pids.events max).";
}

/// Limits and what is charged to them change with the life of containers; the walk costs too much for every ten seconds.
const INTERVAL: Duration = Duration::from_secs(30);

/// How long the walk may take until it is left behind. It ends itself long before.
const DEADLINE: Duration = Duration::from_secs(2);

/// What may be told of a cgroup: the metric and the kind of event.
const SLOTS: [(&Metric, Option<&str>); 16] = [
    (&MEMORY_USED, None),
    (&MEMORY_LIMIT, None),
    (&MEMORY_USAGE, None),
    (&MEMORY_EVENTS, Some("high")),
    (&MEMORY_EVENTS, Some("max")),
    (&MEMORY_EVENTS, Some("oom")),
    (&MEMORY_EVENTS, Some("oom_kill")),
    (&CPU_LIMIT, None),
    (&CPU_USED, None),
    (&CPU_PERIODS, None),
    (&CPU_THROTTLED_PERIODS, None),
    (&CPU_THROTTLED, None),
    (&PIDS, None),
    (&PIDS_LIMIT, None),
    (&PIDS_USAGE, None),
    (&PIDS_REFUSED, None),
];

/// Values in the order of [`SLOTS`].
type Values = [Option<f64>; SLOTS.len()];

struct Cgroups {
    host: Host,
    /// By path.
    known: Entities<String, [Option<SeriesKey>; SLOTS.len()]>,
}

impl Collector for Cgroups {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let root = self.host.sysfs("fs/cgroup");
        // The kernel takes locks of its own to answer, which a cgroup that is being removed can hold for long.
        let found = match self.host.isolate().call("the tree of control groups", DEADLINE, move || tree::walk(&root)) {
            Ok(found) => found,
            Err(stuck) => {
                batch.skip(|| stuck.to_string());
                return Ok(());
            }
        };
        for skip in found.skips {
            batch.skip(|| skip);
        }
        for (path, values) in found.cgroups {
            self.known.see(
                path.as_str(),
                || [const { None }; SLOTS.len()],
                |series| {
                    for ((series, value), (metric, event)) in series.iter_mut().zip(values).zip(SLOTS) {
                        let Some(value) = value else { continue };
                        let make = || {
                            let labels = Labels::new().with("cgroup", path.as_str());
                            SeriesKey::new(
                                metric,
                                match event {
                                    Some(event) => labels.with("event", event),
                                    None => labels,
                                },
                            )
                        };
                        batch.push(series.get_or_insert_with(make), value);
                    }
                },
            );
        }
        self.known.end_run();
        Ok(())
    }
}
