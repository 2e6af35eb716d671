//! The core: observations in, alerts out.
//!
//! A synchronous state machine. It reads no clock, no file and no socket, starts nothing, and gives the same alerts, byte for
//! byte, for the same observations: that is what makes replay, simulated days and exact tests possible. Time is what comes with
//! the observations. A sample goes into the store and to the analyzers that asked for its series; events, log lines and ticks
//! go to all analyzers; what those find becomes incidents, and incidents become alerts.

pub mod analyzers;
pub mod chains;
mod incidents;
mod line;
mod losses;
pub mod patterns;
mod robust;
pub mod score;
mod stats;
mod store;
mod text;
mod usual;

use std::time::Duration;

pub use incidents::{Incident, MAX_OPEN};
pub use stats::{METRICS, Stats};
pub use store::{MAX_SERIES, MEMORY_BUDGET, SeriesId, Store};

use crate::config::Config;
use crate::model::{Alert, Histogram, Observation, Sample, SeriesKey, Timestamp};
use analyzers::{ANALYZERS, Analyzer, Finding};
use chains::{Chains, Identity, Link};
use incidents::Incidents;
use losses::Losses;
use store::Inserted;

/// How often series that fell silent are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The state machine.
pub struct Engine {
    store: Store,
    /// The latest distributions, and when they were made; nothing is concluded from them.
    histograms: (Timestamp, Vec<Histogram>),
    analyzers: Vec<Box<dyn Analyzer>>,
    losses: Losses,
    chains: Chains,
    /// By series id: bit n is set where analyzer n watches the series, the last bits where it counts losses or belongs to a story.
    watched_by: Vec<u32>,
    incidents: Incidents,
    /// Buffers that are empty between two observations.
    findings: Vec<Finding>,
    effects: Vec<(Identity, Link)>,
    removed: Vec<(SeriesId, SeriesKey)>,
    last_sweep: Option<Timestamp>,
    samples: u64,
    samples_unusable: u64,
}

/// The bit of series that count losses.
const LOSSES: u32 = 31;
/// The bit of series that stories want.
const STORIES: u32 = 30;

// One bit an analyzer.
const _: () = assert!(ANALYZERS.len() <= STORIES as usize);

impl Engine {
    /// An engine that has seen nothing yet. `hostname` goes into the ids of incidents.
    pub fn new(config: &Config, hostname: &str) -> Self {
        Self {
            store: Store::new(config.storage.ring_buffer_capacity),
            histograms: (Timestamp::default(), Vec::new()),
            analyzers: ANALYZERS.iter().map(|row| (row.build)(config)).collect(),
            losses: Losses::default(),
            chains: Chains::new(),
            effects: Vec::new(),
            watched_by: Vec::new(),
            incidents: Incidents::new(config, hostname),
            findings: Vec::new(),
            removed: Vec::new(),
            last_sweep: None,
            samples: 0,
            samples_unusable: 0,
        }
    }

    /// Takes over a changed configuration; series and open incidents stay.
    pub fn reconfigure(&mut self, config: &Config) {
        self.store.set_capacity(config.storage.ring_buffer_capacity);
        for analyzer in &mut self.analyzers {
            analyzer.reconfigure(config);
        }
        for (id, key) in self.store.series() {
            let Some(slot) = self.watched_by.get_mut(id.index()) else { continue };
            for (bit, analyzer) in (0u32..).zip(&mut self.analyzers) {
                if let Some(wanted) = analyzer.watch_again(id, key) {
                    *slot = *slot & !(1 << bit) | u32::from(wanted) << bit;
                }
            }
        }
        self.incidents.reconfigure(config);
    }

    /// Takes one observation, made at `at`, and appends what there is to tell to `alerts`.
    pub fn observe(&mut self, at: Timestamp, observation: Observation, alerts: &mut Vec<Alert>) {
        self.observe_with(at, observation, None, alerts);
    }

    /// The same, and appends what the analyzers found to `found`, before it becomes incidents.
    pub fn observe_with(
        &mut self,
        at: Timestamp,
        observation: Observation,
        found: Option<&mut Vec<Finding>>,
        alerts: &mut Vec<Alert>,
    ) {
        let told_before = alerts.len();
        match observation {
            Observation::Samples(samples) => {
                for sample in &samples.values {
                    self.sample(at, sample);
                }
            }
            Observation::Histograms(histograms) => self.histograms = (at, histograms),
            Observation::Event(event) => {
                self.losses.event(at, &event);
                self.each(|analyzer, findings| analyzer.event(at, &event, findings));
            }
            Observation::Log(record) => self.each(|analyzer, findings| analyzer.log(at, &record, findings)),
            Observation::Source(state) => self.each(|analyzer, _| analyzer.source(at, &state)),
            Observation::Tick => {
                self.sweep(at);
                let store = &self.store;
                for analyzer in &mut self.analyzers {
                    analyzer.tick(at, store, &mut self.findings);
                }
                self.incidents.tick(at, alerts);
            }
        }
        if let Some(found) = found {
            found.extend_from_slice(&self.findings);
        }
        for finding in self.findings.drain(..) {
            let begins = self.incidents.begins(&finding);
            let causes = if begins { self.chains.causes(at, &finding, &self.store) } else { Vec::new() };
            self.incidents.take(at, finding, causes, alerts);
        }
        for (identity, link) in self.effects.drain(..) {
            self.incidents.add_effect(at, &identity, link, alerts);
        }
        alerts.iter_mut().skip(told_before).for_each(|alert| self.losses.tell(alert));
    }

