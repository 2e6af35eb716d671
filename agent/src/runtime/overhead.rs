//! Measures what the agent costs, and does what the governor decides.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::governor::{Governor, Resource, Shed, Step};
use super::sources::Sources;
use crate::config::Config;
use crate::engine::analyzers::event::OVERHEAD;
use crate::model::{Evidence, KernelEvent, Labels, Metric, Sample, SeriesKey, Unit};

/// What the governor tells of itself.
pub const METRICS: &[Metric] = &[LEVEL, PROGRAM_PERCENT];

const LEVEL: Metric = Metric::gauge(
    "agent_governor_level",
    Unit::Count,
    "Steps of work that the agent sheds because it costs more than [agent] cpu_budget_percent or memory_budget_mb.",
);
const PROGRAM_PERCENT: Metric = Metric::gauge(
    "agent_bpf_program_percent",
    Unit::Percent,
    "Processor time of all BPF programs, by time, in a sample of it; 100 is one core.",
);

/// The governor with its eyes and hands.
pub struct Overhead {
    governor: Governor,
    /// When it was last looked at, and the processor time in seconds that had been taken by then.
    last: (Instant, f64),
    looks: u32,
    levels: [SeriesKey; 2],
    program: SeriesKey,
}

impl Overhead {
    /// One that has measured nothing yet.
    pub fn new(config: &Config) -> Self {
        Self {
            governor: Governor::new(config),
            last: (Instant::now(), cpu_seconds()),
            looks: 0,
            levels: Resource::ALL.map(|resource| SeriesKey::new(&LEVEL, Labels::new().with("resource", resource.name()))),
            program: SeriesKey::new(&PROGRAM_PERCENT, Labels::new()),
        }
    }

    /// Takes over other budgets.
    pub fn reconfigure(&mut self, config: &Config) {
        self.governor.reconfigure(config);
    }

    /// Has sources do as much as the governor wants.
    pub fn apply(&self, sources: &Sources) {
        let effort = self.governor.effort();
        sources.control.shed(&effort.suspended, effort.one_in);
        sources.set_interval_factor(effort.factor);
    }

    /// One interval passed: measures, does what follows from it, and returns what is to be told of that.
    pub fn look(&mut self, sources: &Sources, samples: &mut Vec<Sample>) -> Vec<KernelEvent> {
        let (then, before) = std::mem::replace(&mut self.last, (Instant::now(), cpu_seconds()));
        let (now, seconds) = self.last;
        let elapsed = now.duration_since(then).as_secs_f64();
        let programs = sources.control.program_percent();
        samples.extend(programs.map(|value| Sample { series: self.program.clone(), value }));
        self.looks = self.looks.saturating_add(1);
        if self.looks == 3 && programs.is_none() && sources.control.map_bytes() > 0 {
            tracing::info!(
                "the time of BPF programs is not part of what [agent] cpu_budget_percent is compared with: this kernel does not \
                 tell it (BPF_ENABLE_STATS in bpf(2)); run with CAP_SYS_ADMIN, or set kernel.bpf_stats_enabled=1"
            );
        }
        // The first interval is the start, with everything that is done once.
        let own = if self.looks > 1 && elapsed > 0.0 { (seconds - before) / elapsed * 100.0 } else { 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "memory of petabytes is out of reach")]
        let memory = resident().saturating_add(sources.control.map_bytes()) as f64;
        let steps = self.governor.observe([own + programs.unwrap_or(0.0), memory]);
        let levels = self.governor.levels();
        #[expect(clippy::cast_precision_loss, reason = "a handful of levels")]
        samples
            .extend(self.levels.iter().zip(levels).map(|(series, level)| Sample { series: series.clone(), value: level as f64 }));
        if !steps.is_empty() {
            self.apply(sources);
        }
        steps.iter().map(|step| event(step, programs)).collect()
    }
}

/// Tells of a step, and has memory given back where that is the step.
fn event(step: &Step, programs: Option<f64>) -> KernelEvent {
    if step.shed == Shed::Trim && step.more {
        // SAFETY: malloc_trim has no preconditions.
        unsafe { libc::malloc_trim(0) };
    }
    let Step { resource, measured, budget, shed, more, level, levels } = step;
    let (deed, cost) = shed.words();
    let mebibyte = 1_048_576.0;
    let costs = match resource {
        Resource::Cpu => format!("the agent takes {measured:.2} % of a core, with a budget of {budget} %"),
        Resource::Memory => {
            format!("the agent holds {:.0} MiB of memory, with a budget of {:.0} MiB", measured / mebibyte, budget / mebibyte)
        }
    };
    let mut evidence = Evidence::new();
    evidence.insert("measured".into(), json!(measured));
    evidence.insert("budget".into(), json!(budget));
    evidence.insert("level".into(), json!(level));
    evidence.insert("levels".into(), json!(levels));
    evidence.insert("step".into(), json!(deed));
    evidence.insert("source".into(), json!("governor"));
    if *resource == Resource::Cpu {
        evidence.insert("bpf_program_percent".into(), json!(programs));
    }
    let message = if *more {
        evidence.insert("costs".into(), json!(cost));
        format!("{costs}: it now {deed} (step {level} of {levels}); {cost}")
    } else {
        format!("{costs}: it no longer {deed}; {level} of {levels} steps are left")
    };
    tracing::info!("{message}");
    KernelEvent {
        metric: OVERHEAD.name,
        labels: Labels::new().with("resource", resource.name()),
        value: measured / budget * 100.0,
        threshold: Some(100.0),
        count: u64::from(*level > 0),
        message,
        source: "governor",
        evidence,
    }
}

/// Processor time of all threads so far.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds below a second")]
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory in bytes: the second number of `/proc/self/statm` (proc_pid_statm(5)); 0 where that is not there.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}
