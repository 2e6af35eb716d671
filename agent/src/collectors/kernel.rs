//! The kernel's own state: uptime, entropy, its clock, and its counters of OOM kills and hung tasks.
//!
//! The counters say that something happened; who it happened to is known to the probes and the log.

use super::text::{decimal, fields, number};
use super::{Batch, Collector, Row, metrics, plain};
use crate::host::{Clock, Host, ProcFile, ReadError, clock};
use crate::model::SeriesKey;

pub const ROW: Row = Row {
    name: "kernel",
    summary: "uptime, entropy, state of the clock, counters of OOM kills and hung tasks",
    source: "/proc/uptime, /proc/vmstat, /proc/sys/kernel, adjtimex(2)",
    interval: |config| config.agent.collect_interval,
    build: |_, host| Box::new(Kernel::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge UPTIME: Seconds = "kernel_uptime_seconds", "Time since boot, suspension included (/proc/uptime).";
    gauge ENTROPY: Count = "kernel_entropy_available", "Entropy of the random pool (/proc/sys/kernel/random/entropy_avail).";
    counter OOM_KILLS: Count = "kernel_oom_kills_total",
        "Processes that the OOM killer killed since boot; absent before 4.13 (/proc/vmstat oom_kill).";
    counter HUNG_TASKS: Count = "kernel_hung_tasks_total",
        "Hung tasks that the kernel detected since boot; absent before 6.13 (/proc/sys/kernel/hung_task_detect_count).";
    gauge HUNG_TASK_WARNINGS: Count = "kernel_hung_task_warnings",
        "Hung tasks that the kernel will still log; -1 for all of them (/proc/sys/kernel/hung_task_warnings).";
    gauge CLOCK_SYNCHRONIZED: Boolean = "kernel_clock_synchronized",
        "Whether a daemon keeps the system clock synchronized (adjtimex(2) STA_UNSYNC).";
    gauge CLOCK_OFFSET: Seconds = "kernel_clock_offset_seconds",
        "What the kernel still has to correct of the system clock (adjtimex(2) offset).";
    gauge CLOCK_MAX_ERROR: Seconds = "kernel_clock_max_error_seconds",
        "The most by which the system clock may be wrong; 16 where nobody synchronizes it (adjtimex(2) maxerror).";
}

struct Kernel {
    uptime: Source,
    vmstat: ProcFile,
    oom_kills: SeriesKey,
    entropy: Source,
    hung_tasks: Source,
    hung_task_warnings: ProcFile,
    warnings: SeriesKey,
    clock: [SeriesKey; 3],
}

/// A file whose first field is the value.
struct Source {
    file: ProcFile,
    series: SeriesKey,
}

impl Source {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { file, series } = self;
        if let Some(text) = file.read_if_exists()? {
            batch.lines(text, |batch, line| {
                let value = fields(line).next().and_then(decimal).filter(|value| *value >= 0.0);
                batch.push(series, value.ok_or("a number that is not negative")?);
                Ok(())
            });
        }
        Ok(())
    }
}

impl Kernel {
    fn new(host: &Host) -> Self {
        let source = |path, metric| Source { file: ProcFile::new(host.procfs(path)), series: plain(metric) };
        Self {
            uptime: source("uptime", &UPTIME),
            vmstat: ProcFile::new(host.procfs("vmstat")),
            oom_kills: plain(&OOM_KILLS),
            entropy: source("sys/kernel/random/entropy_avail", &ENTROPY),
            hung_tasks: source("sys/kernel/hung_task_detect_count", &HUNG_TASKS),
            hung_task_warnings: ProcFile::new(host.procfs("sys/kernel/hung_task_warnings")),
            warnings: plain(&HUNG_TASK_WARNINGS),
            clock: [&CLOCK_SYNCHRONIZED, &CLOCK_OFFSET, &CLOCK_MAX_ERROR].map(plain),
        }
    }

    fn collect_oom_kills(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { vmstat, oom_kills, .. } = self;
        batch.lines(vmstat.read()?, |batch, line| {
            if let Some(value) = line.strip_prefix(b"oom_kill ") {
                batch.push_count(oom_kills, number(value).ok_or("a number")?);
            }
            Ok(())
        });
        Ok(())
    }

    /// The clock of the machine, which is that of the host in every container.
    fn collect_clock(&self, batch: &mut Batch) {
        match clock() {
            Ok(Clock { synchronized, offset, max_error }) => {
                for (series, value) in self.clock.iter().zip([f64::from(u8::from(synchronized)), offset, max_error]) {
                    batch.push(series, value);
                }
            }
            Err(error) => batch.skip(|| format!("cannot ask for the state of the clock: {error}")),
        }
    }
}

impl Kernel {
    fn collect_warnings(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { hung_task_warnings, warnings, .. } = self;
        if let Some(text) = hung_task_warnings.read_if_exists()? {
            batch.lines(text, |batch, line| {
                let count = decimal(line).filter(|count| *count >= -1.0 && count.fract() == 0.0);
                batch.push(warnings, count.ok_or("a whole number from -1 on")?);
                Ok(())
            });
        }
        Ok(())
    }
}

impl Collector for Kernel {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        self.collect_clock(batch);
        let results = [
            self.uptime.collect(batch),
            self.collect_oom_kills(batch),
            self.entropy.collect(batch),
            self.hung_tasks.collect(batch),
            self.collect_warnings(batch),
        ];
        results.into_iter().collect()
    }
}