    /// Takes a sample of the past, from before this engine began, into the store alone: no analyzer is told, so that nothing is
    /// said about what is over. To analyzers it is the past of the series, once that goes on.
    pub fn recall(&mut self, at: Timestamp, series: &SeriesKey, value: f64) {
        if !value.is_finite() {
            return;
        }
        if let Inserted::New(id) = self.store.insert(at, series, value) {
            self.ask_who_watches(id, series);
        }
    }

    /// Opens an incident again that an earlier run of the agent told of and did not see end; `alert` is the latest about it. It goes on
    /// under its id when something of the same metric and labels is found. Where that does not happen within
    /// `[alerting] dedup_window_secs`, it is told to be over. What is open already, or resolved, stays as it is.
    pub fn restore(&mut self, at: Timestamp, alert: &Alert) {
        self.incidents.restore(at, alert);
    }

    /// What is kept of the samples.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The distributions that came last, and when.
    pub fn histograms(&self) -> (Timestamp, &[Histogram]) {
        (self.histograms.0, &self.histograms.1)
    }

    /// What began and is not over, in the order in which it began.
    pub fn open_incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.iter()
    }

    /// What the engine has counted so far.
    pub fn stats(&self) -> Stats {
        let counts = self.incidents.counts();
        Stats {
            samples: self.samples,
            samples_unusable: self.samples_unusable,
            samples_refused: self.store.samples_refused(),
            chunks_evicted: self.store.chunks_evicted(),
            series: self.store.len(),
            store_bytes: self.store.bytes(),
            findings: counts.findings,
            witnessed: counts.witnessed,
            alerts_firing: counts.firing,
            alerts_updated: counts.updated,
            alerts_resolved: counts.resolved,
            incidents_open: self.incidents.iter().count(),
            incidents_crowded_out: counts.crowded_out,
            analyzer_dropped: self.analyzers.iter().map(|analyzer| analyzer.dropped()).sum(),
        }
    }

    fn each(&mut self, mut tell: impl FnMut(&mut dyn Analyzer, &mut Vec<Finding>)) {
        for analyzer in &mut self.analyzers {
            tell(analyzer.as_mut(), &mut self.findings);
        }
    }

    fn sample(&mut self, at: Timestamp, sample: &Sample) {
        if !sample.value.is_finite() {
            self.samples_unusable += 1;
            return;
        }
        let id = match self.store.insert(at, &sample.series, sample.value) {
            Inserted::Known(id) => id,
            Inserted::New(id) => {
                self.ask_who_watches(id, &sample.series);
                id
            }
            Inserted::Refused => return,
        };
        self.samples += 1;
        let mut watched_by = self.watched_by.get(id.index()).copied().unwrap_or(0);
        if watched_by & (1 << LOSSES) != 0 {
            self.losses.sample(at, id, sample.value);
        }
        if watched_by & (1 << STORIES) != 0 {
            self.effects.extend(self.chains.effect(at, id, sample.value, &self.store));
        }
        while watched_by != 0 {
            if let Some(analyzer) = self.analyzers.get_mut(watched_by.trailing_zeros() as usize) {
                analyzer.sample(at, id, sample.value, &self.store, &mut self.findings);
            }
            watched_by &= watched_by - 1;
        }
    }

    fn ask_who_watches(&mut self, id: SeriesId, key: &SeriesKey) {
        let mut watched_by = u32::from(self.losses.watch(id, key)) << LOSSES | u32::from(self.chains.watch(key)) << STORIES;
        for (bit, analyzer) in (0u32..).zip(&mut self.analyzers) {
            watched_by |= u32::from(analyzer.watch(id, key)) << bit;
        }
        if self.watched_by.len() <= id.index() {
            self.watched_by.resize(id.index() + 1, 0);
        }
        if let Some(slot) = self.watched_by.get_mut(id.index()) {
            *slot = watched_by;
        }
    }

    fn sweep(&mut self, at: Timestamp) {
        // A clock that was set back starts a new minute.
        if self.last_sweep.is_some_and(|last| at >= last && at.since(last) < SWEEP_INTERVAL) {
            return;
        }
        self.last_sweep = Some(at);
        self.store.sweep(&mut self.removed);
        for (id, key) in self.removed.drain(..) {
            for analyzer in &mut self.analyzers {
                analyzer.forget(at, id, &key, &mut self.findings);
            }
            self.losses.forget(id);
        }
    }
}
