//! What the agent itself costs. Its queues and collectors are counted by whoever runs them.

use rustix::time::{ClockId, clock_gettime};

use super::interval::Counters;
use super::process_stat::parse_stat;
use super::{Batch, Collector, Row, keys, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "agent",
    summary: "what the agent itself costs",
    source: "/proc/self/stat, CLOCK_PROCESS_CPUTIME_ID",
    interval: |config| config.agent.collect_interval,
    build: |_, host| Box::new(Agent::new(host)),
    metrics: METRICS,
};

metrics! {
    counter CPU_TIME: Seconds = "agent_cpu_seconds_total", "Processor time that the agent took (clock_getres(2)).";
    gauge CPU: Percent = "agent_cpu_percent", "Processor time that the agent took, by time; 100 is one core.";
    gauge RSS: Bytes = "agent_rss_bytes", "Resident memory of the agent (/proc/self/stat).";
    gauge THREADS: Count = "agent_threads", "Threads of the agent (/proc/self/stat).";
}

struct Agent {
    stat: ProcFile,
    page_size: u64,
    cpu: Counters<1>,
    series: [SeriesKey; 4],
}

impl Agent {
    fn new(host: &Host) -> Self {
        Self {
            stat: ProcFile::new(host.procfs("self/stat")),
            page_size: rustix::param::page_size() as u64,
            cpu: Counters::default(),
            series: keys([&CPU_TIME, &CPU, &RSS, &THREADS], &Labels::new()),
        }
    }
}

impl Collector for Agent {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let [cpu_time, cpu, rss, threads] = &self.series;
        // /proc counts in ticks of 10 ms, which is more than the agent takes in an interval.
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000);
        let micros = u64::try_from(micros).unwrap_or_default();
        batch.push(cpu_time, micros as f64 / 1e6);
        if let Some(growth) = self.cpu.advance(batch.at(), [micros]) {
            let [by] = growth.by;
            batch.push(cpu, by as f64 / 1e6 / growth.seconds * 100.0);
        }
        let text = self.stat.read()?;
        match parse_stat(text.bytes) {
            Ok(stat) => {
                batch.push_count(rss, stat.rss_pages.saturating_mul(self.page_size));
                batch.push_count(threads, stat.threads);
            }
            Err(expected) => batch.skip(|| format!("{}: expected {expected}", text.path.display())),
        }
        Ok(())
    }
}
