//! Everything that makes observations: the threads of probes and collectors, and a task for each log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::Queue;
use super::collecting::Collecting;
use super::log_facts::{LogFacts, Probed};
use super::signals::{self, Signal};
use super::stop::{FIRST, LONGEST, POLL, Part, StopFlag, keep_running};
use crate::config::Config;
use crate::host::{self, Host};
use crate::logs;
use crate::model::{Labels, Metric, Observation, Sample, Samples, SeriesKey, SourceState, Unit};
use crate::probes::{Control, ProbeReader, Seen, Step, What};

/// How much of the time of a stop the sources have to hand over what they hold; the rest is for the alerts, and for the kernel
/// to take the programs out.
const PATIENCE: Duration = Duration::from_millis(400);

/// What each log lost.
pub const LOG_LOST: Metric = Metric::counter(
    "agent_log_records_lost_total",
    Unit::Count,
    "Records of a log that were overwritten before they were read or were malformed, by gaps in their sequence numbers",
);

/// Whether the sources were made from something that is now different.
pub fn needs_other_sources(old: &Config, new: &Config) -> bool {
    old.host != new.host
        || old.ebpf != new.ebpf
        || old.collector != new.collector
        || old.log_analyzer != new.log_analyzer
        || old.agent.collect_interval != new.agent.collect_interval
}

/// By log: the sequence number of the record that will be read next, 0 where none has been read. Kept over a reload, so that what is
/// logged in between is read, or counted as lost.
pub type Positions = BTreeMap<&'static str, Arc<AtomicU64>>;

/// Everything that makes observations.
pub struct Sources {
    /// What serves each signal.
    pub signals: Vec<Signal>,
    /// What is to say of each log.
    pub log_notes: Vec<String>,
    stop: StopFlag,
    /// Tells the probes what to do.
    pub control: Control,
    interval_factor: Arc<AtomicU32>,
    parts: Vec<Part>,
    logs: Vec<JoinHandle<()>>,
    log_losses: Vec<(SeriesKey, Arc<AtomicU64>)>,
    positions: Positions,
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
        let mut sources = Self {
            signals,
            log_notes: Vec::new(),
            stop,
            control,
            interval_factor,
            parts: Vec::new(),
            logs: Vec::new(),
            log_losses: Vec::new(),
            positions: positions.clone(),
        };
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
        sources.start_logs(config, &host, queue, &probed);
        Ok(sources)
    }

    fn start_logs(&mut self, config: &Config, host: &Host, queue: &Queue, probed: &Probed) {
        for row in logs::SOURCES {
            if !config.log_analyzer.enabled || !config.log_analyzer.sources.contains(&row.key) {
                // Where the queue is full the engine goes on expecting lines for no longer than it takes to say so.
                let _ = queue.try_send((host::now(), read(row, false)));
                continue;
            }
            // One that cannot be opened now is tried again: a device node or a permission may come later.
            let note = (row.open)(host, None).map_or_else(|unavailable| unavailable.to_string(), |_| row.summary.to_owned());
            self.log_notes.push(format!("{}: {note}", row.name));
            let lost = Arc::new(AtomicU64::new(0));
            self.log_losses.push((SeriesKey::new(&LOG_LOST, Labels::new().with("source", row.name)), Arc::clone(&lost)));
            let position = Arc::clone(self.positions.entry(row.name).or_default());
            let (host, queue, probed) = (host.clone(), queue.clone(), probed.clone());
            self.logs.push(tokio::spawn(keep_running(format!("log {}", row.name), move || {
                let facts = LogFacts::new(&host, probed.clone());
                follow(row, host.clone(), queue.clone(), facts, Arc::clone(&lost), Arc::clone(&position))
            })));
        }
    }

    /// Where the logs are read on.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Has all collectors run so many times as rarely.
    pub fn set_interval_factor(&self, factor: u32) {
        self.interval_factor.store(factor, Ordering::Relaxed);
    }

    /// How many times as rarely all collectors run.
    pub fn interval_factor(&self) -> u32 {
        self.interval_factor.load(Ordering::Relaxed)
    }

    /// What the logs lost.
    #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is out of reach")]
    pub fn samples(&self, into: &mut Vec<Sample>) {
        let losses = self.log_losses.iter();
        into.extend(losses.map(|(series, lost)| Sample { series: series.clone(), value: lost.load(Ordering::Relaxed) as f64 }));
    }

    /// Tells everything to stop, and waits a moment until nothing makes observations any more.
    pub async fn stop(&mut self) {
        self.stop.raise();
        self.control.stop();
        self.logs.drain(..).for_each(|log| log.abort());
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

/// Says that a log is read, or not any more.
fn read(row: &logs::Row, is_read: bool) -> Observation {
    Observation::Source(SourceState { signal: row.name, probed: is_read })
}

/// Reads one log, and opens it again where it ended, at the record that comes next. What stays the same is said once.
async fn follow(
    row: &'static logs::Row,
    host: Host,
    queue: Queue,
    mut facts: LogFacts,
    lost: Arc<AtomicU64>,
    position: Arc<AtomicU64>,
) {
    let mut wait = FIRST;
    let mut said = String::new();
    loop {
        let next = Some(position.load(Ordering::Relaxed)).filter(|next| *next > 0);
        let opened = (row.open)(&host, next);
        if queue.send((host::now(), read(row, opened.is_ok()))).await.is_err() {
            return;
        }
        let ended = match opened {
            Ok(mut source) => loop {
                match source.next().await {
                    Ok(mut logged) => {
                        wait = FIRST;
                        said.clear();
                        lost.fetch_add(logged.lost, Ordering::Relaxed);
                        if let Some(sequence) = logged.record.sequence {
                            position.store(sequence.saturating_add(1), Ordering::Relaxed);
                        }
                        // What a process wrote into the log is not worth a question.
                        if logged.record.source == row.name {
                            logged.record.facts = facts.find(&logged.record.text).await;
                        }
                        if queue.send((host::now(), Observation::Log(logged.record))).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => break error.to_string(),
                }
            },
            Err(unavailable) => unavailable.to_string(),
        };
        if ended != said {
            tracing::warn!("log {} is not read: {ended}; tried again and again", row.name);
            said = ended;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}
