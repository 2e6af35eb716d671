//! Reads each log in a task of its own, opens it again where it ended, and decides which of its lines are news.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Queue;
use super::log_facts::{LogFacts, Probed};
use super::positions::Positions;
use super::stop::{FIRST, LONGEST, keep_running};
use crate::config::Config;
use crate::host::{self, Host, Unavailable};
use crate::logs::{self, Begin, HISTORY, Logged, Opened, PRESENT, Place, SOURCES};
use crate::model::{Labels, Metric, Observation, Sample, SeriesKey, SourceState, Unit};

/// What each log tells of its reading: see [`Figures`].
pub const METRICS: &[Metric] = &[RECORDS, LOST, CUT, RESTARTS];

const RECORDS: Metric =
    Metric::counter("agent_log_records_total", Unit::Count, "Records of a log that were looked at for patterns.");
const LOST: Metric = Metric::counter(
    "agent_log_records_lost_total",
    Unit::Count,
    "Records of a log that were overwritten before they were read, by gaps in their sequence numbers, or were malformed.",
);
const CUT: Metric = Metric::counter(
    "agent_log_records_cut_total",
    Unit::Count,
    "Records of a log whose text beyond 2 KiB was not looked at; of the journal all of a text beyond 4 KiB.",
);
const RESTARTS: Metric = Metric::counter(
    "agent_log_restarts_total",
    Unit::Count,
    "How often a log was opened again, because reading it failed or its reader ended.",
);

/// How long after the boot an agent that has read nothing yet begins with the boot.
const YOUNG: Duration = HISTORY;

/// What is counted of one log, in the order of [`METRICS`].
#[derive(Default)]
struct Figures {
    records: AtomicU64,
    lost: AtomicU64,
    cut: AtomicU64,
    restarts: AtomicU64,
}

