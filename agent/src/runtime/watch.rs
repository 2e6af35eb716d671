//! The agent without a way out: sources and an engine in this process, for a command that shows what they see.
//!
//! No channel is made, no port opened, no file written, and no budget kept: who looks has asked for what it costs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use super::positions::Positions;
use super::sources::Sources;
use super::{Core, Observations, QUEUE, STOP};
use crate::config::Config;
use crate::engine::Engine;
use crate::host;
use crate::model::{Observation, Samples, Timestamp};

/// Lines that are kept of events and of the kernel log.
const KEPT: usize = 100;
/// Least severe kernel log lines that are kept: errors (`KERN_ERR` of include/linux/kern_levels.h). Below are the dumps that go with
/// them, of registers and tasks, which would leave room for nothing else.
const LEAST_LEVEL: u8 = 3;

/// One line of what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// The kind of source: of an event its `source`, of a log line the log.
    pub source: &'static str,
    /// What it said, not escaped.
    pub text: String,
}

/// What went into the engine, as far as the engine does not keep it.
#[derive(Clone, Debug, Default)]
pub struct Passing {
    /// By collector: when it last ran, and how often it did.
    pub runs: BTreeMap<&'static str, (Timestamp, u32)>,
    /// By metric, the collector that it comes from.
    pub collector_of: HashMap<&'static str, &'static str>,
    /// By signal, whether its probe is attached; by log, whether it is read.
    pub probed: BTreeMap<&'static str, bool>,
    /// Events and lines of the kernel log, the oldest first.
    pub told: VecDeque<Told>,
}

impl Passing {
    /// Keeps what is to be kept of an observation.
    pub fn note(&mut self, at: Timestamp, observation: &Observation) {
        match observation {
            Observation::Samples(samples) => {
                let (last, count) = self.runs.entry(samples.collector).or_default();
                *last = at;
                *count = count.saturating_add(1);
                let metrics = samples.values.iter().map(|sample| sample.series.metric().name);
                self.collector_of.extend(metrics.map(|metric| (metric, samples.collector)));
            }
            Observation::Event(event) => self.keep(Told { at, source: event.source, text: event.message.clone() }),
            Observation::Log(record) if record.level.is_some_and(|level| level <= LEAST_LEVEL) => {
                self.keep(Told { at, source: record.source, text: record.text.clone() });
            }
            Observation::Source(state) => {
                self.probed.insert(state.signal, state.probed);
            }
            Observation::Log(_) | Observation::Histograms(_) | Observation::Tick => {}
        }
    }

    fn keep(&mut self, told: Told) {
        if self.told.len() == KEPT {
            self.told.pop_front();
        }
        self.told.push_back(told);
    }
}

/// Sources and an engine.
pub struct Watch {
    core: Core,
    sources: Sources,
    observations: Observations,
    passing: Passing,
    tick: Interval,
    next_own: Instant,
    own_interval: Duration,
}

impl Watch {
    /// Attaches what can be attached and starts all sources; must be called within a runtime.
    ///
    /// # Errors
    /// The system gives no threads or file descriptors.
    pub fn start(config: &Config, hostname: &str) -> anyhow::Result<Self> {
        let (queue, observations) = mpsc::channel(QUEUE);
        let mut core = Core::new(config, hostname);
        let sources = Sources::start(config, &queue, false, &Positions::default())?;
        core.note(&sources.signals);
        let mut passing = Passing::default();
        passing.probed.extend(sources.signals.iter().map(|signal| (signal.name, signal.probed)));
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let own_interval = config.agent.collect_interval;
        Ok(Self { core, sources, observations, passing, tick, next_own: Instant::now(), own_interval })
    }

    /// Waits for something that changes the picture, and hands it to the engine. Nothing is lost where this is cancelled.
    pub async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.tick.tick() => {
                self.core.observe(host::now(), Observation::Tick);
                if Instant::now() >= self.next_own {
                    self.next_own = Instant::now() + self.own_interval;
                    let mut values = self.core.samples();
                    self.sources.logs.samples(&mut values);
                    self.core.observe(host::now(), Observation::Samples(Samples { collector: "agent", values }));
                }
            }
            Some((at, observation)) = self.observations.recv() => {
                self.passing.note(at, &observation);
                self.core.observe(at, observation);
            }
        }
        // Nobody is sent anything; the incidents stay in the engine.
        self.core.alerts.clear();
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.core.engine
    }

    /// What the engine does not keep.
    pub fn passing(&self) -> &Passing {
        &self.passing
    }

    /// Memory of the BPF maps in bytes, and time of all BPF programs in percent of one core where the kernel tells.
    pub fn bpf_cost(&self) -> (u64, Option<f64>) {
        (self.sources.control.map_bytes(), self.sources.control.program_percent())
    }

    /// Ends all sources; BPF programs leave the kernel with the thread that holds them.
    pub async fn stop(mut self) {
        let deadline = Instant::now() + STOP;
        // The threads must not wait for a queue that nobody reads.
        self.observations.close();
        self.sources.stop().await;
        self.sources.join(deadline).await;
    }
}
