//! Everything that makes observations: the threads of probes and collectors, and a task for each log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Queue;
use super::collecting::Collecting;
use super::log_facts::Probed;
use super::log_reading::LogReading;
use super::positions::Positions;
use super::signals::{self, Signal};
use super::stop::{POLL, Part, StopFlag};
use crate::config::Config;
use crate::host::{self, Host};
use crate::model::{Observation, Samples, SourceState};
use crate::probes::{Control, ProbeReader, Seen, Step, What};

/// How much of the time of a stop the sources have to hand over what they hold; the rest is for the alerts, and for the kernel
/// to take the programs out.
const PATIENCE: Duration = Duration::from_millis(400);

/// Whether the sources were made from something that is now different.
pub fn needs_other_sources(old: &Config, new: &Config) -> bool {
    old.host != new.host
        || old.ebpf != new.ebpf
        || old.collector != new.collector
        || old.log_analyzer != new.log_analyzer
        || old.agent.collect_interval != new.agent.collect_interval
}

/// Everything that makes observations.
pub struct Sources {
    /// What serves each signal.
    pub signals: Vec<Signal>,
    stop: StopFlag,
    /// Tells the probes what to do.
    pub control: Control,
    interval_factor: Arc<AtomicU32>,
    parts: Vec<Part>,
    /// The logs.
    pub logs: LogReading,
}

impl Sources {
    /// Attaches the probes and starts the threads and tasks. Logs are read on from `positions`.
    ///
    /// # Errors
    /// The system gives no threads or file descriptors.
    pub fn start(config: &Config, queue: &Queue, probe_log: bool, positions: &Positions) -> anyhow::Result<Self> {
        let host = Host::new(config.host.clone());
        let (probes, signals) = signals::attach(config, &host, probe_log);
        let stop = StopFlag::default();
        let control = Control::new().context("cannot make an eventfd")?;
        let interval_factor = Arc::new(AtomicU32::new(1));
        let probed = Probed::default();
        signals.iter().for_each(|signal| probed.set(signal.name, signal.probed));
        let mut sources = Self { signals, stop, control, interval_factor, parts: Vec::new(), logs: LogReading::default() };
        if !probes.is_empty() {
            let mut reader = ProbeReader::new(probes, &host, &config.ebpf, config.agent.collect_interval, probe_log);
            let (control, queue) = (sources.control.clone(), queue.clone());
            let (config, of_host, probed) = (config.clone(), host.clone(), probed.clone());
            let body = move || {
                let mut emit = |seen| {
                    if let Seen::Step(step) = &seen {
                        tell(step, &config, &of_host);
                        probed.set(step.row.name, step.source.is_some());
                    }
                    queue.blocking_send((host::now(), observation_of(seen))).is_ok()
                };
                if let Err(error) = reader.run(&control, &mut emit) {
                    tracing::error!("probes: cannot wait for events: {error}; no events arrive any more");
                }
            };
            sources.parts.push(Part::start("probes", sources.stop.clone(), body).context("cannot start a thread")?);
        }
        let mut collecting = Collecting::new(config, &host, Arc::clone(&sources.interval_factor));
        let (stop, emitter) = (sources.stop.clone(), queue.clone());
        let body = move || {
            let mut emit = |observation| emitter.blocking_send((host::now(), observation)).is_ok();
            collecting.run(&stop, &mut emit);
        };
        sources.parts.push(Part::start("collectors", sources.stop.clone(), body).context("cannot start a thread")?);
        sources.logs = LogReading::start(config, &host, queue, &probed, positions);
        Ok(sources)
    }

    /// Has all collectors run so many times as rarely.
    pub fn set_interval_factor(&self, factor: u32) {
        self.interval_factor.store(factor, Ordering::Relaxed);
    }

    /// How many times as rarely all collectors run.
    pub fn interval_factor(&self) -> u32 {
        self.interval_factor.load(Ordering::Relaxed)
    }

    /// Tells everything to stop, and waits a moment until nothing makes observations any more.
    pub async fn stop(&mut self) {
        self.stop.raise();
        self.control.stop();
        self.logs.stop();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.parts.iter().all(Part::returned) {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until everything has ended; BPF programs leave the kernel with the thread that holds them.
    pub async fn join(&mut self, deadline: Instant) {
        for part in self.parts.drain(..) {
            part.join(deadline).await;
        }
    }
}

fn observation_of(seen: Seen) -> Observation {
    match seen {
        Seen::Event(event) => Observation::Event(Box::new(event)),
        Seen::Samples(values) => Observation::Samples(Samples { collector: "probes", values }),
        Seen::Histograms(histograms) => Observation::Histograms(histograms),
        Seen::Step(step) => Observation::Source(SourceState { signal: step.row.name, probed: step.source.is_some() }),
    }
}

/// Says in one line what became of a probe, what serves its signal now, and when a better way is tried.
fn tell(step: &Step, config: &Config, host: &Host) {
    let name = step.row.name;
    let serves = || match &step.source {
        Some(source) => source.clone(),
        None => signals::fall_back(step.row, config, host, Vec::new()).source.unwrap_or_else(|| "nothing".into()),
    };
    let again = |again: Duration| format!("; tried again from the top in {} s", again.as_secs_f64().ceil());
    let again = step.again.map_or_else(String::new, again);
    match &step.what {
        What::Attached => tracing::info!("probe {name} is attached: {}{again}", serves()),
        What::Died(how) => tracing::warn!("probe {name} is dead: {how}; its signal is now served by: {}{again}", serves()),
        What::Suspended => tracing::info!("probe {name} is taken out to save work; its signal is now served by: {}", serves()),
    }
}