impl Figures {
    fn values(&self) -> [u64; 4] {
        [&self.records, &self.lost, &self.cut, &self.restarts].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Which logs are read now, by their place in the table: the kernel's lines are taken from the first of them.
#[derive(Clone, Default)]
struct Readers(Arc<Mutex<BTreeSet<usize>>>);

impl Readers {
    fn set(&self, log: usize, is_read: bool) {
        if is_read {
            self.locked().insert(log);
        } else {
            self.locked().remove(&log);
        }
    }

    /// Whether another log gives the kernel's lines.
    fn is_behind_another(&self, log: usize) -> bool {
        self.locked().first().is_some_and(|first| *first < log)
    }

    fn locked(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All logs that the configuration asks for.
#[derive(Default)]
pub struct LogReading {
    /// What is to say of each log.
    pub notes: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
    figures: Vec<(Vec<SeriesKey>, Arc<Figures>)>,
}

impl LogReading {
    /// Opens the logs and starts to read them, from `positions` on; must be called within a runtime.
    pub fn start(config: &Config, host: &Host, queue: &Queue, probed: &Probed, positions: &Positions) -> Self {
        let mut reading = Self::default();
        let readers = Readers::default();
        for (index, row) in SOURCES.iter().enumerate() {
            if !config.log_analyzer.enabled || !config.log_analyzer.sources.contains(&row.key) {
                // Where the queue is full the engine goes on expecting lines for no longer than it takes to say so.
                let _ = queue.try_send((host::now(), state(row, false)));
                continue;
            }
            let figures = Arc::new(Figures::default());
            let log = Log {
                index,
                row,
                host: host.clone(),
                config: config.clone(),
                queue: queue.clone(),
                positions: positions.clone(),
                readers: readers.clone(),
                figures: Arc::clone(&figures),
            };
            // One that cannot be opened now is tried again: a device node or a permission may come later.
            let opened = log.open();
            let note = opened.as_ref().map_or_else(ToString::to_string, |source| source.summary());
            reading.notes.push(format!("{}: {note}", row.name));
            let labels = Labels::new().with("source", row.name);
            reading.figures.push((METRICS.iter().map(|metric| SeriesKey::new(metric, labels.clone())).collect(), figures));
            readers.set(index, opened.is_ok());
            let (mut first, probed) = (Some(opened), probed.clone());
            reading.tasks.push(tokio::spawn(keep_running(format!("log {}", row.name), move || {
                let facts = LogFacts::new(&log.host, probed.clone());
                log.clone().follow(first.take(), facts)
            })));
        }
        reading
    }

    /// What was counted.
    #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is out of reach")]
    pub fn samples(&self, into: &mut Vec<Sample>) {
        for (series, figures) in &self.figures {
            let values = series.iter().zip(figures.values());
            into.extend(values.map(|(series, value)| Sample { series: series.clone(), value: value as f64 }));
        }
    }

    /// Ends all tasks.
    pub fn stop(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

fn place<'a>(config: &'a Config, host: &'a Host, begin: Begin<'a>) -> Place<'a> {
    let own_name = config.alerting.syslog.as_ref().map_or("", |syslog| &syslog.tag);
    Place { host, syslog_path: config.log_analyzer.syslog_path.as_deref(), own_name, begin }
}

/// Opens each log that the configuration asks for, once: what it reads, for people, or why it cannot be read.
pub fn try_logs(config: &Config, host: &Host) -> Vec<(&'static str, Result<String, Unavailable>)> {
    let wanted = |row: &&logs::Row| config.log_analyzer.enabled && config.log_analyzer.sources.contains(&row.key);
    let open = |row: &'static logs::Row| (row.name, (row.open)(&place(config, host, Begin::End)).map(|source| source.summary()));
    let all = super::block_on(async { Ok(SOURCES.iter().filter(wanted).map(open).collect()) });
    all.unwrap_or_default()
}

/// One log, and all that its reader needs.
#[derive(Clone)]
struct Log {
    index: usize,
    row: &'static logs::Row,
    host: Host,
    config: Config,
    queue: Queue,
    positions: Positions,
    readers: Readers,
    figures: Arc<Figures>,
}

impl Log {
    /// Opens it where it was read last; where it was not, at the boot if that was a moment ago and what is told now is not told
    /// again by the next start, else at its end.
    fn open(&self) -> Opened {
        let position = self.positions.get(self.row.name);
        let begin = match &position {
            Some(position) => Begin::At(position),
            None if self.positions.are_kept() && host::uptime() < YOUNG => Begin::Boot,
            None => Begin::End,
        };
        (self.row.open)(&place(&self.config, &self.host, begin))
    }

    /// Reads it, and opens it again where it ended, at the record that comes next. What stays the same is said once.
    async fn follow(self, first: Option<Opened>, mut facts: LogFacts) {
        let name = self.row.name;
        let mut wait = FIRST;
        let mut said = String::new();
        let mut next = first;
        loop {
            let opened = match next.take() {
                Some(opened) => opened,
                None => {
                    // Directories and files may be on a disk that does not answer.
                    let log = self.clone();
                    let opening = tokio::task::spawn_blocking(move || log.open()).await;
                    opening.unwrap_or_else(|error| Err(Unavailable::new(error.to_string(), "please report this")))
                }
            };
            let is_read = opened.is_ok();
            self.readers.set(self.index, is_read);
            if self.queue.send((host::now(), state(self.row, is_read))).await.is_err() {
                return;
            }
            let ended = match opened {
                Ok(mut source) => loop {
                    match source.next().await {
                        Ok(logged) => {
                            wait = FIRST;
                            said.clear();
                            if !self.take(logged, &mut facts).await {
                                return;
                            }
                        }
                        Err(error) => break error.to_string(),
                    }
                },
                Err(unavailable) => unavailable.to_string(),
            };
            self.readers.set(self.index, false);
            self.figures.restarts.fetch_add(u64::from(is_read), Ordering::Relaxed);
            if ended != said {
                // A host without a journal or a syslog file is none to worry about.
                if is_read || self.index == 0 {
                    tracing::warn!("log {name} is not read: {ended}; tried again and again");
                } else {
                    tracing::info!("log {name} is not read: {ended}; tried again and again");
                }
                said = ended;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
        }
    }

    /// Hands on a record, where it is news; whether anybody wants more.
    async fn take(&self, logged: Logged, facts: &mut LogFacts) -> bool {
        let Logged { mut record, lost, is_cut, position } = logged;
        self.figures.lost.fetch_add(lost, Ordering::Relaxed);
        let age = record.written.map(|written| host::now().since(written));
        if age.is_some_and(|age| age > HISTORY) || record.is_kernel && self.readers.is_behind_another(self.index) {
            self.positions.set(self.row.name, position);
            return true;
        }
        record.written = record.written.filter(|_| age > Some(PRESENT));
        self.figures.records.fetch_add(1, Ordering::Relaxed);
        self.figures.cut.fetch_add(u64::from(is_cut), Ordering::Relaxed);
        // What a process wrote is not worth a question, and what happened long ago cannot be asked about.
        if record.is_kernel && record.written.is_none() {
            record.facts = facts.find(&record.text).await;
        }
        let is_taken = self.queue.send((host::now(), Observation::Log(record))).await.is_ok();
        // Not before: where this is cancelled, the next reader begins with the record.
        self.positions.set(self.row.name, position);
        is_taken
    }
}

fn state(row: &logs::Row, is_read: bool) -> Observation {
    Observation::Source(SourceState { signal: row.name, probed: is_read })
}
