//! Runs the collectors, each at its interval, one after the other in one thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::collectors::running::{DURATION, SKIPPED, SUCCESS};
use crate::collectors::{self, Batch, Collector, Row};
use crate::config::Config;
use crate::host::Host;
use crate::model::{KernelEvent, Labels, Observation, Sample, Samples, SeriesKey};

use super::stop::{LONGEST, StopFlag};

/// All collectors with their schedules.
pub struct Collecting {
    config: Config,
    host: Host,
    schedule: Vec<Scheduled>,
    /// All intervals are so many times as long.
    factor: Arc<AtomicU32>,
}

struct Scheduled {
    row: &'static Row,
    collector: Box<dyn Collector>,
    interval: Duration,
    next: Instant,
    /// Wait beyond the interval, after panics.
    penalty: Duration,
    failing: bool,
    skipped: u64,
    series: [SeriesKey; 3],
}

impl Collecting {
    /// All collectors, each due at once, and then at `factor` times its interval.
    pub fn new(config: &Config, host: &Host, factor: Arc<AtomicU32>) -> Self {
        let now = Instant::now();
        let schedule = collectors::COLLECTORS.iter().map(|row| Scheduled {
            row,
            collector: (row.build)(config, host),
            interval: (row.interval)(config),
            next: now,
            penalty: Duration::ZERO,
            failing: false,
            skipped: 0,
            series: [&DURATION, &SUCCESS, &SKIPPED]
                .map(|metric| SeriesKey::new(metric, Labels::new().with("collector", row.name))),
        });
        Self { schedule: schedule.collect(), config: config.clone(), host: host.clone(), factor }
    }

    /// Collects until the flag is raised, or `emit` says `false` because nobody listens any more.
    pub fn run(&mut self, stop: &StopFlag, emit: &mut dyn FnMut(Observation) -> bool) {
        loop {
            for scheduled in &mut self.schedule {
                if scheduled.next > Instant::now() {
                    continue;
                }
                let factor = self.factor.load(Ordering::Relaxed);
                let (samples, events) = scheduled.run(&self.config, &self.host, factor);
                let events = events.into_iter().map(|event| Observation::Event(Box::new(event)));
                if !std::iter::once(Observation::Samples(samples)).chain(events).all(&mut *emit) {
                    return;
                }
            }
            let next = self.schedule.iter().map(|scheduled| scheduled.next).min();
            let wait = next.map_or(LONGEST, |next| next.saturating_duration_since(Instant::now()));
            if stop.wait(wait) {
                return;
            }
        }
    }
}

impl Scheduled {
    /// Runs the collector once, whatever it does, and sets its next time.
    fn run(&mut self, config: &Config, host: &Host, factor: u32) -> (Samples, Vec<KernelEvent>) {
        let name = self.row.name;
        let started = Instant::now();
        let mut batch = Batch::new(started);
        let result = catch_unwind(AssertUnwindSafe(|| self.collector.collect(&mut batch)));
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it panicked; please report this".to_owned()),
        };
        if failure.as_deref().is_some_and(|failure| failure.starts_with("it panicked")) {
            self.collector = (self.row.build)(config, host);
            self.penalty = (self.penalty * 2).clamp(self.interval, LONGEST.max(self.interval));
        } else {
            self.penalty = Duration::ZERO;
        }
        // Once in each way: a file that is gone stays gone, and says so every ten seconds otherwise.
        match (&failure, self.failing) {
            (Some(failure), false) => tracing::warn!("collector {name}: {failure}"),
            (None, true) => tracing::info!("collector {name} works again"),
            _ => {}
        }
        if let Some(skip) = batch.first_skip.take().filter(|_| self.skipped == 0) {
            tracing::warn!("collector {name} leaves out what it cannot read: {skip}; further ones are counted");
        }
        self.failing = failure.is_some();
        self.skipped += batch.skipped;
        let took = started.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is out of reach")]
        let values = [took.as_secs_f64(), f64::from(u8::from(!self.failing)), self.skipped as f64];
        let own = self.series.iter().zip(values).map(|(series, value)| Sample { series: series.clone(), value });
        batch.samples.extend(own);
        // What was missed is not made up for.
        self.next = (self.next + self.interval * factor).max(started + took) + self.penalty;
        (Samples { collector: name, values: batch.samples }, batch.events)
    }
}
