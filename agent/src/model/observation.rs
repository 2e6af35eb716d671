//! The only thing that enters the engine.

use super::{Histogram, KernelEvent, LogRecord, Sample};

/// What one run of a collector produced.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Name of the collector's row.
    pub collector: &'static str,
    /// The values, all of the time of the observation.
    pub values: Vec<Sample>,
}

/// A source of a signal came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// The signal: the stem of a probe's row (`oom`, `hung_task`, …), or of a log's (`kmsg`).
    pub signal: &'static str,
    /// Whether the signal's probe reports it now, or the log is read. While the probe does not, log lines, polling and counters stand
    /// in for it; while the log is not read, nothing is expected of it.
    pub probed: bool,
}

/// Something the shell saw, at a time that the engine is told beside it.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A collector ran.
    Samples(Samples),
    /// All distributions that there are now; they take the place of those before.
    Histograms(Vec<Histogram>),
    /// The kernel did something.
    Event(Box<KernelEvent>),
    /// A line appeared in a log.
    Log(LogRecord),
    /// A source came or went.
    Source(SourceState),
    /// Time passed. Arrives at least once a second, so that what waits for silence can end.
    Tick,
}
