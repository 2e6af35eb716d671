//! The engine from outside: observations in, alerts out, in simulated time.

mod chains;
mod escalation;
mod events;
mod exhaustion;
mod kernel_lines;
mod kernel_log;
mod labelled;
mod log_match;
mod losses;
mod properties;
mod quiet;
mod quiet_week;
mod restore;
mod scores;
mod thresholds;
mod witnesses;

use properties::Random;
use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::model::{
    Alert, Evidence, KernelEvent, Labels, LogRecord, Metric, Observation, Sample, Samples, SeriesKey, SourceState, Status,
    Timestamp, Unit,
};

static CPU: Metric = Metric::gauge("cpu_usage_percent", Unit::Percent, "CPU time that was not idle.");
static DISK: Metric = Metric::gauge("disk_usage_percent", Unit::Percent, "Used space of a mount.");
static PROCESS_FD: Metric = Metric::gauge("process_fd_usage_percent", Unit::Percent, "Open descriptors by limit.");
static LOAD: Metric = Metric::gauge("cpu_load_per_core", Unit::Ratio, "Load by CPU.");
static NETWORK: Metric = Metric::gauge("network_error_ratio", Unit::Ratio, "Errors by packet.");
static OOM_KILLS: Metric = Metric::counter("kernel_oom_kills_total", Unit::Count, "Kills of the OOM killer.");
static HUNG_TASKS: Metric = Metric::counter("kernel_hung_tasks_total", Unit::Count, "Detected hung tasks.");

/// A host in simulated time, in seconds since an arbitrary start. Time passes in ticks of one second.
struct Host {
    engine: Engine,
    now: i64,
    alerts: Vec<Alert>,
}

impl Host {
    fn new() -> Self {
        Self::with(&Config::default())
    }

    fn with(config: &Config) -> Self {
        Self { engine: Engine::new(config, "web-01"), now: 0, alerts: Vec::new() }
    }

    fn time(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_700_000_000 + secs)
    }

    /// Lets time pass until `secs`.
    fn wait_until(&mut self, secs: i64) {
        while self.now < secs {
            self.now += 1;
            self.observe(Observation::Tick);
        }
    }

    fn wait(&mut self, secs: i64) {
        self.wait_until(self.now + secs);
    }

    fn observe(&mut self, observation: Observation) {
        self.engine.observe(Self::time(self.now), observation, &mut self.alerts);
    }

    fn sample(&mut self, series: &SeriesKey, value: f64) {
        let values = vec![Sample { series: series.clone(), value }];
        self.observe(Observation::Samples(Samples { collector: "test", values }));
    }

    /// One sample every `interval` seconds, the first now.
    fn samples(&mut self, series: &SeriesKey, interval: i64, values: &[f64]) {
        for value in values {
            self.sample(series, *value);
            self.wait(interval);
        }
    }

    fn line(&mut self, text: &str) {
        self.observe(Observation::Log(LogRecord {
            source: "kmsg",
            level: Some(3),
            is_kernel: true,
            written: None,
            text: text.into(),
            facts: Evidence::new(),
        }));
    }

    fn probed(&mut self, signal: &'static str, probed: bool) {
        self.observe(Observation::Source(SourceState { signal, probed }));
    }

    fn event(&mut self, event: KernelEvent) {
        self.observe(Observation::Event(Box::new(event)));
    }

    /// The alerts since the last call: when, what, which words.
    fn told(&mut self) -> Vec<(Status, String)> {
        self.alerts.drain(..).map(|alert| (alert.status, format!("{} {}", alert.severity, alert.message))).collect()
    }

    /// The one alert since the last call.
    fn only(&mut self) -> Alert {
        assert_eq!(self.alerts.len(), 1, "{:#?}", self.alerts);
        self.alerts.remove(0)
    }
}

fn series(metric: &'static Metric, labels: &[(&'static str, &str)]) -> SeriesKey {
    SeriesKey::new(metric, labels.iter().fold(Labels::new(), |labels, (name, value)| labels.with(*name, *value)))
}

fn event(metric: &'static str, labels: &[(&'static str, &str)], message: &str) -> KernelEvent {
    KernelEvent {
        metric,
        labels: labels.iter().fold(Labels::new(), |labels, (name, value)| labels.with(*name, *value)),
        value: 1.0,
        threshold: None,
        count: 1,
        message: message.into(),
        source: "probe",
        evidence: Evidence::new(),
    }
}

fn is(status: Status, text: &str) -> (Status, String) {
    (status, text.to_owned())
}
