//! Polled metrics: one file a family, one row in [`COLLECTORS`] each.
//!
//! A collector reads files of the host and gives samples. It decides nothing, keeps no history beyond what a rate needs, and
//! never waits for anything.

use std::time::Duration;

use crate::config::Config;
use crate::host::{Host, ReadError};
use crate::model::{Metric, Sample, SeriesKey};

/// One family of metrics.
pub trait Collector: Send {
    /// Reads the host once and puts what it finds into `batch`. One bad line costs that line: it goes to [`Batch::skip`].
    ///
    /// # Errors
    /// A file without which the family has nothing to say cannot be read.
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError>;
}

/// A row of the table: what there is to say about a collector without running it.
pub struct Row {
    /// The stem: file, configuration key, metric prefix.
    pub name: &'static str,
    /// What it collects, in a few words.
    pub summary: &'static str,
    /// The files it reads.
    pub source: &'static str,
    /// How often, by configuration.
    pub interval: fn(&Config) -> Duration,
    /// Makes it.
    pub build: fn(&Config, &Host) -> Box<dyn Collector>,
    /// Everything it may emit.
    pub metrics: &'static [Metric],
}

/// All collectors.
pub const COLLECTORS: &[Row] = &[];

/// What one run of a collector found.
#[derive(Debug, Default)]
pub struct Batch {
    /// The samples.
    pub samples: Vec<Sample>,
    /// Lines or values that could not be read, and were left out.
    pub skipped: u64,
    /// The first of them, in words: file, line, what was expected.
    pub first_skip: Option<String>,
}

impl Batch {
    /// Adds one sample. A value that is not finite is a skip.
    pub fn push(&mut self, series: &SeriesKey, value: f64) {
        if value.is_finite() {
            self.samples.push(Sample { series: series.clone(), value });
        } else {
            self.skip(|| format!("{series} is not a finite number"));
        }
    }

    /// Counts something that could not be read; `what` is only called for the first of a run.
    pub fn skip(&mut self, what: impl FnOnce() -> String) {
        self.skipped += 1;
        if self.first_skip.is_none() {
            self.first_skip = Some(what());
        }
    }
}
